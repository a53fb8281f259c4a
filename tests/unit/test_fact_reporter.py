"""Facts from a terminal to the map's columns: the reporter and the centre's desk as cores, with losses between them."""

from __future__ import annotations

import math

import pytest
from tests.builders import START_NS, bench, make_site, messages

from daitn.base.effects import (
    Append,
    Compute,
    Delivered,
    Effect,
    Message,
    Send,
    SetTimer,
    Started,
    TimerFired,
    computed,
)
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S
from daitn.control_center.fact_desk import ASK_TIMER, MapDamaged, ReportsArrived
from daitn.control_center.node_records import NodeRecorded
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.reporting import EVERY, GroupTuning, rate_step_below, step_of
from daitn.terminal.fact_reporter import (
    TIMER,
    FactReporter,
    FactsMeasured,
    ReportFacts,
    ThingDropped,
    attachment_facts,
)
from daitn.topology.orchestrator import TUNE_TIMER
from daitn.wire.topology_tools import (
    Describe,
    FactsAsked,
    FactsTold,
    ReportingTuned,
    RosterAnnounced,
    RosterKept,
    TuneReporting,
)

NODE = NodeId("n0001")
LOAD = (0.5, 1.0, 1.0, math.nan, 1e9, 1e12)


def measured(load: float = 0.5, thing: str = NODE, now_ns: int = START_NS) -> FactsMeasured:
    return FactsMeasured(kind=Kind.TERMINAL, thing=thing, group="load", values=(load, *LOAD[1:]), measured_ns=now_ns)


class Link:
    """A reporter and a centre; reports can be lost between them, calls are not."""

    def __init__(self) -> None:
        self.bench = bench()
        self.center = self.bench.center
        self.now_ns = START_NS
        self.lose = False
        self.sent: list[bytes] = []
        self.heard: list[Effect] = []
        describe = Describe(sequence=1, generated_unix_s=0.0, descriptor=make_site(1))
        self.center.handle(Delivered(sender=NODE, message=describe), self.now_ns)
        self.reporter = FactReporter()
        self.to_terminal(Started())

    def to_terminal(self, event) -> None:
        for effect in self.reporter.handle(event, self.now_ns):
            match effect:
                case Send(message=message):
                    self.to_center(Delivered(sender=NODE, message=message))
                case ReportFacts(payloads=payloads):
                    self.sent += payloads
                    if not self.lose:
                        self.to_center(ReportsArrived(senders=[NODE] * len(payloads), payloads=list(payloads)))
        self.reporter.check_invariants()

    def to_center(self, event) -> None:
        effects = self.center.handle(event, self.now_ns)
        self.heard += effects
        for effect in effects:
            if isinstance(effect, Send) and effect.receiver == NODE:
                self.to_terminal(Delivered(sender=CENTER, message=effect.message))
            elif isinstance(effect, Compute):
                self.to_center(computed(effect))

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)
        self.to_terminal(TimerFired(name=TIMER))

    def held(self, fact: str = "load_frac") -> float | bool | str | None:
        table = self.center.knowledge.facts[Kind.TERMINAL]
        row = table.row_of(NODE)
        assert row is not None
        return table.value(row, fact)


def test_facts_reach_the_map():
    link = Link()

    link.to_terminal(measured(0.5))

    assert link.held() == 0.5
    assert link.held("wait_s") is None
    assert link.center.counters.of("facts_taken") == 1


def test_falls_of_a_nodes_own_link_are_damped_where_they_are_seen():
    link = Link()

    def comes_back() -> int:
        before = len(link.sent)
        for event in attachment_facts(NODE, fell=True, now_ns=link.now_ns):
            link.to_terminal(event)
        link.pass_s(5)
        return len(link.sent) - before

    for event in attachment_facts(NODE, fell=False, now_ns=link.now_ns):
        link.to_terminal(event)
    assert link.held("attached") is True
    told = [comes_back() for _ in range(12)]

    assert (sum(told), link.held("attached")) == (1, False), "nobody hears of each fall, and one no says it all"
    node = link.center.knowledge.node(NODE)
    assert node is not None
    assert not node.attached
    for _ in range(60):
        link.pass_s(100)
    assert link.held("attached") is True, "it has been steady for an hour"
    assert node.attached


def test_change_is_told_and_the_rest_only_before_it_is_old():
    link = Link()
    link.to_terminal(measured(0.5))
    told = len(link.sent)

    link.to_terminal(measured(0.51))
    link.pass_s(1)
    assert len(link.sent) == told
    link.to_terminal(measured(0.8))
    link.pass_s(1)
    assert (len(link.sent), link.held()) == (told + 1, pytest.approx(0.8))
    link.pass_s(4)
    assert len(link.sent) == told + 2


def test_lost_reports_are_asked_for_again():
    link = Link()
    link.to_terminal(measured(0.5))
    link.lose = True
    link.to_terminal(measured(0.9))
    link.pass_s(1)
    assert link.held() == 0.5
    link.lose = False
    link.to_terminal(measured(0.1))
    link.pass_s(1)

    assert link.held() == pytest.approx(0.1)
    assert link.center.counters.of("facts_messages_lost") == 1
    assert messages(FactsAsked, link.heard) != []
    link.to_center(TimerFired(name=ASK_TIMER))
    assert not link.center.knowledge.intake.waiting


def test_process_that_began_again_is_believed_and_its_recording_is_not():
    link = Link()
    link.to_terminal(measured(0.5))
    recording = list(link.sent)
    link.now_ns += 5 * NS_PER_S
    link.reporter = FactReporter()
    link.to_terminal(Started())
    link.to_terminal(measured(0.25))
    assert link.held() == 0.25

    link.to_center(ReportsArrived(senders=[NODE] * len(recording), payloads=recording))

    assert link.held() == 0.25
    assert link.center.counters.of("facts_refused", "replayed") == len(recording)


def test_process_whose_clock_was_set_back_begins_a_later_incarnation():
    link = Link()
    link.to_terminal(measured(0.5))
    link.now_ns -= 3600 * NS_PER_S
    link.reporter = FactReporter()
    link.to_terminal(Started())
    link.to_terminal(measured(0.25))

    assert link.held() == 0.25


def test_roster_is_repeated_until_it_is_kept():
    reporter = FactReporter()
    reporter.handle(Started(), START_NS)

    first = reporter.handle(measured(), START_NS)
    again = reporter.handle(TimerFired(name=TIMER), START_NS + NS_PER_S)

    assert messages(RosterAnnounced, first) == messages(RosterAnnounced, again) != []
    assert [effect for effect in again if isinstance(effect, ReportFacts)] == []
    assert [effect.name for effect in first if isinstance(effect, SetTimer)] == [TIMER]


def test_thing_that_is_gone_is_not_told():
    link = Link()
    link.to_terminal(measured())
    told = len(link.sent)

    link.to_terminal(ThingDropped(kind=Kind.TERMINAL, thing=NODE))
    link.pass_s(60)

    assert len(link.sent) == told


def test_things_of_others_are_not_announced():
    link = Link()
    incarnation = link.reporter.incarnation
    foreign = RosterAnnounced(incarnation=incarnation, kind=Kind.TERMINAL, first=0, things=("n0002",))

    link.to_center(Delivered(sender=NODE, message=foreign))

    assert messages(RosterKept, link.heard) == []
    assert link.center.counters.of("facts_refused", "forged") == 1
    assert [change.kind.value for change in link.center.knowledge.trust_book.changes(NODE)] == ["claim-refuted"]


def test_fault_is_counted_and_named_in_one_alarm():
    link = Link()
    link.to_terminal(measured())
    hostile = link.sent[0][:-20] + b"\xff" * 20

    for _ in range(3):
        link.to_center(ReportsArrived(senders=[NODE], payloads=[hostile]))

    alarms = [
        record.entries[0].text
        for effect in link.heard
        if isinstance(effect, Append)
        for record in effect.records
        if isinstance(record, NodeRecorded)
    ]
    assert len(alarms) == 1
    assert "n0001" in alarms[0]
    assert sum(link.center.counters.of("facts_refused", why) for why in ("not-a-number", "replayed")) == 3


@pytest.mark.parametrize(
    "message", [FactsAsked(incarnation=0), RosterKept(incarnation=1, kind=Kind.DATA, up_to=1 << 24)]
)
def test_messages_of_others_than_the_centre_change_nothing(message: Message):
    reporter = FactReporter()
    reporter.handle(Started(), START_NS)
    reporter.handle(measured(), START_NS)

    assert reporter.handle(Delivered(sender=NodeId("n0002"), message=message), START_NS) == []


def test_facts_that_do_not_fit_their_group_are_our_bug():
    reporter = FactReporter()

    with pytest.raises(BugError, match="load"):
        reporter.handle(
            FactsMeasured(kind=Kind.TERMINAL, thing=NODE, group="load", values=(1.0,), measured_ns=1), START_NS
        )


def test_centre_that_hears_of_a_lost_tail_asks_again():
    link = Link()
    link.to_terminal(measured())
    told = FactsTold(incarnation=link.reporter.incarnation, sequence=link.reporter.sequence + 1)
    link.to_center(Delivered(sender=NODE, message=told))
    before = len(messages(FactsAsked, link.heard))

    link.now_ns += 2 * NS_PER_S
    link.to_center(TimerFired(name=ASK_TIMER))

    assert len(messages(FactsAsked, link.heard)) == before + 1


@pytest.mark.parametrize("first", [(1 << 18) - 1, 5])
def test_roster_of_one_node_is_bounded(first):
    link = Link()
    link.center.knowledge.intake.sources.things[link.center.knowledge.intake.sources.find(NODE)] = (1 << 18) - 1
    things = tuple(f"s1/t{number}" for number in range(2))
    roster = RosterAnnounced(incarnation=link.reporter.incarnation, kind=Kind.TERMINAL, first=first, things=things)

    link.to_center(Delivered(sender=NODE, message=roster))

    assert messages(RosterKept, link.heard) == []
    assert link.center.knowledge.facts[Kind.TERMINAL].row_of("s1/t0") is None
    assert link.center.counters.of("facts_refused", "flood") == 1
    assert link.center.knowledge.trust_book.changes(NODE) == ()


def test_report_of_a_newer_version_is_refused_and_its_version_named():
    link = Link()
    link.to_terminal(measured())
    link.to_center(ReportsArrived(senders=[NODE] * 2, payloads=[bytes([9]) + link.sent[0][1:], link.sent[0]]))

    assert link.center.counters.of("facts_refused", "newer-version") == 1
    assert link.center.counters.of("facts_refused", "replayed") == 1, "what came with it is looked at"
    said = [one.entry.text for one in link.center.records.shown() if "newer-version" in one.entry.text]
    assert len(said) == 1
    assert "version 9, at most 2 is believed" in said[0]


def test_map_that_was_damaged_on_the_disk_is_named_in_an_alarm():
    link = Link()
    link.to_center(MapDamaged(what="snapshot-0000000007.map has 3 bytes: it was cut off; the one before it is used"))

    (alarm,) = [one.entry for one in link.center.records.shown()]
    assert (alarm.name, "snapshot-0000000007.map" in alarm.text) == ("map damaged", True)


def test_flood_that_was_cut_unread_is_counted_and_its_sender_named():
    link = Link()
    link.to_center(ReportsArrived(senders=[], payloads=[], cut={NODE: 812}))

    assert link.center.counters.of("facts_refused", "flood") == 812
    (alarm,) = [one.entry for one in link.center.records.shown()]
    assert NODE in alarm.text
    assert "812 messages were not read" in alarm.text


# --- tuned by the orchestrator ----------------------------------------------------------------------------------------

LOAD_NUMBER = group_named("load").number


def tune(number: int, since: int = 0, move: float = 0.25, **changes) -> TuneReporting:
    """Loads are told when they move by more than `move`, or after an hour."""
    groups = (GroupTuning(EVERY, LOAD_NUMBER, step_of(4096.0), {0: step_of(move)}, True),)
    back = number - since if since else 0
    values = {"number": number, "back": back, "rate_step": rate_step_below(1e4), "burst_step": 96, "groups": groups}
    return TuneReporting(**(values | changes))


def hear(link: Link, message: TuneReporting, sender: NodeId = CENTER) -> list[ReportingTuned]:
    """A tuning arrives: what is answered."""
    return messages(ReportingTuned, link.reporter.handle(Delivered(sender=sender, message=message), link.now_ns))


def test_tuning_is_taken_and_acknowledged():
    link = Link()
    link.to_terminal(measured(0.5))

    assert hear(link, tune(100)) == []
    assert [link.reporter.beat()[2] for _ in range(2)] == [100, 0], "by one heartbeat"
    told = len(link.sent)
    link.to_terminal(measured(0.7))
    link.pass_s(30)
    assert len(link.sent) == told
    link.to_terminal(measured(0.8))
    link.pass_s(1)
    assert (len(link.sent), link.held()) == (told + 1, pytest.approx(0.8))


def test_changes_of_a_tuning_that_is_not_in_force_change_nothing_and_say_which_is():
    link = Link()
    hear(link, tune(100))

    assert hear(link, tune(104, since=103, move=0.5)) == [ReportingTuned(number=100)]
    assert link.reporter.tuning.groups == tune(100).groups


def test_changes_keep_what_they_do_not_speak_of():
    link = Link()
    hear(link, tune(100))
    hear(link, tune(101, since=100, groups=(GroupTuning(NODE, LOAD_NUMBER, 4, {}),)))

    assert {one.thing for one in link.reporter.tuning.groups} == {EVERY, NODE}


def test_older_tuning_and_another_sender_change_nothing():
    link = Link()
    hear(link, tune(102))
    hear(link, tune(101, move=0.5))
    hear(link, tune(103, move=0.5), sender=NodeId("n0002"))

    assert link.reporter.tuning.number == 102
    assert link.reporter.counters.of("messages_not_from_center") == 1


def test_orchestrator_learns_from_what_the_map_took_and_tunes_the_node():
    link = Link()
    link.to_terminal(measured(0.5))
    for second in range(30):
        link.to_terminal(measured(0.9 if second % 2 else 0.1))
        link.pass_s(1)

    link.to_center(TimerFired(name=TUNE_TIMER))

    assert link.reporter.tuning.number > 0
    assert link.center.orchestrator.tuner.told_bytes == sum(map(len, link.sent))
    assert messages(ReportingTuned, link.heard) == []  # its answer went to the centre


def test_reading_out_of_order_is_refused_and_counted():
    link = Link()
    link.to_terminal(measured(0.5))
    link.to_terminal(measured(0.9, now_ns=START_NS - NS_PER_S))

    assert link.reporter.counters.of("readings_refused") == 1


def test_everything_asked_for_is_told_within_the_bytes_and_the_map_hears_of_its_end():
    link = Link()
    link.to_terminal(measured(0.5))
    hear(link, tune(100, rate_step=rate_step_below(10.0), burst_step=48))
    link.pass_s(1)
    asked = Delivered(sender=CENTER, message=FactsAsked(incarnation=link.reporter.incarnation))

    first = link.reporter.handle(asked, link.now_ns)
    again = link.reporter.handle(asked, link.now_ns)
    assert (len(messages(FactsTold, first)), messages(FactsTold, again)) == (1, [])
    link.now_ns += 7 * NS_PER_S
    later = link.reporter.handle(TimerFired(name=TIMER), link.now_ns)

    assert [effect for effect in later if isinstance(effect, ReportFacts)] != []
    assert len(messages(FactsTold, later)) == 1


def test_node_that_began_again_says_so_and_is_told_its_tuning_again():
    link = Link()
    link.to_terminal(measured(0.5))
    link.to_center(TimerFired(name=TUNE_TIMER))
    number = link.reporter.tuning.number
    link.now_ns += 5 * NS_PER_S
    link.reporter = FactReporter()
    link.to_terminal(Started())
    link.to_terminal(measured(0.5, now_ns=link.now_ns))

    assert number > 0
    assert link.reporter.tuning.number == number
