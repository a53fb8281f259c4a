"""Model cards: what a delivered model comes from, what it cost, how to make it again; exclusions that hold at once."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import JOB, Bench, all_effects, bench, changed, make_request, messages, the_order, verify_with

from daitn.base.effects import Send
from daitn.base.errors import InputError
from daitn.base.ids import JobId
from daitn.control_center.training.commands import ChangeAsked, ModelFetched
from daitn.control_center.training.records import VisitLost
from daitn.descriptors.card import ModelCard
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Selection
from daitn.descriptors.work import TrainOutcome
from daitn.oam.model_card import lineage_of, model_card
from daitn.wire.center_tools import VisitCancel


def delivered(**request) -> Bench:
    """A job that reached its goal after a few visits."""
    made = bench()
    made.submit(make_request("accuracy >= 0.9", **request))
    verify_with(made, 0.7)
    verify_with(made, 0.95)
    made.answer_until(lambda state: state.phase is Phase.DELIVERING)
    made.give(ModelFetched(job=JOB, artifact=made.state().best))
    return made


def test_card_tells_goal_figures_lineage_and_cost_and_survives_json():
    made = delivered()
    state = made.state()
    card = model_card(state, str)

    assert (card.phase, card.model, card.package) == (Phase.DELIVERED, state.best, state.request.package)
    assert [(one.name, one.reached, one.met) for one in card.targets] == [("accuracy", 0.95, True)]
    assert card.lineage[0].models_in[0] == state.request.package
    assert card.lineage[-1].model_out == state.best
    assert [one.models_in[0] for one in card.lineage[1:]] == [one.model_out for one in card.lineage[:-1]]
    assert sum(one.visits for one in card.data) == len(card.lineage) == state.visits
    assert all(one.versions for one in card.data)
    assert card.transfer_bytes == state.transfer_bytes
    assert card.epsilon is None
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card


def test_visits_that_were_rolled_back_are_no_part_of_the_model():
    made = bench()
    made.submit(make_request("accuracy >= 0.9"))
    verify_with(made, 0.7)
    verify_with(made, 0.2)
    verify_with(made, 0.95)
    state = made.state()

    assert state.rolled_back == 1
    outcomes = [one.outcome for one in state.log if isinstance(getattr(one, "outcome", None), TrainOutcome)]
    assert len(lineage_of(state, state.best, str)) < len(outcomes)


def test_averaged_model_comes_from_all_updates_of_its_rounds():
    made = bench()
    made.submit(make_request("accuracy >= 0.9", method="fedavg"))
    verify_with(made, 0.7)
    verify_with(made, 0.95)
    state = made.state()
    steps = lineage_of(state, state.best, str)

    assert {step.dataset for step in steps} == {"", "s1/records", "s2/records"}
    assert len(steps[-1].models_in) == 2


def test_job_without_a_model_has_no_card_and_is_told_why():
    made = bench()
    made.submit()

    with pytest.raises(InputError, match="a card tells of a model"):
        model_card(made.state(), str)


def test_plan_of_a_card_is_run_again_as_it_was():
    made = delivered(budget=Budget(visits=50))
    rerun = model_card(made.state(), str).rerun
    first = made.state().plan
    assert first is not None
    made.submit(rerun, job=JobId("again"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING, job=JobId("again"))
    second = made.state(JobId("again")).plan

    assert rerun.method == first.method
    assert second is not None
    assert (second.method, second.training) == (first.method, first.training)
    assert set(rerun.data.include) == {"s1/records", "s2/records"}


def test_site_that_its_owner_excludes_is_stopped_at_once_and_the_card_tells():
    made = bench()
    asked = make_request("accuracy >= 0.9")
    made.submit(asked)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    node, order = the_order(made)
    effects = made.give(ChangeAsked(job=JOB, request=changed(asked, data=Selection(exclude=(order.work.dataset,)))))

    assert [one.visit for one in messages(VisitCancel, effects)] == [order.visit]
    assert [one.receiver for one in all_effects(Send, effects) if isinstance(one.message, VisitCancel)] == [node]
    (lost,) = [one for one in made.state().log if isinstance(one, VisitLost)]
    assert "excluded" in lost.why
    other, after = the_order(made)
    assert other != node
    assert after.work.dataset != order.work.dataset
    verify_with(made, 0.7)
    verify_with(made, 0.95)
    made.give(ModelFetched(job=JOB, artifact=made.state().best))
    card = model_card(made.state(), str)
    assert [one.dataset for one in card.data] == [after.work.dataset]
    assert "exclude" in card.changes[0].changes[0]


def test_visit_that_goes_on_at_a_site_that_stays_is_not_stopped():
    made = bench()
    asked = make_request("accuracy >= 0.9")
    made.submit(asked)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    _, order = the_order(made)
    made.give(ChangeAsked(job=JOB, request=changed(asked, data=Selection(exclude=("nobody/records",)))))

    assert the_order(made)[1].visit == order.visit
