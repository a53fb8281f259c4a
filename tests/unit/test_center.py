"""The control centre as a core: fences, the queue, the map, and a restart anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from tests.builders import (
    JOB,
    OWNER,
    Bench,
    all_effects,
    bench,
    changed,
    facts_of,
    make_data,
    make_outcome,
    make_package,
    make_policy,
    make_request,
    make_site,
    make_unit,
    make_work,
    messages,
    running,
    the_order,
)

from daitn.base.effects import Append, Compute, Computed, Delivered, PeerAppeared, PeerVanished, TimerFired
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.control_center.fact_desk import ReportsArrived
from daitn.control_center.training.commands import (
    CancelAsked,
    ModelFetched,
    PauseAsked,
    ResumeAsked,
    SubmissionReceived,
)
from daitn.control_center.training.records import JobSubmitted, VisitAccepted, VisitLost
from daitn.decision.validity import WAIT_SPREAD_S, ValidityFound
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.job import Phase
from daitn.descriptors.plan import Validity
from daitn.descriptors.policy import summarise
from daitn.descriptors.reporting import Reading
from daitn.descriptors.request import Budget
from daitn.descriptors.terminals import Role
from daitn.descriptors.work import EvaluateWork, ShareWork, TrainWork
from daitn.terminal.fact_reporter import measured_facts
from daitn.topology.adapter import ViewAdapter
from daitn.topology.orchestrator import TUNE_TIMER, ReadingsAccepted
from daitn.topology.view_updates import ViewUpdates
from daitn.wire.center_tools import (
    JobsEnded,
    JobsHeld,
    LeaseRenewed,
    ResultAccepted,
    ResultFenced,
    VisitFailed,
    VisitOrder,
    VisitPhase,
    VisitProgress,
)
from daitn.wire.packed_facts import encode_records, record_dtype
from daitn.wire.terminal_tools import Leaving, Left
from daitn.wire.topology_tools import (
    Describe,
    DescribeAgain,
    Described,
    Heartbeat,
    ReportingTuned,
    RosterAnnounced,
    TuneReporting,
)

SITE1, SITE2 = NodeId("n0001"), NodeId("n0002")


# --- fences -----------------------------------------------------------------------------------------------------------


def test_result_twice_is_accepted_once_and_acknowledged_twice():
    made = running()
    node, order = the_order(made)
    result = made.result(node, order, make_outcome(order.work))

    first, second = made.say(node, result), made.say(node, result)

    assert messages(ResultAccepted, first)
    assert messages(ResultAccepted, second)
    assert not all_effects(Append, second)
    assert sum(isinstance(one, VisitAccepted) and one.visit == order.visit for one in made.journal) == 1


def test_result_after_takeover_is_fenced_and_changes_nothing():
    made = running()
    node, order = the_order(made)
    back = made.silence(node)
    made.wait(12.0)
    assert order.visit not in made.state().open
    before = facts_of(made.state())

    made.nodes[node] = back
    late = made.say(node, made.result(node, order, make_outcome(order.work)))

    assert messages(ResultFenced, late)
    assert not messages(ResultAccepted, late)
    assert facts_of(made.state()) == before


def test_result_from_another_node_is_fenced():
    made = running()
    node, order = the_order(made)
    other = SITE2 if node == SITE1 else SITE1

    effects = made.say(other, made.result(other, order, make_outcome(order.work)))

    assert messages(ResultFenced, effects)
    assert order.visit in made.state().open


def test_result_with_another_fence_is_fenced():
    made = running()
    node, order = the_order(made)

    effects = made.say(node, made.result(node, changed(order, fence=order.fence + 1), make_outcome(order.work)))

    assert messages(ResultFenced, effects)
    assert order.visit in made.state().open


@pytest.mark.parametrize("visit", ["job-1/999", "nobody/1", "", "/", "job-1"])
def test_result_of_an_unknown_visit_is_fenced(visit):
    made = running()

    effects = made.say(SITE1, VisitFailed(visit=VisitId(visit), fence=1, reason="", blame="peer"))

    assert messages(ResultFenced, effects)


def test_result_with_a_bad_signature_is_lost_and_blamed_on_the_peer():
    made = running()
    node, order = the_order(made)

    effects = made.say(node, changed(made.result(node, order, make_outcome(order.work)), signature="forged"))

    assert messages(ResultFenced, effects)
    assert made.center.counters.shown() == {"results_refused[signature]": 1, "visits_lost[peer]": 1}
    (lost,) = [one for one in made.journal if isinstance(one, VisitLost)]
    assert lost.blame == "peer"


def test_result_of_other_work_is_lost():
    made = running()
    node, order = the_order(made)
    other = changed(order, work=make_work("s1/records", seed=7))

    made.say(node, made.result(node, other, make_outcome(order.work)))

    assert made.center.counters.of("results_refused", "other-work") == 1
    assert made.state().lost == 1
    assert made.state().visits == 0


def test_result_with_an_outcome_of_another_kind_is_lost_and_counts_as_harm():
    made = running()
    node, order = the_order(made)
    assert isinstance(order.work, TrainWork)
    other = make_outcome(EvaluateWork(model=order.work.model, samples=(), measurements=("accuracy",)))

    made.say(node, made.result(node, order, other))

    assert made.center.counters.of("results_refused", "other-kind") == 1
    assert made.state().harm == {order.work.dataset: 1}
    assert order.visit not in made.state().accepted


def test_measurement_of_another_model_is_lost():
    made = running()
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))
    node, order = the_order(made)

    made.answer(node, order, model=ArtifactId("e" * 64))

    assert made.center.counters.of("results_refused", "other-kind") == 1
    assert made.state().verifications == 0


def test_progress_of_somebody_elses_visit_is_fenced():
    made = running()
    node, order = the_order(made)
    other = SITE2 if node == SITE1 else SITE1

    effects = made.say(other, VisitProgress(visit=order.visit, fence=order.fence, phase=VisitPhase.WORKING))

    assert messages(ResultFenced, effects)


def test_progress_renews_the_lease():
    made = running()
    node, order = the_order(made)
    for _ in range(10):
        made.wait(3.0)
        effects = made.say(node, VisitProgress(visit=order.visit, fence=order.fence, phase=VisitPhase.WORKING))
        assert messages(LeaseRenewed, effects)

    assert made.state().lost == 0


def test_progress_out_of_order_never_goes_back():
    made = running()
    node, order = the_order(made)
    for phase, done in (
        (VisitPhase.WORKING, 3),
        (VisitPhase.WORKING, 1),
        (VisitPhase.FETCHING, 0),
    ):
        made.say(node, VisitProgress(visit=order.visit, fence=order.fence, phase=phase, done=done, of=4))

    shown = made.state().open[order.visit].progress
    assert (shown.phase, shown.done) == (VisitPhase.WORKING, 3)


# --- queue ------------------------------------------------------------------------------------------------------------


def queue(*jobs: tuple[str, int], running_jobs: int = 1) -> Bench:
    """Admitted jobs with priorities, one of which runs."""
    made = bench(running_jobs=running_jobs)
    for name, priority in jobs:
        made.submit(make_request(priority=priority), JobId(name))
        made.answer_until(lambda state: state.phase in (Phase.QUEUED, Phase.RUNNING), JobId(name))
    return made


def phases(made: Bench) -> dict[str, str]:
    """Phase by job."""
    return {str(job): machine.state.phase.value for job, machine in made.center.jobs.items()}


def test_queue_starts_the_job_of_highest_priority_next():
    made = queue(("first", 5), ("low", 1), ("high", 9))
    assert phases(made) == {"first": "running", "low": "queued", "high": "queued"}

    made.give(CancelAsked(job=JobId("first")))

    assert phases(made) == {"first": "cancelled", "low": "queued", "high": "running"}


def test_queue_makes_room_when_a_job_is_paused():
    made = queue(("first", 5), ("second", 5))

    made.give(PauseAsked(job=JobId("first")))
    assert phases(made) == {"first": "paused", "second": "running"}
    made.give(ResumeAsked(job=JobId("first")))
    assert phases(made) == {"first": "queued", "second": "running"}


def test_queue_goes_on_when_the_next_job_ends_as_it_starts():
    made = bench(running_jobs=1)
    made.submit(make_request(), JobId("first"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING, JobId("first"))
    made.submit(make_request(priority=1), JobId("low"))
    made.answer_until(lambda state: state.phase is Phase.QUEUED, JobId("low"))
    made.submit(make_request(priority=9), JobId("met"))
    made.answer_until(lambda state: state.phase is Phase.QUEUED, JobId("met"), accuracy=0.99)

    made.give(CancelAsked(job=JobId("first")))

    assert phases(made) == {"first": "cancelled", "low": "running", "met": "delivered"}


def test_running_job_makes_room_for_one_of_higher_priority_at_the_border_of_its_visit_and_goes_on_later():
    made = queue(("low", 1), ("high", 9))
    assert phases(made) == {"low": "running", "high": "queued"}

    made.answer_until(lambda state: state.phase is Phase.QUEUED, JobId("low"))
    low = made.state(JobId("low"))
    assert phases(made) == {"low": "queued", "high": "running"}
    assert low.reason == "makes room for job high, which has a higher priority"
    assert low.visits >= 1, "what was under way is not cut short"

    made.give(CancelAsked(job=JobId("high")))
    assert phases(made) == {"low": "running", "high": "cancelled"}
    visits = low.visits
    made.answer_until(lambda state: state.visits > visits, JobId("low"))


def test_job_does_not_make_room_for_an_equal():
    made = queue(("first", 5), ("second", 5))

    made.answer_until(lambda state: state.visits >= 3, JobId("first"))

    assert phases(made) == {"first": "running", "second": "queued"}


def test_job_that_makes_room_does_so_after_a_restart_too():
    made = queue(("low", 1), ("high", 9))
    made.restart()

    made.answer_until(lambda state: state.phase is Phase.QUEUED, JobId("low"))

    assert phases(made) == {"low": "queued", "high": "running"}


def test_owners_take_turns_and_none_runs_more_than_the_quota():
    made = bench(running_jobs=3, running_jobs_per_owner=2)
    for owner, name in (("ada", "a1"), ("ada", "a2"), ("ada", "a3"), ("bob", "b1")):
        made.give(
            SubmissionReceived(
                job=JobId(name), owner=OwnerId(owner), request=make_request(), package=make_package(), key=name
            )
        )
        made.answer_until(lambda state: state.phase in (Phase.QUEUED, Phase.RUNNING), JobId(name))

    assert phases(made) == {"a1": "running", "a2": "running", "a3": "queued", "b1": "running"}
    made.give(CancelAsked(job=JobId("b1")))
    assert phases(made)["a3"] == "queued", "the quota holds although there is room"
    made.give(CancelAsked(job=JobId("a1")))
    assert phases(made)["a3"] == "running"


def test_queue_of_a_thousand_jobs_is_looked_through_once_an_event():
    made = queue(("first", 5))
    for number in range(1000):
        state = changed_state(made, JobId(f"q{number}"))
        state.phase = Phase.QUEUED
    looked = 0

    def count() -> list[JobId]:
        nonlocal looked
        looked += 1
        return original()

    original = made.center._next_up
    made.center._next_up = count  # type: ignore[method-assign]
    made.give(CancelAsked(job=JobId("first")))

    assert looked <= 4


def changed_state(made: Bench, job: JobId):
    """A job submitted and assessed without its visits being made."""
    made.center.apply(
        JobSubmitted(
            job=job,
            at_ns=made.now_ns,
            owner=OWNER,
            request=make_request(),
            package=made.state(JobId("first")).package,
            key=str(job),
        )
    )
    made.state(job).plan = made.state(JobId("first")).plan
    return made.state(job)


# --- the map ----------------------------------------------------------------------------------------------------------


def test_descriptor_of_another_node_is_counted_and_dropped():
    made = bench()

    made.say(SITE1, Describe(sequence=9, generated_unix_s=0.0, descriptor=make_site(2)))

    assert made.center.counters.of("descriptions_forged") == 1
    assert made.center.knowledge.node(SITE2).sequence == 1


def test_heartbeat_of_an_unknown_sequence_asks_for_a_description():
    made = bench()

    assert messages(DescribeAgain, made.say(SITE1, Heartbeat(sequence=2)))
    assert messages(DescribeAgain, made.say(NodeId("n0077"), Heartbeat(sequence=2)))
    assert not messages(DescribeAgain, made.say(SITE1, Heartbeat(sequence=1)))


def test_description_delayed_past_leaving_does_not_bring_the_node_back():
    made = bench()
    assert messages(Left, made.say(SITE1, Leaving()))
    assert messages(Left, made.say(SITE1, Leaving()))

    effects = made.say(SITE1, Describe(sequence=2, generated_unix_s=0.0, descriptor=make_site(1)))

    assert messages(Left, effects)
    assert not messages(Described, effects)
    assert made.center.knowledge.node(SITE1) is None
    assert made.replayed().knowledge.node(SITE1) is None


def test_node_that_stops_without_vanishing_is_unreachable_after_two_patiences():
    made = bench()
    made.silence(SITE1)

    made.wait(12.0)

    assert not made.center.knowledge.node(SITE1).reachable


def test_message_for_another_role_is_counted():
    made = bench()
    made.say(SITE1, LeaseRenewed(visit=VisitId("x/1"), fence=1, lease_s=1.0))

    assert made.center.counters.of("messages_for_another_role") == 1


def test_streamed_data_is_given_first_and_trained_on_elsewhere():
    zone = make_policy(raw_records="trust-zone", compute_operators=("lab",))
    data = make_site(1, data=(make_data("s1", policy=summarise(zone)),), compute=None, roles=(Role.DATA,))
    lab = make_site(3, operator="lab", data=(), roles=(Role.COMPUTE,))
    made = Bench(data, lab, make_unit())
    made.submit(make_request(raw_records="trust-zone"))
    made.answer_until(lambda state: state.visits == 2)

    works = [message.work for _, message in made.sent if isinstance(message, VisitOrder)]
    shares = [work for work in works if isinstance(work, ShareWork) and work.kind == "records"]
    trained = [work for work in works if isinstance(work, TrainWork)]
    assert len(shares) == 1
    assert all(work.records is not None for work in trained)


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["", "fedavg", "cyclic"])
def test_restart_after_any_step_gives_the_same_state_and_goes_on(method):
    made = bench(sites=3)
    made.submit(make_request(method=method, budget=Budget(visits=9)))
    for step in range(80):
        assert facts_of(made.replayed().jobs[JOB].state) == facts_of(made.state())
        made.restart()
        if made.state().phase is Phase.DELIVERING:
            break
        orders = made.orders()
        if not orders:
            made.wait(1.0)
            continue
        accuracy = {"accuracy": (0.5, 0.6, 0.3)[step % 3]} if isinstance(orders[0][1].work, EvaluateWork) else {}
        made.answer(*orders[0], **accuracy)
    else:
        pytest.fail(f"not delivered: {made.state().phase}")
    assert made.state().visits == 9

    made.wait(3.0)
    made.give(ModelFetched(job=JOB, artifact=made.state().best))
    assert made.state().ended


def test_restart_speaks_the_same_fences_again():
    made = running()
    before = made.orders()
    made.sent.clear()

    made.restart()

    again = made.orders()
    assert [(node, order.visit, order.fence) for node, order in again] == [
        (node, order.visit, order.fence) for node, order in before
    ]


def test_restart_of_an_accepted_result_acknowledges_the_repetition():
    made = running()
    node, order = the_order(made)
    result = made.result(node, order, make_outcome(order.work))
    made.say(node, result)

    made.restart()

    assert messages(ResultAccepted, made.say(node, result))


def test_description_beyond_the_enrolment_is_not_taken():
    made = bench(sites=2)
    node = next(iter(made.nodes))
    true = made.nodes[node]
    claims = {
        "operator": changed(true, operator="trust"),
        "roles": changed(true, roles=(*true.roles, Role.VERIFICATION)),
        "name": changed(true, name="another"),
        "data": changed(true, data=tuple(changed(one, dataset="another/set") for one in true.data)),
    }
    for claim in claims.values():
        made.give(Delivered(sender=node, message=Describe(sequence=10**9, generated_unix_s=0.0, descriptor=claim)))

    assert made.center.counters.of("descriptions_forged") == len(claims)
    assert made.center.knowledge.node(node).descriptor == true


def test_jobs_that_have_ended_or_are_unknown_are_named_to_a_site_that_keeps_artifacts_for_them():
    made = running()
    alive = made.state().job

    assert not messages(JobsEnded, made.say(SITE1, JobsHeld(jobs=(alive,))))
    assert messages(JobsEnded, made.say(SITE1, JobsHeld(jobs=(alive, JobId("gone"))))) == [
        JobsEnded(jobs=(JobId("gone"),))
    ]
    made.give(CancelAsked(job=alive))
    assert messages(JobsEnded, made.say(SITE1, JobsHeld(jobs=(alive,)))) == [JobsEnded(jobs=(alive,))]


def test_site_without_room_is_left_for_another_and_not_distrusted():
    made = running()
    node, order = the_order(made)
    trusted = made.center.knowledge.trust(made.center.knowledge.node(node), made.now_ns)
    reason = "the store needs 2.0 GB and has room for 1.0 GB"

    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason=reason, blame="no-room"))

    (lost,) = [one for one in made.journal if isinstance(one, VisitLost)]
    assert (lost.why, lost.blame) == (reason, "no-room")
    other, _ = the_order(made)
    assert other != node
    assert made.center.knowledge.trust(made.center.knowledge.node(node), made.now_ns) == trusted


# --- the map's orchestrator in the centre -----------------------------------------------------------------------------


def tell_price(made: Bench, node: NodeId, value: float) -> None:
    """A node reports its price for the first time."""
    group = group_named("price")
    made.say(node, RosterAnnounced(incarnation=1, kind=Kind.TERMINAL, first=0, things=(node,)))
    records = np.zeros(1, record_dtype(group))
    records["sequence"], records["generated_ns"], records["price_per_hour"] = 1, made.now_ns, value
    payload = encode_records(group, records, sequence=1, incarnation=1)
    made.give(ReportsArrived(senders=[node], payloads=[payload]))


def test_node_that_falls_silent_is_lost_to_the_map_after_two_patiences_and_says_why():
    made = Bench(make_site(1), make_site(2), patience_s=4.0)
    made.wait(20)
    made.silence(NodeId("n0001"))
    made.wait(6)
    assert made.center.knowledge.node(NodeId("n0001")).reachable
    made.wait(4)

    lost = made.center.knowledge.node(NodeId("n0001"))
    assert not lost.reachable
    assert made.center.knowledge.node(NodeId("n0002")).reachable
    (change,) = made.center.knowledge.trust_book.changes(NodeId("n0001"))
    assert "φ" in change.why


def test_node_that_comes_and_goes_is_asked_after_others():
    made = Bench(make_site(1), make_site(2), make_unit())
    for _ in range(8):
        made.give(PeerVanished(node=NodeId("n0001")))
        made.wait(1.0)
        made.give(PeerAppeared(node=NodeId("n0001")))
        made.wait(2.0)
    made.submit()
    made.answer_until(lambda state: state.visits >= 4)

    visited = {
        message.work.dataset
        for _, message in made.sent
        if isinstance(message, VisitOrder) and isinstance(message.work, TrainWork)
    }
    assert visited == {"s2/records"}


def test_node_that_says_that_its_link_falls_too_often_is_asked_after_others():
    made = Bench(make_site(1), make_site(2), make_unit())
    terminals = made.center.knowledge.facts[Kind.TERMINAL]
    terminals.note(0, "attachment", {"attached": False}, source=1, generated_ns=made.now_ns, received_ns=made.now_ns)
    made.submit()
    made.answer_until(lambda state: state.visits >= 4)

    trained = [
        one.work.dataset for _, one in made.sent if isinstance(one, VisitOrder) and isinstance(one.work, TrainWork)
    ]
    assert set(trained) == {"s2/records"}


def test_site_is_tuned_after_its_first_report_and_its_answer_is_taken():
    made = Bench(make_site(1))
    tell_price(made, NodeId("n0001"), 5.0)
    made.wait(2)

    (message,) = [message for node, message in made.sent if isinstance(message, TuneReporting)]
    assert message.bytes_per_s <= made.config.report_bytes_per_s
    made.say(NodeId("n0001"), ReportingTuned(number=message.number))
    made.say(NodeId("n0001"), ReportingTuned(number=0))
    assert len([one for _, one in made.sent if isinstance(one, TuneReporting)]) == 2


def test_heartbeat_acknowledges_the_tuning_that_its_node_has_taken():
    made = Bench(make_site(1))
    tell_price(made, NodeId("n0001"), 5.0)
    made.wait(2)

    (message,) = [message for _, message in made.sent if isinstance(message, TuneReporting)]
    made.say(NodeId("n0001"), Heartbeat(sequence=1, tuned=message.number))
    assert len([one for _, one in made.sent if isinstance(one, TuneReporting)]) == 1
    made.say(NodeId("n0001"), Heartbeat(sequence=1, tuned=message.number - 1))
    assert len([one for _, one in made.sent if isinstance(one, TuneReporting)]) == 2, "another one: it is told all"


def test_plan_of_a_job_comes_with_ranges_that_reports_are_weighed_by_until_it_ends():
    made = Bench(make_site(1), make_site(2), make_unit())
    made.submit()
    made.answer_until(lambda state: state.phase is Phase.RUNNING)

    validity = made.center.jobs[JOB].validity
    assert {pair.dataset for pair in validity.pairs} == {"s1/records", "s2/records"}
    assert {one.fact for one in validity.ranges} >= {"trust", "flops"}
    assert made.center.orchestration.weighing == {JOB}
    made.give(CancelAsked(job=JOB, reason="enough"))
    assert made.center.orchestration.weighing == set()


def test_what_sites_tell_of_speed_and_wait_is_weighed_by_the_ranges_of_jobs():
    made = Bench(make_site(1), make_site(2), make_unit())
    for number in (1, 2):
        node = NodeId(f"n000{number}")
        for told in (
            measured_facts(node, "load", {"wait_s": 3.0, "free_slots": 0.0}, made.now_ns),
            measured_facts(node, "capacity", {"flops": 1e10, "cores": 2}, made.now_ns),
        ):
            reading = Reading(thing=node, group=told.group, values=told.values, measured_ns=made.now_ns)
            taken = ReadingsAccepted(site=node, readings=(reading,), wire_bytes=60)
            made.center.orchestrator.handle(taken, made.now_ns)
    made.submit()
    made.answer_until(lambda state: state.phase is Phase.RUNNING)

    effects = made.give(TimerFired(name=TUNE_TIMER))

    (sought,) = [one.problem for one in effects if isinstance(one, Compute)]
    margins = {
        (group.reading.thing, name): fact.margins
        for site in sought.sites.values()
        for group in site.groups
        for name, fact in zip(group.shape.facts, group.facts, strict=True)
        if fact.margins
    }
    assert {name for _, name in margins} == {"flops", "wait_s"}, "what no decision rests on is not weighed"
    assert {thing for thing, _ in margins} == {"n0001", "n0002"}
    lost = {name: loss for (_, name), told in margins.items() for _, loss in told}
    assert lost["flops"] == pytest.approx(1e-10, rel=0.01), "a speed off by its own size costs all that is at stake"
    assert lost["wait_s"] == pytest.approx(1 / WAIT_SPREAD_S)


def test_ranges_are_worked_out_beside_the_turn():
    made = Bench(make_site(1), make_site(2), make_unit())
    made.submit()
    while made.state().phase is Phase.ASSESSING:
        made.answer(*made.orders()[0])

    assert made.center.jobs[JOB].validity is None
    assert not made.center.orchestration.weighing
    made.solve()
    assert made.center.jobs[JOB].validity is not None
    assert made.center.orchestration.weighing == {JOB}


def test_ranges_follow_the_stops_of_a_run_once_in_a_while():
    made = running()
    first = made.center.jobs[JOB].validity
    made.answer_until(lambda state: state.visits == 2)
    assert made.center.jobs[JOB].validity == first

    for _ in range(6):
        made.wait(2.0)
        made.answer(*made.orders()[0])
    made.solve()
    assert made.center.jobs[JOB].validity != first


def test_answer_for_a_job_that_is_unknown_or_has_ended_changes_nothing():
    made = running()
    made.give(CancelAsked(job=JOB, reason="enough"))
    before = len(made.journal)

    made.give(Computed(key=f"validity {JOB}", basis=0, solution=ValidityFound(validity=Validity())))
    made.give(Computed(key="validity nobody", basis=0, solution=None))

    assert len(made.journal) == before
    assert made.center.jobs[JOB].validity is None


def test_centre_that_began_anew_weighs_reports_by_the_next_choice():
    made = running()
    made.restart()
    assert made.center.orchestration.weighing == set()

    made.answer_until(lambda state: state.visits == 2)

    assert made.center.orchestration.weighing == {JOB}


@pytest.mark.parametrize("by", ["adapter", "periodic"])
def test_job_runs_on_views_that_are_followed_as_on_views_made_anew_each_time(by, monkeypatch):
    def stops(updates: ViewUpdates) -> list[DataSetId]:
        made = Bench(make_site(1), make_site(2), make_site(3), make_unit(), views=updates)
        made.submit()
        made.answer_until(lambda state: state.visits >= 9)
        return [dataset for dataset, _ in made.state().seen]

    followed = stops(ViewUpdates(by=by))
    monkeypatch.setattr(ViewAdapter, "refresh", lambda *_: None)

    assert stops(ViewUpdates()) == followed


def test_job_on_periodic_views_does_not_wait_for_a_site_that_has_vanished():
    made = Bench(make_site(1), make_site(2), make_unit(), views=ViewUpdates(by="periodic", period_s=30.0))
    made.submit()
    made.answer_until(lambda state: state.visits >= 2)
    made.silence(SITE1)
    made.give(PeerVanished(node=SITE1))
    made.wait(6.0)
    seen = len(made.state().seen)
    made.answer_until(lambda state: len(state.seen) >= seen + 3)

    assert {dataset for dataset, _ in made.state().seen[seen:]} == {"s2/records"}
