"""Intake: messages of packed facts, thousands at once, into the columns; what was wrong is counted by kind and named.

Link terminal → topology (`wire.packed_facts`). Messages of one length and group are joined and read as one array, so a
message costs what joining costs; senders come from the fabric, which has them from certificates. A source of whose
messages some did not arrive is asked for all its facts again (`unsynced`), and so is one whose roster is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_MS
from daitn.descriptors.fact_kinds import Group, Kind
from daitn.descriptors.facts import BY_KIND, BY_NUMBER
from daitn.topology.fact_book import FactBook
from daitn.topology.refusals import Example, Fault, Taken
from daitn.topology.rosters import THINGS_MOST, Roster
from daitn.topology.sources import SourceBook
from daitn.topology.taking import Batch, bound_claim, take
from daitn.wire.packed_facts import (
    HEADER,
    PACKED_VERSION,
    PART_HEADER,
    PART_VERSION,
    TICK_NS,
    Records,
    is_part,
    part_dtype,
    record_dtype,
)

PART_MARK: Final = bytes([PART_VERSION])
"""What messages begin with that tell some facts of a group."""

WAVES_MOST: Final = 16
"""Messages of one source that come together and are taken one after the other; of more, later ones may be refused, as
if they had been lost."""

AGAIN_NS: Final = 1_000_000_000
"""A source is asked for its facts again at most this often."""


MESSAGE_MOST_BYTES: Final = HEADER.itemsize + max(
    record_dtype(group).itemsize for group in BY_NUMBER.values() if group.packed
)
"""Largest message with one record."""


class Intake(msgspec.Struct, kw_only=True):
    """What became of many messages."""

    taken: list[tuple[Group, Taken]] = []
    counts: dict[Fault, int] = {}
    examples: dict[Fault, Example] = {}
    culprits: list[tuple[Fault, Example]] = []
    """One example for each further source with a fault."""
    records: int = 0
    """Records that were taken."""

    def add(self, fault: Fault, count: int, example: Example | None = None) -> None:
        """Count a fault."""
        self.counts[fault] = self.counts.get(fault, 0) + count
        if example is not None:
            self.examples.setdefault(fault, example)


class FactIntake:
    """See the module's docstring."""

    def __init__(self, book: FactBook) -> None:
        self.book = book
        self.sources = SourceBook()
        self.rosters: dict[Kind, Roster] = {kind: Roster() for kind in Kind}
        self.unsynced: dict[int, int] = {}
        """Sources that are to be asked for all their facts, and when they were asked last (0: not yet)."""
        self.bounded: list[Example] = []
        """Claims of descriptions, or beside new measurements, that were cut and that nobody was told of yet."""
        self._told: dict[int, tuple[int, int]] = {}
        """Sources that say they have sent all: up to which message, and when they said so."""

    # --- rosters ----------------------------------------------------------------------------------------------------

    def begin(self, node: NodeId, incarnation: int) -> bool:
        """A node's process has begun to report: its sequences and numbers begin anew. False for an earlier one."""
        index = self.sources.add(node)
        if not self.sources.begin(index, incarnation):
            return bool(incarnation == self.sources.incarnation[index])
        self._told.pop(index, None)
        for roster in self.rosters.values():
            roster.clear(index)
        for table in self.book.tables.values():
            for group in table.groups():
                columns = table.group(group.name)
                if columns is not None:
                    columns.sequence[columns.source == index] = 0
        return True

    def announce(self, node: NodeId, kind: Kind, first: int, things: Sequence[str]) -> NDArray[np.int32]:
        """A node numbers things that it speaks for; their rows. PeerError if one is another's, UnavailableError if they
        are too many for one node: then none is taken."""
        index = self.sources.add(node)
        table = self.book[kind]
        if not 0 <= first <= THINGS_MOST - len(things):
            raise UnavailableError(f"{node} announces {kind.value} number {first}, a roster has {THINGS_MOST} at most")
        new = 0
        for thing in things:
            row = table.row_of(thing)
            new += row is None
            if row is not None and table.owners()[row] != index:
                raise PeerError(f"{node} announces {kind.value} {thing[:80]}, which another node speaks for")
        if self.sources.things[index] + new > THINGS_MOST:
            raise UnavailableError(f"{node} announces {new} more things, it speaks for {THINGS_MOST} at most")
        before = len(table)
        rows = table.add_many(things, index)
        self.rosters[kind].place(index, first, rows)
        self.sources.things[index] += len(table) - before
        return rows

    def withdraw(self, kind: Kind, rows: Sequence[int]) -> None:
        """Things leave the map, and all that refers to them."""
        table = self.book[kind]
        owners = table.owners()[np.asarray(rows, np.intp)] if len(rows) else np.zeros(0, np.int32)
        for index in np.unique(owners[owners >= 0]):
            self.rosters[kind].forget(int(index), np.asarray(rows, np.int32))
        self.book.remove(kind, rows)
        self.recount()

    def recount(self) -> None:
        """Count what each source speaks for anew: O(rows)."""
        self.sources.things[:] = 0
        for table in self.book.tables.values():
            owners = table.owners()
            counted = np.bincount(owners[owners >= 0], minlength=1)
            self.sources.things[: len(counted)] += counted

    def share_bytes_per_s(self, node: NodeId) -> float:
        """What a node may report, as bytes: its share of records, were each the largest there is in a message of its
        own. May be asked by another thread."""
        return self.sources.records_per_s(self.sources.find(node)) * MESSAGE_MOST_BYTES

    def bound_claims(self, row: int) -> None:
        """Cut what a terminal claims of itself to what is believed of it; what was cut is kept in `bounded`."""
        for group in BY_KIND[Kind.TERMINAL]:
            for fact in group.facts:
                if fact.measured_as:
                    cut = bound_claim(self.book[Kind.TERMINAL], row, fact.name)
                    self.bounded += [cut] if cut is not None else []

    # --- messages ---------------------------------------------------------------------------------------------------

    def take_messages(self, senders: list[NodeId], payloads: list[bytes], now_ns: int) -> Intake:
        """Check and apply messages in any mixture: O(bytes)."""
        intake = Intake()
        source = self.sources.find_many(senders)
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        counted: list[tuple[NDArray[np.int32], NDArray[np.uint32]]] = []
        if not any(payload[:1] == PART_MARK for payload in payloads):
            counted += self._take_lengths(source, payloads, lengths, now_ns, intake)
        else:  # what one message leaves out is as the message before it told, so order counts
            waves = waves_of(source, payloads)
            for wave in range(int(waves.max()) + 1):
                at = np.flatnonzero(waves == wave)
                counted += self._take_lengths(source[at], [payloads[i] for i in at], lengths[at], now_ns, intake)
        if counted:
            behind = self.sources.count_messages(*(np.concatenate(parts) for parts in zip(*counted, strict=True)))
            for index in behind:
                self.unsynced.setdefault(int(index), 0)
        return intake

    def to_ask(self, now_ns: int) -> tuple[NodeId, ...]:
        """Sources to be asked now for all their facts."""
        for index, (sequence, told_ns) in list(self._told.items()):
            if sequence <= self.sources.sequence[index]:
                del self._told[index]
            elif now_ns - told_ns >= AGAIN_NS:  # the last of what it sent was lost, and no gap will show it
                del self._told[index]
                self.unsynced.setdefault(index, 0)
        asked = [index for index, last_ns in self.unsynced.items() if now_ns - last_ns >= AGAIN_NS]
        for index in asked:
            self.unsynced[index] = now_ns
        return tuple(self.sources.node(index) for index in asked)

    @property
    def waiting(self) -> bool:
        """Whether some source's facts are not all here."""
        return bool(self.unsynced or self._told)

    def synced(self, node: NodeId, sequence: int, now_ns: int) -> None:
        """A node has sent all its facts, in messages up to this number."""
        index = self.sources.find(node)
        if index >= 0:
            self.unsynced.pop(index, None)
            self._told[index] = (sequence, now_ns)

    def told(self, node: NodeId, incarnation: int, sequence: int, now_ns: int) -> None:
        """A node has sent messages up to this number: the last ones are asked for if they do not come in a while."""
        index = self.sources.find(node)
        if index >= 0 and incarnation == self.sources.incarnation[index] and sequence > self.sources.sequence[index]:
            self._told.setdefault(index, (sequence, now_ns))

    def _take_lengths(
        self,
        source: NDArray[np.int32],
        payloads: list[bytes],
        lengths: NDArray[np.int64],
        now_ns: int,
        intake: Intake,
    ) -> list[tuple[NDArray[np.int32], NDArray[np.uint32]]]:
        """Messages whose order does not matter; the sources and sequences of those that are taken."""
        first = int(lengths[0]) if len(lengths) else 0
        if (lengths == first).all():
            return self._take_length(source, payloads, first, now_ns, intake)
        counted: list[tuple[NDArray[np.int32], NDArray[np.uint32]]] = []
        for length in np.unique(lengths):
            at = np.flatnonzero(lengths == length)
            counted += self._take_length(source[at], [payloads[i] for i in at], int(length), now_ns, intake)
        return counted

    def _take_length(
        self, source: NDArray[np.int32], payloads: list[bytes], length: int, now_ns: int, intake: Intake
    ) -> list[tuple[NDArray[np.int32], NDArray[np.uint32]]]:
        """Messages of one length; the sources and sequences of those that are messages and of a known process."""
        if length <= HEADER.itemsize:
            self._refuse(intake, Fault.UNDECODABLE, source)
            return []
        blob = b"".join(payloads)
        headers: NDArray[Any] = np.ndarray((len(payloads),), HEADER, blob, 0, (length,))
        counted: list[tuple[NDArray[np.int32], NDArray[np.uint32]]] = []
        newer = headers["version"] > PART_VERSION
        if newer.any():
            at = np.flatnonzero(newer)
            told = Example(
                source=int(source[at[0]]),
                row=-1,
                group="",
                fact="version",
                value=float(headers["version"][at[0]]),
                most=PART_VERSION,
            )
            intake.add(Fault.NEWER_VERSION, len(at), told)
            rest_at = np.flatnonzero(~newer)
            known = [payloads[i] for i in rest_at]
            return self._take_length(source[rest_at], known, length, now_ns, intake) if known else []
        in_part = headers["version"] == PART_VERSION
        if in_part.any():
            at = np.flatnonzero(in_part)
            counted += self._take_parts(source[at], [payloads[i] for i in at], length, now_ns, intake)
            if len(at) == len(payloads):
                return counted
            rest_at = np.flatnonzero(~in_part)
            return counted + self._take_length(source[rest_at], [payloads[i] for i in rest_at], length, now_ns, intake)
        numbers = headers["group"]
        for number in np.unique(numbers):
            group = BY_NUMBER.get(int(number))
            at = np.flatnonzero(numbers == number)
            size = record_dtype(group).itemsize if group is not None and group.packed else 0
            held, rest = divmod(length - HEADER.itemsize, size) if size else (0, 1)
            fits = (headers["version"][at] == PACKED_VERSION) & (headers["records"][at] == held) & (rest == 0)
            if not fits.all():
                self._refuse(intake, Fault.UNDECODABLE, source[at[~fits]])
                at = at[fits]
            current = self._current(source[at], headers["incarnation"][at], intake)
            if not current.all():
                at = at[current]
            if not len(at) or group is None:
                continue
            counted.append((source[at], headers["sequence"][at]))
            dtype = record_dtype(group)
            shaped: Records = np.ndarray((len(payloads), held), dtype, blob, HEADER.itemsize, (length, dtype.itemsize))
            records = shaped.reshape(-1) if len(at) == len(payloads) else shaped[at].reshape(-1)
            self.take_records(group, np.repeat(source[at], held) if held > 1 else source[at], records, now_ns, intake)
        return counted

    def _take_parts(
        self, source: NDArray[np.int32], payloads: list[bytes], length: int, now_ns: int, intake: Intake
    ) -> list[tuple[NDArray[np.int32], NDArray[np.uint32]]]:
        """Messages of one length that tell some facts of a group: each record made whole by what is held of its thing,
        then taken like any other."""
        counted: list[tuple[NDArray[np.int32], NDArray[np.uint32]]] = []
        if length <= PART_HEADER.itemsize:
            self._refuse(intake, Fault.UNDECODABLE, source)
            return counted
        blob = b"".join(payloads)
        headers: NDArray[Any] = np.ndarray((len(payloads),), PART_HEADER, blob, 0, (length,))
        forms = headers["group"].astype(np.int64) << 16 | headers["facts"]
        for form in np.unique(forms):
            group, facts = BY_NUMBER.get(int(form) >> 16), int(form) & 0xFFFF
            at = np.flatnonzero(forms == form)
            dtype = part_dtype(group, facts) if group is not None and is_part(group, facts) else None
            held, rest = divmod(length - PART_HEADER.itemsize, dtype.itemsize) if dtype is not None else (0, 1)
            if rest or group is None or dtype is None:
                self._refuse(intake, Fault.UNDECODABLE, source[at])
                continue
            known = np.where(source[at] >= 0, source[at], 0)
            incarnation = self.sources.incarnation[known].astype(np.uint64)
            same = incarnation.astype(np.uint16) == headers["incarnation"][at]
            current = self._current(source[at], np.where(same, incarnation, incarnation + np.uint64(1)), intake)
            at, known, incarnation = at[current], known[current], incarnation[current]
            if not len(at):
                continue
            counted.append((source[at], completed(headers["sequence"][at], self.sources.sequence[known])))
            shaped: Records = np.ndarray(
                (len(payloads), held), dtype, blob, PART_HEADER.itemsize, (length, dtype.itemsize)
            )
            at_ns = incarnation * np.uint64(NS_PER_MS) + headers["at"][at] * np.uint64(TICK_NS)
            speaks = np.repeat(source[at], held)
            told: Records = shaped[at].reshape(-1)
            rows = self.rosters[group.kind].resolve(speaks, told["number"].astype(np.uint32))
            records = self._whole(group, facts, rows, told, np.repeat(at_ns, held).astype(np.int64))
            admitted = self.sources.admit(speaks, now_ns)
            self._take(Batch(group, speaks, rows, records, admitted=admitted, part=facts), now_ns, intake)
        return counted

    def _whole(
        self, group: Group, facts: int, rows: NDArray[np.int32], told: Records, at_ns: NDArray[np.int64]
    ) -> Records:
        """Records of all facts: what was told, and what is held of the rest."""
        columns = self.book[group.kind].ensure(group.name)
        at = np.where((rows >= 0) & (rows < self.book[group.kind].capacity), rows, 0)
        records: Records = np.zeros(len(told), record_dtype(group))
        records["sequence"] = completed(told["sequence"], columns.sequence[at])
        records["number"] = told["number"]
        records["generated_ns"] = at_ns - told["before"].astype(np.int64) * TICK_NS
        place = told_place = 0
        for bit, fact in enumerate(group.facts):
            is_told = bool(facts >> bit & 1)
            records[fact.name] = told[fact.name] if is_told else columns.values[fact.name][at]
            if fact.numeric:
                records["deviations"][:, place] = (
                    told["deviations"][:, told_place] if is_told else columns.deviations[fact.name][at]
                )
                place, told_place = place + 1, told_place + is_told
        return records

    def take_records(
        self, group: Group, source: NDArray[np.int32], records: Records, now_ns: int, intake: Intake
    ) -> None:
        """Check and apply records of one group whose senders are known."""
        rows = self.rosters[group.kind].resolve(source, records["number"])
        self._take(Batch(group, source, rows, records, admitted=self.sources.admit(source, now_ns)), now_ns, intake)

    def take_rows(
        self, group: Group, source: int, rows: NDArray[np.int32], records: Records, now_ns: int, intake: Intake
    ) -> None:
        """As `take_records`, by rows instead of numbers: what the centre and the tools' services measured."""
        self._take(Batch(group, np.full(len(rows), source, np.int32), rows, records), now_ns, intake)

    def _take(self, batch: Batch, now_ns: int, intake: Intake) -> None:
        taken = take(self.book[batch.group.kind], batch, now_ns)
        intake.taken.append((batch.group, taken))
        intake.records += len(taken.rows)
        intake.culprits += taken.culprits
        for fault, count in taken.counts.items():
            intake.add(fault, count, taken.examples.get(fault))
        if Fault.UNKNOWN in taken.counts:
            for index in np.unique(batch.source[batch.rows < 0]):
                self.unsynced.setdefault(int(index), 0)

    def _current(self, source: NDArray[np.int32], incarnation: NDArray[np.uint32], intake: Intake) -> NDArray[np.bool_]:
        """Which messages are of the process that reports now; unknown sources and earlier processes are counted."""
        known = source >= 0
        held = self.sources.incarnation[np.where(known, source, 0)]
        current = known & (incarnation == held) & (held > 0)
        if not current.all():
            earlier = known & (incarnation < held)
            self._refuse(intake, Fault.REPLAYED, source[earlier])
            later = ~current & ~earlier
            self._refuse(intake, Fault.UNKNOWN, source[later])
            for index in np.unique(source[later & known]):
                self.unsynced.setdefault(int(index), 0)
        return np.asarray(current)

    def _refuse(self, intake: Intake, fault: Fault, source: NDArray[np.int32]) -> None:
        if len(source):
            intake.add(fault, len(source), Example(source=int(source[0]), row=-1, group=""))


def completed(last: NDArray[Any], held: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sequences of which the last bytes were told, near those that are held: what is further ahead than half of what
    the bytes reach is behind. O(n)."""
    signed = np.dtype(f"i{last.dtype.itemsize}")
    ahead = (last - held.astype(last.dtype)).astype(signed)
    return np.asarray(np.maximum(held.astype(np.int64) + ahead, 0), np.uint32)


def waves_of(source: NDArray[np.int32], payloads: Sequence[bytes]) -> NDArray[np.int64]:
    """In which turn each message is taken: those of a source in the order in which they came, as far as they are of
    different forms (version, group, facts, length); all first ones together. O(messages)."""
    waves = np.zeros(len(payloads), np.int64)
    last: dict[int, tuple[object, int]] = {}
    for place, (index, payload) in enumerate(zip(source.tolist(), payloads, strict=True)):
        in_part = payload[:1] == PART_MARK
        form = (len(payload), payload[: 4 if in_part else 2])
        before = last.get(index)
        wave = 0 if before is None else before[1] if before[0] == form else min(WAVES_MOST - 1, before[1] + 1)
        waves[place], last[index] = wave, (form, wave)
    return waves
