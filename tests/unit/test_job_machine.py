"""The job machine, driven through the control centre: assessing, visiting, keeping, and every way to end."""

from __future__ import annotations

import pytest
from tests.builders import (
    JOB,
    OWNER,
    UNIT,
    Bench,
    all_effects,
    bench,
    changed,
    make_compute,
    make_data,
    make_outcome,
    make_policy,
    make_request,
    make_site,
    make_unit,
    measure,
    messages,
    running,
    the_order,
    verify_with,
)

from daitn.base.effects import Append, PeerAppeared, PeerVanished
from daitn.base.ids import ArtifactId, JobId, NodeId
from daitn.control_center.training.commands import (
    CancelAsked,
    ChangeAsked,
    FetchModel,
    JobChanged,
    ModelFetched,
    ModelNotFetched,
    PauseAsked,
    ResumeAsked,
)
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import JobSubmitted, ModelJudged, SiteBarred, VisitAccepted
from daitn.descriptors.access import Access, AccessKind
from daitn.descriptors.grant import Holder
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.policy import PolicyFault, summarise
from daitn.descriptors.request import Budget, Hyperparameters, SecureAggregation, parse_target
from daitn.descriptors.work import AggregateWork, EvaluateWork, TrainWork
from daitn.wire.center_tools import (
    ReleaseArtifacts,
    ResultFenced,
    VisitCancel,
    VisitFailed,
    VisitOrder,
    VisitPhase,
    VisitProgress,
    VisitRefused,
)
from daitn.wire.codec import encode
from daitn.wire.terminal_tools import Leaving
from daitn.wire.topology_tools import Describe

SITE1, SITE2 = NodeId("n0001"), NodeId("n0002")


# --- the way through --------------------------------------------------------------------------------------------------


def test_job_answered_honestly_is_delivered_once():
    made = bench()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    made.answer_until(lambda state: state.phase is Phase.DELIVERING, accuracy=0.95)

    (fetch,) = made.fetches
    made.give(ModelFetched(job=JOB, artifact=fetch.model.artifact))

    assert made.state().phase is Phase.DELIVERED
    assert fetch.model.artifact == made.state().best


def test_job_whose_model_meets_the_goal_already_is_delivered_untrained():
    made = bench()
    made.submit()
    made.answer_until(lambda state: state.ended, accuracy=0.95)

    assert made.state().phase is Phase.DELIVERED
    assert made.state().visits == 0
    assert not made.fetches


def test_every_turn_writes_before_it_speaks():
    made = bench()
    turns = [made.submit()]
    while made.orders() and len(turns) < 12:
        turns.append(made.answer(*made.orders()[0]))

    for effects in turns:
        appends = [place for place, effect in enumerate(effects) if isinstance(effect, Append)]
        assert appends in ([], [0])


def test_preflight_that_does_not_load_refuses_with_the_reason():
    made = bench()
    made.submit()
    made.answer_until(lambda state: any(isinstance(o.ordered.work, EvaluateWork) for o in state.open.values()))
    node, order = the_order(made)

    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no operator foo", blame="input"))

    assert made.state().phase is Phase.REFUSED
    assert [one.code for one in made.state().verdict.failed()] == [ReasonCode.DOES_NOT_LOAD]
    assert "no operator foo" in made.state().reason


def test_preflight_that_cannot_overfit_refuses():
    made = bench()
    made.submit()
    made.answer_until(lambda state: any(isinstance(o.ordered.work, EvaluateWork) for o in state.open.values()))

    made.answer(*the_order(made), overfits=False)

    assert made.state().phase is Phase.REFUSED
    assert [one.code for one in made.state().verdict.failed()] == [ReasonCode.CANNOT_OVERFIT]


def test_preflight_refused_by_the_unit_fails_the_job_at_once():
    made = bench()
    made.submit()
    made.answer_until(lambda state: any(isinstance(o.ordered.work, EvaluateWork) for o in state.open.values()))
    node, order = the_order(made)

    fault = PolicyFault(rule="evaluations_per_job", asked="101", allowed="100")
    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, faults=(fault,)))

    assert made.state().phase is Phase.FAILED
    assert "evaluations_per_job" in made.state().reason


def test_job_no_policy_allows_is_refused_for_policy():
    closed = make_data("s1", policy=summarise(make_policy(owners=("grace",))))
    made = Bench(make_site(1, data=(closed,)), make_unit())

    made.submit()

    assert made.state().phase is Phase.REFUSED
    assert ReasonCode.POLICY in {one.code for one in made.state().verdict.failed()}
    assert not made.orders()


def test_counter_offer_accepted_beforehand_is_taken_and_runs():
    made = bench()
    made.submit(make_request(method="sorcery", accept_counter_offer=True))
    made.answer_until(lambda state: state.visits == 1)

    assert made.state().request.method == ""
    assert made.state().verdict.outcome == "admitted"
    (refusal,) = made.state().refusals
    assert [one.code for one in refusal.failed()] == [ReasonCode.METHOD]


def test_offer_without_the_masks_that_were_asked_for_is_made_but_never_taken_beforehand():
    made = bench(sites=2)
    made.submit(make_request(secure_aggregation=SecureAggregation(), accept_counter_offer=True))
    made.answer_until(lambda state: state.verdict is not None)

    state = made.state()
    assert state.phase is Phase.REFUSED
    assert state.verdict.counter_offer is not None
    assert state.verdict.counter_offer.request.secure_aggregation is None
    assert state.request.secure_aggregation is not None


def test_counter_offer_with_a_later_deadline_moves_the_timer():
    made = bench()
    made.submit(make_request(deadline_s=0.01, accept_counter_offer=True))

    later = made.state().request.deadline_s
    assert later > 0.01
    assert made.timers[f"deadline {JOB}"] == made.state().submitted_ns + round(later * 1e9)


# --- lost visits ------------------------------------------------------------------------------------------------------


def test_visit_refused_by_policy_bars_the_data_set():
    made = running()
    node, order = the_order(made)
    fault = PolicyFault(rule="owners", asked="ada", allowed="nobody")

    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, faults=(fault,)))

    assert order.work.dataset in made.state().barred
    ((next_node, _),) = made.orders()
    assert next_node != node
    made.answer_until(lambda state: state.visits == 3)
    assert order.work.dataset not in dict(made.state().seen)


def test_visit_that_breaks_the_model_twice_bars_the_data_set():
    made = running(sites=1)
    for _ in range(2):
        made.answer_until(lambda state: any(o.ordered.purpose == "train" for o in state.open.values()))
        node, order = the_order(made)
        made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="the loss is NaN", blame="input"))

    assert "s1/records" in made.state().barred


def test_node_that_failed_rests_while_others_are_there():
    made = running()
    node, order = the_order(made)

    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="disk full", blame="unavailable"))

    assert the_order(made)[0] != node


def test_site_that_fails_at_once_does_not_use_up_the_tries_within_a_second():
    made = running(sites=1)

    def fail() -> None:
        for node, order in made.orders():
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="disk full", blame="unavailable"))

    for _ in range(100):
        fail()
        made.wait(0.1)
    assert made.state().phase is Phase.RUNNING
    assert made.state().lost < 15

    made.wait(5.0)
    made.answer(*the_order(made))
    assert made.state().visits == 1


def test_site_that_never_succeeds_fails_the_job_in_the_end():
    made = running(sites=1)
    for _ in range(1000):
        if made.state().ended:
            break
        for node, order in made.orders():
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="disk full", blame="unavailable"))
        made.wait(2.0)

    assert made.state().phase is Phase.FAILED
    assert "disk full" in made.state().reason


def test_unanswered_order_to_an_unreachable_node_costs_few_events():
    made = running()
    node, _ = the_order(made)
    made.silence(node)
    made.give(PeerVanished(node=node))
    handled = made.handled

    made.wait(4.4)

    beats = 5 * len(made.nodes)
    assert made.handled - handled - beats < 60


def test_node_that_comes_and_goes_without_a_word_loses_its_visit():
    made = running()
    node, order = the_order(made)
    made.silence(node)
    for _ in range(30):
        made.give(PeerVanished(node=node))
        made.wait(1.0)
        made.give(PeerAppeared(node=node))
        made.wait(1.0)

    assert order.visit not in made.state().open


def test_sample_lost_to_an_absent_site_is_asked_for_again():
    made = bench()
    made.submit()
    node, order = made.orders()[0]
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="restarted", blame="unavailable"))

    made.answer_until(lambda state: state.phase is Phase.RUNNING)

    assert {dataset for _, dataset in made.state().sampled.given} == {"s1/records", "s2/records"}


def test_sample_refused_by_policy_is_not_asked_for_again():
    made = bench()
    made.submit()
    node, order = made.orders()[0]
    fault = PolicyFault(rule="sample_frac", asked="a sample", allowed="0")
    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, faults=(fault,)))

    made.answer_until(lambda state: state.phase is Phase.RUNNING)

    assert {dataset for _, dataset in made.state().sampled.given} == {"s2/records"}


# --- keeping and rolling back -----------------------------------------------------------------------------------------


def test_verification_that_finds_a_worse_model_rolls_back():
    made = running()
    verify_with(made, 0.7)
    kept = made.state().kept

    verify_with(made, 0.3)

    assert made.state().rolled_back == 1
    assert made.state().head == made.state().kept == kept
    assert made.state().best == kept


def test_after_a_rollback_another_data_set_is_visited():
    made = running()
    verify_with(made, 0.7)
    harmful = verify_with(made, 0.3)

    _, order = the_order(made)

    assert isinstance(order.work, TrainWork)
    assert order.work.dataset != harmful
    verify_with(made, 0.7)
    assert made.state().avoided == set()


def test_model_gone_with_all_its_holders_goes_on_from_the_package_and_may_improve_again():
    made = running()
    verify_with(made, 0.8)
    holders = set(made.state().holders[made.state().kept])
    lost = {node: made.silence(node) for node in holders}
    for node in lost:
        made.give(PeerVanished(node=node))
    unit2 = make_unit(NodeId("n0010"))
    made.nodes[unit2.node] = unit2
    made.say(unit2.node, Describe(sequence=1, generated_unix_s=0.0, descriptor=unit2))
    made.wait(60.0)
    assert made.state().head == made.state().request.package
    assert made.state().kept_measurements == made.state().untrained
    assert made.state().seen == []

    for descriptor in lost.values():
        made.nodes[descriptor.node] = descriptor
        made.give(PeerAppeared(node=descriptor.node))
    made.wait(1.0)
    verify_with(made, 0.6)

    assert made.state().rolled_back == 0
    assert made.state().best_measurements[0].value == 0.8


# --- owners -----------------------------------------------------------------------------------------------------------


def test_pause_lets_the_visit_finish_and_orders_no_other():
    made = running()
    made.give(PauseAsked(job=JOB))
    made.answer(*the_order(made))

    assert made.state().visits == 1
    assert not made.orders()
    made.wait(10.0)
    assert not made.orders()

    made.give(ResumeAsked(job=JOB))
    assert made.orders()


def test_cancel_stops_the_visit_and_a_late_result_is_fenced():
    made = running()
    node, order = the_order(made)

    effects = made.give(CancelAsked(job=JOB))
    late = made.say(node, made.result(node, order, make_outcome(order.work)))

    assert messages(VisitCancel, effects)
    assert made.state().phase is Phase.CANCELLED
    assert messages(ResultFenced, late)
    assert all(one.job_ended for one in messages(ReleaseArtifacts, effects))


@pytest.mark.parametrize("event", [PauseAsked, ResumeAsked, CancelAsked])
def test_commands_to_unknown_or_ended_jobs_change_nothing(event):
    made = running()
    made.give(CancelAsked(job=JOB))
    length = len(made.journal)

    made.give(event(job=JOB))
    made.give(event(job=JobId("nobody")))

    assert len(made.journal) == length


def test_change_to_an_easier_target_that_is_met_already_ends_the_job():
    made = running()
    verify_with(made, 0.7)

    made.give(ChangeAsked(job=JOB, request=make_request("accuracy >= 0.6")))

    assert made.state().phase is Phase.DELIVERING
    assert made.state().reason.startswith("met")


def test_change_to_a_harder_target_measures_the_best_by_it():
    made = bench()
    made.submit(make_request("accuracy >= 0.6"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    made.give(ChangeAsked(job=JOB, request=make_request("accuracy >= 0.95")))

    verify_with(made, 0.8)

    assert made.state().best == made.state().kept != made.state().request.package


def test_change_of_hyperparameters_holds_from_the_next_visit():
    made = running()
    pinned = Hyperparameters(learning_rate=0.123)

    made.give(ChangeAsked(job=JOB, request=make_request(hyperparameters=pinned)))
    made.answer(*the_order(made))
    made.answer_until(lambda state: any(o.ordered.purpose == "train" for o in state.open.values()))

    assert the_order(made)[1].work.training.learning_rate == 0.123


def test_change_of_the_deadline_moves_the_timer_even_while_paused():
    made = running()
    made.give(PauseAsked(job=JOB))
    made.answer(*the_order(made))
    made.give(ChangeAsked(job=JOB, request=make_request(deadline_s=30.0)))

    made.wait(31.0)

    assert made.state().phase is not Phase.PAUSED


def test_change_cannot_switch_the_method_under_way():
    made = running()
    made.give(ChangeAsked(job=JOB, request=make_request(method="fedavg")))

    assert made.state().request.method == ""
    assert made.state().plan.method == "routed"


def test_submission_with_a_known_job_id_is_ignored():
    made = running()
    made.submit(make_request("accuracy >= 0.99"))

    assert sum(isinstance(one, JobSubmitted) for one in made.journal) == 1
    assert str(made.state().request.targets[0]) == "accuracy >= 0.9"


def test_submitted_before_finds_the_key_of_the_same_owner_only():
    made = running()

    assert made.center.submitted_before(OWNER, str(JOB)) == JOB
    assert made.center.submitted_before("grace", str(JOB)) is None


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_stop_with_a_length_of_its_own_is_ordered_and_counted_so():
    made = Bench(
        make_site(1, data=(make_data("s1", {"0": 100.0}),)),
        make_site(2, data=(make_data("s2", {"0": 20.0, "1": 80.0}),)),
        make_unit(),
    )
    made.submit(make_request(method="tram-fl-2"))
    made.answer_until(lambda state: state.visits >= 2)
    usual = made.state().plan.training
    lengths = {one.node: one.work.training.batches for one in made.state().ordered.values() if one.purpose == "train"}

    assert lengths[SITE1] < usual.batches < lengths[SITE2]
    assert {records for _, records in made.state().seen} == {one * usual.batch_size for one in lengths.values()}


def test_rounds_of_oort_have_half_of_the_sites_and_learn_from_their_reports():
    made = bench(sites=6)
    made.submit(make_request(method="fedavg-oort"))
    made.answer_until(lambda state: state.rounds >= 3)
    state = made.state()
    by_round = [sum(one.round == number for one in state.round_book.reports) for number in range(3)]

    assert by_round == [3, 3, 3]
    assert made.replayed().jobs[JOB].state.round_book.reports == state.round_book.reports
    assert {one.loss for one in state.round_book.reports} == {1.0}


def test_budget_of_visits_ends_after_a_last_measure():
    made = bench()
    made.submit(make_request(budget=Budget(visits=3)))
    made.answer_until(lambda state: state.phase is Phase.DELIVERING)

    assert made.state().visits == 3
    assert made.state().head == made.state().kept
    made.give(ModelFetched(job=JOB, artifact=made.state().best))
    assert made.state().phase is Phase.EXHAUSTED


def test_budget_of_visits_holds_for_rounds_too_and_the_last_round_is_averaged():
    made = bench(sites=5)
    made.submit(make_request(method="fedavg", budget=Budget(visits=7)))
    made.answer_until(lambda state: state.phase is Phase.DELIVERING)

    assert made.state().visits == 7
    assert made.state().rounds == 2
    assert not made.state().updates


def test_budget_of_evaluations_ends_the_job():
    made = running()
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))

    made.answer(*the_order(made), evaluations_left=0)

    assert made.state().phase is Phase.DELIVERING
    assert "answers no more" in made.state().reason


def test_rollbacks_in_a_row_end_the_job():
    made = running()
    verify_with(made, 0.7)
    for _ in range(10):
        verify_with(made, 0.1)

    assert made.state().phase in (Phase.DELIVERING, Phase.EXHAUSTED)
    assert "rolled back" in made.state().reason


@pytest.mark.parametrize("phase", [Phase.ASSESSING, Phase.RUNNING, Phase.PAUSED])
def test_deadline_ends_a_job_in_any_phase(phase):
    made = bench()
    made.submit(make_request(deadline_s=100.0))
    if phase is not Phase.ASSESSING:
        made.answer_until(lambda state: state.phase is Phase.RUNNING)
    if phase is Phase.PAUSED:
        made.give(PauseAsked(job=JOB))

    for _ in range(210):
        for node, order in made.orders():
            made.say(node, VisitProgress(visit=order.visit, fence=order.fence, phase=VisitPhase.WORKING))
        made.wait(0.5)

    assert made.state().phase is Phase.EXHAUSTED
    assert "deadline" in made.state().reason


def delivering() -> Bench:
    """A job with a trained best model that is being fetched."""
    made = running()
    verify_with(made, 0.95)
    assert made.state().phase is Phase.DELIVERING
    return made


def test_model_not_fetched_is_asked_for_again():
    made = delivering()
    made.give(ModelNotFetched(job=JOB, artifact=made.state().best, what="cut"))
    made.wait(1.0)

    assert len(made.fetches) == 2


def test_model_that_no_site_gives_back_fails_the_job_after_the_deadline():
    made = delivering()
    for node in made.state().holders[made.state().best]:
        made.silence(node)
        made.say(node, Leaving())
    made.give(ModelNotFetched(job=JOB, artifact=made.state().best, what="left"))

    made.wait(1000.0)
    assert made.state().phase is Phase.DELIVERING
    made.wait(3600.0)

    assert made.state().phase is Phase.FAILED


def test_model_of_a_late_delivery_is_still_tried_after_a_restart():
    made = delivering()
    made.now_ns += 10**13
    made.restart()
    made.wait(2.0)

    assert made.state().phase is Phase.DELIVERING
    assert len(made.fetches) == 2


# --- federated --------------------------------------------------------------------------------------------------------


def round_done(made: Bench, method: str = "fedavg") -> None:
    """Every site of a round has answered; the average is ordered next."""
    made.submit(make_request(method=method))
    made.answer_until(lambda state: any(isinstance(o.ordered.work, AggregateWork) for o in state.open.values()))


def test_round_trains_all_sites_from_one_model_then_averages():
    made = bench(sites=3)
    round_done(made)

    _, order = the_order(made)
    assert len({update.model for update in order.work.updates}) == 3
    trained = [m.work for _, m in made.sent if isinstance(m, VisitOrder) and isinstance(m.work, TrainWork)]
    assert {work.model for work in trained} == {made.state().head}


def is_averaging(state: JobState) -> bool:
    return any(isinstance(one.ordered.work, AggregateWork) for one in state.open.values())


def test_server_steps_go_on_from_what_the_last_one_remembered():
    made = bench(sites=3)
    round_done(made, "fedadam")
    mixer, first = the_order(made)
    assert (first.work.server.optimizer, first.work.base, first.work.state) == ("adam", made.state().head, None)
    made.answer(mixer, first)
    made.answer_until(is_averaging)

    head = made.state().head
    _, second = the_order(made)
    remembered = made.state().server_states[head]
    assert head.startswith(f"{first.visit}-f")
    assert remembered.startswith(f"{first.visit}-remembered")
    assert (second.work.base, second.work.state) == (head, remembered)
    assert [one.artifact for one in second.inputs][-2:] == [head, remembered]


def test_change_of_hyperparameters_keeps_what_the_method_wants():
    made = running()
    planned = made.state().plan.training
    assert planned.average_steps > 0

    made.give(ChangeAsked(job=JOB, request=make_request(hyperparameters=Hyperparameters(learning_rate=0.123))))

    assert made.state().plan.training == changed(planned, learning_rate=0.123)


def test_round_goes_on_without_an_update_whose_site_is_gone_for_good():
    made = bench(sites=3)
    round_done(made)
    mixer, order = the_order(made)
    gone = made.state().holders[order.work.updates[0].model][0]
    made.silence(gone)
    made.give(PeerVanished(node=gone))
    made.say(mixer, VisitFailed(visit=order.visit, fence=order.fence, reason="n0001 is down", blame="unavailable"))

    made.answer_until(lambda state: any(len(getattr(o.ordered.work, "updates", ())) == 2 for o in state.open.values()))
    made.answer_until(lambda state: state.rounds == 1)

    assert made.state().phase is Phase.RUNNING


def test_round_whose_sites_are_all_gone_begins_anew():
    made = bench(sites=2)
    round_done(made)
    mixer, order = the_order(made)
    away = [made.silence(node) for node in (SITE1, SITE2)]
    for site in away:
        made.give(PeerVanished(node=site.node))
    made.say(mixer, VisitFailed(visit=order.visit, fence=order.fence, reason="down", blame="unavailable"))
    made.wait(20.0)
    assert made.state().updates == []
    assert made.state().head == made.state().kept == made.state().request.package

    for site in away:
        made.nodes[site.node] = site
    made.wait(30.0)
    made.answer_until(lambda state: state.rounds == 1)


def test_round_with_an_update_that_cannot_be_averaged_goes_on_and_bars_its_site():
    made = bench(sites=3)
    round_done(made)
    mixer, order = the_order(made)
    broken = order.work.updates[1].model
    trained = next(
        record.visit
        for record in made.state().log
        if isinstance(record, VisitAccepted) and getattr(record.outcome, "model", "") == broken
    )

    made.answer(mixer, order, left_out=(broken,))

    assert made.state().rounds == 1
    assert set(made.state().barred) == {made.state().ordered[trained].work.dataset}
    assert made.center.counters.of("data_sets_barred") == 1
    assert "cannot be averaged" in next(r.why for r in made.state().log if isinstance(r, SiteBarred))


@pytest.mark.parametrize("all_of_them", [True, False])
def test_aggregator_that_leaves_out_what_it_was_not_given_is_not_believed(all_of_them):
    made = bench(sites=2)
    round_done(made)
    mixer, order = the_order(made)
    left_out = tuple(update.model for update in order.work.updates) if all_of_them else (ArtifactId("f" * 64),)

    made.answer(mixer, order, left_out=left_out)

    assert made.state().rounds == 0
    assert made.center.counters.shown()["results_refused[other-kind]"] == 1


def test_order_names_few_enough_sites_and_holders_for_one_message():
    made = bench(sites=600)
    made.submit(make_request(method="fedavg"))
    made.answer_until(lambda state: state.rounds == 1, most=3000)

    for _, message in made.sent:
        encode(message)


# --- orders -----------------------------------------------------------------------------------------------------------


def test_grant_names_requester_and_holders_are_reachable_ones():
    made = running()
    made.answer_until(lambda state: state.visits == 1)
    made.answer_until(lambda state: any(o.ordered.purpose == "train" for o in state.open.values()))
    node, order = the_order(made)

    (wanted,) = order.inputs
    assert wanted.grant.endswith(f":{node}")
    assert wanted.holders
    assert all(isinstance(holder, Holder) for holder in wanted.holders)


def test_holders_whose_bytes_cost_are_named_last():
    metered = Access(kind=AccessKind.CELLULAR, metered=True)
    made = Bench(*(make_site(number, access=metered) for number in (1, 2)), make_unit())
    made.submit(make_request(method="cyclic"))
    made.answer_until(lambda state: state.visits == 4)

    named = [
        [made.nodes[one.node].access.metered for one in wanted.holders if one.node in made.nodes]
        for _, message in made.sent
        if isinstance(message, VisitOrder)
        for wanted in message.inputs
    ]
    assert any(True in each and False in each for each in named)
    assert all(each == sorted(each) for each in named)


def test_watchers_are_told_of_every_change():
    made = bench()
    assert all_effects(JobChanged, made.submit())


def test_memory_too_small_is_refused_with_both_values():
    site = make_site(1, compute=make_compute(memory_bytes=1e8))
    made = Bench(site, make_unit())
    made.submit()

    (failed,) = made.state().verdict.failed()
    assert failed.code is ReasonCode.MEMORY
    assert failed.available_value == 1e8


def test_targets_may_name_a_field():
    made = bench()
    made.submit(make_request("accuracy@ones >= 0.5", "accuracy >= 0.9"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)

    names = made.state().untrained
    assert parse_target("accuracy@ones >= 0.5").name in {one.name for one in names}


def test_unit_that_gave_up_is_replaced_by_none_and_the_job_waits_for_it():
    made = running()
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))
    made.silence(UNIT)
    made.give(PeerVanished(node=UNIT))

    made.wait(30.0)

    assert made.state().phase is Phase.RUNNING
    assert made.state().verifications == 0


def test_finished_model_is_fetched_under_a_grant_for_the_centre():
    made = delivering()
    (fetch,) = made.fetches
    assert isinstance(fetch, FetchModel)
    assert fetch.model.grant.endswith(":c0")


def test_samples_all_lost_to_a_centre_that_was_away_are_asked_for_until_they_come():
    made = bench(sites=1)
    made.submit()
    for _ in range(6):
        for node, order in made.orders():
            reason = "c0 is down"
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason=reason, blame="unavailable"))
        made.wait(5.0)

    made.answer_until(lambda state: state.phase is Phase.RUNNING)


def test_samples_that_never_come_fail_the_job_in_the_end():
    made = bench(sites=1)
    made.submit()
    for _ in range(100):
        for node, order in made.orders():
            reason = "c0 is down"
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason=reason, blame="unavailable"))
        made.wait(5.0)

    assert made.state().phase is Phase.FAILED
    assert "c0 is down" in made.state().reason


def test_model_that_cannot_be_measured_is_rolled_back_and_the_job_goes_on():
    made = running()
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))
    head = made.state().head
    unit, order = the_order(made)

    made.say(unit, VisitFailed(visit=order.visit, fence=order.fence, reason="tensor 'w' has shape (9,)", blame="input"))

    assert made.state().head == made.state().kept != head
    assert made.state().rolled_back == 1
    judged = next(r for r in made.state().log if isinstance(r, ModelJudged))
    assert (judged.keep, judged.model) == (False, head)
    assert "cannot be measured: tensor 'w'" in judged.why
    assert made.center.counters.of("models_rolled_back") == 1
    made.answer_until(lambda state: state.visits == 2)


def test_model_that_measures_as_not_a_number_is_rolled_back_and_the_job_goes_on():
    made = running()
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))
    unit, order = the_order(made)

    made.answer(unit, order, measurements=measure(float("nan"), *order.work.measurements))

    assert made.state().head == made.state().kept
    assert made.center.counters.of("models_rolled_back") == 1
    made.answer_until(lambda state: state.visits == 2)
