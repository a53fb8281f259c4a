"""Links: what carries messages and data between two nodes, as it exists, and the class it is given.

A node has two sessions to its router (control and data), and direct TLS links to other nodes, each either made here or
accepted. A stream through the router has no connection of its own; it is a link all the same, since it is made, carries
and ends (paper, II-A: the communication service establishes CP and DP links and adapts them).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.ids import NodeId
from daitn.descriptors.places import RoundTripSeconds, Share

ROUTER: Final = NodeId("router")
"""The far end of a session."""

LINKS: Final = 512
"""Links of one node: two sessions, the direct links a server keeps and those of its client, streams."""

Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LinkKind(StrEnum):
    """What a link is used for."""

    CONTROL = "control"
    """Session with the router: calls, presence, telemetry, records."""
    DATA = "data"
    """Session with the router: manifests, chunks and streams that go through it."""
    CHUNKS = "chunks"
    """Direct connection for chunks of artifacts, kept for the next transfer."""
    STREAM = "stream"
    """One direction of a direct stream, or both of one through the router."""


class Priority(StrEnum):
    """Who goes first where links share a line; what the carrier does of it is in `node.fabric.session`."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    STREAM = "stream"


PRIORITIES: Final = {
    LinkKind.CONTROL: Priority.INTERACTIVE,
    LinkKind.DATA: Priority.BULK,
    LinkKind.CHUNKS: Priority.BULK,
    LinkKind.STREAM: Priority.STREAM,
}


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a node, as its fabric has it."""

    number: Annotated[int, msgspec.Meta(ge=1)]
    """Names it at its node, in one life of its process."""
    peer: NodeId
    kind: LinkKind
    direct: bool = False
    """A connection between the two; else through the router."""
    opened_here: bool = True
    address: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """Where a direct link was made to; empty for accepted ones."""
    since_unix_s: Annotated[float, msgspec.Meta(ge=0, le=1e11)] = 0.0
    sent_bytes: Bytes = 0
    received_bytes: Bytes = 0
    round_trip_s: RoundTripSeconds | None = None
    """As the kernel measured it on this connection; None: it cannot tell."""
    lost_frac: Share = 0.0
    """Segments sent again, as the kernel counted."""


class LinkClass(msgspec.Struct, frozen=True, kw_only=True):
    """What a link may expect and cost: given by the communication service, from what its ends are."""

    priority: Priority
    metered: bool = False
    """Either end pays by the byte."""
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """Most that it may carry, the lower limit of its ends; 0: no limit."""


class LinkShown(msgspec.Struct, frozen=True, kw_only=True):
    """One link in the book of the domain, with its class and how far it can be relied on."""

    node: NodeId
    state: LinkState
    link_class: LinkClass
    certain: bool
    """Its node is there and said so; false while the node, or the far end of a direct link, cannot be heard."""
    age_s: float
    """Since its node last told its links."""
