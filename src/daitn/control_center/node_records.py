"""What nodes reported on the record plane: kept once each, in the order of their series, in the centre's journal."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from daitn.base.effects import Record
from daitn.base.ids import NodeId
from daitn.wire.oam_records import Entry, RecordsReported

SHOWN_MOST: Final = 10_000
"""Newest entries kept in memory for those who look; the journal has them all."""


class NodeRecorded(Record, frozen=True, kw_only=True, tag="node_recorded"):
    """A node reported these entries, from number `first` of its series on."""

    node: NodeId
    since_ns: int
    first: int
    entries: tuple[Entry, ...]
    at_ns: int


class ShownRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One entry with where it came from. `number` counts all entries of the domain from 1."""

    number: int
    node: NodeId
    at_ns: int
    """When the centre had it."""
    entry: Entry


class NodeRecords:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._series: dict[NodeId, tuple[int, int]] = {}
        """By node: its series and the last number held. At most one for each slot of the domain."""
        self._shown: deque[ShownRecord] = deque(maxlen=SHOWN_MOST)
        self._count = 0

    def take(self, node: NodeId, message: RecordsReported, now_ns: int) -> NodeRecorded | None:
        """What of a message is new, to be recorded; None where nothing is, or something before it is missing."""
        held = self.held(node, message.since_ns)
        if message.first > held + 1:
            return None
        new = message.entries[held + 1 - message.first :]
        if not new:
            return None
        return NodeRecorded(node=node, since_ns=message.since_ns, first=held + 1, entries=new, at_ns=now_ns)

    def held(self, node: NodeId, since_ns: int) -> int:
        """The last number held of a node's series; 0 where it is a new one."""
        series, last = self._series.get(node, (0, 0))
        return last if series == since_ns else 0

    def apply(self, record: NodeRecorded) -> None:
        """One fact."""
        self._series[record.node] = (record.since_ns, record.first + len(record.entries) - 1)
        for entry in record.entries:
            self._count += 1
            self._shown.append(ShownRecord(number=self._count, node=record.node, at_ns=record.at_ns, entry=entry))

    def shown(self, after: int = 0) -> tuple[ShownRecord, ...]:
        """Entries beyond a number, oldest first, as far back as they are kept in memory."""
        return tuple(one for one in self._shown if one.number > after)
