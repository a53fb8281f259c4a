"""The visit keeper as a core: orders in, reports out, nothing said before it is durable, nothing kept for ever."""

from __future__ import annotations

import pytest
from tests.builders import (
    JOB,
    PACKAGE,
    START_NS,
    UNIT,
    all_effects,
    make_evaluation,
    make_order,
    make_outcome,
    make_policy,
    make_warrant,
    messages,
)

from daitn.base.effects import (
    Append,
    CancelTimer,
    Delivered,
    Effect,
    Event,
    Send,
    SetTimer,
    Started,
    TimerFired,
    replay,
)
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, DataSetId, NodeId, VisitId
from daitn.base.units import seconds_to_ns
from daitn.terminal.roles import DataNode, Roles, VerificationUnit
from daitn.terminal.visit_keeper import (
    CLOSED_REMEMBERED,
    OPEN_VISITS,
    REPORT_MOST_S,
    TABLE,
    KeeperConfig,
    State,
    VisitKeeper,
)
from daitn.terminal.visit_records import VisitClosed, VisitTaken
from daitn.terminal.work import (
    AbandonVisit,
    BeginWork,
    DropArtifacts,
    FetchInputs,
    InputsArrived,
    InputsFailed,
    PoliciesChanged,
    WarmChild,
    WorkFailed,
    WorkFinished,
    WorkProgressed,
)
from daitn.wire.center_tools import (
    InputRef,
    LeaseRenewed,
    ReleaseArtifacts,
    ResultAccepted,
    ResultFenced,
    VisitCancel,
    VisitFailed,
    VisitOrder,
    VisitPrepare,
    VisitProgress,
    VisitRefused,
    VisitResult,
    encode_report,
)

S = 1_000_000_000


class Site:
    """A keeper with its journal and its timers."""

    def __init__(self, *, slots: int = 1, evaluations: int = 10, policy: object = None) -> None:
        self.make = lambda: VisitKeeper(
            KeeperConfig(slots=slots),
            Roles(
                data=DataNode({DataSetId("s1/records"): policy or make_policy()}),
                computes=True,
                verification=VerificationUnit(UNIT, evaluations),
                aggregates=True,
            ),
            lambda report: f"signed {len(report)}",
            self.check,
        )
        self.route = 1
        self.keeper = self.make()
        self.now_ns = START_NS
        self.journal: list = []
        self.timers: dict[str, int] = {}

    def check(self, order: VisitOrder) -> int:
        """The route of any order is right, and of this version."""
        return self.route

    def give(self, event: Event) -> list[Effect]:
        """Handle, keep records and timers, check."""
        effects = self.keeper.handle(event, self.now_ns)
        self.keeper.check_invariants()
        for effect in effects:
            match effect:
                case Append(records=records):
                    self.journal += records
                case SetTimer(name=name, at_ns=at_ns):
                    self.timers[name] = at_ns
                case CancelTimer(name=name):
                    self.timers.pop(name, None)
        return effects

    def hear(self, message, sender: NodeId = CENTER) -> list[Effect]:
        """A message of the centre."""
        return self.give(Delivered(sender=sender, message=message))

    def fire(self, name: str) -> list[Effect]:
        """Time passes until this timer fires."""
        self.now_ns = max(self.now_ns, self.timers.pop(name))
        return self.give(TimerFired(name=name))

    def finish(self, order) -> list[Effect]:
        """Inputs arrive, the work is done."""
        self.give(InputsArrived(visit=order.visit, fetched_bytes=100, seconds=0.5))
        return self.give(WorkFinished(visit=order.visit, outcome=make_outcome(order.work)))

    def restart(self) -> list[Effect]:
        """The process dies and starts again."""
        self.keeper = self.make()
        replay(self.keeper, self.journal)
        self.timers = {}
        return self.give(Started())

    def states(self) -> list[str]:
        """States of open visits."""
        return [state.value for _, state in self.keeper.snapshot()]


# --- taking an order ------------------------------------------------------------------------------------------------


def test_order_is_durable_before_anything_is_fetched():
    site = Site()

    effects = site.hear(make_order())

    assert isinstance(effects[0], Append)
    assert isinstance(effects[0].records[0], VisitTaken)
    assert [type(effect) for effect in effects[1:3]] == [FetchInputs, SetTimer]
    assert site.states() == ["fetching"]


def test_order_from_anybody_but_the_centre_is_counted_and_dropped():
    site = Site()

    assert site.hear(make_order(), sender=NodeId("n0002")) == []
    assert site.keeper.counters.shown() == {"messages_not_from_center": 1}


def test_order_twice_is_taken_once_and_answered_with_progress():
    site = Site()
    site.hear(make_order())

    again = site.hear(make_order())

    assert messages(VisitProgress, again)
    assert not all_effects(FetchInputs, again)
    assert not all_effects(Append, again)


def test_order_against_the_policy_is_refused_with_every_rule_and_leaves_no_trace():
    site = Site(policy=make_policy(owners=(), purposes=("billing",)))

    (effect,) = site.hear(make_order())

    assert {fault.rule for fault in effect.message.faults} == {"owners", "purposes"}
    assert site.journal == []
    assert site.states() == []


def test_orders_beyond_the_bound_are_refused_as_busy():
    site = Site()
    for number in range(OPEN_VISITS):
        site.hear(make_order(number + 1))

    (refused,) = messages(VisitRefused, site.hear(make_order(OPEN_VISITS + 1)))

    assert refused.reason
    assert not refused.faults


def test_slots_bound_what_works_and_the_oldest_waits_least():
    site = Site(slots=1)
    first, second = make_order(1), make_order(2)
    for order in (first, second):
        site.hear(order)
    begun = site.give(InputsArrived(visit=first.visit, fetched_bytes=0, seconds=0.0))
    waits = site.give(InputsArrived(visit=second.visit, fetched_bytes=0, seconds=0.0))
    then = site.give(WorkFinished(visit=first.visit, outcome=make_outcome(first.work)))

    assert [effect.order.visit for effect in all_effects(BeginWork, begun)] == [first.visit]
    assert not all_effects(BeginWork, waits)
    assert [effect.order.visit for effect in all_effects(BeginWork, then)] == [second.visit]


def test_wait_for_a_slot_is_told_by_how_far_the_visits_before_are():
    site = Site(slots=2)
    assert site.keeper.wait_s(site.now_ns) == 0
    orders = [make_order(number) for number in range(1, 5)]
    for order in orders[:2]:
        site.hear(order)
        site.give(InputsArrived(visit=order.visit, fetched_bytes=0, seconds=0.0))
    assert site.keeper.wait_s(site.now_ns) == 0, "nothing is known yet of how long visits take here"

    site.now_ns += seconds_to_ns(10)
    site.give(WorkProgressed(visit=orders[0].visit, done=20, of=100))
    site.give(WorkProgressed(visit=orders[1].visit, done=50, of=100))
    assert site.keeper.wait_s(site.now_ns) == pytest.approx(10), "the second has done half, the first a fifth"

    site.give(WorkFinished(visit=orders[1].visit, outcome=make_outcome(orders[1].work)))
    assert site.keeper.wait_s(site.now_ns) == 0
    for order in orders[2:]:
        site.hear(order)
    # Both fetch: one will have the free slot for the usual 10 s, the other waits for it.
    assert site.keeper.wait_s(site.now_ns) == pytest.approx(20)


# --- working and reporting ------------------------------------------------------------------------------------------


def test_result_is_durable_before_it_is_reported():
    site = Site()
    order = make_order()
    site.hear(order)

    effects = site.finish(order)

    kinds = [type(effect) for effect in effects]
    assert kinds.index(Append) < kinds.index(Send)
    (result,) = messages(VisitResult, effects)
    assert result.signature == f"signed {len(encode_report(result.report))}"


def test_result_carries_what_the_site_itself_measured_of_fetching():
    site = Site()
    order = make_order()
    site.hear(order)

    (result,) = messages(VisitResult, site.finish(order))

    assert (result.report.outcome.fetched_bytes, result.report.outcome.fetch_s) == (100, 0.5)


def test_result_is_repeated_ever_more_slowly_until_acknowledged():
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)
    name, waits = f"report {order.visit}", []
    for _ in range(8):
        began = site.now_ns
        assert messages(VisitResult, site.fire(name))
        waits.append((site.now_ns - began) / S)

    assert waits == sorted(waits)
    assert waits[-1] == REPORT_MOST_S
    site.hear(ResultAccepted(visit=order.visit, fence=1))
    assert site.timers == {}
    assert site.states() == []


@pytest.mark.parametrize("fence", [2, 99])
def test_acknowledgement_with_another_fence_is_ignored(fence):
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)

    assert site.hear(ResultAccepted(visit=order.visit, fence=fence)) == []
    assert site.states() == ["done"]


def test_acknowledgement_before_the_result_is_ignored():
    site = Site()
    site.hear(make_order())

    assert site.hear(ResultAccepted(visit=make_order().visit, fence=1)) == []
    assert site.states() == ["fetching"]


def test_order_repeated_after_the_result_gets_the_result():
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)

    assert messages(VisitResult, site.hear(order))


def test_order_repeated_after_the_end_says_that_it_is_over():
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)
    site.hear(ResultAccepted(visit=order.visit, fence=1))

    effects = site.hear(order)

    assert messages(VisitFailed, effects)
    assert not all_effects(FetchInputs, effects)


@pytest.mark.parametrize(
    "event",
    [
        InputsFailed(visit=make_order().visit, what="gone", blame="unavailable"),
        WorkFailed(visit=make_order().visit, what="x" * 9999, blame="input"),
    ],
)
def test_failure_is_durable_then_reported_and_bounded(event):
    site = Site()
    site.hear(make_order())

    effects = site.give(event)

    assert isinstance(effects[0], Append)
    (failed,) = messages(VisitFailed, effects)
    assert failed.blame == event.blame
    assert len(failed.reason) <= 4096
    assert all_effects(AbandonVisit, effects)


def test_events_of_closed_visits_only_clean_up():
    site = Site()
    order = make_order()
    site.hear(order)
    site.hear(VisitCancel(visit=order.visit, fence=1))

    assert site.give(InputsArrived(visit=order.visit, fetched_bytes=0, seconds=0.0)) == []
    assert site.give(WorkFailed(visit=order.visit, what="", blame="bug")) == []
    finished = site.give(WorkFinished(visit=order.visit, outcome=make_outcome(order.work)))
    assert finished == [AbandonVisit(visit=order.visit)]


def test_progress_tells_how_far_the_work_is():
    site = Site()
    order = make_order()
    site.hear(order)
    site.give(InputsArrived(visit=order.visit, fetched_bytes=0, seconds=0.0))
    site.give(WorkProgressed(visit=order.visit, done=3, of=4, loss=0.5))

    (progress,) = messages(VisitProgress, site.fire(f"progress {order.visit}"))

    assert (progress.phase, progress.done, progress.of, progress.loss) == ("working", 3, 4, 0.5)


# --- leases and fences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("working", [False, True])
def test_lease_that_runs_out_abandons_the_visit(working):
    site = Site()
    order = make_order()
    site.hear(order)
    if working:
        site.give(InputsArrived(visit=order.visit, fetched_bytes=0, seconds=0.0))

    effects = site.fire(f"lease {order.visit}")

    assert all_effects(AbandonVisit, effects)
    assert isinstance(site.journal[-1], VisitClosed)
    assert site.states() == []
    assert site.keeper.counters.shown() == {"leases_lapsed": 1}


def test_lease_counts_from_when_the_renewal_arrived():
    site = Site()
    order = make_order()
    site.hear(order)
    site.now_ns += 3 * S

    site.hear(LeaseRenewed(visit=order.visit, fence=1, lease_s=4.0))

    assert site.timers[f"lease {order.visit}"] == site.now_ns + 4 * S


def test_renewal_with_another_fence_renews_nothing():
    site = Site()
    site.hear(make_order())

    assert site.hear(LeaseRenewed(visit=make_order().visit, fence=2, lease_s=4.0)) == []


def test_result_outlives_the_lease():
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)

    assert f"lease {order.visit}" not in site.timers
    assert site.give(TimerFired(name=f"lease {order.visit}")) == []
    assert site.states() == ["done"]


@pytest.mark.parametrize("kind", [ResultFenced, VisitCancel])
def test_fence_drops_a_visit_in_any_state_and_frees_its_slot(kind):
    site = Site(slots=1)
    first, second = make_order(1), make_order(2)
    for order in (first, second):
        site.hear(order)
        site.give(InputsArrived(visit=order.visit, fetched_bytes=0, seconds=0.0))

    effects = site.hear(kind(visit=first.visit, fence=1))

    assert [effect.order.visit for effect in all_effects(BeginWork, effects)] == [second.visit]
    site.finish(second)
    site.hear(kind(visit=second.visit, fence=2))
    assert site.states() == []
    assert site.timers == {}


# --- restarts -------------------------------------------------------------------------------------------------------


def test_restart_while_working_says_at_once_that_the_work_is_lost():
    site = Site()
    order = make_order()
    site.hear(order)

    (failed,) = messages(VisitFailed, site.restart())

    assert (failed.visit, failed.fence, failed.blame) == (order.visit, 1, "unavailable")


def test_restart_with_an_owed_result_reports_the_same_bytes():
    site = Site()
    order = make_order()
    site.hear(order)
    (before,) = messages(VisitResult, site.finish(order))

    (after,) = messages(VisitResult, site.restart())

    assert after == before


def test_restart_after_the_end_owes_nothing_and_remembers():
    site = Site()
    order = make_order()
    site.hear(order)
    site.finish(order)
    site.hear(ResultAccepted(visit=order.visit, fence=1))

    assert site.restart() == []
    assert messages(VisitFailed, site.hear(order))


def test_closed_visits_are_remembered_up_to_a_bound():
    site = Site()
    for number in range(CLOSED_REMEMBERED + 10):
        site.keeper.apply(VisitClosed(visit=VisitId(f"{JOB}/{number}"), why="lapsed"))

    assert len(site.keeper._closed) == CLOSED_REMEMBERED
    assert messages(VisitFailed, site.hear(make_order(CLOSED_REMEMBERED)))
    assert all_effects(FetchInputs, site.hear(make_order(1)))


# --- roles ----------------------------------------------------------------------------------------------------------


def test_evaluations_are_counted_durably_and_then_refused():
    site = Site(evaluations=2)
    for number in (1, 2):
        order = make_order(number, make_evaluation())
        site.hear(order)
        (result,) = messages(VisitResult, site.finish(order))
        assert result.report.outcome.evaluations_left == 2 - number
    site.restart()

    (refused,) = messages(VisitRefused, site.hear(make_order(3, make_evaluation())))

    assert [fault.rule for fault in refused.faults] == ["evaluations_per_job"]


def test_consent_withdrawn_ends_the_visit_but_not_a_result_that_is_owed():
    site = Site(slots=2)
    done, working = make_order(1), make_order(2)
    for order in (done, working):
        site.hear(order)
    site.finish(done)

    effects = site.give(PoliciesChanged(policies={DataSetId("s1/records"): make_policy(owners=())}))

    (failed,) = messages(VisitFailed, effects)
    assert (failed.visit, failed.blame) == (working.visit, "policy")
    assert "owners" in failed.reason
    assert site.states() == ["done", "done"]


def prepare(**changes) -> VisitPrepare:
    """A visit at s1 is likely."""
    values = {
        "job": JOB,
        "package": InputRef(artifact=PACKAGE, holders=(), grant="g"),
        "warrant": make_warrant(),
        "dataset": DataSetId("s1/records"),
    }
    return VisitPrepare(**(values | changes))


def test_prepare_warms_a_child_only_where_the_use_would_be_allowed():
    assert all_effects(WarmChild, Site().hear(prepare()))
    assert Site(policy=make_policy(owners=())).hear(prepare()) == []


def test_prepare_for_measuring_is_for_units_only():
    site = Site()
    assert all_effects(WarmChild, site.hear(prepare(dataset=None, verify=True)))

    site.keeper.roles.verification = None

    assert site.hear(prepare(dataset=None, verify=True)) == []
    assert site.keeper.counters.shown() == {"prepares_refused": 1}


def test_release_passes_on_what_may_be_dropped():
    dropped = Site().hear(ReleaseArtifacts(job=JOB, artifacts=(PACKAGE,), job_ended=True))

    assert dropped == [DropArtifacts(job=JOB, artifacts=(PACKAGE,), job_ended=True)]


def test_message_for_another_role_is_counted():
    site = Site()
    assert site.hear(VisitProgress(visit=VisitId("x/1"), fence=1, phase="working")) == []
    assert site.keeper.counters.shown() == {"messages_for_another_role": 1}


def test_invariants_see_a_visit_that_is_done_and_owes_nothing():
    site = Site()
    site.hear(make_order())
    next(iter(site.keeper._open.values())).state = State.DONE

    with pytest.raises(BugError, match="owes"):
        site.keeper.check_invariants()


def test_table_leads_every_state_to_closed():
    for state in State:
        assert TABLE.is_final(state) == (state is State.CLOSED)
        assert state is State.CLOSED or TABLE.permits(state, "dropped")
