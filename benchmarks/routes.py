"""Question: how good are planned routes, and how soon?

Three workloads. (1) OPLib's 45 orienteering instances of 48 to 400 stops (unit scores, closed tour within a limit),
about five seconds of one core each, against the scores that the heuristic EA4OP is published with. A tour counts only
after its stops, its cost and its score have been counted again here. (2) Learning-shaped instances of our own with at
most 12 stops: gains shrink with what is known, are forgotten, and differ by field; half with wide budgets (least cost
that reaches what is wanted), half with tight ones; against every sequence tried out, by code that shares nothing with
the product's. (3) One plan over 10,000 candidates.

Peers, in the same run: construction by gain per cost alone (the searches' own starting point). EA4OP's scores stand for
it: its program is not run here.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.oplib import Instance, read_instances
from benchmarks.report import Bounds, arguments, print_report
from daitn.decision.planning.tours import Tour, plan_tour
from daitn.decision.planning.visits import VisitPlan, VisitProblem, plan_visits

TOUR_S = 5.0
QUICK_TOURS = 5
SEED = 1
LEARNING = 40
LEARNING_QUICK = 8
BOUNDS: Bounds = {
    "mean_gap_frac": ("<=", 0.01),
    "worst_gap_frac": ("<=", 0.05),
    "learning_worst_gap_frac": ("<=", 0.01),
    "seconds_10k": ("<=", 1.0),
}
Floats = NDArray[np.float64]


def solve(instance: Instance, seconds: float) -> tuple[Tour, float]:
    """A tour, and the processor seconds that it took. Iterations are set by the speed of a short search before."""
    began = time.process_time()
    plan_tour(instance.cost, instance.score, instance.depot, instance.limit, iterations=300, seed=0)
    rate = 300 / (time.process_time() - began)
    began = time.process_time()
    tour = plan_tour(
        instance.cost, instance.score, instance.depot, instance.limit, iterations=int(rate * seconds), seed=SEED
    )
    return tour, time.process_time() - began


def gap(instance: Instance, tour: Tour) -> float:
    """Share of the known score that is missing; negative where the tour is better. SystemExit for a tour that lies."""
    stops = list(tour.stops)
    cost = sum(instance.cost[one, other] for one, other in zip(stops, stops[1:] + stops[:1], strict=True))
    score = float(instance.score[stops].sum())
    if len(set(stops)) != len(stops) or instance.depot not in stops or cost > instance.limit + 1e-6:
        raise SystemExit(f"{instance.name}: not a closed tour within {instance.limit}: {cost}")
    if abs(cost - tour.cost) > 1e-6 or abs(score - tour.gain) > 1e-9:
        raise SystemExit(f"{instance.name}: the tour is said to be {tour.gain}/{tour.cost}, it is {score}/{cost}")
    return (instance.known - score) / instance.known


def make_problem(seed: int) -> tuple[VisitProblem, int]:
    """A learning-shaped problem and how many visits a route may have: so many that all can be tried out."""
    rng = np.random.default_rng(seed)
    stops, fields = int(rng.integers(3, 13)), int(rng.integers(1, 5))
    most = int(np.log(3e6) / np.log(stops))
    here = rng.random((stops, fields)) < 0.5
    teach = here * rng.uniform(0.05, 0.45, (stops, fields))
    keep = np.where(here, 1.0, 1 - rng.uniform(0, 0.12, (stops, fields)))
    stay, enter = rng.uniform(0.3, 1.5, (stops, 2)), rng.uniform(0.1, 1.5, (stops, 2))
    wide = seed % 2 == 0
    budget = np.full(2, np.inf) if wide else rng.uniform(0.3, 0.9, 2) * most * 1.8
    problem = VisitProblem(
        teach=teach,
        keep=keep,
        stay=stay,
        enter=enter,
        known=rng.uniform(0, 0.3, fields),
        wanted=rng.uniform(0.3, 0.7 if wide else 0.95, fields),
        weight=rng.uniform(0.5, 2.0, fields),
        budget=budget,
        price=np.array([0.7, 0.3]),
        at=int(rng.integers(-1, stops)),
        check=rng.uniform(0, 0.3, 2),
        check_every=int(rng.integers(1, 4)),
    )
    return problem, most


@numba.njit(cache=True)
def try_all(
    teach: Any, keep: Any, stay: Any, enter: Any, known: Any, wanted: Any, weight: Any, budget: Any, price: Any,
    at: int, check: Any, check_every: int, most: int,
) -> tuple[float, float]:  # fmt: skip
    """Least shortfall, then least cost, over every sequence of at most `most` stops, each counted from its start."""
    stops, fields = teach.shape
    best_short, best_cost = 0.0, 0.0
    for field in range(fields):
        best_short += weight[field] * max(0.0, wanted[field] - known[field])
    for length in range(1, most + 1):
        for code in range(stops**length):
            rest, here = code, at
            state = known.copy()
            spent = ((length + check_every - 1) // check_every) * check
            for _ in range(length):
                stop = rest % stops
                rest //= stops
                spent = spent + stay[stop]
                if stop != here:
                    spent = spent + enter[stop]
                state = 1 - (1 - state * keep[stop]) * (1 - teach[stop])
                here = stop
            if (spent > budget * (1 + 1e-12)).any():
                continue
            short, cost = 0.0, (price * spent).sum()
            for field in range(fields):
                short += weight[field] * max(0.0, wanted[field] - state[field])
            if short < best_short - 1e-9 or (short < best_short + 1e-9 and cost < best_cost):
                best_short, best_cost = min(short, best_short), cost
    return best_short, best_cost


def learning_gap(problem: VisitProblem, plan: VisitPlan, most: int) -> float:
    """How far a plan is from the best there is: in shortfall as a share of what was missing, then in cost."""
    short, cost = try_all(
        problem.teach, problem.keep, problem.stay, problem.enter, problem.known, problem.wanted, problem.weight,
        problem.budget, problem.price, problem.at, problem.check, problem.check_every, most,
    )  # fmt: skip
    missing = float((problem.weight * np.maximum(0.0, problem.wanted - problem.known)).sum())
    paid = float(problem.price @ np.array(plan.resources))
    if plan.shortfall > short + 1e-8:
        return (plan.shortfall - short) / missing
    return max(0.0, (paid - cost) / cost) if cost > 0 else 0.0


def time_many(stops: int = 10_000) -> float:
    """Seconds of one plan over many candidates; the compiled code is loaded before."""
    rng = np.random.default_rng(7)
    here = rng.random((stops, 8)) < 0.3
    problem = VisitProblem(
        teach=here * rng.uniform(0.0, 0.1, (stops, 8)),
        keep=np.where(here, 1.0, 1 - rng.uniform(0, 0.05, (stops, 8))),
        stay=rng.uniform(0.3, 1.5, (stops, 3)),
        enter=rng.uniform(0.1, 1.5, (stops, 3)),
        known=np.zeros(8),
        wanted=np.full(8, 0.6),
        weight=np.ones(8),
        budget=np.full(3, 120.0),
        price=np.array([1.0, 0.1, 0.1]),
        check=np.full(3, 0.1),
        check_every=4,
    )
    plan_visits(problem, steps=100)
    began = time.perf_counter()
    plan_visits(problem)
    return time.perf_counter() - began


def main() -> None:
    """Run all three and print."""
    asked = arguments(__doc__)
    instances = read_instances()
    if asked.quick:
        instances = random.Random().sample(instances, QUICK_TOURS)
    plan_tour(instances[0].cost, instances[0].score, instances[0].depot, instances[0].limit, iterations=5)
    gaps: dict[str, float] = {}
    plain: list[float] = []
    seconds: list[float] = []
    said: list[str] = []
    for instance in instances:
        tour, took = solve(instance, TOUR_S)
        gaps[instance.name] = gap(instance, tour)
        seconds.append(took)
        start = plan_tour(instance.cost, instance.score, instance.depot, instance.limit, iterations=0)
        plain.append(gap(instance, start))
        said.append(f"{instance.name}: {tour.gain:.0f}, EA4OP {instance.known:.0f}, {took:.1f} s")
    searched: list[float] = []
    built: list[float] = []
    for seed in range(LEARNING_QUICK if asked.quick else LEARNING):
        problem, most = make_problem(seed)
        searched.append(learning_gap(problem, plan_visits(problem, most=most, exact_up_to=0), most))
        built.append(learning_gap(problem, plan_visits(problem, most=most, steps=0, exact_up_to=0), most))
    figures = {
        "mean_gap_frac": statistics.fmean(gaps.values()),
        "worst_gap_frac": max(gaps.values()),
        "better_than_ea4op": float(sum(one < 0 for one in gaps.values())),
        "equal_to_ea4op": float(sum(one == 0 for one in gaps.values())),
        "instances": float(len(gaps)),
        "seconds_mean": statistics.fmean(seconds),
        "seconds_most": max(seconds),
        "learning_mean_gap_frac": statistics.fmean(searched),
        "learning_worst_gap_frac": max(searched),
        "learning_instances": float(len(searched)),
        "seconds_10k": time_many(),
    }
    peers = {
        "construction": {
            "mean_gap_frac": statistics.fmean(plain),
            "worst_gap_frac": max(plain),
            "learning_mean_gap_frac": statistics.fmean(built),
            "learning_worst_gap_frac": max(built),
        }
    }
    print_report("routes", figures, peers, [SEED], only_json=asked.json, said=said, bounds=BOUNDS)


if __name__ == "__main__":
    main()
