"""Placements: the best there is where all can be tried, bounds that hold, and nothing that moves for nothing."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from daitn.base.errors import InputError
from daitn.decision.placement.placing import keeping_gap, place
from daitn.decision.placement.problem import PlacementPlan, PlacementProblem, Unplaceable


@st.composite
def problems(draw: st.DrawFn) -> PlacementProblem:
    """Up to six hosts and six demands; some pairs forbidden, some hosts bounded, some replicas there already."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hosts, demands = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cost = rng.integers(0, 30, (hosts, demands)) / draw(st.sampled_from([1, 7]))
    cost[rng.random((hosts, demands)) < draw(st.sampled_from([0.0, 0.3]))] = np.inf
    demand = rng.integers(0, 5, demands).astype(float)
    bounded = draw(st.booleans())
    capacity = rng.integers(0, 12, hosts).astype(float) if bounded else np.full(hosts, np.inf)
    least = draw(st.integers(0, hosts))
    most = draw(st.none() | st.integers(max(least, 1), hosts))
    moves = draw(st.booleans())
    return PlacementProblem(
        unit_cost_HD=cost,
        demand_D=demand,
        open_cost_H=rng.integers(0, 40, hosts).astype(float),
        capacity_H=capacity,
        least=least,
        most=most,
        now_H=rng.random(hosts) < 0.5 if moves else None,
        move_cost_H=rng.integers(0, 20, hosts).astype(float) if moves else None,
        close_cost_H=rng.integers(0, 10, hosts).astype(float) if moves else None,
        change_cost=float(draw(st.sampled_from([0, 15]))) if moves else 0.0,
    )


def cost_of(problem: PlacementProblem, open_: np.ndarray) -> float:
    """Least cost of a set of hosts, by a linear programme written down pair by pair."""
    hosts, demands = problem.unit_cost_HD.shape
    pairs = [
        (h, d)
        for h in range(hosts)
        for d in range(demands)
        if open_[h] and np.isfinite(problem.unit_cost_HD[h, d]) and problem.demand_D[d] > 0
    ]
    total = float(problem.open_cost_H[open_].sum())
    now = problem.now_H
    if now is not None:
        total += problem.move_cost_H[open_ & ~now].sum() + problem.close_cost_H[now & ~open_].sum()
        total += problem.change_cost * (now.any() and (open_ != now).any())
    asked = [d for d in range(demands) if problem.demand_D[d] > 0]
    if not asked:
        return total
    if not pairs:
        return np.inf
    serve = np.array([[float(one == d) for _, one in pairs] for d in asked])
    load = np.array([[float(one == h) for one, _ in pairs] for h in range(hosts)])
    bounded = np.isfinite(problem.capacity_H)
    found = linprog(
        [problem.unit_cost_HD[pair] for pair in pairs],
        A_ub=load[bounded] if bounded.any() else None,
        b_ub=problem.capacity_H[bounded] if bounded.any() else None,
        A_eq=serve,
        b_eq=problem.demand_D[asked],
    )
    return total + found.fun if found.status == 0 else np.inf


def best_of_all(problem: PlacementProblem) -> float:
    """Over every allowed set of hosts."""
    hosts = len(problem.open_cost_H)
    most = hosts if problem.most is None else problem.most
    sets = (np.array(one) for one in product([False, True], repeat=hosts))
    return min((cost_of(problem, one) for one in sets if problem.least <= one.sum() <= most), default=np.inf)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_small_placements_are_the_best_there_are_and_proven(problem: PlacementProblem) -> None:
    best = best_of_all(problem)
    plan = place(problem, rounds=5)
    if isinstance(plan, Unplaceable):
        assert best == np.inf
        assert plan.reasons
        assert "was found" not in plan.reasons[0]
        return
    assert plan.cost == pytest.approx(best, abs=1e-6)
    assert plan.bound == pytest.approx(best, abs=1e-6)
    assert cost_of(problem, plan.open_H) == pytest.approx(plan.cost, abs=1e-6)
    asked = problem.demand_D > 0
    assert plan.share_HD[:, asked].sum(axis=0) == pytest.approx(1.0)
    assert not plan.share_HD[:, ~asked].any()
    assert not plan.share_HD[~plan.open_H].any()
    assert ((plan.share_HD * problem.demand_D).sum(axis=1) <= problem.capacity_H + 1e-6).all()
    assert not (plan.share_HD[np.isinf(problem.unit_cost_HD)] > 0).any()


@settings(max_examples=60, deadline=None)
@given(problems())
def test_bound_of_prices_alone_is_below_the_best(problem: PlacementProblem) -> None:
    plan = place(problem, rounds=2, exact_size=0)
    if isinstance(plan, PlacementPlan):
        best = best_of_all(problem)
        assert plan.bound <= best + 1e-6
        assert plan.cost >= best - 1e-6


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_keeping_gap_is_no_less_than_what_keeping_loses(problem: PlacementProblem, seed: int) -> None:
    problem = problem._replace(now_H=None, move_cost_H=None, close_cost_H=None, change_cost=0.0)
    plan = place(problem)
    if isinstance(plan, Unplaceable):
        return
    assert keeping_gap(problem, plan) == pytest.approx(plan.validity.price_gap_frac, abs=1e-9)
    later = problem._replace(demand_D=problem.demand_D * np.random.default_rng(seed).uniform(0.3, 2.5))
    kept = cost_of(later, plan.open_H)
    gap = keeping_gap(later, plan)
    if not np.isfinite(kept):
        assert gap == np.inf
    elif kept > 0:
        assert (kept - best_of_all(later)) / kept <= gap + 1e-7


@settings(max_examples=60, deadline=None)
@given(problems())
def test_hosts_serve_as_much_growth_as_is_said_and_no_more(problem: PlacementProblem) -> None:
    plan = place(problem)
    if isinstance(plan, Unplaceable):
        return
    growth = plan.validity.growth_frac
    bare = problem._replace(now_H=None)
    if np.isinf(growth):
        assert np.isfinite(cost_of(bare._replace(demand_D=problem.demand_D * 1.5), plan.open_H))
        return
    assert np.isfinite(cost_of(bare._replace(demand_D=problem.demand_D * (1 + growth) * (1 - 1e-6)), plan.open_H))
    assert cost_of(bare._replace(demand_D=problem.demand_D * (1 + growth) * (1 + 1e-3)), plan.open_H) == np.inf


def line(*, at: float, change: float, moves: float = 0.0) -> PlacementProblem:
    """Two hosts at the ends of a line, one demand between them, one replica at the left end."""
    return PlacementProblem(
        unit_cost_HD=np.array([[at], [1 - at]]),
        demand_D=np.array([10.0]),
        open_cost_H=np.ones(2),
        capacity_H=np.full(2, np.inf),
        most=1,
        now_H=np.array([True, False]),
        move_cost_H=np.full(2, moves),
        change_cost=change,
    )


def test_placement_stays_until_moving_saves_more_than_it_costs() -> None:
    near = place(line(at=0.6, change=3.0))
    far = place(line(at=0.7, change=3.0))

    assert isinstance(near, PlacementPlan)
    assert isinstance(far, PlacementPlan)
    assert (near.changed, near.open_H.tolist(), near.cost) == (False, [True, False], pytest.approx(7.0))
    assert (far.changed, far.open_H.tolist(), far.cost) == (True, [False, True], pytest.approx(7.0))
    assert far.kept_cost == pytest.approx(8.0)


def test_moves_are_paid_for_and_counted() -> None:
    dear = place(line(at=0.9, change=0.0, moves=9.0))
    cheap = place(line(at=0.9, change=0.0, moves=7.0))

    assert isinstance(dear, PlacementPlan)
    assert isinstance(cheap, PlacementPlan)
    assert (dear.changed, dear.move_cost) == (False, 0.0)
    assert (cheap.changed, cheap.move_cost, cheap.cost) == (True, 7.0, pytest.approx(9.0))


def test_equal_arguments_give_equal_plans_where_nothing_is_proven() -> None:
    rng = np.random.default_rng(3)
    problem = PlacementProblem(
        unit_cost_HD=rng.uniform(1, 9, (40, 60)),
        demand_D=rng.uniform(1, 3, 60),
        open_cost_H=rng.uniform(20, 40, 40),
        capacity_H=rng.uniform(10, 30, 40),
    )
    first, second = (place(problem, rounds=3, exact_size=0, seed=5) for _ in range(2))

    assert isinstance(first, PlacementPlan)
    assert isinstance(second, PlacementPlan)
    assert (first.open_H == second.open_H).all()
    assert (first.cost, first.bound) == (second.cost, second.bound)
    assert 0 < first.gap_frac < 0.1


def test_what_cannot_be_placed_is_refused_with_every_reason() -> None:
    problem = PlacementProblem(
        unit_cost_HD=np.array([[1.0, np.inf], [1.0, np.inf]]),
        demand_D=np.array([5.0, 2.0]),
        open_cost_H=np.zeros(2),
        capacity_H=np.array([2.0, 3.0]),
        most=1,
    )

    assert place(problem) == Unplaceable(
        (
            "demand 1: no host may serve it, 2 is asked for",
            "capacity: 7 is asked for, the 1 largest hosts serve 3",
        )
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit_cost_HD": np.array([[np.nan]])}, "not a number"),
        ({"unit_cost_HD": np.zeros((0, 1))}, "hosts × demands"),
        ({"demand_D": np.array([-1.0])}, "demand_D"),
        ({"demand_D": np.array([np.inf])}, "demand_D"),
        ({"open_cost_H": np.zeros(2)}, "open_cost_H"),
        ({"capacity_H": np.array([np.nan])}, "capacity_H"),
        ({"least": 2}, "2 to 1"),
        ({"most": 0}, "1 to 0"),
        ({"now_H": np.zeros(3, bool)}, "now_H"),
        ({"change_cost": -1.0}, "change_cost"),
    ],
)
def test_problem_that_makes_no_sense_is_an_error(change: dict[str, object], said: str) -> None:
    sound = PlacementProblem(np.zeros((1, 1)), np.ones(1), np.zeros(1), np.full(1, np.inf))

    with pytest.raises(InputError, match=said):
        place(sound._replace(**change))
