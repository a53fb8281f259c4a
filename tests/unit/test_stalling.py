"""Stalling: a run ends only after many looks without a gain, over all its data, for half of its time."""

from __future__ import annotations

import pytest
from tests.builders import Bench, bench, make_request, make_training, measure, running, verify_with

from daitn.base.ids import DataSetId
from daitn.decision.keeping import score
from daitn.decision.stalling import LOOKS_LEAST, PASSES_LEAST, Standing, noise, stalled
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters, parse_target

A, B = DataSetId("north/records"), DataSetId("south/records")
RATE = 0.1
OPEN = Hyperparameters()


def said(
    *,
    looks: int = LOOKS_LEAST,
    since: int = LOOKS_LEAST,
    visits: dict[DataSetId, int] | None = None,
    rate: float = RATE,
    pinned: Hyperparameters = OPEN,
) -> str:
    """What is said of a run that has stalled but for what is given."""
    counted = {A: PASSES_LEAST, B: PASSES_LEAST} if visits is None else visits
    standing = Standing(looks=looks, looks_since=since, visits_since=counted)
    return stalled(standing, (A, B), make_training(learning_rate=rate), pinned, RATE)


def test_many_looks_over_all_data_without_a_gain_is_a_stall_and_says_so():
    why = said()

    assert f"{LOOKS_LEAST} measured models in a row" in why
    assert "2 data sets" in why


def test_one_look_less_is_no_stall():
    assert not said(since=LOOKS_LEAST - 1)


def test_long_run_that_gained_in_its_second_half_goes_on():
    assert not said(looks=100, since=49)
    assert said(looks=100, since=50)


def test_data_set_that_was_hardly_visited_is_waited_for():
    assert not said(visits={A: 40, B: PASSES_LEAST - 1})
    assert not said(visits={A: 40})


def test_lowered_rate_is_let_recover_unless_its_owner_pinned_it():
    assert not said(rate=RATE / 2)
    assert said(rate=RATE / 2, pinned=Hyperparameters(learning_rate=RATE / 2))


def test_no_data_to_visit_is_no_stall():
    standing = Standing(looks=99, looks_since=99, visits_since={})

    assert not stalled(standing, (), make_training(learning_rate=RATE), OPEN, RATE)


def test_noise_is_a_standard_error_of_what_is_not_met():
    targets = (parse_target("accuracy >= 0.9"), parse_target("accuracy@low >= 0.5"))
    measured = (*measure(0.7), *measure(0.6, "accuracy@low"))

    assert noise(targets, measured) == pytest.approx(0.05 / 1.96 / 2, rel=1e-3)
    assert noise(targets, ()) == 0


# --- in a job ---------------------------------------------------------------------------------------------------------


def look_often(made: Bench, accuracy: float, times: int) -> int:
    """Verify until the job ends, so often at most; how often it was."""
    for number in range(times):
        if made.state().phase is not Phase.RUNNING:
            return number
        verify_with(made, accuracy)
    return times


def test_job_without_a_gain_ends_exhausted_with_the_reason_and_its_best_model():
    made = running()
    verify_with(made, 0.7)
    best = made.state().best

    looks = look_often(made, 0.69, 60)

    assert LOOKS_LEAST <= looks < 60
    assert made.state().phase is Phase.DELIVERING
    assert "no gain beyond noise" in made.state().reason
    assert made.state().best_score == score(made.state().request.targets, measure(0.7))
    assert made.state().best == best


def test_job_that_gains_slowly_goes_on():
    made = running()
    for step in range(60):
        verify_with(made, 0.5 + 0.005 * step)

    assert made.state().phase is Phase.RUNNING


def test_owner_can_have_it_go_on():
    made = running_until_deadline()

    assert look_often(made, 0.7, 60) == 60


def running_until_deadline() -> Bench:
    """A running job whose owner wants it to go on whatever is gained."""
    made = bench()
    made.submit(make_request(until_deadline=True))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made
