"""The reporter as a core: a description until it is known, heartbeats after, leave until it is taken."""

from __future__ import annotations

from tests.builders import START_NS, make_site, messages

from daitn.base.effects import CancelTimer, Delivered, Effect, Send, SetTimer, Started, TimerFired
from daitn.base.ids import CENTER, JobId, NodeId
from daitn.terminal.reporter import REPEAT_S, TIMER, DescriptorChanged, LeaveAsked, Linked, NodeLeft, Reporter
from daitn.terminal.work import DropArtifacts, JobsPinned
from daitn.wire.center_tools import JobsEnded, JobsHeld
from daitn.wire.terminal_tools import Leaving, Left
from daitn.wire.topology_tools import Describe, DescribeAgain, Described, Heartbeat

S = 1_000_000_000


def known(now_ns: int = START_NS) -> Reporter:
    """A reporter whose description the map holds."""
    reporter = Reporter()
    reporter.handle(DescriptorChanged(descriptor=make_site(1)), now_ns)
    hear(reporter, Described(sequence=reporter.sequence, heartbeat_s=2.0), now_ns)
    return reporter


def hear(reporter: Reporter, message, now_ns: int = START_NS, sender: NodeId = CENTER) -> list[Effect]:
    """A message arrives."""
    effects = reporter.handle(Delivered(sender=sender, message=message), now_ns)
    reporter.check_invariants()
    return effects


def timer_of(effects: list[Effect]) -> int:
    """When it wakes up again."""
    (at_ns,) = [effect.at_ns for effect in effects if isinstance(effect, SetTimer)]
    return at_ns


def test_nothing_is_said_before_there_is_a_descriptor():
    assert Reporter().handle(Started(), START_NS) == []
    assert Reporter().handle(Linked(), START_NS) == []


def test_description_is_repeated_until_the_map_holds_it():
    reporter = Reporter()
    first = reporter.handle(DescriptorChanged(descriptor=make_site(1)), START_NS)
    again = reporter.handle(TimerFired(name=TIMER), START_NS + S)

    assert messages(Describe, first)[0].sequence == messages(Describe, again)[0].sequence
    assert timer_of(first) == START_NS + round(REPEAT_S * S)


def test_description_known_becomes_heartbeats_at_the_maps_pace():
    reporter = known()

    effects = reporter.handle(TimerFired(name=TIMER), START_NS + 2 * S)

    assert messages(Heartbeat, effects) == [Heartbeat(sequence=reporter.sequence)]
    assert timer_of(effects) == START_NS + 4 * S


def test_acknowledgement_of_an_older_description_is_not_taken_for_the_new_one():
    reporter = known()
    old = reporter.sequence
    reporter.handle(DescriptorChanged(descriptor=make_site(1, region="north")), START_NS)

    assert hear(reporter, Described(sequence=old, heartbeat_s=2.0)) == []
    assert not reporter.known


def test_acknowledgement_from_anybody_else_is_ignored():
    reporter = Reporter()
    reporter.handle(DescriptorChanged(descriptor=make_site(1)), START_NS)

    hear(reporter, Described(sequence=reporter.sequence, heartbeat_s=2.0), sender=NodeId("n0002"))

    assert not reporter.known


def test_sequences_grow_over_a_restart():
    first, second = known(START_NS), known(START_NS + S)

    assert second.sequence > first.sequence


def test_sequence_passes_the_maps_where_the_clock_was_set_back():
    before = known(START_NS + 3600 * S)
    after = known(START_NS)
    assert after.sequence < before.sequence

    (describe,) = messages(Describe, hear(after, DescribeAgain(known_sequence=before.sequence)))

    assert describe.sequence > before.sequence


def test_map_that_lost_the_description_gets_it_again():
    reporter = known()

    assert messages(Describe, hear(reporter, DescribeAgain(known_sequence=0)))
    assert not reporter.known


def test_leave_is_repeated_until_taken_then_the_timer_stops():
    reporter = known()
    assert messages(Leaving, reporter.handle(LeaveAsked(reason="moved"), START_NS))
    assert messages(Leaving, reporter.handle(TimerFired(name=TIMER), START_NS + S))

    assert hear(reporter, Left()) == [CancelTimer(name=TIMER), NodeLeft()]


def test_left_without_having_asked_ends_an_expelled_node():
    assert hear(known(), Left()) == [CancelTimer(name=TIMER), NodeLeft()]


def test_link_that_is_back_is_used_at_once():
    assert messages(Heartbeat, known().handle(Linked(), START_NS))


def test_jobs_that_artifacts_are_kept_for_are_named_and_those_that_ended_let_go():
    reporter = known()
    first, second = JobId("j1"), JobId("j2")

    said = reporter.handle(JobsPinned(jobs=(first, second)), START_NS)

    assert said == [Send(receiver=CENTER, message=JobsHeld(jobs=(first, second)))]
    assert reporter.handle(JobsPinned(jobs=()), START_NS) == []
    assert hear(reporter, JobsEnded(jobs=(second,))) == [DropArtifacts(job=second, artifacts=(), job_ended=True)]
    assert hear(reporter, JobsEnded(jobs=(first,)), sender=NodeId("n0002")) == []
