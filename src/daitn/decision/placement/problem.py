"""What is asked of a placement, and what is answered.

Legend: H hosts, D demands (say, regions that ask for a model). One model at a time; what its hosts still have room for
is their capacity here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError

CELLS_MOST: Final = 25_000_000
"""Largest H × D: a working copy of the costs is 200 MB then."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class PlacementProblem(NamedTuple):
    """Costs are in one unit of the caller's choice; rates in queries per second, say. Arrays are not changed."""

    unit_cost_HD: Floats
    """Cost of serving one unit of a demand at a host; infinite where the host may not serve it (zone, region, latency
    beyond the goal)."""
    demand_D: Floats
    """How much is asked for, ≥ 0, in the unit of the capacities."""
    open_cost_H: Floats
    """Cost of having a replica there, ≥ 0."""
    capacity_H: Floats
    """How much a replica there serves; infinite where nothing bounds it."""
    least: int = 1
    """Fewest hosts that must carry the model."""
    most: int | None = None
    """Most hosts that may; None: all."""
    now_H: Flags | None = None
    """Where replicas are now; None: nowhere, and nothing costs for being moved."""
    move_cost_H: Floats | None = None
    """Cost of bringing the model to a host that has none (bytes, warming), in the same unit. None: nothing."""
    close_cost_H: Floats | None = None
    """Cost of draining and dropping a replica. None: nothing."""
    change_cost: float = 0.0
    """Cost of changing anything at all, paid once, so that a placement does not swing between two that are alike."""


class Validity(NamedTuple):
    """How far the world may move before a plan should be thought over; see `placing.keeping_gap`."""

    growth_frac: float
    """By how much every demand may grow, at once, until these hosts no longer serve all; infinite where unbounded."""
    price_gap_frac: float
    """What `keeping_gap` was when the plan was made. While it stays near this, a new search has little to find."""
    prices_D: Floats
    """What one unit of each demand costs at the margin: with them a bound for other demands takes one pass."""


class PlacementPlan(NamedTuple):
    """Where replicas shall be, and which part of each demand goes where."""

    open_H: Flags
    share_HD: Floats
    """Columns of demands that are not zero sum to one."""
    cost: float
    """All of it: hosts, service, moves, draining, and `change_cost` if anything changes."""
    bound: float
    """No plan costs less: proven, by prices or by HiGHS."""
    changed: bool
    """Whether hosts differ from `now_H`; False where nothing was there before and nothing is known."""
    kept_cost: float
    """What leaving everything where it is would cost; infinite where that does not serve, or nothing is there."""
    move_cost: float
    """Part of `cost` that is moves and draining."""
    validity: Validity

    @property
    def gap_frac(self) -> float:
        """How much dearer than the best possible this plan is at most, as a share of its cost."""
        return max(0.0, self.cost - self.bound) / max(abs(self.cost), 1e-12)


class Unplaceable(NamedTuple):
    """Why no placement serves everything: each reason with what there is and what it would take."""

    reasons: tuple[str, ...]


def check_problem(problem: PlacementProblem) -> None:
    """InputError where shapes, signs or counts cannot be right."""
    cost = problem.unit_cost_HD
    if cost.ndim != 2 or cost.size == 0 or cost.size > CELLS_MOST:
        raise InputError(f"costs are {list(cost.shape)}: wanted hosts × demands, 1 to {CELLS_MOST} of them")
    hosts, demands = cost.shape
    if np.isnan(cost).any() or (cost == -np.inf).any():
        raise InputError("a unit cost is not a number", todo="use infinity where a host may not serve a demand")
    sizes = [("demand_D", problem.demand_D, demands), ("open_cost_H", problem.open_cost_H, hosts)]
    sizes += [("capacity_H", problem.capacity_H, hosts)]
    sizes += [
        (name, one, hosts)
        for name, one in (("move_cost_H", problem.move_cost_H), ("close_cost_H", problem.close_cost_H))
        if one is not None
    ]
    for name, one, length in sizes:
        if one.shape != (length,):
            raise InputError(f"{name} is {list(one.shape)}, the costs say {length}")
        if np.isnan(one).any() or (one < 0).any() or (name != "capacity_H" and np.isinf(one).any()):
            raise InputError(f"{name} has a value that is negative or not a number: {one[~(one >= 0)][:3].tolist()}")
    if problem.now_H is not None and problem.now_H.shape != (hosts,):
        raise InputError(f"now_H is {list(problem.now_H.shape)}, there are {hosts} hosts")
    most = hosts if problem.most is None else problem.most
    if not 0 <= problem.least <= hosts or most < max(problem.least, 1):
        raise InputError(f"{problem.least} to {most} replicas are wanted on {hosts} hosts")
    if not 0 <= problem.change_cost < np.inf:
        raise InputError(f"change_cost is {problem.change_cost}")


def reasons_against(problem: PlacementProblem) -> tuple[str, ...]:
    """Why nothing can serve all demands, as far as one sees without a search. Cost O(H × D)."""
    found: list[str] = []
    able = np.isfinite(problem.unit_cost_HD) & (problem.capacity_H > 0)[:, None]
    asked = problem.demand_D > 0
    for demand in np.flatnonzero(asked & ~able.any(axis=0))[:8]:
        found.append(f"demand {demand}: no host may serve it, {problem.demand_D[demand]:g} is asked for")
    hosts = len(problem.capacity_H)
    most = hosts if problem.most is None else min(problem.most, hosts)
    room = float(np.sort(problem.capacity_H)[::-1][:most].sum())
    total = float(problem.demand_D.sum())
    if room < total * (1 - 1e-12):
        found.append(f"capacity: {total:g} is asked for, the {most} largest hosts serve {room:g}")
    return tuple(found)
