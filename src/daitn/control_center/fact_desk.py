"""The desk where reports of facts come in: rosters, batches of reports, what was lost, and alarms for what was wrong.

Paper II-A, DRRT layer. Reports are checked and applied by `topology.intake`; here is who may announce what, what is
counted, whom to ask again, and what an operator is told. An alarm names the node, the fault and the first value that
showed it; the same is told again only after `ALARM_S`, whatever a node does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from daitn.base.effects import Event
from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.base.units import seconds_to_ns
from daitn.control_center.alarms import CenterAlarms
from daitn.control_center.config import Member
from daitn.control_center.node_records import NodeRecords
from daitn.control_center.question_desk import QuestionDesk
from daitn.control_center.turn import Turn
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.trust import Evidence
from daitn.topology.intake import Intake
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.map_entries import KeepMapEntry, ReportsEntry, RosterEntry
from daitn.topology.refusals import MARKS, Example, Fault
from daitn.wire.center_topology import QuestionAsked
from daitn.wire.topology_tools import FactsAsked, FactsTold, Heartbeat, RosterAnnounced, RosterKept

ALARM_S: Final = 600.0
"""The same fault of the same node is told again after ten minutes: its counter shows how often it happens."""

ALARMS_MOST: Final = 10_000
"""Pairs of node and fault remembered: all faults of a thousand nodes; beyond it the oldest are told anew."""

ABSURD_TIMES: Final = 10.0
"""A claim is named in an alarm from so many times what is believed of it, which is twice what was measured: visits
beside other work have been seen at half of their site's speed. All that are cut are counted."""

ASK_TIMER: Final = "facts again"


class ReportsArrived(Event, frozen=True, kw_only=True):
    """Packed reports came, in this order; senders were proven by the fabric. Both are as long."""

    senders: list[NodeId]
    payloads: list[bytes]
    cut: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """Messages that were beyond their sender's share and were not read, by sender."""


class MapDamaged(Event, frozen=True, kw_only=True):
    """What was kept of the map was damaged when it was loaded; `what`: which file, how, and what was used instead."""

    what: str


class FactDesk:
    """See the module's docstring."""

    def __init__(
        self,
        knowledge: KnowledgeMap,
        records: NodeRecords,
        counters: Counters,
        member: Callable[[NodeId], Member | None],
        askers: Collection[NodeId] = (),
    ) -> None:
        self._knowledge = knowledge
        self.alarms = CenterAlarms(records)
        self.counters = counters
        self._member = member
        self.questions = QuestionDesk(knowledge.facts, askers, counters)
        self._alarmed: dict[tuple[NodeId, Fault], int] = {}

    def arrived(self, turn: Turn, event: ReportsArrived) -> Intake:
        """Take reports; each sender has given a sign of life."""
        intake = self._knowledge.intake
        before = int(intake.sources.dropped.sum())
        seen = intake.take_messages(event.senders, event.payloads, turn.now_ns)
        for sender in {*event.senders, *event.cut}:
            self._knowledge.spoke(sender, turn.now_ns)
        for sender, count in event.cut.items():
            self.counters.count("facts_refused", Fault.FLOOD.label, by=count)
            share = intake.share_bytes_per_s(sender)
            text = f"{sender} reports more than its share of {share:.0f} bytes a second; {count} messages were not read"
            self._say(turn, sender, Fault.FLOOD, text)
        if seen.records:
            self.counters.count("facts_taken", by=seen.records)
            kept = ReportsEntry(received_ns=turn.now_ns, senders=event.senders, payloads=event.payloads)
            turn.perform(KeepMapEntry(entry=kept))
        if lost := int(intake.sources.dropped.sum()) - before:
            self.counters.count("facts_messages_lost", by=lost)
        for fault, count in seen.counts.items():
            self.counters.count("facts_marked" if fault in MARKS else "facts_refused", fault.label, by=count)
            if (example := seen.examples.get(fault)) is not None:
                self._alarm(turn, fault, example, count)
        for fault, example in seen.culprits:
            self._alarm(turn, fault, example, seen.counts[fault])
        self.ask(turn)
        return seen

    def bounded(self, turn: Turn) -> None:
        """Claims that descriptions made, or that visits measured, were cut: each is counted, absurd ones are named."""
        cut, self._knowledge.intake.bounded = self._knowledge.intake.bounded, []
        for example in cut:
            self.counters.count("facts_marked", Fault.CLAIM_BOUNDED.label)
            self._alarm(turn, Fault.CLAIM_BOUNDED, example, 1)

    def damaged(self, turn: Turn, event: MapDamaged) -> None:
        """Let the operator know; what was lost is told again by those whose facts it was."""
        self.alarms.sound(turn, "map damaged", event.what)

    def ask(self, turn: Turn) -> None:
        """Ask those whose facts are not all here, and look again while there are any."""
        intake = self._knowledge.intake
        for node in intake.to_ask(turn.now_ns):
            known = int(intake.sources.incarnation[intake.sources.find(node)])
            turn.send(node, FactsAsked(incarnation=known))
        if intake.waiting:
            turn.wake_in(ASK_TIMER, 1.0)

    def beat(self, turn: Turn, sender: NodeId, message: Heartbeat) -> None:
        """A node says how many messages of facts it has sent: the last ones may be lost."""
        intake = self._knowledge.intake
        intake.told(sender, message.incarnation, message.told, turn.now_ns)
        if intake.waiting:
            turn.wake_in(ASK_TIMER, 1.0)

    def heard(self, turn: Turn, sender: NodeId, message: RosterAnnounced | FactsTold | QuestionAsked) -> None:
        """What a node says about its reports, or asks of the map."""
        self._knowledge.spoke(sender, turn.now_ns)
        match message:
            case RosterAnnounced():
                self._announced(turn, sender, message)
            case FactsTold():
                self._told(turn, sender, message)
            case QuestionAsked():
                self.questions.asked(turn, sender, message)

    def _announced(self, turn: Turn, sender: NodeId, message: RosterAnnounced) -> None:
        """A node numbers the things it speaks for."""
        intake = self._knowledge.intake
        member = self._member(sender)
        if member is None or self._knowledge.node(sender) is None:
            return  # it describes itself first, and repeats this until then
        foreign = [thing for thing in message.things if thing != sender and not thing.startswith(f"{member.name}/")]
        if foreign or message.kind not in (Kind.TERMINAL, Kind.DATA, Kind.MODEL):
            what = f"{message.kind.value} {foreign[0][:80]}" if foreign else f"things of kind {message.kind.value}"
            self._refuted(turn, sender, f"it announces {what}, which it does not speak for")
            return
        if not intake.begin(sender, message.incarnation):
            known = int(intake.sources.incarnation[intake.sources.find(sender)])
            turn.send(sender, FactsAsked(incarnation=known))
            return
        try:
            intake.announce(sender, message.kind, message.first, message.things)
        except PeerError as fault:
            self._refuted(turn, sender, fault.what)
            return
        except UnavailableError as fault:
            self.counters.count("facts_refused", Fault.FLOOD.label)
            self._say(turn, sender, Fault.FLOOD, fault.what)
            return
        intake.unsynced.pop(intake.sources.find(sender), None)
        entry = RosterEntry(
            node=sender,
            incarnation=message.incarnation,
            kind=message.kind,
            first=message.first,
            things=message.things,
        )
        turn.perform(KeepMapEntry(entry=entry))
        up_to = message.first + len(message.things)
        turn.send(sender, RosterKept(incarnation=message.incarnation, kind=message.kind, up_to=up_to))

    def _told(self, turn: Turn, sender: NodeId, message: FactsTold) -> None:
        """A node has reported everything again."""
        intake = self._knowledge.intake
        index = intake.sources.find(sender)
        if index >= 0 and message.incarnation == intake.sources.incarnation[index]:
            intake.synced(sender, message.sequence, turn.now_ns)
            turn.wake_in(ASK_TIMER, 1.0)

    def _refuted(self, turn: Turn, sender: NodeId, why: str) -> None:
        self.counters.count("facts_refused", Fault.FORGED.label)
        turn.record_if(self._knowledge.found(sender, Evidence.REFUTED, turn.now_ns, why=why))
        self._say(turn, sender, Fault.FORGED, f"{sender}: {why}")

    def _alarm(self, turn: Turn, fault: Fault, example: Example, count: int) -> None:
        if fault is Fault.CLAIM_BOUNDED and example.value < ABSURD_TIMES * example.most:
            return
        sources, kind = self._knowledge.intake.sources, ""
        sender = sources.node(example.source) if example.source >= 0 else NodeId("unknown")
        if example.row >= 0 and example.group:
            table = self._knowledge.table_of(example.group)
            kind = f" of {table.kind.value} {table.id_of(example.row)}" if example.row < table.high else ""
        value = f": {example.fact} {example.value:g}, at most {example.most:g} is believed" if example.fact else ""
        text = (
            f"{sender} reported {example.group or 'a message'}{kind} and it is {fault.label}{value}; {count} together"
        )
        if fault is Fault.FORGED:
            turn.record_if(self._knowledge.found(sender, Evidence.REFUTED, turn.now_ns, why=text))
        self._say(turn, sender, fault, text)

    def _say(self, turn: Turn, sender: NodeId, fault: Fault, text: str) -> None:
        """Raise an alarm, unless the same was raised a moment ago."""
        key = (sender, fault)
        last_ns = self._alarmed.get(key)
        if last_ns is not None and turn.now_ns - last_ns < seconds_to_ns(ALARM_S):
            return
        self._alarmed.pop(key, None)
        while len(self._alarmed) >= ALARMS_MOST:
            self._alarmed.pop(next(iter(self._alarmed)))
        self._alarmed[key] = turn.now_ns
        self.alarms.sound(turn, f"facts {sender} {fault.label}", text)
