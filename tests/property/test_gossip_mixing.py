"""Gossip mixes as the theory says: what a round does to the members' models, against the spectrum of its mean."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from daitn.base.ids import DataSetId
from daitn.decision.rounds.gossip import GROUP_MOST, PARTIAL_VIEW, draw_groups

ROUNDS = 900


def names(count: int) -> list[DataSetId]:
    return [DataSetId(f"s{number:03}/records") for number in range(count)]


def drawn(count: int, rounds: int = ROUNDS) -> list[NDArray[np.float64]]:
    """What each of so many rounds does to the models of its members, one row each."""
    members = names(count)
    place = {name: number for number, name in enumerate(members)}
    found = []
    for number in range(rounds):
        mixing_NN = np.zeros((count, count))
        for group in draw_groups(members, number, seed=7):
            rows = [place[name] for name in group]
            mixing_NN[np.ix_(rows, rows)] = 1 / len(rows)
        found.append(mixing_NN)
    return found


def second(mean_NN: NDArray[np.float64]) -> float:
    """The second largest eigenvalue."""
    return float(np.sort(np.linalg.eigvalsh(mean_NN))[-2])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 40])
def test_each_member_is_in_one_small_group_whatever_order_they_come_in(count):
    members = names(count)
    for number in range(60):
        groups = draw_groups(members, number, seed=3)
        assert sorted(name for group in groups for name in group) == members
        assert max(len(group) for group in groups) <= GROUP_MOST
        assert groups == draw_groups(reversed(members), number, seed=3)
        if 1 < count <= PARTIAL_VIEW + 1:
            assert min(len(group) for group in groups) > 1, "everybody knows everybody, and one was left alone"


@pytest.mark.parametrize("count", [4, 6])
def test_pairs_are_drawn_so_that_the_spread_falls_as_boyd_et_al_have_it(count):
    assert second(np.mean(drawn(count), axis=0)) == pytest.approx((count - 2) / (2 * count - 2), abs=0.04)


@pytest.mark.parametrize("count", [3, 5, 8, 16])
def test_spread_of_models_falls_per_round_by_the_second_eigenvalue_and_their_sum_stays(count):
    rounds = drawn(count)
    gap = second(np.mean(rounds, axis=0))
    models_N, falls = np.random.default_rng(count).normal(size=count), []
    for start in range(0, ROUNDS, 3):
        apart_N = models_N - models_N.mean()
        before = float(apart_N @ apart_N)
        for mixing_NN in rounds[start : start + 3]:
            apart_N = mixing_NN @ apart_N
        assert apart_N.sum() == pytest.approx(0.0, abs=1e-9)
        falls.append(float(apart_N @ apart_N) / before)
    # Projections: E[W'W] = E[W]. Members are drawn alike, so what holds for one disagreement holds for all.
    assert np.mean(falls) == pytest.approx(gap**3, rel=0.25, abs=0.004)
    assert gap < 0.62
