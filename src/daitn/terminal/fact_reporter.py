"""The fact reporter: tells the map what changes fast about this node and the things it speaks for, in packed reports.

Link terminal → topology (paper, II-A, DRRT-tool CP). Things are numbered once (`RosterAnnounced`, repeated until the
map has it), then each report names them in four bytes. Reports may be lost; the map sees the gap, asks, and everything
is told again. Sequences begin with the process (`incarnation`), so nothing of this is kept on disk.

When a group of facts is told, and within how many bytes, is the rule of `describe.reporting`, tuned by the map's
orchestrator (`TuneReporting`; each is acknowledged by the next heartbeat). Groups that are due together travel
together, by group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from daitn.base.effects import Delivered, Effect, Event, Record, Send, SetTimer, Started, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER
from daitn.base.metrics import Counters
from daitn.base.units import NS_PER_MS, seconds_to_ns
from daitn.describe.reporting import ReportingRule, registered_shape
from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.reporting import Reading, Tuning
from daitn.descriptors.uncertainty import encode_deviations
from daitn.wire.packed_facts import (
    HEADER,
    PART_BEFORE_NS,
    PART_NUMBERS,
    PART_PROCESS_NS,
    TICK_NS,
    encode_parts,
    encode_records,
    part_dtype,
    parts_most,
    record_dtype,
    records_most,
)
from daitn.wire.topology_tools import (
    THINGS_MOST,
    FactsAsked,
    FactsTold,
    ReportingTuned,
    RosterAnnounced,
    RosterKept,
    TuneReporting,
)

TIMER: Final = "report facts"

REPEAT_S: Final = 1.0
"""Longest between two looks at what is due, and between two tries to announce a roster."""

TELL_S: Final = 0.25
"""What becomes due within this time travels together: half the message of one record is its header."""

READINGS_AT_ONCE: Final = 2048
"""Told in one go: of load, 94 kB, so that what else the node says never waits for it."""


class FactsMeasured(Event, frozen=True, kw_only=True):
    """A group of facts of one thing was measured: values in the group's order, NaN where not known (255 for flags and
    choices); standard deviations of its numbers, empty for exact ones."""

    kind: Kind
    thing: str
    group: str
    values: tuple[float, ...]
    deviations: tuple[float, ...] = ()
    measured_ns: int


def measured_facts(thing: str, name: str, values: Mapping[str, float], measured_ns: int) -> FactsMeasured:
    """Facts of a group by name, as they are told; those not named are not known. BugError for one of another group."""
    group = group_named(name)
    known = {fact.name: math.nan if fact.numeric else float(UNKNOWN_CODE) for fact in group.facts}
    if strange := sorted(values.keys() - known):
        raise BugError(f"{', '.join(strange)}: no fact of the group {name}")
    told = tuple(float(value) for value in (known | dict(values)).values())
    return FactsMeasured(kind=group.kind, thing=thing, group=name, values=told, measured_ns=measured_ns)


def attachment_facts(node: str, *, fell: bool, now_ns: int) -> tuple[FactsMeasured, ...]:
    """What a node says of its own link once that is up; `fell`: it was down before. There is no way to tell of a
    fall while it lasts; once it is over it is told only where the link falls too often: damped here, at the origin."""
    steps = (0.0, 1.0) if fell else (1.0,)
    return tuple(
        measured_facts(node, "attachment", {"attached": step}, now_ns + place) for place, step in enumerate(steps)
    )


class ThingDropped(Event, frozen=True, kw_only=True):
    """This node does not speak for that thing any more: nothing of it is told."""

    kind: Kind
    thing: str


class ReportFacts(Effect, frozen=True, kw_only=True):
    """Hand these messages to the fabric's lane of reports, in order."""

    payloads: tuple[bytes, ...]


class _Kept:
    """One group of one thing: the newest measurement, and the number of its last report."""

    def __init__(self, measured: FactsMeasured) -> None:
        self.measured = measured
        self.sequence = 0
        self.told = False


class FactReporter:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.sequence = 0
        self.counters = Counters()
        self._rule = ReportingRule(registered_shape, HEADER.itemsize, Tuning())
        self._asked = False
        """The map wants everything, and is told when it has it."""
        self._numbers: dict[Kind, dict[str, int]] = {}
        self._announced: dict[Kind, int] = {}
        """Numbers below this are known to the map."""
        self._facts: dict[tuple[Kind, str, str], _Kept] = {}
        self._taken = 0
        """The tuning that the next heartbeat acknowledges; 0: none."""
        self._wakes_ns: int | None = None
        """When it looks at what is due; None: not before something is measured."""

    @property
    def tuning(self) -> Tuning:
        """The tuning in force."""
        return self._rule.tuning

    def beat(self) -> tuple[int, int, int]:
        """For a heartbeat that is said now: incarnation, number of the last message of facts, and the tuning that it
        acknowledges (0: none). One acknowledgement that is lost costs a tuning that tells all."""
        taken, self._taken = self._taken, 0
        return self.incarnation, self.sequence, taken

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Started():
                self._begin(now_ns // NS_PER_MS)
            case FactsMeasured():
                return self._measured(event, now_ns)
            case ThingDropped(kind=kind, thing=thing):
                for key in [key for key in self._facts if key[:2] == (kind, thing)]:
                    del self._facts[key]
                self._rule.forget(thing)
            case TimerFired(name="report facts"):
                self._wakes_ns = None
                return [*self._announce(), *self._tell(now_ns), *self._wake(now_ns)]
            case Delivered(sender=sender, message=RosterKept() as kept):
                if sender == CENTER and kept.incarnation == self.incarnation:
                    known = self._announced.get(kept.kind, 0)
                    self._announced[kept.kind] = max(known, min(kept.up_to, len(self._numbers.get(kept.kind, ()))))
                    for one in list(self._facts.values()):
                        self._offer(one.measured, now_ns)
                    # After a restart, here or there, the two may believe in different tunings.
                    tuned = Send(receiver=CENTER, message=ReportingTuned(number=self._rule.tuning.number))
                    return [*self._announce(), *self._tell(now_ns), tuned]
            case Delivered(sender=sender, message=FactsAsked(incarnation=incarnation)):
                if sender == CENTER and self._facts:
                    return self._again(incarnation, now_ns)
            case Delivered(sender=sender, message=TuneReporting() as message):
                if sender == CENTER:
                    return self._tuned(message, now_ns)
                self.counters.count("messages_not_from_center")
            case _:
                pass
        return []

    def apply(self, record: Record) -> None:
        """Nothing of this core is journalled."""

    def check_invariants(self) -> None:
        """BugError if something was told of a thing that the map does not know, or too many bytes are saved up."""
        self._rule.check_invariants()
        for (kind, thing, _), kept in self._facts.items():
            if kept.told and self._numbers[kind][thing] >= self._announced.get(kind, 0):
                raise BugError(f"{thing} was reported and is not announced")

    def _begin(self, incarnation: int) -> None:
        self.incarnation = max(1, incarnation)
        self.sequence = 0
        self._announced.clear()
        self._asked = False
        self._rule.forget_all()
        for kept in self._facts.values():
            kept.sequence, kept.told = 0, False

    def _measured(self, event: FactsMeasured, now_ns: int) -> list[Effect]:
        group = group_named(event.group)
        if len(event.values) != len(group.facts) or len(event.deviations) not in (0, len(group.numeric)):
            raise BugError(f"{len(event.values)} values for the {len(group.facts)} facts of {event.group}")
        numbers = self._numbers.setdefault(event.kind, {})
        numbers.setdefault(event.thing, len(numbers))
        key = (event.kind, event.thing, event.group)
        kept = self._facts.get(key)
        if kept is None:
            self._facts[key] = _Kept(event)
            self._offer(event, now_ns)
            return [*(self._announce() if self._wakes_ns is None else ()), *self._wake(now_ns)]
        kept.measured = event
        self._offer(event, now_ns)
        return self._wake(now_ns)

    def _offer(self, event: FactsMeasured, now_ns: int) -> None:
        """Let the rule see a measurement, once the map knows whose it is."""
        if self._numbers[event.kind][event.thing] < self._announced.get(event.kind, 0):
            reading = Reading(thing=event.thing, group=event.group, values=event.values, measured_ns=event.measured_ns)
            if not self._rule.take(reading, now_ns):
                self.counters.count("readings_refused")

    def _tuned(self, message: TuneReporting, now_ns: int) -> list[Effect]:
        tuning = merge_tuning(self._rule.tuning, message)
        if tuning is not None:
            self._rule.tune(tuning, now_ns)
            self.counters.count("reports_tuned")
            self._taken = tuning.number
            return self._wake(now_ns)
        return [Send(receiver=CENTER, message=ReportingTuned(number=self._rule.tuning.number))]

    def _again(self, incarnation: int, now_ns: int) -> list[Effect]:
        """The map asks for everything: with the roster, where it holds another process's or none."""
        if incarnation > self.incarnation:
            self._begin(incarnation + 1)
            return self._announce()
        if incarnation != self.incarnation:
            self._announced.clear()
            self._rule.forget_all()
            for kept in self._facts.values():
                kept.told = False
            return self._announce()
        if not self._asked:  # asked again meanwhile: it is on its way, as far as the bytes reach
            self._asked = True
            self._rule.repeat_all(now_ns)
        return self._tell(now_ns)

    def _announce(self) -> list[Effect]:
        """The next part of each roster that the map does not have yet."""
        effects: list[Effect] = []
        for kind, numbers in self._numbers.items():
            first = self._announced.get(kind, 0)
            things = tuple(list(numbers)[first : first + THINGS_MOST])
            if things and self.incarnation:
                part = RosterAnnounced(incarnation=self.incarnation, kind=kind, first=first, things=things)
                effects.append(Send(receiver=CENTER, message=part))
        return effects

    def _tell(self, now_ns: int) -> list[Effect]:
        due: dict[tuple[str, int], list[Reading]] = {}
        for reading in self._rule.collect(now_ns, READINGS_AT_ONCE):
            due.setdefault((reading.group, self._part_of(reading, now_ns)), []).append(reading)
        payloads: list[bytes] = []
        for (name, part), told in due.items():
            group = group_named(name)
            most = parts_most(group, part) if part else records_most(group)
            payloads += [self._pack(name, part, told[at : at + most], now_ns) for at in range(0, len(told), most)]
        effects: list[Effect] = [ReportFacts(payloads=tuple(payloads))] if payloads else []
        if self._asked and not self._rule.owes:
            self._asked = False
            effects.append(
                Send(receiver=CENTER, message=FactsTold(incarnation=self.incarnation, sequence=self.sequence))
            )
        return effects

    def _part_of(self, reading: Reading, now_ns: int) -> int:
        """Which facts a reading is told with: as the rule chose, or all (0) where the short form cannot say it."""
        if not reading.part:
            return 0
        group = group_named(reading.group)
        since_ns = now_ns - self.incarnation * NS_PER_MS
        fits = (
            self._numbers[group.kind][reading.thing] < PART_NUMBERS
            and 0 <= since_ns < PART_PROCESS_NS
            and 0 <= now_ns - reading.measured_ns < PART_BEFORE_NS
        )
        if not fits:
            self._rule.charge(record_dtype(group).itemsize + HEADER.itemsize)
        return reading.part if fits else 0

    def _pack(self, name: str, part: int, told: Sequence[Reading], now_ns: int) -> bytes:
        group = group_named(name)
        facts = [(place, fact) for place, fact in enumerate(group.facts) if not part or part >> place & 1]
        numbers = [place for place, fact in facts if fact.numeric]
        among = [place for place, fact in enumerate(group.facts) if fact.numeric]
        records = np.zeros(len(told), part_dtype(group, part) if part else record_dtype(group))
        for record, reading in zip(records, told, strict=True):
            kept = self._facts[group.kind, reading.thing, name]
            kept.sequence, kept.told = kept.sequence + 1, True
            record["number"] = self._numbers[group.kind][reading.thing]
            if part:
                record["sequence"] = kept.sequence & 0xFF
                record["before"] = (now_ns - reading.measured_ns) // TICK_NS
            else:
                record["sequence"], record["generated_ns"] = kept.sequence, reading.measured_ns
            for place, fact in facts:
                record[fact.name] = reading.values[place]
            if numbers:
                far = kept.measured.deviations
                record["deviations"] = encode_deviations(
                    [
                        math.nan if math.isnan(reading.values[place]) else far[among.index(place)] if far else 0.0
                        for place in numbers
                    ]
                )
        self.sequence += 1
        if not part:
            return encode_records(group, records, sequence=self.sequence, incarnation=self.incarnation)
        return encode_parts(group, part, records, sequence=self.sequence, incarnation=self.incarnation, at_ns=now_ns)

    def _wake(self, now_ns: int) -> list[Effect]:
        """Look again when something is due, together with what else is by then; at the latest in a while."""
        soonest_ns = now_ns + seconds_to_ns(TELL_S)
        if not self._facts or (self._wakes_ns is not None and self._wakes_ns <= soonest_ns):
            return []
        next_ns = self._rule.next_ns(now_ns)
        latest_ns = now_ns + seconds_to_ns(REPEAT_S)
        at_ns = latest_ns if next_ns is None else min(latest_ns, max(soonest_ns, next_ns))
        if self._wakes_ns is not None and self._wakes_ns <= at_ns:
            return []
        self._wakes_ns = at_ns
        return [SetTimer(name=TIMER, at_ns=at_ns)]


def merge_tuning(before: Tuning, message: TuneReporting) -> Tuning | None:
    """The tuning in force once a message has come; None where it is not newer, or tells changes of another one."""
    if message.number <= before.number or message.since not in (0, before.number):
        return None
    groups = {(one.thing, one.group): one for one in before.groups} if message.since else {}
    groups |= {(one.thing, one.group): one for one in message.groups}
    return Tuning(
        number=message.number,
        bytes_per_s=message.bytes_per_s,
        burst_bytes=message.burst_bytes,
        sweep_step=message.sweep_step,
        swept=message.swept,
        groups=tuple(groups.values()),
    )
