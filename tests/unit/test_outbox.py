"""The record plane: what ends at a site arrives at the centre once, in order, over any loss, crash or repetition."""

from __future__ import annotations

import pytest

from daitn.base.effects import Append, Delivered, Effect, Record, Send, Started, TimerFired, replay
from daitn.base.ids import CENTER, DataSetId, JobId, NodeId, VisitId
from daitn.control_center.node_records import NodeRecords
from daitn.oam.outbox import ALARMS_MOST, AlarmNoticed, RecordOutbox, RecordsAcknowledged
from daitn.terminal.reporter import Linked
from daitn.terminal.visit_records import VisitClosed, VisitTaken
from daitn.wire.oam_records import RECORDS_MOST, Alarm, RecordsKept, RecordsReported, VisitOver

NODE = NodeId("n0001")
NOW_NS = 1_700_000_000_000_000_000


def facts(count: int, first: int = 1) -> list[Record]:
    """Visits taken and closed."""
    made: list[Record] = []
    for number in range(first, first + count):
        visit = VisitId(f"j1/{number}")
        made.append(
            VisitTaken(visit=visit, job=JobId("j1"), fence=number, dataset=DataSetId("a/b"), at_ns=NOW_NS + number)
        )
        made.append(VisitClosed(visit=visit, why="acknowledged", at_ns=NOW_NS + number + 1))
    return made


def filled(count: int) -> RecordOutbox:
    box = RecordOutbox()
    replay(box, facts(count))
    return box


def sent(effects: list[Effect]) -> list[RecordsReported]:
    return [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, RecordsReported)]


def kept(up_to: int, box: RecordOutbox) -> Delivered:
    return Delivered(sender=CENTER, message=RecordsKept(since_ns=box.since_ns, up_to=up_to))


def test_closed_visit_is_reported_with_how_it_ended_and_what_it_used():
    (message,) = sent(filled(1).speak(NOW_NS))

    (entry,) = message.entries
    assert isinstance(entry, VisitOver)
    assert (message.first, entry.visit, entry.how, entry.dataset) == (1, "j1/1", "acknowledged", "a/b")
    assert entry.taken_ns < entry.over_ns


def test_message_that_is_not_acknowledged_is_repeated_word_by_word():
    box = filled(2)
    (first,) = sent(box.speak(NOW_NS))
    assert sent(box.speak(NOW_NS)) == []

    assert sent(box.handle(TimerFired(name="records"), NOW_NS)) == [first]
    assert sent(box.handle(Linked(), NOW_NS)) == [first]


def test_acknowledged_entries_are_forgotten_durably_and_the_rest_follows():
    box = filled(RECORDS_MOST + 3)
    (first,) = sent(box.speak(NOW_NS))
    assert len(first.entries) == RECORDS_MOST

    effects = box.handle(kept(RECORDS_MOST, box), NOW_NS)

    assert effects[0] == Append(records=(RecordsAcknowledged(up_to=RECORDS_MOST),))
    (second,) = sent(effects)
    assert (second.first, len(second.entries)) == (RECORDS_MOST + 1, 3)


def test_acknowledgement_of_what_was_never_sent_or_by_somebody_else_changes_nothing():
    box = filled(2)
    box.speak(NOW_NS)
    assert box.handle(kept(3, box), NOW_NS) == []
    forged = RecordsKept(since_ns=box.since_ns, up_to=2)
    assert box.handle(Delivered(sender=NodeId("n0002"), message=forged), NOW_NS) == []
    assert box.handle(Delivered(sender=CENTER, message=RecordsKept(since_ns=1, up_to=2)), NOW_NS) == []
    assert box.waiting == 2


def test_replayed_outbox_goes_on_with_the_same_numbers():
    journal = [*facts(5), RecordsAcknowledged(up_to=3), *facts(2, first=6)]
    box = RecordOutbox()
    replay(box, journal)

    (message,) = sent(box.handle(Started(), NOW_NS))

    assert (message.first, [entry.visit for entry in message.entries]) == (4, ["j1/4", "j1/5", "j1/6", "j1/7"])


def test_alarm_is_written_before_it_is_told_and_the_same_alarm_is_no_news():
    box = RecordOutbox()
    effects = box.handle(AlarmNoticed(name="disk", text="full"), NOW_NS)
    assert isinstance(effects[0], Append)
    (message,) = sent(effects)
    assert message.entries == (Alarm(name="disk", text="full", raised_ns=NOW_NS),)

    assert box.handle(AlarmNoticed(name="disk", text="full"), NOW_NS) == []
    assert box.handle(AlarmNoticed(name="disk", text="fuller"), NOW_NS) != []


def test_alarms_beyond_the_bound_are_counted_and_dropped():
    box = RecordOutbox()
    for number in range(ALARMS_MOST + 2):
        box.handle(AlarmNoticed(name="disk", text=str(number)), NOW_NS)

    assert box.waiting == ALARMS_MOST
    assert box.counters.of("alarms_dropped") == 2


@pytest.mark.parametrize("again", [1, 3])
def test_repeated_message_is_kept_once(again):
    records = NodeRecords()
    (message,) = sent(filled(3).speak(NOW_NS))
    taken = records.take(NODE, message, NOW_NS)
    assert taken is not None
    records.apply(taken)

    for _ in range(again):
        assert records.take(NODE, message, NOW_NS) is None
    assert records.held(NODE, message.since_ns) == 3
    assert [one.number for one in records.shown()] == [1, 2, 3]
    assert [one.number for one in records.shown(after=2)] == [3]


def test_overlap_is_cut_off_and_a_gap_is_not_taken():
    records = NodeRecords()
    box = filled(4)
    (message,) = sent(box.speak(NOW_NS))
    early = RecordsReported(since_ns=message.since_ns, first=1, entries=message.entries[:2])
    late = RecordsReported(since_ns=message.since_ns, first=4, entries=message.entries[3:])
    assert records.take(NODE, late, NOW_NS) is None
    records.apply(records.take(NODE, early, NOW_NS))

    rest = records.take(NODE, message, NOW_NS)

    assert rest is not None
    assert (rest.first, [entry.visit for entry in rest.entries]) == (3, ["j1/3", "j1/4"])


def test_node_that_lost_its_journal_begins_another_series():
    records = NodeRecords()
    (message,) = sent(filled(3).speak(NOW_NS))
    records.apply(records.take(NODE, message, NOW_NS))
    other = RecordsReported(since_ns=message.since_ns + 9, first=1, entries=message.entries[:1])

    assert records.held(NODE, other.since_ns) == 0
    assert records.take(NODE, other, NOW_NS) is not None
