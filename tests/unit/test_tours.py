"""Tours: closed, within their budget, the same for the same seed, and the best there is where all can be tried."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from daitn.base.errors import InputError
from daitn.decision.planning.tours import nearest, plan_tour


def draw(stops: int, seed: int, *, triangle: bool = True) -> tuple[np.ndarray, np.ndarray, float]:
    """Costs, gains and a budget that pays for about half of the stops."""
    rng = np.random.default_rng(seed)
    if triangle:
        places = rng.uniform(0, 100, (stops, 2))
        cost = np.linalg.norm(places[:, None] - places[None], axis=-1)
    else:
        half = np.triu(rng.uniform(0, 100, (stops, stops)), 1)
        cost = half + half.T
    return cost, rng.integers(0, 10, stops).astype(float), float(rng.uniform(50, 250))


def best_of_all(cost: np.ndarray, gain: np.ndarray, budget: float) -> tuple[float, float]:
    """Most gain, then least cost, over every closed tour from stop 0."""
    best = (float(gain[0]), 0.0)
    others = range(1, len(gain))
    for size in range(1, len(gain)):
        for tour in permutations(others, size):
            stops = (0, *tour)
            length = sum(cost[stops[i], stops[(i + 1) % len(stops)]] for i in range(len(stops)))
            if length <= budget:
                found = (float(gain[list(stops)].sum()), -length)
                best = max(best, found)
    return best[0], -best[1]


@pytest.mark.parametrize("triangle", [True, False])
def test_small_tours_are_the_best_there_are(triangle: bool) -> None:
    for seed in range(12):
        cost, gain, budget = draw(2 + seed % 6, seed, triangle=triangle)
        tour = plan_tour(cost, gain, 0, budget, iterations=2000, seed=seed)
        most, _ = best_of_all(cost, gain, budget)
        assert tour.gain == pytest.approx(most), f"seed {seed}"


@pytest.mark.parametrize("triangle", [True, False])
def test_tours_are_closed_within_budget_and_say_what_is_so(triangle: bool) -> None:
    for seed in range(10):
        cost, gain, budget = draw(40 + seed, seed, triangle=triangle)
        start = seed % 5
        tour = plan_tour(cost, gain, start, budget, iterations=300, seed=seed)
        stops = list(tour.stops)
        assert start in stops
        assert len(set(stops)) == len(stops)
        assert tour.gain == pytest.approx(gain[stops].sum())
        assert tour.cost == pytest.approx(sum(cost[a, b] for a, b in zip(stops, stops[1:] + stops[:1], strict=True)))
        assert tour.cost <= budget + 1e-6
        assert plan_tour(cost, gain, start, budget, iterations=300, seed=seed) == tour


def test_more_iterations_are_never_worse_than_construction() -> None:
    for seed in range(5):
        cost, gain, budget = draw(60, seed)
        built = plan_tour(cost, gain, 0, budget, iterations=0)
        assert plan_tour(cost, gain, 0, budget, iterations=500).gain >= built.gain


def test_far_cluster_that_no_single_stop_pays_for_is_found() -> None:
    near = np.array([[0.0, float(i)] for i in range(5)])
    far = np.array([[100.0, float(i)] for i in range(30)])
    places = np.concatenate([near, far])
    cost = np.linalg.norm(places[:, None] - places[None], axis=-1)
    tour = plan_tour(cost, np.ones(35), 0, 262.0, iterations=300)
    assert tour.gain >= 31


def test_wide_budget_takes_everything_and_none_stays_at_the_start() -> None:
    cost, gain, _ = draw(25, 3)
    assert len(plan_tour(cost, gain + 1, 4, 1e9, iterations=10).stops) == 25
    assert plan_tour(cost, gain, 4, 0.0, iterations=10).stops == (4,)
    assert plan_tour(np.zeros((1, 1)), np.ones(1), 0, 5.0, iterations=10) == ((0,), 1.0, 0.0)


def test_neighbours_are_nearest_first_and_never_the_stop_itself() -> None:
    cost, _, _ = draw(12, 1)
    near = nearest(cost, 5)
    for stop, row in enumerate(near):
        others = [other for other in np.argsort(cost[stop], kind="stable") if other != stop]
        assert list(row) == others[:5]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"cost": np.zeros((2, 3))}, "costs are"),
        ({"start": 7}, "begin at 7"),
        ({"cost": np.array([[0, 1.0, 2], [2, 0, 1], [2, 1, 0]])}, "there and back differ"),
        ({"cost": np.full((3, 3), np.nan)}, "not finite"),
        ({"gain": np.array([1.0, -1, 1])}, "negative"),
        ({"budget": float("inf")}, "not finite"),
        ({"iterations": -1}, "-1 iterations"),
    ],
)
def test_bad_arguments_are_named(changes: dict, what: str) -> None:
    arguments = {"cost": np.ones((3, 3)), "gain": np.ones(3), "start": 0, "budget": 1.0, "iterations": 1} | changes
    with pytest.raises(InputError, match=what):
        plan_tour(**arguments)
