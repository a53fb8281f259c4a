"""Placement of a model's replicas on hosts (DeploymentOptimizer, MDO): the plan, its proof, and when to think again.

Paper II-B. A capacitated facility location programme whose demands may be split, with bounds on the number of hosts
(both equal: the p-median), costs of moving and draining, and a cost of changing anything. In this order:

1. prices give a bound, and hosts that look good at these prices start the search (`pricing`, `searching`);
2. hosts that no better plan can have, or can lack, are settled by the same prices;
3. what is left goes to HiGHS if it is small enough (`exact`), else the bound of the prices stands.

The cost of changing is compared at the end: the best plan pays it, the one that is there does not. So a placement
moves only for more than that, and the bound holds for the whole objective. Limits are counted, not clocked: a replay is
exact.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from daitn.decision.placement.exact import flow, growth, prove, size_of
from daitn.decision.placement.pricing import PATIENCE, Field, evaluate, raise_prices, settled
from daitn.decision.placement.problem import (
    Flags,
    Floats,
    PlacementPlan,
    PlacementProblem,
    Unplaceable,
    Validity,
    check_problem,
    reasons_against,
)
from daitn.decision.placement.searching import search

ROUNDS: Final = 200
"""Shakes of the search after the prices: enough for every OR-Library instance of up to 400 hosts here."""

PASSES: Final = 3000
"""Of prices, in parts of `PART`, after each of which the hosts that were taken are searched from."""

PART: Final = 150

EXACT_SIZE: Final = 30_000
"""Most variables that are given to HiGHS."""

EXACT_NODES: Final = 100_000

CLOSE: Final = 1e-9
"""Share of the cost below which a gap is rounding."""


class _Best(NamedTuple):
    """The best set of hosts, its cost (infinite: none was found) and a bound (infinite: there is none)."""

    open_H: Flags
    cost: float
    bound: float
    price_D: Floats


def place(
    problem: PlacementProblem, *, rounds: int = ROUNDS, exact_size: int = EXACT_SIZE, seed: int = 0
) -> PlacementPlan | Unplaceable:
    """The best placement found, with what no placement can go below. InputError where the problem makes no sense.

    Cost: about 2 s of a core for 400 × 400, where the proof needs no tree; see docs/performance.md, `placement`.
    """
    check_problem(problem)
    reasons = reasons_against(problem)
    if reasons:
        return Unplaceable(reasons)
    field, asked = field_of(problem)
    best = _solve(field, rounds, exact_size, seed)
    kept = _kept_cost(problem, field)
    if not math.isfinite(min(best.cost, kept)):
        known = "no set of hosts that is allowed serves everything at once"
        unknown = f"no set of hosts that serves everything was found in {rounds} rounds, there may be one"
        return Unplaceable((known if math.isinf(best.bound) else unknown,))
    return _plan(problem, field, asked, best, kept)


def keeping_gap(problem: PlacementProblem, plan: PlacementPlan) -> float:
    """How much dearer, at most and as a share, a plan's hosts are than the best there is for what is asked now.

    One pass over the costs with the plan's prices instead of a search: demands may have moved, hosts may have got
    dearer. Infinite where its hosts no longer serve everything. Costs of changing are left out. O(H × D).
    """
    check_problem(problem)
    field, asked = field_of(problem._replace(now_H=None, move_cost_H=None, close_cost_H=None))
    return _gap(field, plan.open_H, plan.validity.prices_D[asked] * field.demand_D)


def field_of(problem: PlacementProblem) -> tuple[Field, Flags]:
    """A problem as the compiled parts want it, and which demands are in it. Moves are part of each host's cost."""
    asked = problem.demand_D > 0
    demand = np.ascontiguousarray(problem.demand_D[asked], np.float64)
    unit = problem.unit_cost_HD[:, asked]
    able = np.isfinite(unit)
    with np.errstate(invalid="ignore"):
        cost = unit * demand
    fixed = problem.open_cost_H.astype(np.float64, copy=True)
    if problem.now_H is not None:
        if problem.move_cost_H is not None:
            fixed += np.where(problem.now_H, 0.0, problem.move_cost_H)
        if problem.close_cost_H is not None:
            fixed -= np.where(problem.now_H, problem.close_cost_H, 0.0)
    finite = np.where(able, cost, 0.0)
    far = 10.0 * (float(np.abs(finite).max(axis=0, initial=0.0).sum()) + float(np.abs(fixed).sum())) + 1.0
    hosts = len(fixed)
    total = float(demand.sum())
    capacity = np.minimum(problem.capacity_H.astype(np.float64), total * 2.0 + 1.0)
    most = hosts if problem.most is None else min(problem.most, hosts)
    return Field(
        cost_HD=np.ascontiguousarray(np.where(able, cost, far)),
        demand_D=demand,
        fixed_H=fixed,
        capacity_H=capacity,
        least=problem.least,
        most=most,
        far=far,
        bounded=bool((capacity < total).any()),
    ), asked


def _solve(field: Field, rounds: int, exact_size: int, seed: int) -> _Best:
    """The best set of hosts, its cost without what closing adds, and a bound."""
    hosts = len(field.fixed_H)
    found, cost = search(field, np.zeros(hosts, bool), 0, seed)
    cost = _true_cost(field, found, cost)
    price = np.partition(field.cost_HD, min(1, hosts - 1), axis=0)[min(1, hosts - 1)].copy()
    price = np.minimum(price, field.far / 10)
    best_price, bound = price.copy(), -np.inf
    step, tried = 1.5, found.copy()
    for part in range(PASSES // PART):
        worth, chosen = np.empty(hosts), np.zeros(hosts, bool)
        bound, step = raise_prices(
            field.cost_HD, field.demand_D, field.fixed_H, field.capacity_H, price, field.least, field.most,
            min(cost, field.far), step, PART, worth, chosen, best_price, bound, PATIENCE,
        )  # fmt: skip
        if _proven(field, cost, bound):
            break
        if not np.array_equal(chosen, tried):
            tried = chosen.copy()
            again, weighed = search(field, chosen, 1, seed + part)
            again_cost = _true_cost(field, again, weighed)
            if again_cost < cost:
                found, cost = again, again_cost
        if step < 1e-3:
            break
    if rounds and not _proven(field, cost, bound):
        again, weighed = search(field, found, rounds, seed)
        again_cost = _true_cost(field, again, weighed)
        if again_cost < cost:
            found, cost = again, again_cost
    if not _proven(field, cost, bound):
        opened = closed = np.zeros(hosts, bool)
        if math.isfinite(cost):
            opened, closed = settled(field, best_price, cost - _slack(field, cost))
        if size_of(field, opened, closed) <= exact_size:
            proof = prove(field, opened, closed, EXACT_NODES)
            """What the settled hosts leave out costs at least `cost`, so the bound is the lesser of the two."""
            if proof.open_H is not None:
                again_cost = _true_cost(field, proof.open_H, 0.0)
                if again_cost < cost:
                    found, cost = proof.open_H, again_cost
            bound = max(bound, min(cost, proof.bound))
    if bound > field.far / 2:
        bound = math.inf
        """No plan without forbidden pairs is as dear: there is none."""
    if _proven(field, cost, bound):
        bound = cost
    return _Best(found, cost, min(bound, cost), best_price)


def _true_cost(field: Field, open_H: Flags, weighed: float) -> float:
    """Hosts and flow; infinite where not all is served, or where as weighed it is far from that."""
    if weighed > 2 * field.far or not field.least <= open_H.sum() <= field.most:
        return math.inf
    return float(field.fixed_H[open_H].sum()) + flow(field, open_H)[1]


def _slack(field: Field, cost: float) -> float:
    """By how much a better plan must be cheaper: whole numbers differ by one."""
    whole = not field.bounded and bool((np.mod(field.cost_HD, 1) == 0).all() and (np.mod(field.fixed_H, 1) == 0).all())
    return 1.0 - 1e-6 if whole else CLOSE * abs(cost)


def _proven(field: Field, cost: float, bound: float) -> bool:
    return math.isfinite(cost) and cost - bound <= _slack(field, cost)


def _gap(field: Field, open_H: Flags, price_D: Floats) -> float:
    if not len(field.demand_D):
        return 0.0
    service = flow(field, open_H)[1]
    cost = float(field.fixed_H[open_H].sum()) + service
    if not math.isfinite(cost):
        return math.inf
    return max(0.0, cost - evaluate(field, price_D)[0]) / max(abs(cost), 1e-12)


def _kept_cost(problem: PlacementProblem, field: Field) -> float:
    """Of leaving everything where it is, in the field's costs; infinite where that is not allowed or does not serve."""
    now = problem.now_H
    if now is None or not now.any() or not field.least <= now.sum() <= field.most:
        return math.inf
    return float(field.fixed_H[now].sum()) + flow(field, now)[1]


def _plan(problem: PlacementProblem, field: Field, asked: Flags, best: _Best, kept: float) -> PlacementPlan:
    """Weigh changing against keeping, and say all of it in the problem's own costs."""
    hosts, demands = problem.unit_cost_HD.shape
    now = np.zeros(hosts, bool) if problem.now_H is None else problem.now_H
    closing = 0.0
    if problem.now_H is not None and problem.close_cost_H is not None:
        closing = float(problem.close_cost_H[now].sum())
    change = problem.change_cost if now.any() else 0.0
    if kept <= best.cost + change and not np.array_equal(best.open_H, now):
        open_, cost, bound = now, kept, min(kept, best.bound + change)
    elif np.array_equal(best.open_H, now):
        open_, cost, bound = now, best.cost, best.bound
    else:
        open_, cost, bound = best.open_H, best.cost + change, min(kept, best.bound + change)
    share = np.zeros((hosts, demands))
    share[:, asked] = flow(field, open_)[0]
    moved = problem.now_H is not None
    move = float(problem.move_cost_H[open_ & ~now].sum()) if moved and problem.move_cost_H is not None else 0.0
    drain = float(problem.close_cost_H[now & ~open_].sum()) if moved and problem.close_cost_H is not None else 0.0
    prices = np.zeros(demands)
    prices[asked] = best.price_D / field.demand_D
    bare, _ = field_of(problem._replace(now_H=None, move_cost_H=None, close_cost_H=None))
    return PlacementPlan(
        open_H=open_.copy(),
        share_HD=share,
        cost=cost + closing,
        bound=bound + closing,
        changed=bool(now.any()) and not np.array_equal(open_, now),
        kept_cost=kept + closing,
        move_cost=move + drain,
        validity=Validity(
            growth_frac=growth(field, problem.capacity_H, open_),
            price_gap_frac=_gap(bare, open_, prices[asked] * field.demand_D),
            prices_D=prices,
        ),
    )
