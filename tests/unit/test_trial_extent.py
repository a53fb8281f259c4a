"""How much of a trial fits its seconds: the fullest form first, and never more than there is time for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.learning.numerics.trial_extent import (
    PLANNED_FRAC,
    STEPS_ENOUGH,
    STEPS_LEAST,
    STEPS_MOST,
    TURN_STEPS,
    Extent,
    fit_to_seconds,
)


def test_plenty_of_time_gives_both_ways_round_with_all_steps():
    assert fit_to_seconds(30, 0.001, 0.01) == Extent(2, (1.0, 0.5), STEPS_MOST)


def test_steps_that_take_no_time_that_can_be_measured_are_all_made():
    assert fit_to_seconds(1, 0.0, 0.0) == Extent(2, (1.0, 0.5), STEPS_MOST)


@pytest.mark.parametrize(
    ("left_s", "ways", "shares"),
    [
        (100, 2, (1.0, 0.5)),  # 50 s of measuring, 20 s for 4 × 125 steps
        (60, 1, (1.0, 0.5)),  # no room for the other way round: 22 s for 2 steps of 0.04
        (40, 1, (1.0,)),  # no point at a quarter rather than 100 steps: 18 s for all 240 of them
        (14, 1, (1.0,)),  # and last fewer steps: 4 s for 100
    ],
)
def test_what_does_not_fit_is_given_up_in_order(left_s: float, ways: int, shares: tuple[float, ...]):
    found = fit_to_seconds(left_s, 0.04, 10.0)

    assert found is not None
    assert (found.ways, found.shares) == (ways, shares)


def test_too_little_time_gives_no_trial():
    assert fit_to_seconds(10, 1.0, 0.1) is None
    assert fit_to_seconds(10, 0.001, 20) is None
    assert fit_to_seconds(-1, 0.0, 0.0) is None


@given(
    st.floats(0, 1e4),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_trial_fits_what_is_planned_with(left_s: float, step_s: float, measure_s: float):
    found = fit_to_seconds(left_s, step_s, measure_s)

    if found is None:
        return
    trainings = found.ways * len(found.shares)
    needed_s = trainings * found.steps * step_s + (trainings + found.ways - 1) * measure_s
    planned_s = left_s if trainings == 1 else PLANNED_FRAC * left_s
    assert needed_s <= planned_s or math.isclose(needed_s, planned_s)
    assert STEPS_LEAST <= found.steps <= STEPS_MOST
    assert found.steps % TURN_STEPS == 0
    assert found.ways == 1 or found.steps >= STEPS_ENOUGH


@given(st.floats(0.01, 1e3), st.floats(1e-4, 10), st.floats(0, 10))
def test_more_time_never_makes_less_of_a_trial(left_s: float, step_s: float, measure_s: float):
    less, more = fit_to_seconds(left_s, step_s, measure_s), fit_to_seconds(2 * left_s, step_s, measure_s)

    if less is not None:
        assert more is not None
        assert (more.ways, len(more.shares)) >= (less.ways, len(less.shares))
