"""Query route engine (QIRCE, paper II-B) of one gateway: what it was told, has learnt and holds of every model's hosts.

The choice itself is `decision.query_route`: completion = path + queue + service, each with its uncertainty, filters by
goal, two choices among those that cannot be told apart, one query in a hundred to learn from. This class keeps, for
each model, the table that the choice reads: a slot is reserved at the moment of choice from what the host leased to
this gateway, whatever comes back teaches (the path, the host's load and pace, its service time), hosts that lose
queries or are far too slow are left out for a while. Gateways share nothing; what others send to a host is in what the
host says.

Pure: moments are given, in nanoseconds of one monotonic clock, nothing is awaited. Each choice is ended exactly once,
by `answered`, `refused`, `lost` or `withdrawn`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import numpy as np

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, admissible, unknown_model
from daitn.decision.query_route import choosing
from daitn.decision.query_route.choosing import QueryAsked, Why
from daitn.decision.query_route.ejection import SLOW, Ejector
from daitn.decision.query_route.explaining import ReplicaWeighed, explain
from daitn.decision.query_route.hedging import HedgeBudget, hedge_after_s
from daitn.decision.query_route.replicas import Column, Floats, ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior
from daitn.decision.query_route.slots import SlotLease, SlotPurse
from daitn.descriptors.serving import QueryGoal, ReplicaMeasured, Route, ServedModel
from daitn.wire.queries import HostLoad, QueryAnswer

PATH_S: Final = 0.002
"""Round trip to a host before one was measured: within a site it is less, between sites more."""

MEASURED_DOUBT: Final = 0.3
"""Deviation of what a host measured of itself while warming up, as a share of it."""

SHARE_WEIGHT: Final = 0.1
"""Of the newest answer in what is learnt of how much of a batch one query is."""

LEASED_LEAST: Final = 8
"""Slots that are asked for at first: a burst of queries finds some."""

LOOK_S: Final = 0.05
"""How often ended leases and ejections are looked for: both last seconds."""

FORGIVEN_S: Final = 5.0
"""A loss counts half as much after this: hosts come back within seconds, and unlike a slow host's, a lost query's cost
is known at once."""

JITTER_S: Final = 0.02
"""An answer is no sign of a fault for being later than expected by less than this: machines are shared."""

SESSIONS: Final = 16_384
"""Sessions whose host is remembered, the newest."""

UNPRICED: Final = 1e12
"""Stands for a price that nobody stated: above whatever may be asked for."""

_IN_ZONE: Final = 1

_SAID: Final = {
    Why.BEST: "soonest",
    Why.AFFINE: "holds the session",
    Why.EXPLORED: "known least",
    Why.TWO_CHOICES: "better of two that cannot be told from the soonest",
    Why.LATE: "nearest to its deadline",
}


class Weighing(NamedTuple):
    """What a choice saw: enough to explain it afterwards. Nothing of the query but its size and goal."""

    rows: Floats
    names: tuple[str, ...]
    asked: QueryAsked
    at_s: float


class Choice(NamedTuple):
    """Where a query goes, and why."""

    model: ModelName
    artifact: ArtifactId
    route: Route
    predicted_s: float
    late_s: float
    """After this without an answer, a second copy elsewhere is worth it."""
    why: str
    lease: int
    wanted: int
    """Slots to ask the host for, with the query."""
    query: int
    rows: int
    weighing: Weighing
    price: float | None = None
    """What the host states for it; None: nothing."""


class _Model:
    """What one gateway keeps of one model."""

    def __init__(self) -> None:
        self.table = ReplicaTable()
        self.ejector = Ejector()
        self.routes: dict[str, Route] = {}
        self.purses: dict[str, SlotPurse] = {}
        self.asked_s: dict[str, float] = {}
        """Hosts that were asked for slots, and when."""
        self.shares: dict[str, float] = {}
        self.looked_s = self.forgave_s = -1e9
        self.engines = 0


class QueryRouteEngine:
    """See the module's docstring. `seed`: of what is drawn; gateways differ in it, so that they do not choose alike."""

    def __init__(self, seed: int = 1) -> None:
        self.models: dict[ModelName, ServedModel] = {}
        self._kept: dict[tuple[ModelName, ArtifactId], _Model] = {}
        self._random = choosing.random_state(seed)
        self._regions: dict[str, int] = {"": 0}
        self._operators: dict[str, int] = {"": 0}
        self._budget = HedgeBudget()
        self._sessions: OrderedDict[tuple[ModelName, str], str] = OrderedDict()

    # --- what is told -----------------------------------------------------------------------------------------------

    def follow(self, models: Sequence[ServedModel], now_ns: int) -> None:
        """These models may be asked from now on, and no others. What was learnt of hosts that stay is kept."""
        self.models = {model.model: model for model in models}
        kept: dict[tuple[ModelName, ArtifactId], _Model] = {}
        for model in models:
            key = (model.model, model.artifact)
            kept[key] = self._kept.get(key) or _Model()
            self._follow(kept[key], model, now_ns / 1e9)
        self._kept = kept

    def _follow(self, kept: _Model, model: ServedModel, now_s: float) -> None:
        told = {str(route.host.node): route for route in model.routes}
        for name in [name for name, route in kept.routes.items() if not _same(told.get(name), route)]:
            kept.table.remove(name)
            kept.ejector.forget(name)
            for held in (kept.routes, kept.purses, kept.asked_s, kept.shares):
                held.pop(name, None)
        for name, route in told.items():
            price, price_unit = route.prices or (UNPRICED, 0.0)
            if name not in kept.routes:
                path_s = PATH_S if route.path_s is None else route.path_s
                facts = ReplicaFacts(
                    region=self._regions.setdefault(route.region, len(self._regions)),
                    zone=self._operators.setdefault(route.operator, len(self._operators)),
                    slots=route.concurrency,
                    path_s=path_s,
                    path_dev_s=path_s,
                    service=_prior(route.measured),
                )
                kept.table.add(name, facts)
                # It says that it serves: nothing is known to wait there.
                kept.table.reported(name, 0, 0.0, now_s)
                kept.purses[name] = SlotPurse(least=LEASED_LEAST)
                kept.shares[name] = 1.0
            kept.table.set_price(name, price, price_unit)
            kept.routes[name] = route
        kept.engines = sum(route.concurrency for route in kept.routes.values())

    def engines(self, name: ModelName) -> int:
        """How many engines answer for a model, at all its hosts."""
        model = self.models.get(name)
        return 0 if model is None else self._kept[name, model.artifact].engines

    # --- the choice -------------------------------------------------------------------------------------------------

    def choose(
        self,
        name: str,
        rows: int,
        goal: QueryGoal,
        left_s: float,
        now_ns: int,
        tried: Collection[NodeId] = (),
        *,
        session: str = "",
        saves_s: float = 0.0,
        units: int | None = None,
    ) -> Choice | Refused:
        """The host for a query of so many rows that is to be answered within `left_s`; a slot there is reserved until
        the choice is ended. `tried`: hosts that have this query already; `session`: goes where it went before while
        that saves `saves_s`, or costs nothing; `units`: what it is priced by, where that is not its rows.
        O(hosts of the model)."""
        model = self.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self.models)
        units = rows if units is None else units
        routes = admissible(model, goal, units)
        if isinstance(routes, Refused):
            return routes
        kept, now_s = self._kept[model.model, model.artifact], now_ns / 1e9
        self._look(kept, now_s)
        table = kept.table
        held = self._sessions.get((model.model, session)) if session else None
        asked = QueryAsked(
            size=float(rows),
            deadline_s=left_s,
            region=self._regions[goal.region] if goal.region else choosing.ANY,
            zone=_IN_ZONE if goal.zone else choosing.ANY,
            # Admission has decided who is dear; sums of floats that differ in their last digit decide nothing here.
            price_most=math.inf if goal.price_most is None else goal.price_most * (1 + 1e-9),
            affine=-1 if held is None else table.place_of(held),
            affine_saves_s=saves_s,
        )
        closed = [node for node in tried if _open(table, node)]
        for node in closed:
            table.set_open(node, False)
        weighing = Weighing(self._rows(table, goal, units - rows), table.names, asked, now_s)
        found = choosing.choose(weighing.rows, asked, now_s, self._random)
        why = _SAID.get(found.why, "")
        if found.place < 0 and len(tried) < len(kept.routes):
            weighing, why = _all_the_same(weighing, tried), "soonest of those that are left"
            found = choosing.choose(weighing.rows, asked, now_s, self._random)
        for node in closed:
            table.set_open(node, True)
        if found.place < 0:
            return Refused(QueryRefusal.LOST, f"all {len(routes)} hosts of {name} were asked", 1.0)
        if found.completion_s > left_s:
            soonest_s = min(found.completion_s, found.soonest_s)
            what = f"the soonest host of {name} is predicted to answer in {soonest_s:.3f} s, {left_s:.3f} s are left"
            return Refused(QueryRefusal.LATE, what, soonest_s, f"deadline >= {found.soonest_s:.3f} s")
        return self._reserve(model, kept, found, weighing, why, session, units)

    def _rows(self, table: ReplicaTable, goal: QueryGoal, units_more: int) -> Floats:
        """What the choice reads, as this goal has it: the column of zones says who is in the one that is asked for, and
        prices are those of all units."""
        rows = table.rows.copy()
        if goal.zone:
            trusted = [self._operators[name] for name in goal.zone if name in self._operators]
            rows[:, Column.ZONE] = np.isin(rows[:, Column.ZONE], trusted) * _IN_ZONE
        if units_more:
            rows[:, Column.PRICE] += rows[:, Column.PRICE_UNIT] * units_more
        return rows

    def _reserve(
        self,
        model: ServedModel,
        kept: _Model,
        found: choosing.Choice,
        weighing: Weighing,
        why: str,
        session: str,
        units: int,
    ) -> Choice:
        host, now_s = weighing.names[found.place], weighing.at_s
        purse = kept.purses[host]
        lease = purse.spend(now_s) or 0
        wanted = 0
        if purse.left(now_s) <= purse.wanted() // 2 and now_s - kept.asked_s.get(host, -1e9) > 1.0:
            wanted = purse.wanted()
            kept.asked_s[host] = now_s
        query = kept.table.sent(found.place, found.service_s * kept.shares[host], now_s)
        if session:
            self._sessions[model.model, session] = host
            self._sessions.move_to_end((model.model, session))
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        late_s = hedge_after_s(found)
        return Choice(
            model.model, model.artifact, kept.routes[host], found.completion_s, late_s, why, lease, wanted, query,
            int(weighing.asked.size), weighing, kept.routes[host].price_of(units),
        )  # fmt: skip

    def _look(self, kept: _Model, now_s: float) -> None:
        """Leases and ejections that have ended, losses that are long ago."""
        if now_s - kept.looked_s < LOOK_S:
            return
        kept.looked_s = now_s
        for name in kept.ejector.returning(now_s):
            kept.table.set_open(name, True)
        for name, purse in kept.purses.items():
            if purse.ended(now_s):
                kept.table.set_leased(name, -1)
        if now_s - kept.forgave_s >= 1.0:
            kept.table.forgive(0.5 ** (min(now_s - kept.forgave_s, 1000.0) / FORGIVEN_S))
            kept.forgave_s = now_s

    def may_hedge(self) -> bool:
        """Whether a second copy of a late query may be sent; it is paid for if so."""
        return self._budget.take()

    def begun(self) -> None:
        """A query was sent for the first time: it earns a share of a second copy."""
        self._budget.earn()

    # --- what comes back --------------------------------------------------------------------------------------------

    def answered(self, choice: Choice, took_s: float, answer: QueryAnswer, now_ns: int) -> None:
        """An answer came, after so long."""
        kept, host = self._ended(choice)
        if kept is None:
            return
        path_s = max(0.0, took_s - answer.queued_s - answer.engine_s)
        kept.table.timed(host, path_s)
        self._reported(kept, host, choice, answer.load, now_ns / 1e9, path_s)
        if answer.engine_s > 0:
            expected_s = kept.table.expected_s(host, float(choice.rows))
            kept.table.learnt(host, float(choice.rows), answer.engine_s)
            kept.shares[host] += SHARE_WEIGHT * (answer.batch_frac - kept.shares[host])
            expected_s = max(expected_s, JITTER_S)
            if kept.ejector.answered(host, answer.engine_s, expected_s, len(kept.routes), now_ns / 1e9):
                kept.table.set_open(host, False)

    def refused(self, choice: Choice, load: HostLoad, now_ns: int) -> None:
        """The host said that it cannot now, and how busy it is."""
        kept, host = self._ended(choice)
        if kept is not None:
            self._reported(kept, host, choice, load, now_ns / 1e9, PATH_S)

    def lost(self, choice: Choice, now_ns: int) -> bool:
        """No answer came, or none that can be read; whether the host is left out from now on."""
        kept, host = self._ended(choice, lost=True)
        if kept is None or not kept.ejector.lost(host, len(kept.routes), now_ns / 1e9):
            return False
        kept.table.set_open(host, False)
        return True

    def overdue(self, choice: Choice, waited_s: float, now_ns: int) -> bool:
        """The query's own time was over before the host had said anything, after so long; whether the host is left out
        from now on. Its client chose that time: no loss, and nothing is learnt, unless an answer after so long would
        count as far too slow by itself."""
        kept, host = self._ended(choice)
        expected_s = max(choice.predicted_s, JITTER_S)
        if kept is None or waited_s <= SLOW * expected_s:
            return False
        if not kept.ejector.answered(host, waited_s, expected_s, len(kept.routes), now_ns / 1e9):
            return False
        kept.table.set_open(host, False)
        return True

    def withdrawn(self, choice: Choice) -> None:
        """Another copy was answered, or whoever asked has gone: nothing is learnt."""
        self._ended(choice)

    def _ended(self, choice: Choice, *, lost: bool = False) -> tuple[_Model | None, str]:
        kept, host = self._kept.get((choice.model, choice.artifact)), str(choice.route.host.node)
        if kept is None or kept.table.ended(choice.query, lost=lost) is None:
            return None, host
        return kept, host

    def _reported(self, kept: _Model, host: str, choice: Choice, load: HostLoad, now_s: float, path_s: float) -> None:
        kept.table.reported(host, load.queries, load.work_s, now_s - path_s / 2, load.pace)
        if choice.wanted:
            asked_s = kept.asked_s.pop(host, choice.weighing.at_s)
            if load.lease:
                kept.purses[host].granted(SlotLease(load.lease, load.slots, load.lease_s), asked_s)
                kept.table.set_leased(host, load.slots)

    # --- for people -------------------------------------------------------------------------------------------------

    @staticmethod
    def explain(choice: Choice) -> tuple[ReplicaWeighed, ...]:
        """Every host of the model as the choice saw it, the best first."""
        weighing = choice.weighing
        found = explain(weighing.rows, weighing.names, weighing.asked, weighing.at_s)
        return tuple(sorted(found, key=lambda one: (one.held_back_by != "", one.cost_s)))


def warm_up() -> None:
    """Compile what choices and learning need, or load what was compiled before: seconds the first time on a machine."""
    table = ReplicaTable()
    table.add("one", ReplicaFacts(service=ServicePrior(0.01, 0.001)))
    found = choosing.choose(table.rows, QueryAsked(), 0.0, choosing.random_state(1))
    table.ended(table.sent(found.place, found.service_s, 0.0))
    table.learnt("one", 1.0, 0.01)


def _all_the_same(weighing: Weighing, tried: Collection[NodeId]) -> Weighing:
    """Where every host left is ejected, or its slots are spent, the query is tried all the same: a host that is full
    says so."""
    rows = weighing.rows.copy()
    for place, name in enumerate(weighing.names):
        if name not in tried:
            rows[place, Column.OPEN] = 1.0
            rows[place, Column.LEASED] = -1.0
    return weighing._replace(rows=rows)


def _prior(measured: ReplicaMeasured) -> ServicePrior:
    """What a host measured of itself: base and each row."""
    each_s = max(0.0, measured.batch_s - measured.row_s) / max(1, measured.batch_rows - 1)
    return ServicePrior(max(1e-6, measured.row_s - each_s), each_s, MEASURED_DOUBT, MEASURED_DOUBT)


def _same(told: Route | None, known: Route) -> bool:
    """Whether a route is still the replica that was learnt of: not one that measured itself anew."""
    return told is not None and (told.region, told.operator, told.concurrency, told.measured) == (
        known.region,
        known.operator,
        known.concurrency,
        known.measured,
    )


def _open(table: ReplicaTable, name: str) -> bool:
    place = table.place_of(name)
    return place >= 0 and table.rows[place, Column.OPEN] == 1.0
