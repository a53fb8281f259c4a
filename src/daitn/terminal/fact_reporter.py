"""The fact reporter: tells the map what changes fast about this node and the things it speaks for, in packed reports.

Link terminal → topology (paper, II-A, DRRT-tool CP). Things are numbered once (`RosterAnnounced`, repeated until the
map has it), then each report names them in four bytes. Reports may be lost; the map sees the gap, asks, and everything
is told again. Sequences begin with the process (`incarnation`), so nothing of this is kept on disk.

A group of facts is told when one of them moved by more than `MOVE_FRAC` of itself, or when what was told has a third of
the age at which it would count as old. Many groups that are due together travel together, by group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from daitn.base.effects import Delivered, Effect, Event, Record, Send, SetTimer, Started, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER
from daitn.base.units import NS_PER_MS, seconds_to_ns
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.uncertainty import encode_deviations
from daitn.wire.packed_facts import encode_records, record_dtype, records_most
from daitn.wire.topology_tools import THINGS_MOST, FactsAsked, FactsTold, RosterAnnounced, RosterKept

TIMER: Final = "report facts"

REPEAT_S: Final = 1.0
"""Between two looks at what is due, and two tries to announce a roster."""

MOVE_FRAC: Final = 0.05
"""A change of this part of a value is worth telling at once; less waits until the rest is told."""


class FactsMeasured(Event, frozen=True, kw_only=True):
    """A group of facts of one thing was measured: values in the group's order, NaN where not known (255 for flags and
    choices); standard deviations of its numbers, empty for exact ones."""

    kind: Kind
    thing: str
    group: str
    values: tuple[float, ...]
    deviations: tuple[float, ...] = ()
    measured_ns: int


class ThingDropped(Event, frozen=True, kw_only=True):
    """This node does not speak for that thing any more: nothing of it is told."""

    kind: Kind
    thing: str


class ReportFacts(Effect, frozen=True, kw_only=True):
    """Hand these messages to the fabric's lane of reports, in order."""

    payloads: tuple[bytes, ...]


class _Kept:
    """One group of one thing: the newest measurement, and what was told."""

    def __init__(self, measured: FactsMeasured) -> None:
        self.measured = measured
        self.sequence = 0
        self.told: tuple[float, ...] = ()
        self.told_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether it is worth telling."""
        if not self.told:
            return True
        if now_ns - self.told_ns >= seconds_to_ns(group_named(self.measured.group).age_most_s / 3):
            return True
        return any(_moved(old, new) for old, new in zip(self.told, self.measured.values, strict=True))


class FactReporter:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.sequence = 0
        self._numbers: dict[Kind, dict[str, int]] = {}
        self._announced: dict[Kind, int] = {}
        """Numbers below this are known to the map."""
        self._facts: dict[tuple[Kind, str, str], _Kept] = {}
        self._waking = False

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
            case TimerFired(name="report facts"):
                self._waking = False
                return [*self._announce(), *self._tell(now_ns), *self._wake(now_ns)]
            case Delivered(sender=sender, message=RosterKept() as kept):
                if sender == CENTER and kept.incarnation == self.incarnation:
                    known = self._announced.get(kept.kind, 0)
                    self._announced[kept.kind] = max(known, min(kept.up_to, len(self._numbers.get(kept.kind, ()))))
                    return [*self._announce(), *self._tell(now_ns)]
            case Delivered(sender=sender, message=FactsAsked(incarnation=incarnation)):
                if sender == CENTER and self._facts:
                    return self._again(incarnation, now_ns)
            case _:
                pass
        return []

    def apply(self, record: Record) -> None:
        """Nothing of this core is journalled."""

    def check_invariants(self) -> None:
        """BugError if something was told of a thing that the map does not know."""
        for (kind, thing, _), kept in self._facts.items():
            if kept.told and self._numbers[kind][thing] >= self._announced.get(kind, 0):
                raise BugError(f"{thing} was reported and is not announced")

    def _begin(self, incarnation: int) -> None:
        self.incarnation = max(1, incarnation)
        self.sequence = 0
        self._announced.clear()
        for kept in self._facts.values():
            kept.sequence, kept.told = 0, ()

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
            return self._announce() + self._wake(now_ns) if not self._waking else []
        kept.measured = event
        return []

    def _again(self, incarnation: int, now_ns: int) -> list[Effect]:
        """The map asks for everything: with the roster, where it holds another process's or none."""
        if incarnation > self.incarnation:
            self._begin(incarnation + 1)
        elif incarnation != self.incarnation:
            self._announced.clear()
        for kept in self._facts.values():
            kept.told = ()
        if incarnation != self.incarnation:
            return self._announce()
        effects = self._tell(now_ns)
        told = FactsTold(incarnation=self.incarnation, sequence=self.sequence)
        return [*effects, Send(receiver=CENTER, message=told)]

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
        due: dict[str, list[_Kept]] = {}
        for (kind, thing, group), kept in self._facts.items():
            if self._numbers[kind][thing] < self._announced.get(kind, 0) and kept.due(now_ns):
                due.setdefault(group, []).append(kept)
        payloads: list[bytes] = []
        for name, told in due.items():
            most = records_most(group_named(name))
            payloads += [self._pack(name, told[start : start + most], now_ns) for start in range(0, len(told), most)]
        return [ReportFacts(payloads=tuple(payloads))] if payloads else []

    def _pack(self, name: str, told: Sequence[_Kept], now_ns: int) -> bytes:
        group = group_named(name)
        records = np.zeros(len(told), record_dtype(group))
        for record, kept in zip(records, told, strict=True):
            measured = kept.measured
            kept.sequence += 1
            kept.told, kept.told_ns = measured.values, now_ns
            record["number"] = self._numbers[measured.kind][measured.thing]
            record["sequence"], record["generated_ns"] = kept.sequence, measured.measured_ns
            for fact, value in zip(group.facts, measured.values, strict=True):
                record[fact.name] = value
            numbers = [value for fact, value in zip(group.facts, measured.values, strict=True) if fact.numeric]
            if numbers:
                deviations = measured.deviations or (0.0,) * len(numbers)
                known = [math.nan if math.isnan(one) else far for one, far in zip(numbers, deviations, strict=True)]
                record["deviations"] = encode_deviations(known)
        self.sequence += 1
        return encode_records(group, records, sequence=self.sequence, incarnation=self.incarnation)

    def _wake(self, now_ns: int) -> list[Effect]:
        if self._waking or not self._facts:
            return []
        self._waking = True
        return [SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(REPEAT_S))]


def _moved(old: float, new: float) -> bool:
    if math.isnan(old) or math.isnan(new):
        return math.isnan(old) != math.isnan(new)
    return abs(new - old) > MOVE_FRAC * max(abs(old), abs(new))
