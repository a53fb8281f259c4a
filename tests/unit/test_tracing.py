"""Harm that came between two measurements: which of several visits made the model worse, and where the job goes on."""

from __future__ import annotations

import pytest
from tests.builders import JOB, Bench, bench, facts_of, make_request, measure, the_order

from daitn.base.effects import PeerVanished
from daitn.base.ids import DataSetId, NodeId
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import HarmTraced
from daitn.decision.keeping import TOLERANCE, find_culprit
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters, parse_target
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateWork, TrainWork
from daitn.wire.center_tools import VisitFailed

TARGETS = (parse_target("accuracy >= 1"),)
GOOD, NONE = 0.7, ()
NAN = float("nan")


@pytest.mark.parametrize(
    ("after", "culprit"),
    [
        ([0.7, 0.2], 1),
        ([0.2, 0.2], 0),
        ([NAN, NAN], 0),
        ([0.7, NAN], 1),
        ([None, 0.2], None),
        ([0.2, None, 0.2], 0),
        ([0.65, None, 0.2], None),
        ([0.6, 0.48, 0.4], 1),
    ],
    ids=str,
)
def test_first_that_breaks_the_model_or_the_one_that_harms_most_is_to_blame(
    after: list[float | None], culprit: int | None
):
    measured = [None if value is None else measure(value, "accuracy") for value in after]
    assert find_culprit(TARGETS, measure(GOOD, "accuracy"), measured) == culprit


def test_model_that_cannot_be_measured_is_the_one_that_broke():
    assert find_culprit(TARGETS, measure(GOOD, "accuracy"), [measure(GOOD, "accuracy"), NONE]) == 1


# --- jobs -------------------------------------------------------------------------------------------------------------


def measured_late() -> Bench:
    """A cyclic job of two sites whose model was kept once, measured every few visits."""
    made = bench()
    made.submit(make_request(method="cyclic", hyperparameters=Hyperparameters(batches_per_visit=1)))
    made.answer_until(lambda state: state.visits > 0 and state.head == state.kept, accuracy=GOOD)
    assert made.state().plan.verify_every > 1
    return made


def spoil(made: Bench, place: int) -> list[DataSetId]:
    """The `place`-th visit from here (from 0) makes the model worse, which shows in the next measurement: the data sets
    visited until then."""
    made.answer_until(lambda state: is_measuring(state))
    visited = [dataset for dataset, _ in made.state().seen[made.state().seen_kept :]]
    assert len(visited) > place
    made.answer(*the_order(made), accuracy=0.2)
    return visited


def is_measuring(state: JobState) -> bool:
    return any(isinstance(one.ordered.work, EvaluateWork) for one in state.open.values())


def reasons(made: Bench, node: NodeId) -> list[Evidence]:
    return [change.kind for change in made.center.knowledge.trust_book.changes(node)]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_visit_that_made_the_model_worse_is_found_and_the_job_goes_on_from_before_it(place: int):
    made = measured_late()
    kept = made.state().kept
    visited = spoil(made, place)
    steps = list(made.state().trail.searched)
    assert [step.dataset for step in steps] == visited
    assert made.state().kept == kept

    for step in steps[: place + 1]:
        if step.model in made.state().trail.looked:
            break
        unit, order = the_order(made)
        assert order.work.model == step.model
        made.answer(unit, order, accuracy=0.2 if step is steps[place] else GOOD)

    state = made.state()
    traced = next(r for r in state.log if isinstance(r, HarmTraced))
    assert (traced.visit, traced.dataset) == (steps[place].visit, steps[place].dataset)
    assert state.head == state.kept == (kept if place == 0 else steps[place - 1].model)
    assert [dataset for dataset, _ in state.seen[-place:]] == visited[:place] or place == 0
    assert state.avoided == {steps[place].dataset}
    assert state.trail.searched == []
    culprit = state.ordered[steps[place].visit].node
    other = next(node for node in made.nodes if "compute" and node not in (culprit,) and made.nodes[node].data)
    assert reasons(made, culprit).count(Evidence.HARMED) == 1
    assert Evidence.HARMED not in reasons(made, other)
    assert facts_of(made.replayed().jobs[JOB].state) == facts_of(state)
    _, order = the_order(made)
    assert isinstance(order.work, TrainWork)
    assert order.work.dataset != steps[place].dataset


def test_models_between_stay_where_they_are_until_the_search_is_over():
    made = measured_late()
    spoil(made, 0)
    steps = list(made.state().trail.searched)
    assert all(made.state().holders[step.model] for step in steps)

    made.answer(*the_order(made), accuracy=0.2)

    assert not any(step.model in made.state().holders for step in steps)


def test_restart_of_the_centre_goes_on_with_the_search():
    made = measured_late()
    spoil(made, 1)
    before = made.state().trail.next_look()
    made.restart()

    unit, order = the_order(made)

    assert order.work.model == before.model
    made.answer(unit, order, accuracy=GOOD)
    assert made.state().phase is Phase.RUNNING


def test_search_whose_models_are_gone_is_given_up_and_the_blame_shared():
    made = measured_late()
    visited = spoil(made, 1)
    unit, order = the_order(made)
    lost = {node: made.silence(node) for node in made.state().holders[order.work.model]}
    for node in lost:
        made.give(PeerVanished(node=node))
    made.say(unit, VisitFailed(visit=order.visit, fence=order.fence, reason="cut off", blame="unavailable"))
    made.wait(30.0)

    traced = [r for r in made.state().log if isinstance(r, HarmTraced)]
    assert [r.visit for r in traced] == [None]
    assert made.state().trail.searched == []
    assert made.state().avoided == set(visited)


def test_tolerance_is_what_a_single_visit_may_cost():
    low = GOOD - TOLERANCE + 0.01
    assert find_culprit(TARGETS, measure(GOOD, "accuracy"), [measure(low, "accuracy"), None]) is None
