"""What is kept of the map between two snapshots: announcements and batches of reports, as they came, in order.

Replaying them on the snapshot gives the map again, since taking reports is a pure function of the map, the messages and
the moment they were received.
"""

from __future__ import annotations

import msgspec

from daitn.base.effects import Effect
from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.descriptors.fact_kinds import Kind
from daitn.topology.intake import FactIntake


class RosterEntry(msgspec.Struct, frozen=True, kw_only=True, tag="roster"):
    """A part of a roster that was kept."""

    node: NodeId
    incarnation: int
    kind: Kind
    first: int
    things: tuple[str, ...]


class ReportsEntry(msgspec.Struct, frozen=True, kw_only=True, tag="reports"):
    """A batch of reports."""

    received_ns: int
    senders: list[NodeId]
    payloads: list[bytes]


MapEntry = RosterEntry | ReportsEntry


class KeepMapEntry(Effect, frozen=True, kw_only=True):
    """Add this to the map's journal; losing it to a crash costs a sync and no more."""

    entry: MapEntry


def apply_entry(intake: FactIntake, entry: MapEntry) -> None:
    """Change the map by one entry; one that does not fit it any more changes nothing."""
    match entry:
        case RosterEntry():
            if intake.begin(entry.node, entry.incarnation):
                try:
                    intake.announce(entry.node, entry.kind, entry.first, entry.things)
                except (PeerError, UnavailableError):
                    return
        case ReportsEntry():
            intake.take_messages(entry.senders, entry.payloads, entry.received_ns)
