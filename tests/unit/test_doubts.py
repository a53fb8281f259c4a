"""A model that cannot be used: is its maker to blame, or the site that says so? And results that are no new model."""

from __future__ import annotations

import pytest
from tests.builders import JOB, UNIT, Bench, bench, facts_of, make_outcome, make_request, running, the_order

from daitn.base.effects import PeerVanished
from daitn.base.ids import DataSetId, NodeId
from daitn.control_center.training.records import DoubtRefuted, MakerRefuted, ModelJudged, SiteBarred
from daitn.descriptors.job import Phase
from daitn.descriptors.origin import Unfit
from daitn.descriptors.policy import PolicyFault
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateWork, TrainWork
from daitn.wire.center_tools import ResultFenced, VisitFailed, VisitOrder, VisitRefused


def refuse(made: Bench, node: NodeId, order: VisitOrder, fault: str = "not-finite") -> None:
    """A node says that the model it was given cannot be used."""
    assert isinstance(order.work, TrainWork | EvaluateWork)
    unfit = Unfit(artifact=order.work.model, fault=fault)
    reason = f"model {order.work.model[:16]} has numbers that are not finite in tensor 'w'"
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason=reason, blame="unfit", unfit=unfit))


def seldom_verified(method: str = "") -> Bench:
    """A job whose first training visit is under way, of two sites, measured after every few visits."""
    made = bench()
    made.submit(make_request(method=method, hyperparameters=Hyperparameters(batches_per_visit=1)))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    assert made.state().plan.verify_every > 1
    return made


def second_visit(method: str = "") -> tuple[Bench, NodeId, NodeId, VisitOrder]:
    """A first visit has made a model, and a second is under way: the maker, the receiver and its order."""
    made = seldom_verified(method)
    maker, first = the_order(made)
    made.answer(maker, first)
    receiver, second = the_order(made)
    assert second.work.model == made.state().head
    return made, maker, receiver, second


def reasons(made: Bench, node: NodeId) -> list[tuple[Evidence, str]]:
    return [(change.kind, change.why) for change in made.center.knowledge.trust_book.changes(node)]


def test_order_says_what_the_model_has_to_be_where_another_visit_made_it():
    made = running()
    node, first = the_order(made)
    assert first.inputs[0].origin is None  # the owner's own
    outcome = make_outcome(first.work, first.visit)
    made.say(node, made.result(node, first, outcome))

    _, second = the_order(made)

    origin = second.inputs[0].origin
    assert (origin.visit, origin.kind, origin.weights) == (first.visit, "graph", outcome.weights)


def test_model_that_a_site_refuses_is_measured_before_anybody_else_gets_it():
    made, maker, receiver, second = second_visit()

    refuse(made, receiver, second)

    node, order = the_order(made)
    assert node == UNIT
    assert order.work.model == second.work.model
    assert Evidence.REFUTED not in [kind for kind, _ in reasons(made, maker)]
    assert facts_of(made.replayed().jobs[JOB].state) == facts_of(made.state())


def test_maker_of_a_model_that_the_unit_cannot_use_either_is_to_blame_and_nobody_else():
    made, maker, receiver, second = second_visit()
    dataset = made.state().seen[-1][0]
    refuse(made, receiver, second)

    refuse(made, *the_order(made))

    state = made.state()
    assert state.head == state.kept == state.request.package
    assert set(state.barred) == {dataset}
    assert Evidence.REFUTED in [kind for kind, _ in reasons(made, maker)]
    assert {kind for kind, _ in reasons(made, receiver)} <= {Evidence.KEPT}
    refuted = next(r for r in state.log if isinstance(r, MakerRefuted))
    assert (refuted.node, refuted.model, refuted.fault) == (maker, second.work.model, "not-finite")
    judged = next(r for r in state.log if isinstance(r, ModelJudged))
    assert (judged.keep, judged.culprit) == (False, dataset)
    assert made.center.counters.of("makers_refuted", "not-finite") == 1
    assert facts_of(made.replayed().jobs[JOB].state) == facts_of(state)
    made.answer_until(lambda state: state.phase is Phase.DELIVERING, accuracy=0.99)
    assert all(one[0] != dataset for one in made.state().seen)


def test_site_that_refuses_a_model_which_the_unit_can_use_is_to_blame_itself():
    made, maker, receiver, second = second_visit()
    refuse(made, receiver, second)

    made.answer(*the_order(made), accuracy=0.7)

    state = made.state()
    assert state.kept == second.work.model
    assert state.made.doubted == {}
    assert Evidence.BROKEN in [kind for kind, _ in reasons(made, receiver)]
    assert Evidence.REFUTED not in [kind for kind, _ in reasons(made, maker)]
    assert state.harm == {second.work.dataset: 1}
    assert made.center.counters.of("doubts_refuted") == 1
    assert facts_of(made.replayed().jobs[JOB].state) == facts_of(state)


def test_site_that_refuses_every_model_is_left_out_in_the_end():
    made, _, _, second = second_visit("cyclic")
    liar = second.work.dataset
    for _ in range(40):
        node, order = the_order(made)
        if isinstance(order.work, TrainWork) and order.work.dataset == liar:
            refuse(made, node, order)
            made.wait(5.0)
        else:
            made.answer(node, order, **({"accuracy": 0.6} if isinstance(order.work, EvaluateWork) else {}))
        if liar in made.state().barred:
            break
    assert set(made.state().barred) == {liar}
    assert made.state().phase is Phase.RUNNING


def test_model_that_was_measured_already_is_not_measured_again_for_a_doubt():
    made = running()
    node, order = the_order(made)
    refuse(made, node, order)  # the package itself, which the preflight measured

    assert made.state().made.doubted == {}
    assert [r.visit for r in made.state().log if isinstance(r, DoubtRefuted)] == [order.visit]


def test_blame_without_a_model_is_the_sites_own():
    made, _, receiver, second = second_visit()
    made.say(receiver, VisitFailed(visit=second.visit, fence=second.fence, reason="no", blame="unfit"))
    assert made.state().made.doubted == {}
    assert made.state().harm == {second.work.dataset: 1}


def test_job_whose_every_data_set_is_barred_ends_with_the_reasons():
    made = running()
    for _ in range(20):
        if made.state().phase is not Phase.RUNNING:
            break
        if not made.orders():
            made.wait(1.0)
            continue
        node, order = the_order(made)
        if isinstance(order.work, EvaluateWork):
            refuse(made, node, order)
        else:
            made.answer(node, order)
    assert made.state().phase is not Phase.RUNNING
    assert len([r for r in made.state().log if isinstance(r, SiteBarred)]) == 2
    assert "no data set is left" in made.state().reason
    assert "not finite" in made.state().reason


def test_job_waits_for_a_site_that_is_away_before_it_says_that_none_is_left():
    made = bench(sites=3)
    made.submit(make_request())
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    away = next(node for node in made.nodes if made.nodes[node].data and node != the_order(made)[0])
    made.state().sampled.given.clear()
    made.silence(away)
    made.give(PeerVanished(node=away))
    made.wait(30.0)
    for _ in range(20):
        if len(made.state().barred) == 2:
            break
        if not made.orders():
            made.wait(1.0)
            continue
        node, order = the_order(made)
        made.say(node, VisitRefused(visit=order.visit, fence=order.fence, faults=(NO_MORE,)))
    assert len(made.state().barred) == 2
    made.wait(5.0)
    assert made.state().phase is Phase.RUNNING


NO_MORE = PolicyFault(rule="purposes", asked="care", allowed="nothing")


# --- results that are no new model ------------------------------------------------------------------------------------


def answer_with(made: Bench, node: NodeId, order: VisitOrder, **outcome: object) -> None:
    made.say(node, made.result(node, order, make_outcome(order.work, order.visit, **outcome)))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("stale input", "returned the model that it was given"),
        ("stale weights", "returned the model that it was given"),
        ("stale older", "the weights of an older model"),
        ("foreign", "returned the submitted model as its own"),
    ],
)
def test_result_that_is_no_new_model_is_refused_counted_and_its_site_trusted_less(label: str, words: str):
    made, _, receiver, second = second_visit()
    state = made.state()
    given = state.made.of(second.work.model)
    lies = {
        "stale input": {"model": second.work.model, "weights": given.weights},
        "stale weights": {"weights": given.weights},
        "stale older": {"weights": "first"},
        "foreign": {"model": state.request.package},
    }
    if label == "stale older":
        state.made._weights["first"] = (state.request.package, DataSetId("s3/records"))

    answer_with(made, receiver, second, **lies[label])

    assert made.state().head == second.work.model
    assert made.state().visits == 1
    assert made.state().harm == {second.work.dataset: 1}
    (why,) = [why for kind, why in reasons(made, receiver) if kind is Evidence.REFUTED]
    assert words in why
    assert made.center.counters.of("results_refused", label.partition(" ")[0]) == 1
    assert any(isinstance(message, ResultFenced) for node, message in made.sent if node == receiver)


def test_visit_that_says_itself_that_nothing_changed_is_not_blamed_on_its_site():
    made, _, receiver, second = second_visit()
    weights = made.state().made.of(second.work.model).weights

    answer_with(made, receiver, second, weights=weights, update_norm=0.0)

    assert made.center.counters.of("results_refused", "unchanged") == 1
    assert made.state().last_loss.startswith("the visit changed nothing")
    assert {kind for kind, _ in reasons(made, receiver)} <= {Evidence.KEPT}


def test_same_visit_of_the_same_model_may_make_the_same_weights_twice():
    made, _, receiver, second = second_visit()
    book = made.state().made
    book._weights["again"] = (second.work.model, second.work.dataset)

    answer_with(made, receiver, second, weights="again")

    assert made.state().visits == 2
