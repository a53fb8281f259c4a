"""Pacing: on a plateau steps get smaller before a run counts as stalled, within limits, and with the reason."""

from __future__ import annotations

import pytest
from tests.builders import changed, make_candidate, make_package, make_request, make_view, running, verify_with

from daitn.control_center.training.records import Replanned
from daitn.decision.drafting import draft_plan
from daitn.decision.pacing import after_plateau
from daitn.decision.stalling import Standing
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters

OPEN = Hyperparameters()
PLAN = draft_plan(make_view(make_candidate("s1")), make_request("accuracy >= 0.9"), make_package(), None)
RATE = PLAN.training.learning_rate


def paced(since: int, *, looks: int = 20, rate: float = RATE, planned: float | None = None, pinned=OPEN):
    """The rate after so many looks without a gain; None: as it was."""
    plan = changed(PLAN, training=changed(PLAN.training, learning_rate=rate))
    standing = Standing(looks=looks, looks_since=since, visits_since={})
    found = after_plateau(plan, pinned, RATE, rate if planned is None else planned, standing)
    return None if found is None else found[0].training.learning_rate


@pytest.mark.parametrize(("since", "looks", "slower"), [(6, 20, True), (9, 20, True), (7, 20, False), (6, 80, False),
                                                        (20, 80, True), (30, 80, True), (40, 80, False)])  # fmt: skip
def test_rate_is_halved_halfway_to_a_stall_and_at_three_quarters(since, looks, slower):
    assert paced(since, looks=looks) == (RATE / 2 if slower else None)


def test_rate_stays_where_it_is_pinned_still_recovering_or_small_already():
    assert paced(6, pinned=Hyperparameters(learning_rate=RATE)) is None
    assert paced(6, rate=RATE / 4, planned=RATE / 2) is None
    assert paced(6, rate=RATE / 4) == RATE / 8
    assert paced(6, rate=RATE / 8) is None


def test_run_on_a_plateau_goes_on_in_smaller_steps_and_keeps_them_after_a_restart():
    made = running()
    verify_with(made, 0.6)
    while made.state().phase is Phase.RUNNING and made.state().planned_rate == made.state().first_rate:
        verify_with(made, 0.6)
    slower = [one for one in made.state().log if isinstance(one, Replanned) and one.planned_rate is not None]

    assert len(slower) == 1
    assert "brought no gain: learning rate" in slower[0].why
    first = made.state().first_rate
    assert made.state().planned_rate == made.state().plan.training.learning_rate == first / 2
    made.restart()
    assert (made.state().planned_rate, made.state().first_rate) == (first / 2, first)
