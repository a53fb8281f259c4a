"""Placing: for each model the hosts that may carry it are offered to the placement programme, and its plan is followed.

Part of the deployment desk (MDO, paper II-B). A programme is sought beside the turn (`decision.model_placement`) when
anything it depends on has changed: who may carry the model, where it is, and demand by more than a step of `STEP`. So
between two steps nothing is thought over, and within a plan the costs of moving and of changing keep it from swinging,
and so does what counts of demand differ by chance. A host that the plan has is ordered at once; one that it has no
longer is *leaving*: it answers until others do, and is let go once gateways have known that for a while.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from daitn.base.ids import ModelName, NodeId
from daitn.base.units import NS_PER_S
from daitn.control_center.inference.demand_book import DemandBook
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.records import ReplicaLeaving, ReplicaPlaced
from daitn.control_center.turn import Turn
from daitn.decision.hosting import HostView
from daitn.decision.model_placement import BUSY_FRAC, DemandSeen, HostOffered, PlacementFound, PlacementSought
from daitn.descriptors.serving import ReplicaMeasured
from daitn.topology.knowledge_map import KnowledgeMap

KEY: Final = "place "
"""First word of what is computed for a model."""

STEP: Final = 1.5
"""Demand is another one where it changed by this factor: replicas are whole, and so is what they can serve."""

TIGHTER: Final = 1.5
"""While answers take longer than the goal allows, replicas are planned to be busy for a part of the time that is this
much smaller at each step, so that more of them share the queries."""

TIGHTEST: Final = 4
SETTLE_S: Final = 60.0
"""Between two steps: a replica starts, and answers from before it are forgotten."""

EASED: Final = 0.6
"""Below this part of what the goal allows, and for `EASE_S`, a step is taken back."""

EASE_S: Final = 600.0

SERVICE_S: Final = 0.005
"""Of a query, where no host has measured the model yet."""

Signature = tuple[object, ...]


class Placing:
    """See the module's docstring. Nothing is durable: after a restart all is sought anew."""

    def __init__(self, knowledge: KnowledgeMap, demand: DemandBook) -> None:
        self._knowledge, self._demand = knowledge, demand
        self._sought: dict[ModelName, Signature] = {}
        self._tight: dict[ModelName, tuple[int, int]] = {}
        """How many steps tighter a model is planned, and since when."""
        self.plans: dict[ModelName, PlacementFound] = {}
        """The newest of each model."""

    def forget(self, name: ModelName) -> None:
        """A model is served no longer, or is another one now."""
        self._sought.pop(name, None)
        self.plans.pop(name, None)

    def follow(self, names: Collection[ModelName]) -> None:
        """Of models that are served no longer nothing is kept."""
        self._tight = {name: tight for name, tight in self._tight.items() if name in names}

    def seek(
        self,
        turn: Turn,
        name: ModelName,
        model: Deployed,
        hosts: list[HostView],
        measured: dict[NodeId, ReplicaMeasured],
        room: int,
    ) -> None:
        """Have a model's placement thought over, if anything about it has changed. `hosts`: that may carry it; `room`:
        replicas that the domain has left for it."""
        asked = self._demand.asked(name, turn.now_ns)
        most = min(model.goal.replicas_most, room)
        steps = self._tightness(name, model, turn.now_ns)
        signature: Signature = (
            model.artifact,
            tuple(sorted(host.node for host in hosts)),
            tuple(sorted(model.staying)),
            (model.goal.replicas_least, most, steps),
            tuple((one.gateway, _step(one.forecast_per_s)) for one in asked),
        )
        if most < 1 or not hosts or self._sought.get(name) == signature:
            return
        self._sought[name] = signature
        typical = _typical(list(measured.values()))
        problem = PlacementSought(
            model=name,
            hosts=tuple(
                self._offered(host, model, measured.get(host.node, typical), [one.gateway for one in asked])
                for host in hosts
            ),
            demands=tuple(
                DemandSeen(region=one.region, asked_per_s=one.forecast_per_s, spread_per_s=one.spread_per_s)
                for one in asked
            ),
            least=model.goal.replicas_least,
            most=most,
            within_s=min((one.most_s for one in model.goal.latency), default=math.inf),
            busy_frac=BUSY_FRAC / TIGHTER**steps,
        )
        turn.compute(KEY + name, problem, turn.now_ns)

    def _tightness(self, name: ModelName, model: Deployed, now_ns: int) -> int:
        """How many steps tighter a model is planned now, by how long its answers take at gateways."""
        steps, since_ns = self._tight.get(name, (0, 0))
        known = self._demand.latencies(name, model.goal, now_ns)
        parts = [
            (math.inf if one.measured_s is None else one.measured_s) / target.most_s
            for one, target in zip(known, model.goal.latency, strict=True)
            if one.kept is not None
        ]
        worst = max(parts, default=0.0)
        if worst > 1 and steps < TIGHTEST and now_ns - since_ns >= SETTLE_S * NS_PER_S:
            steps, since_ns = steps + 1, now_ns
        elif worst > EASED:
            since_ns = max(since_ns, now_ns - int(SETTLE_S * NS_PER_S))
        elif steps and now_ns - since_ns >= EASE_S * NS_PER_S:
            steps, since_ns = steps - 1, now_ns
        if steps:
            self._tight[name] = (steps, since_ns)
        else:
            self._tight.pop(name, None)
        return steps

    def found(self, turn: Turn, model: Deployed, plan: PlacementFound) -> None:
        """A plan came: order what it has and is not there, let go what it has no longer."""
        self.plans[plan.model] = plan
        for node, share in zip(plan.nodes, plan.shares, strict=True):
            if node not in model.staying:
                why = f"of what is asked {share:.0%} is answered soonest from here"
                turn.record(ReplicaPlaced(model=plan.model, at_ns=turn.now_ns, node=node, why=why))
        for node in model.staying:
            if node not in plan.nodes:
                saved_s = plan.kept_cost_s - plan.cost_s
                why = "others serve it better"
                if math.isfinite(saved_s):
                    why += f": {saved_s:.1f} s of waiting are saved in five minutes"
                turn.record(ReplicaLeaving(model=plan.model, at_ns=turn.now_ns, node=node, why=why))

    def _offered(
        self, host: HostView, model: Deployed, measured: ReplicaMeasured | None, gateways: list[NodeId]
    ) -> HostOffered:
        facts = self._knowledge.node(host.node)
        rate = facts.bytes_per_s if facts is not None else 1e6
        service_s, serves_per_s = SERVICE_S, math.inf
        if measured is not None and measured.row_s > 0:
            service_s = measured.row_s
            each_s = max(measured.batch_s, 1e-6) / max(1, measured.batch_rows)
            serves_per_s = host.offered.concurrency / min(each_s, measured.row_s)
        return HostOffered(
            node=host.node,
            region=host.region,
            held=host.node in model.staying,
            memory_frac=min(1.0, model.needs.memory_bytes / max(1, host.memory_left_bytes)),
            move_s=model.needs.payload_bytes / max(rate, 1.0),
            service_s=service_s,
            serves_per_s=serves_per_s,
            path_s=tuple(self._knowledge.gathered.round_trip_s(host.node, gateway) for gateway in gateways),
        )


def _typical(measured: list[ReplicaMeasured]) -> ReplicaMeasured | None:
    """What a host that has not measured the model will likely measure: what the median host did."""
    known = sorted((one for one in measured if one.row_s > 0), key=lambda one: one.row_s)
    return known[len(known) // 2] if known else None


def _step(rate: float) -> int:
    """Which step of demand a rate is on; those below one query in a hundred seconds are none."""
    return round(math.log(rate / 0.01) / math.log(STEP)) if rate > 0.01 else -1
