"""Prices of demands: a bound below every placement, by Lagrangian relaxation, and which hosts it rules out.

That every demand be served is priced instead of demanded; then each host decides by itself what it would serve (all
that is worth its price, or, where it is bounded, the best of it by a fractional knapsack), and hosts are taken by what
they gain. The prices are raised where too little is served and lowered where too much (subgradient steps, M. Held,
P. Wolfe, H. Crowder 1974). The bound is that of the linear programme with strong inequalities, without ever writing it
down.

Legend: H hosts, D demands. `cost_HD` is of all of a demand. A pass costs O(H·D), with a sort at hosts that overflow.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from daitn.decision.placement.problem import Flags, Floats
from daitn.decision.planning.compiling import compiled

PATIENCE: Final = 25
"""Passes without a better bound after which steps are halved."""

SMALLEST_STEP: Final = 2e-4


class Field(NamedTuple):
    """A problem as the compiled parts want it: no zero demands, no infinities among the costs."""

    cost_HD: Floats
    demand_D: Floats
    fixed_H: Floats
    capacity_H: Floats
    least: int
    most: int
    far: float
    """Stands for an infinite cost: dearer than any plan."""
    bounded: bool
    """Whether any capacity can ever bind."""


@compiled
def _worth(cost: Any, demand: Any, fixed: float, capacity: float, price: Any, served: Any) -> float:
    """What one host gains at these prices (negative: worth having), and in `served` which part of each demand."""
    demands = len(demand)
    value, load = fixed, 0.0
    for d in range(demands):
        served[d] = 0.0
        if cost[d] < price[d]:
            served[d] = 1.0
            value += cost[d] - price[d]
            load += demand[d]
    if load <= capacity:
        return value
    ratio = np.empty(demands)
    for d in range(demands):
        ratio[d] = (cost[d] - price[d]) / demand[d]
    value, left = fixed, capacity
    for d in np.argsort(ratio):
        part = 0.0
        if served[d] > 0.0 and left > 0.0:
            part = min(1.0, left / demand[d])
            left -= part * demand[d]
            value += part * (cost[d] - price[d])
        served[d] = part
    return value


@compiled
def priced(cost: Any, demand: Any, fixed: Any, capacity: Any, price: Any, least: int, most: int, worth: Any,
           chosen: Any, covered: Any) -> float:  # fmt: skip
    """The bound at these prices; fills what each host is worth, which are taken, and how much of each demand is."""
    hosts, demands = cost.shape
    served = np.empty((hosts, demands))
    bound = 0.0
    for d in range(demands):
        bound += price[d]
        covered[d] = 0.0
    for h in range(hosts):
        worth[h] = _worth(cost[h], demand, fixed[h], capacity[h], price, served[h])
        chosen[h] = False
    order = np.argsort(worth)
    for rank in range(min(most, hosts)):
        h = order[rank]
        if rank >= least and worth[h] >= 0.0:
            break
        chosen[h] = True
        bound += worth[h]
        for d in range(demands):
            covered[d] += served[h, d]
    return bound


@compiled
def raise_prices(
    cost: Any, demand: Any, fixed: Any, capacity: Any, price: Any, least: int, most: int, known: float, step: float,
    passes: int, worth: Any, chosen: Any, best_price: Any, best_bound: float, patience: int,
) -> tuple[float, float]:  # fmt: skip
    """Some passes from `price`, which is moved; `known` is the cost of a plan. Returns the best bound and the step."""
    demands = len(demand)
    covered = np.empty(demands)
    without = 0
    for _ in range(passes):
        bound = priced(cost, demand, fixed, capacity, price, least, most, worth, chosen, covered)
        if bound > best_bound + 1e-10 * abs(bound):
            best_bound, without = bound, 0
            best_price[:] = price
        else:
            without += 1
            if without >= patience:
                step, without = step / 2, 0
                price[:] = best_price
        norm = 0.0
        for d in range(demands):
            norm += (1.0 - covered[d]) ** 2
        if norm < 1e-12 or step < SMALLEST_STEP or known - best_bound <= 1e-9 * abs(known):
            break
        length = step * max(known - bound, 1e-9 * abs(known)) / norm
        for d in range(demands):
            price[d] += length * (1.0 - covered[d])
    return best_bound, step


def evaluate(field: Field, price_D: Floats) -> tuple[float, Floats, Flags]:
    """The bound at given prices, what each host is worth, and which are taken."""
    worth, chosen = np.empty(len(field.fixed_H)), np.zeros(len(field.fixed_H), bool)
    bound = priced(
        field.cost_HD, field.demand_D, field.fixed_H, field.capacity_H, price_D, field.least, field.most, worth,
        chosen, np.empty(len(field.demand_D)),
    )  # fmt: skip
    return float(bound), worth, chosen


def settled(field: Field, price_D: Floats, beat: float) -> tuple[Flags, Flags]:
    """Hosts that every plan cheaper than `beat` has, and hosts that none of them has.

    Forcing a host in or out moves the bound by what it is worth; where that passes `beat`, the question is settled.
    """
    bound, worth, chosen = evaluate(field, price_D)
    count = int(chosen.sum())
    spare = np.inf if chosen.all() else float(worth[~chosen].min())
    dearest = float(worth[chosen].max()) if count else 0.0
    taken = min(spare, 0.0) if count > field.least else spare
    """What takes the place of a host that is forced out: one must where there are no more than the fewest."""
    dropped = 0.0
    if count and count >= field.most:
        dropped = dearest
    elif count and count == field.least:
        dropped = max(dearest, 0.0)
    return chosen & (bound - worth + taken >= beat), ~chosen & (bound + worth - dropped >= beat)
