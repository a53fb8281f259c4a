"""Search for placements, compiled: hosts added, dropped and swapped until nothing helps, shaken, and again.

Where no capacity binds, all swaps are weighed in one pass of O(H·D) (R. Whitaker 1983, P. Hansen and N. Mladenović
1997), and the best is made. Where one does, a set of hosts is weighed by filling them: demands that lose most when they
miss their nearest go first, in parts if need be. That weighing is an upper bound; the plan's true cost is a flow.

Legend: H hosts, D demands. Equal seeds give equal results.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daitn.decision.placement.pricing import Field
from daitn.decision.placement.problem import Flags
from daitn.decision.planning.compiling import compiled


@compiled
def _look(cost: Any, open_: Any, first: Any, least: Any, second: Any, far: float) -> float:
    """Nearest and second nearest open host of every demand; returns the cost of service."""
    hosts, demands = cost.shape
    for d in range(demands):
        first[d], least[d], second[d] = -1, far, far
    for h in range(hosts):
        if open_[h]:
            for d in range(demands):
                c = cost[h, d]
                if c < least[d]:
                    second[d] = least[d]
                    first[d], least[d] = h, c
                elif c < second[d]:
                    second[d] = c
    total = 0.0
    for d in range(demands):
        total += least[d]
    return total


@compiled
def _descend(cost: Any, fixed: Any, open_: Any, low: int, most: int, far: float) -> float:
    """Make the best addition, drop or swap until none helps; returns the cost."""
    hosts, demands = cost.shape
    first, least, second = np.empty(demands, np.int64), np.empty(demands), np.empty(demands)
    loss, drop = np.zeros(hosts), np.zeros(hosts)
    while True:
        total = _look(cost, open_, first, least, second, far)
        count = 0
        drop[:] = 0.0
        for d in range(demands):
            if first[d] >= 0:
                drop[first[d]] += second[d] - least[d]
        for h in range(hosts):
            if open_[h]:
                count += 1
                total += fixed[h]
        best, come, go = -1e-9 * (1.0 + abs(total)), -1, -1
        if count > low:
            for h in range(hosts):
                if open_[h] and drop[h] - fixed[h] < best:
                    best, come, go = drop[h] - fixed[h], -1, h
        for h in range(hosts):
            if open_[h]:
                continue
            gain = -fixed[h]
            loss[:] = 0.0
            for d in range(demands):
                c = cost[h, d]
                if c < least[d]:
                    gain += least[d] - c
                elif first[d] >= 0:
                    loss[first[d]] += min(c, second[d]) - least[d]
            if count < most and -gain < best:
                best, come, go = -gain, h, -1
            if gain > 0.0 or best < 0.0:
                for r in range(hosts):
                    if open_[r] and loss[r] - fixed[r] - gain < best:
                        best, come, go = loss[r] - fixed[r] - gain, h, r
        if come < 0 and go < 0:
            return total
        if come >= 0:
            open_[come] = True
        if go >= 0:
            open_[go] = False


@compiled
def _fill(cost: Any, demand: Any, fixed: Any, capacity: Any, open_: Any, far: float) -> float:
    """Cost of a set of hosts when demands that lose most by missing their nearest are served first."""
    hosts, demands = cost.shape
    first, least, second = np.empty(demands, np.int64), np.empty(demands), np.empty(demands)
    _look(cost, open_, first, least, second, far)
    left = capacity.copy()
    total = 0.0
    for h in range(hosts):
        if open_[h]:
            total += fixed[h]
    for d in np.argsort((least - second) / demand):
        rest = demand[d]
        while rest > 1e-12 * demand[d]:
            at, c = -1, far
            for h in range(hosts):
                if open_[h] and left[h] > 0.0 and cost[h, d] < c:
                    at, c = h, cost[h, d]
            if at < 0:
                total += far * rest / demand[d]
                break
            part = min(rest, left[at])
            left[at] -= part
            rest -= part
            total += c * part / demand[d]
    return total


@compiled
def _improve(cost: Any, demand: Any, fixed: Any, capacity: Any, open_: Any, low: int, most: int, far: float,
             trials: int) -> float:  # fmt: skip
    """Random additions, drops and swaps that make a bounded set cheaper; returns its cost when filled."""
    hosts = len(fixed)
    count = 0
    for h in range(hosts):
        count += open_[h]
    best = _fill(cost, demand, fixed, capacity, open_, far)
    for _ in range(trials):
        come, go = -1, -1
        kind = np.random.random()
        if kind > 0.2:
            come = np.random.randint(hosts)
            if open_[come]:
                come = -1
        if kind < 0.7:
            go = np.random.randint(hosts)
            if not open_[go]:
                go = -1
        after = count + (come >= 0) - (go >= 0)
        if (come < 0 and go < 0) or after < low or after > most:
            continue
        if come >= 0:
            open_[come] = True
        if go >= 0:
            open_[go] = False
        found = _fill(cost, demand, fixed, capacity, open_, far)
        if found < best - 1e-9 * abs(best):
            best, count = found, after
            continue
        if come >= 0:
            open_[come] = False
        if go >= 0:
            open_[go] = True
    return best


@compiled
def _shake(open_: Any, low: int, most: int, moves: int) -> None:
    """Some random moves that keep the count allowed."""
    hosts = len(open_)
    count = 0
    for h in range(hosts):
        count += open_[h]
    for _ in range(moves):
        h, r = np.random.randint(hosts), np.random.randint(hosts)
        for _ in range(hosts):
            if not open_[h]:
                break
            h = (h + 1) % hosts
        for _ in range(hosts):
            if open_[r]:
                break
            r = (r + 1) % hosts
        kind = np.random.random()
        if count < most and kind < 0.3 and not open_[h]:
            open_[h] = True
            count += 1
        elif count > low and kind > 0.7 and open_[r]:
            open_[r] = False
            count -= 1
        elif not open_[h] and open_[r]:
            open_[h], open_[r] = True, False


@compiled
def _search(cost: Any, demand: Any, fixed: Any, capacity: Any, open_: Any, low: int, most: int, far: float,
            bounded: bool, rounds: int, seed: int) -> float:  # fmt: skip
    """Descend, then shake the best and descend again, `rounds` times."""
    np.random.seed(seed)
    trials = 20 * len(fixed)
    if bounded:
        best = _improve(cost, demand, fixed, capacity, open_, low, most, far, trials)
    else:
        best = _descend(cost, fixed, open_, low, most, far)
    kept = open_.copy()
    for _ in range(rounds):
        open_[:] = kept
        _shake(open_, low, most, 1 + np.random.randint(4))
        if bounded:
            found = _improve(cost, demand, fixed, capacity, open_, low, most, far, trials)
        else:
            found = _descend(cost, fixed, open_, low, most, far)
        if found <= best:
            best = found
            kept[:] = open_
    open_[:] = kept
    return best


def search(field: Field, start_H: Flags, rounds: int, seed: int) -> tuple[Flags, float]:
    """The best set of hosts found from a start, and its cost as weighed; dearer than `far` where it serves not all."""
    open_ = start_H.copy()
    _mend(field, open_)
    cost = _search(
        field.cost_HD, field.demand_D, field.fixed_H, field.capacity_H, open_, field.least, field.most, field.far,
        field.bounded, rounds, seed,
    )  # fmt: skip
    return open_, float(cost)


def _mend(field: Field, open_H: Flags) -> None:
    """Bring a set to an allowed count and, as far as that goes, enough capacity: largest hosts first."""
    by_room = np.argsort(-field.capacity_H, kind="stable")
    total = float(field.demand_D.sum())
    for host in by_room:
        count = int(open_H.sum())
        if count >= field.most or (count >= max(field.least, 1) and field.capacity_H[open_H].sum() >= total):
            break
        open_H[host] = True
    for host in by_room[::-1]:
        if int(open_H.sum()) <= field.most:
            break
        open_H[host] = False
