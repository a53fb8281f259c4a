"""Moves that chance asks for are not made: a plan, less what it changes for no more than counts differ by chance.

Demand is counted, and counts of the same demand differ. Where two hosts are nearly alike for what some place asks, the
better one changes with every count, and a programme that is solved again and again moves the model to and fro: each
move pays by the numbers of its moment, and all of them together for nothing. So each part of a plan's change is asked
what it saves, and how far that would differ by chance: a replica is moved, added or let go only where the saving is
`SURE` deviations above what it costs. Parts are looked at one by one, since a large move would carry small ones along.

Legend: H hosts, D demands, C hosts that the plan leaves.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from daitn.decision.placement.problem import Flags, Floats

SURE: Final = 2.0
"""Deviations. Where demand shifts its region (`benchmarks/demand_shift.py`), three make 5.8 moves instead of 7.2, and
0.002 less is saved of what moving saves."""

_FAR: Final = 1e12
"""Stands for an infinite cost, so that differences are numbers."""


class Weighed(NamedTuple):
    """What a plan is weighed by; costs in the unit of the programme that made it."""

    cost_HD: Floats
    """Of one unit of a demand at a host; infinite where it may not be served there."""
    demand_D: Floats
    spread_D: Floats
    """Deviation of each demand by chance, in its unit."""
    open_cost_H: Floats
    move_cost_H: Floats
    close_cost_H: Floats
    change_cost: float
    capacity_H: Floats
    least: int
    most: int


def sure_moves(weighed: Weighed, held_H: Flags, open_H: Flags, sure: float = SURE) -> Flags:
    """The plan `open_H`, less those of its changes to `held_H` that are not sure; where none is, what is held.

    The part whose saving is the fewest deviations is taken back first, then the rest is looked at again. Where hosts
    fill up, a part is taken back only if the nearest hosts still serve all. Cost: O(changes² · D) for each part.
    """
    found = open_H.copy()
    kept: set[tuple[int, int]] = set()
    while True:
        part = _least_sure(weighed, held_H, found, sure, kept)
        if part is None:
            return found
        changed = found.copy()
        for host in part:
            if host >= 0:
                changed[host] = not changed[host]
        if _serves(weighed, changed):
            found = changed
        else:
            kept.add(part)


def _least_sure(
    weighed: Weighed, held_H: Flags, open_H: Flags, sure: float, kept: set[tuple[int, int]]
) -> tuple[int, int] | None:
    """A replica that the plan adds and one that it lets go (-1: none of these) whose exchange is the least sure; None
    where all are surer than `sure`."""
    cost_HD = np.minimum(weighed.cost_HD, _FAR)
    now = np.flatnonzero(open_H)
    two_2D = np.sort(np.vstack([cost_HD[now], np.full((1, cost_HD.shape[1]), _FAR)]), axis=0)[:2]
    near_D, next_D = two_2D
    first_D = now[cost_HD[now].argmin(axis=0)]
    added = [int(host) for host in np.flatnonzero(open_H & ~held_H)]
    left = [int(host) for host in np.flatnonzero(held_H & ~open_H)]
    best: tuple[float, tuple[int, int]] | None = None
    for one in (-1, *added):
        without_D = near_D if one < 0 else np.where(first_D == one, next_D, near_D)
        for other in (-1, *left):
            count = len(now) - (one >= 0) + (other >= 0)
            if (one, other) == (-1, -1) or (one, other) in kept or not weighed.least <= count <= weighed.most:
                continue
            then_D = without_D if other < 0 else np.minimum(without_D, cost_HD[other])
            gain_D = then_D - near_D
            saved = float(gain_D @ weighed.demand_D)
            if one >= 0:
                saved -= float(weighed.open_cost_H[one] + weighed.move_cost_H[one])
            if other >= 0:
                saved += float(weighed.open_cost_H[other] - weighed.close_cost_H[other])
            if len(added) + len(left) == (one >= 0) + (other >= 0):
                saved -= weighed.change_cost  # nothing is changed then
            deviation = float(np.sqrt(((gain_D * weighed.spread_D) ** 2).sum()))
            deviations = saved / max(deviation, 1e-12)
            if deviations < sure and (best is None or deviations < best[0]):
                best = (deviations, (one, other))
    return None if best is None else best[1]


def _serves(weighed: Weighed, open_H: Flags) -> bool:
    """Whether each demand's nearest host has room for it."""
    return bool((loads(weighed, open_H) <= weighed.capacity_H * (1 + 1e-9)).all())


def loads(weighed: Weighed, open_H: Flags) -> Floats:
    """(H,) what each host serves where every demand goes to its nearest."""
    now = np.flatnonzero(open_H)
    nearest_D = now[np.minimum(weighed.cost_HD[now], _FAR).argmin(axis=0)]
    load_H: Floats = np.bincount(nearest_D, weights=weighed.demand_D, minlength=len(open_H)).astype(np.float64)
    return load_H


def cost_of(weighed: Weighed, held_H: Flags, open_H: Flags) -> float:
    """All of it: hosts, service at the nearest, moves, draining, and `change_cost` if anything changes."""
    service = float(weighed.cost_HD[open_H].min(axis=0) @ weighed.demand_D)
    fixed = float(weighed.open_cost_H[open_H].sum() + weighed.move_cost_H[open_H & ~held_H].sum())
    closed = float(weighed.close_cost_H[held_H & ~open_H].sum())
    return service + fixed + closed + (0.0 if np.array_equal(open_H, held_H) else weighed.change_cost)
