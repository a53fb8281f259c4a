"""The law of bytes: it loses least for what it takes, keeps to the budget, and its formulas are a plain walk's."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.errors import BugError
from daitn.topology.budget import expected_bytes, expected_loss, spread_budget

AMOUNTS = st.integers(0, 30).map(float)


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Loss and bytes of two to four facts with three thresholds each."""
    facts = draw(st.integers(2, 4))
    both = [[[draw(AMOUNTS) for _ in range(3)] for _ in range(facts)] for _ in range(2)]
    return np.array(both[0]), np.array(both[1])


@settings(max_examples=200, deadline=None)
@given(table=rows(), budget=st.floats(0, 300))
def test_no_choice_that_takes_as_much_loses_less(table, budget):
    loss, size = table
    spread = spread_budget(loss, size, budget)
    chosen = range(3)

    cheapest = float(size.min(axis=1).sum())
    assert spread.bytes_per_s <= max(budget, cheapest) + 1e-6 * (1 + cheapest)
    for other in itertools.product(chosen, repeat=len(loss)):
        picked = (np.arange(len(loss)), np.array(other))
        if size[picked].sum() <= spread.bytes_per_s:
            assert loss[picked].sum() >= spread.loss - 1e-6 * (1 + loss.sum())


@given(table=rows(), budget=st.floats(0, 300), more=st.floats(0, 300))
def test_more_bytes_never_lose_more(table, budget, more):
    loss, size = table

    assert spread_budget(loss, size, budget + more).loss <= spread_budget(loss, size, budget).loss + 1e-9


def test_facts_far_from_any_edge_are_given_up_first():
    moves = np.array([[8.0, 4.0, 2.0, 1.0]] * 2)
    loss = expected_loss(moves, np.array([[6.0], [0.5]]), np.ones((2, 1)))
    size = expected_bytes(moves, np.ones(2), np.zeros(2), np.full(2, 50.0), 1.0)
    spread = spread_budget(loss, size, 20.0)

    far, near = (float(moves[0, place]) for place in spread.chosen_F)
    assert far == 4.0  # the coarsest that is within its margin loses nothing, and no byte more is spent on it
    assert near <= 2.0


def test_no_facts_take_no_bytes():
    spread = spread_budget(np.empty((0, 3)), np.empty((0, 3)), 10.0)

    assert (spread.bytes_per_s, spread.loss, len(spread.chosen_F)) == (0.0, 0.0, 0)


def test_amount_that_is_no_number_is_our_bug():
    with pytest.raises(BugError, match="loss"):
        spread_budget(np.array([[np.nan]]), np.array([[1.0]]), 1.0)


@pytest.mark.parametrize("margin", [0.0, 2.0, 4.5])
def test_formulas_are_those_of_a_walk_that_is_told_when_it_leaves_its_threshold(margin):
    rng, step, move = random.Random(1), 0.25, 6.0
    told = here = lost = 0.0
    tellings, seconds = 0, 400_000
    for _ in range(seconds):
        here += step if rng.random() < 0.5 else -step
        if abs(here - told) >= move:
            told, tellings = here, tellings + 1
        lost += max(0.0, abs(here - told) - margin)

    moves = np.array([[move]])
    loss = expected_loss(moves, np.array([[margin, margin]]), np.ones((1, 2)))[0, 0]
    size = expected_bytes(moves, np.array([step**2]), np.zeros(1), np.ones(1), 1.0)[0, 0]
    # Two edges, one each side, are each passed half of the time.
    assert lost / seconds == pytest.approx(loss / 2, rel=0.15)
    assert tellings / seconds == pytest.approx(size, rel=0.15)
