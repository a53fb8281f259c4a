"""Placements and flows by HiGHS (Q. Huangfu and J. Hall 2018), through scipy, which is imported when first needed.

Where capacities bind: the model with a flow for each pair and strong inequalities. Where none does: that of radii
(G. Cornuéjols, G. Nemhauser, L. Wolsey 1980; S. Elloumi 2010), which has one variable for each distance at which a
demand may be served instead of one for each pair, and none beyond the nearest host that is settled to be open.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daitn.decision.placement.pricing import Field
from daitn.decision.placement.problem import Flags, Floats


class Proof(NamedTuple):
    """The best set of hosts found, if any, and what no plan goes below (infinite: there is no plan)."""

    open_H: Flags | None
    bound: float


class _Rows:
    """Rows of a sparse matrix, gathered."""

    def __init__(self) -> None:
        self.row: list[int] = []
        self.column: list[int] = []
        self.value: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, columns: Any, values: Any, low: float, high: float) -> None:
        """One more row: low ≤ sum of value × column ≤ high."""
        self.row += [len(self.low)] * len(columns)
        self.column += [int(one) for one in columns]
        self.value += [float(one) for one in values]
        self.low.append(low)
        self.high.append(high)

    def constraint(self, columns: int) -> Any:
        """All rows, for `scipy.optimize.milp`."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        matrix = csr_array((self.value, (self.row, self.column)), shape=(len(self.low), columns))
        return LinearConstraint(matrix, np.array(self.low), np.array(self.high))


def size_of(field: Field, opened_H: Flags, closed_H: Flags) -> int:
    """How many variables `prove` would have."""
    if field.bounded:
        return int((field.cost_HD[~closed_H] < field.far).sum())
    return sum(len(levels) for levels in _levels(field, opened_H, closed_H))


def prove(field: Field, opened_H: Flags, closed_H: Flags, nodes: int) -> Proof:
    """Solve with some hosts settled to be open or closed, within `nodes` nodes of the search tree."""
    if field.bounded:
        return _prove_flows(field, opened_H, closed_H, nodes)
    return _prove_radii(field, opened_H, closed_H, nodes)


def _solve(cost: Floats, rows: _Rows, low: Floats, high: Floats, whole: Floats, hosts: int, nodes: int) -> Proof:
    from scipy.optimize import Bounds, milp

    options = {"mip_rel_gap": 1e-9, "node_limit": nodes}
    found = milp(cost, constraints=rows.constraint(len(cost)), bounds=Bounds(low, high), integrality=whole,
                 options=options)  # fmt: skip
    if found.status == 2:
        return Proof(None, np.inf)
    bound = -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound)
    return Proof(None if found.x is None else found.x[:hosts] > 0.5, bound)


def _prove_flows(field: Field, opened_H: Flags, closed_H: Flags, nodes: int) -> Proof:
    hosts, demands = field.cost_HD.shape
    able = (field.cost_HD < field.far) & ~closed_H[:, None]
    pair_h, pair_d = np.nonzero(able)
    column = hosts + np.arange(len(pair_h))
    rows = _Rows()
    for d in range(demands):
        mine = column[pair_d == d]
        if not len(mine):
            return Proof(None, np.inf)
        rows.add(mine, np.ones(len(mine)), 1.0, 1.0)
    for one, host in zip(column, pair_h, strict=True):
        rows.add((one, host), (1.0, -1.0), -np.inf, 0.0)
    for h in range(hosts):
        mine = column[pair_h == h]
        if len(mine) and field.demand_D[pair_d[pair_h == h]].sum() > field.capacity_H[h]:
            rows.add((*mine, h), (*field.demand_D[pair_d[pair_h == h]], -field.capacity_H[h]), -np.inf, 0.0)
    rows.add(range(hosts), np.ones(hosts), field.least, field.most)
    if np.isfinite(field.capacity_H).all():
        rows.add(range(hosts), field.capacity_H, field.demand_D.sum(), np.inf)
    cost = np.concatenate([field.fixed_H, field.cost_HD[able]])
    low, high, whole = np.zeros(len(cost)), np.ones(len(cost)), np.zeros(len(cost))
    low[:hosts], high[:hosts], whole[:hosts] = opened_H, ~closed_H, 1
    return _solve(cost, rows, low, high, whole, hosts, nodes)


def _levels(field: Field, opened_H: Flags, closed_H: Flags) -> list[Floats]:
    """For each demand the distinct costs at which it may be served, up to the nearest settled host."""
    cost = field.cost_HD[~closed_H]
    nearest = field.cost_HD[opened_H].min(axis=0, initial=field.far)
    return [np.unique(np.minimum(cost[:, d], nearest[d])) for d in range(cost.shape[1])]


def _prove_radii(field: Field, opened_H: Flags, closed_H: Flags, nodes: int) -> Proof:
    hosts, demands = field.cost_HD.shape
    levels = _levels(field, opened_H, closed_H)
    rows = _Rows()
    cost = list(field.fixed_H)
    base = 0.0
    free = np.flatnonzero(~closed_H)
    for d in range(demands):
        base += levels[d][0]
        before = -1
        for level, after in zip(levels[d][:-1], levels[d][1:], strict=True):
            here = free[field.cost_HD[free, d] == level]
            column = len(cost)
            cost.append(after - level)
            mine = (column, *here) if before < 0 else (column, *here, before)
            rows.add(mine, (*[1.0] * (1 + len(here)), *([] if before < 0 else [-1.0])), float(before < 0), np.inf)
            before = column
    rows.add(range(hosts), np.ones(hosts), max(field.least, 1), field.most)
    """With one host open at least, a demand that none of the nearer levels serves is served at its last."""
    size = len(cost)
    low, high, whole = np.zeros(size), np.ones(size), np.zeros(size)
    low[:hosts], high[:hosts], whole[:hosts] = opened_H, ~closed_H, 1
    proof = _solve(np.array(cost), rows, low, high, whole, hosts, nodes)
    return Proof(proof.open_H, proof.bound + base)


def flow(field: Field, open_H: Flags) -> tuple[Floats, float]:
    """Which part of each demand goes to which open host, at least cost (H, D), and that cost; infinite if not all fit.

    Without binding capacities each demand goes to its nearest.
    """
    share = np.zeros_like(field.cost_HD)
    at = np.flatnonzero(open_H)
    if not len(at):
        return share, (0.0 if not len(field.demand_D) else np.inf)
    cost = field.cost_HD[at]
    demands = cost.shape[1]
    nearest = cost.argmin(axis=0)
    share[at[nearest], np.arange(demands)] = 1.0
    if not (share @ field.demand_D > field.capacity_H).any():
        total = float(cost.min(axis=0).sum())
        return share, total if (cost.min(axis=0, initial=field.far) < field.far).all() else np.inf
    answer = _flow(cost, field.demand_D, field.capacity_H[at], field.far, grow=False)
    share[:] = 0.0
    if answer is None:
        return share, np.inf
    share[at] = answer[0]
    return share, answer[1]


def growth(field: Field, capacity_H: Floats, open_H: Flags) -> float:
    """By which share all demands may grow at once before these hosts no longer serve them; infinite if unbounded."""
    at = np.flatnonzero(open_H)
    if np.isinf(capacity_H[at]).all() or not len(field.demand_D):
        return np.inf
    answer = _flow(field.cost_HD[at], field.demand_D, capacity_H[at], field.far, grow=True)
    return np.inf if answer is None else answer[1] - 1.0


def _flow(cost: Floats, demand: Floats, capacity: Floats, far: float, *, grow: bool) -> tuple[Floats, float] | None:
    """Least cost of serving everything; or, to `grow`, the largest multiple of the demand that can be served."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    pair_h, pair_d = np.nonzero(cost < far)
    pairs, demands = len(pair_h), len(demand)
    if not (cost < far).any(axis=0).all():
        return None
    column, ones = np.arange(pairs), np.ones(pairs)
    bound = np.isfinite(capacity)
    load = csr_array((demand[pair_d], (pair_h, column)), shape=(len(capacity), pairs + grow))[bound]
    serve_to = (np.concatenate([pair_d, np.arange(demands)]), np.concatenate([column, np.full(demands, pairs)]))
    if grow:
        serve = csr_array((np.concatenate([ones, -np.ones(demands)]), serve_to), shape=(demands, pairs + 1))
        aim, right = np.append(np.zeros(pairs), -1.0), np.zeros(demands)
    else:
        serve = csr_array((ones, (pair_d, column)), shape=(demands, pairs))
        aim, right = cost[pair_h, pair_d], np.ones(demands)
    found = linprog(aim, A_ub=load, b_ub=capacity[bound], A_eq=serve, b_eq=right, bounds=(0, None), method="highs")
    if found.status != 0:
        return None
    share = np.zeros(cost.shape)
    share[pair_h, pair_d] = found.x[:pairs]
    return share, float(-found.fun if grow else found.fun)
