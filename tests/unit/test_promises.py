"""Promises: what is left of slots and stores, what a job is promised, and that two are never promised the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    JOB,
    Bench,
    bench,
    changed,
    make_candidate,
    make_compute,
    make_mixer,
    make_package,
    make_request,
    make_site,
    make_unit,
    make_view,
)

from daitn.base.ids import JobId, NodeId
from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.commands import CancelAsked, ChangeAsked, PauseAsked, ResumeAsked
from daitn.control_center.training.records import PromiseMade
from daitn.decision.feasibility import Known, judge
from daitn.decision.promises import SHARE_LEAST, Owed, Promises, beside, free_seconds, promise_of
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode, Verdict
from daitn.descriptors.request import Hyperparameters, Request, Selection
from daitn.descriptors.view import TrainingView

OTHER = JobId("other")
S1, S2 = NodeId("s1"), NodeId("s2")

owed_lists = st.lists(st.builds(Owed, st.floats(0.5, 100), st.floats(0, 60)), max_size=6)


def fits(owed: list[Owed], slots: int) -> bool:
    """Whether all can be served by the time they are due, counted plainly at every end."""
    return all(
        sum(min(one.seconds, one.until_s) for one in owed if one.until_s <= end) <= slots * end + 1e-6
        for end in {one.until_s for one in owed}
    )


@settings(deadline=None, derandomize=True, max_examples=300)
@given(owed_lists, st.integers(1, 3), st.floats(0.5, 120))
def test_what_is_free_is_the_most_that_still_fits(owed: list[Owed], slots: int, left_s: float) -> None:
    free = free_seconds(owed, slots, left_s)

    assert 0 <= free <= left_s
    if not fits([one for one in owed if one.until_s >= left_s], slots) or not fits(owed, slots):
        return
    assert fits([*owed, Owed(left_s, free)], slots)
    if free < left_s - 0.01:
        assert not fits([*owed, Owed(left_s, free + 1e-3)], slots)


@settings(deadline=None, derandomize=True)
@given(owed_lists, st.integers(1, 3), st.floats(0.5, 60), st.floats(0.1, 60))
def test_more_time_never_leaves_less(owed: list[Owed], slots: int, left_s: float, more_s: float) -> None:
    assert free_seconds(owed, slots, left_s + more_s) >= free_seconds(owed, slots, left_s) - 1e-9


def two_sites(**changes) -> TrainingView:
    """Two sites of the same kinds, a tenth of a second a batch."""
    return make_view(*(make_candidate(name, batch_s=0.1, **changes) for name in ("s1", "s2")))


def promised(*seconds: float, until_s: float = 100.0) -> Promises:
    """Other jobs hold so much at s1, s2, …"""
    return Promises({NodeId(f"s{number}"): (Owed(until_s, each),) for number, each in enumerate(seconds, 1)})


def test_site_with_windows_is_promised_no_more_than_they_leave():
    view = make_view(make_candidate("s1", batch_s=0.1, share=0.25))

    (alone,) = beside(view, Promises(), 100.0).candidates
    (shared,) = beside(view, promised(15.0), 100.0).candidates
    (taken,) = beside(view, promised(25.0), 100.0).candidates

    assert (alone.share, shared.share, taken.share) == (0.25, 0.1, SHARE_LEAST)


def test_site_that_is_promised_away_is_left_out_only_while_others_have_the_same_kinds():
    left = beside(two_sites(), promised(100.0), 100.0)
    alone = beside(make_view(make_candidate("s1")), promised(100.0), 100.0)

    assert [one.compute_node for one in left.candidates] == [S2]
    assert [one.code for one in left.excluded] == [ReasonCode.SLOTS]
    assert [one.share for one in alone.candidates] == [SHARE_LEAST]


def test_second_slot_is_free_where_one_is_promised():
    (one,) = beside(make_view(make_candidate("s1", slots=2)), promised(100.0), 100.0).candidates

    assert one.share == 1.0


def assess(request: Request, promises: Promises, view: TrainingView | None = None) -> Verdict:
    """The verdict beside what others hold."""
    seen = view if view is not None else two_sites()
    return TrainingAdmission(lambda _: seen).assess(request, make_package(), Known(promises=promises))[0]


PINNED = Hyperparameters(batches_per_visit=100)
"""Ten seconds a visit."""


def test_request_that_would_fit_alone_is_refused_with_when_it_fits_and_the_offer_is_taken():
    request = make_request(deadline_s=60.0, hyperparameters=PINNED)
    promises = promised(95.0, 95.0)
    verdict = assess(request, promises)
    (failed,) = verdict.failed()

    assert assess(request, Promises()).outcome == "admitted"
    assert failed.code is ReasonCode.SLOTS
    assert "submitted again in 1 min 40 s" in failed.available
    assert verdict.counter_offer is not None
    assert [change.what for change in verdict.counter_offer.changes] == ["deadline"]
    assert assess(verdict.counter_offer.request, promises).outcome == "admitted"
    assert verdict.counter_offer.request.deadline_s < 200


def test_deadline_that_is_too_near_without_others_too_is_said_once():
    verdict = assess(make_request(deadline_s=1.0, hyperparameters=PINNED), promised(95.0, 95.0))

    assert [one.code for one in verdict.failed()] == [ReasonCode.TIME]
    assert verdict.counter_offer is not None
    assert assess(verdict.counter_offer.request, promised(95.0, 95.0)).outcome == "admitted"


def test_promise_is_what_the_visits_take_and_never_more_than_is_free():
    request = make_request(deadline_s=100.0, hyperparameters=PINNED)
    wide = judge(two_sites(), request, make_package(), Known())
    tight = judge(two_sites(), request, make_package(), Known(promises=promised(80.0, 0.0)))

    first = {
        hold.node: hold.seconds for hold in promise_of(wide.view, request, make_package(), wide.plan, None, 100.0).holds
    }
    second = {
        hold.node: hold.seconds
        for hold in promise_of(tight.view, request, make_package(), tight.plan, None, 100.0).holds
    }
    assert 10 < first[S1] <= 50
    assert second[S1] <= 20


def loaded(**config) -> tuple[Bench, Request]:
    """Two sites, one slot each, and a request that takes most of them: a batch is timed at 5 ms."""
    return bench(**config), make_request(deadline_s=40.0, hyperparameters=Hyperparameters(batches_per_visit=2000))


def holds(made: Bench, job: JobId = JOB) -> dict[NodeId, float]:
    """What a job holds now."""
    promised_to = made.state(job).promised
    return promised_to.left if promised_to.in_force else {}


def test_job_that_is_admitted_holds_until_it_is_paused_and_again_when_it_goes_on():
    made, request = loaded()
    made.submit(request)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    held = holds(made)

    assert held
    assert all(seconds <= 40 for seconds in held.values())
    made.give(PauseAsked(job=JOB))
    assert holds(made) == {}
    made.give(ResumeAsked(job=JOB))
    assert holds(made) == held
    made.give(CancelAsked(job=JOB))
    assert holds(made) == {}


def test_second_job_is_not_promised_what_the_first_one_holds_and_is_told_when_it_fits():
    made, request = loaded()
    made.submit(request)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    first = holds(made)
    made.submit(request, job=OTHER)
    made.answer_until(lambda state: state.phase not in (Phase.ASSESSING, Phase.QUEUED), job=OTHER)
    second = holds(made, OTHER)

    for node, seconds in second.items():
        assert first.get(node, 0.0) + seconds <= 40 + 1e-6
    if made.state(OTHER).phase is Phase.REFUSED:
        assert "promised" in made.state(OTHER).reason


def test_visits_use_up_what_was_promised_and_a_restart_forgets_nothing():
    made, request = loaded()
    made.submit(request)
    made.answer_until(lambda state: state.visits == 1)
    before = holds(made)
    promise = next(one.promise for one in made.state().log if isinstance(one, PromiseMade))

    assert sum(before.values()) < promise.seconds
    made.restart()
    assert holds(made) == before


def test_site_that_the_owner_excludes_is_free_for_others_at_once():
    made, request = loaded()
    made.submit(request)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    first, second = sorted(holds(made))
    made.give(ChangeAsked(job=JOB, request=changed(request, data=Selection(exclude_nodes=(first,)))))

    assert set(holds(made)) == {second}


def test_room_in_a_store_is_promised_once():
    small = make_compute(storage_bytes=150_000.0, store_bytes=150_000.0)
    made = Bench(make_site(1, compute=small), make_unit(), make_mixer())
    made.submit(payload_bytes=100_000)
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    made.submit(job=OTHER, payload_bytes=100_000)

    assert made.state(OTHER).phase is Phase.REFUSED
    assert "promised to other jobs" in made.state(OTHER).reason
    made.give(CancelAsked(job=JOB))
    made.submit(job=JobId("third"), payload_bytes=100_000)
    assert made.state(JobId("third")).phase is not Phase.REFUSED
