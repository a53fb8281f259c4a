"""Where one model's replicas shall be: what a placement programme is made of, and what is made of its plan (MDO, II-B).

`decision.placement` solves the programme; here is what its numbers mean. Everything is seconds of waiting over
`HORIZON_S`: a query waits for its path and for the engine, a replica takes memory that others wait for, bringing a
model to a host takes a transfer and a start. So a replica is worth having where it saves more waiting than it costs,
and is moved only for more than the move costs, and for more than counts of demand differ by chance
(`decision.placement.sure_moves`).

Demands are what gateways count, each where its gateway stands. Beside them stands a little demand in every region that
has hosts: it spreads replicas that are wanted anyway over regions, so that the loss of one place costs one replica.

`PlacementSought` is solved beside the turn. H hosts that may carry the model, D demands.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from daitn.base.effects import Problem, Solution
from daitn.base.errors import UnavailableError
from daitn.base.ids import ModelName, NodeId

HORIZON_S: Final = 300.0
"""How far ahead a placement looks: a move is weighed against what it saves in this time."""

REPLICA_S: Final = 1.0
REPLICA_MEMORY_S: Final = 30.0
"""What a replica costs over the horizon: its processes, and the share that it takes of the memory that is left."""

START_S: Final = 5.0
"""What starting and warming up a replica costs, besides its transfer."""

DRAIN_S: Final = 1.0
CHANGE_S: Final = 2.0
"""What any change must save beside its own costs, so that a placement does not swing between two that are alike."""

STANDING_PER_S: Final = 0.01
"""Queries a second that every region is taken to ask, whatever was counted there."""

ELSEWHERE_S: Final = 0.05
"""A path between regions of which nothing was measured."""

SAME_S: Final = 0.001
"""The same within a region."""

BUSY_FRAC: Final = 0.7
"""Share of a replica's engines that demands may take: beyond it queues grow."""


class HostOffered(msgspec.Struct, frozen=True, kw_only=True):
    """A host that may carry the model."""

    node: NodeId
    region: str
    held: bool
    """It carries the model now."""
    memory_frac: float
    """Share of the memory it has left that the model takes."""
    move_s: float
    """Seconds that fetching the package takes there."""
    service_s: float
    """Of one query in its engine."""
    serves_per_s: float
    """Queries a second that its engines compute; infinite where that was not measured."""
    path_s: tuple[float | None, ...]
    """Round trip from each demand; None: not known."""


class DemandSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What one place asks of the model."""

    region: str
    asked_per_s: float
    spread_per_s: float = 0.0
    """By how much counts of the same demand differ by chance (a standard deviation); 0: it is known."""


class PlacementFound(Solution, frozen=True, kw_only=True):
    """Where the model shall be. All costs in seconds of waiting over the horizon."""

    model: ModelName
    nodes: tuple[NodeId, ...]
    cost_s: float
    bound_s: float
    kept_cost_s: float
    """Of leaving everything where it is; infinite where that does not serve."""
    shares: tuple[float, ...]
    """Of all queries, by node."""


class PlacementSought(Problem, frozen=True, kw_only=True):
    """Where shall the model's replicas be? UnavailableError where no host may carry it."""

    model: ModelName
    hosts: tuple[HostOffered, ...]
    demands: tuple[DemandSeen, ...]
    least: int
    most: int
    within_s: float = math.inf
    """What path and service may take together, by the provider's goal."""
    busy_frac: float = BUSY_FRAC
    """Share of a replica's engines that demands may take: smaller where answers have been slow."""

    def solve(self) -> PlacementFound:
        """One programme; some milliseconds for tens of hosts."""
        from daitn.decision.placement.placing import place
        from daitn.decision.placement.problem import PlacementProblem, Unplaceable
        from daitn.decision.placement.sure_moves import Weighed, cost_of, loads, sure_moves

        if not self.hosts:
            raise UnavailableError(f"no host may carry {self.model}")
        hosts = len(self.hosts)
        wait_HD, asked_D = self._waits()
        capacity_H = np.array([max(one.serves_per_s * self.busy_frac, 1e-6) for one in self.hosts])
        spread_D = np.array([one.spread_per_s for one in self.demands] + [0.0] * (len(asked_D) - len(self.demands)))
        most = min(self.most, hosts)
        room = float(np.sort(capacity_H)[::-1][:most].sum())
        if asked_D.sum() > 0.999 * room:
            part = 0.999 * room / asked_D.sum()  # more than all can serve: as well as can be
            asked_D, spread_D = asked_D * part, spread_D * part
        far_HD = wait_HD > self.within_s
        # Where no host keeps the goal the nearest is still better than none.
        far_HD &= ~far_HD.all(axis=0)
        problem = PlacementProblem(
            unit_cost_HD=np.where(far_HD, np.inf, wait_HD) * HORIZON_S,
            demand_D=asked_D,
            open_cost_H=np.array([REPLICA_S + REPLICA_MEMORY_S * one.memory_frac for one in self.hosts]),
            capacity_H=capacity_H,
            least=min(max(self.least, 1), hosts),
            most=most,
            now_H=np.array([one.held for one in self.hosts]),
            move_cost_H=np.array([START_S + one.move_s for one in self.hosts]),
            close_cost_H=np.full(hosts, DRAIN_S),
            change_cost=CHANGE_S,
        )
        plan = place(problem)
        if isinstance(plan, Unplaceable):
            plan = place(problem._replace(unit_cost_HD=wait_HD * HORIZON_S, capacity_H=np.full(hosts, np.inf)))
        if isinstance(plan, Unplaceable):
            raise UnavailableError(f"{self.model} cannot be placed: {'; '.join(plan.reasons)}")
        open_H, cost_s, carried_H = plan.open_H, plan.cost, plan.share_HD @ asked_D
        if plan.changed and math.isfinite(plan.kept_cost) and spread_D.any():
            assert problem.now_H is not None
            assert problem.move_cost_H is not None
            assert problem.close_cost_H is not None
            weighed = Weighed(
                problem.unit_cost_HD, asked_D, spread_D, problem.open_cost_H, problem.move_cost_H, problem.close_cost_H,
                CHANGE_S, capacity_H, problem.least, most,
            )  # fmt: skip
            open_H = sure_moves(weighed, problem.now_H, plan.open_H)
            if not np.array_equal(open_H, plan.open_H):
                cost_s, carried_H = cost_of(weighed, problem.now_H, open_H), loads(weighed, open_H)
        chosen = np.flatnonzero(open_H)
        carried_H = carried_H / max(float(asked_D.sum()), 1e-12)
        return PlacementFound(
            model=self.model,
            nodes=tuple(self.hosts[place].node for place in chosen),
            cost_s=cost_s,
            bound_s=plan.bound,
            kept_cost_s=plan.kept_cost,
            shares=tuple(float(carried_H[place]) for place in chosen),
        )

    def _waits(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds that a query of each demand waits at each host (H, D), and queries a second (D): those counted, then
        the standing ones of each region."""
        regions = sorted({one.region for one in self.hosts})
        wait_HD = np.empty((len(self.hosts), len(self.demands) + len(regions)))
        for row, host in enumerate(self.hosts):
            for place, demand in enumerate(self.demands):
                path_s = host.path_s[place]
                wait_HD[row, place] = host.service_s + (_path(host.region, demand.region) if path_s is None else path_s)
            for place, region in enumerate(regions, len(self.demands)):
                wait_HD[row, place] = host.service_s + _path(host.region, region)
        asked = [one.asked_per_s for one in self.demands] + [STANDING_PER_S] * len(regions)
        return wait_HD, np.array(asked)


def _path(one: str, other: str) -> float:
    return SAME_S if one == other else ELSEWHERE_S
