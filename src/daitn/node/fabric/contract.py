"""What the fabric promises, whatever carries it: calls, latest values, presence, chunks and streams between nodes.

The docstrings here are the contract; `tests/contract/test_fabric.py` holds every carrier to it. Nothing above this
package imports a messaging library. Three promises hold throughout: the *sender* handed to a handler is the one its
certificate proves, every queue is bounded, and everything that waits has a deadline or can be cancelled. Delivery is
at most once: repeating, ordering between calls and durability belong to the cores above.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec

from daitn.base.errors import DaitnError, InputError
from daitn.base.ids import CENTER, ArtifactId, ChunkId, DomainId, GrantId, NodeId
from daitn.base.limits import CHUNK_BYTES, MESSAGE_BYTES
from daitn.base.names import check_name
from daitn.node.fabric.link_ledger import LinksNow, TransferSeen
from daitn.node.fabric.report_shares import ShareOf

TELEMETRY_BYTES: Final = 64 * 1024
"""Largest telemetry value; it has to fit one batch of the transport, or a single lost fragment costs 50 ms."""

TELEMETRY_TOPICS: Final = 256
"""Topics one node may publish; the newest value of each is kept and repeated."""

REPORTS_AT_ONCE: Final = 8192
"""Most reports that a reader is given together."""

STREAM_MESSAGE_BYTES: Final = CHUNK_BYTES
"""Largest message of a stream; tensors above it are cut by whoever sends them."""

STREAM_CREDITS: Final = 8
"""Messages of one stream that may wait at its reader; 16 MiB at most, enough for 1 Gbit/s over 100 ms."""


Buffer = bytes | bytearray | memoryview


class Plane(StrEnum):
    """What a call is for; each plane has its own keys, priority and, for data, its own session."""

    CP = "cp"
    """Control: small, urgent, never behind bulk."""
    DP = "dp"
    """Data: under a grant."""
    RECORD = "oam/record"
    """Audit, alarms, terminal states: acknowledged, repeated by a durable outbox above."""


PLANE_BYTES: Final = {
    Plane.CP: MESSAGE_BYTES,
    Plane.DP: CHUNK_BYTES,
    Plane.RECORD: MESSAGE_BYTES,
}
"""Largest call and answer per plane; anything bigger is an artifact and travels as chunks."""


class FabricConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node needs to join the fabric of its domain."""

    domain: DomainId
    node: NodeId
    """The slot this node's certificate names."""
    certificate: Path
    key: Path
    authority: Path
    """The certificate of the domain's authority: nothing else is trusted."""
    routers: tuple[str, ...]
    """`host:port` of the routers, tried in order."""
    lease_s: float = 3.0
    """A link silent for this long is dead, 2 to 4 s; the router's lease is the same."""
    open_timeout_s: float = 10.0
    """How long opening waits for a router before it gives up with UnavailableError."""
    bulk_host: str | None = None
    """Where the direct bulk server listens; None for none (outbound-only sites)."""
    bulk_port: int = 0
    """0 for any free port."""
    bulk_advertised: tuple[str, ...] = ()
    """`host:port` under which others reach the bulk server; empty for where it listens."""
    overseers: tuple[NodeId, ...] = (CENTER,)
    """Nodes that may watch everyone; all others see the presence of overseers only. As in the router's plan."""

    def check(self) -> None:
        """InputError listing all faults at once."""
        faults: list[str] = []
        for kind, name in (("domain", self.domain), ("node", self.node)):
            try:
                check_name(kind, name)
            except InputError as fault:
                faults.append(fault.what)
        files = (self.certificate, self.key, self.authority)
        faults += [f"{path} is not a file" for path in files if not path.is_file()]
        if not self.routers:
            faults.append("no router is named")
        if not 2.0 <= self.lease_s <= 4.0:
            faults.append(f"lease_s is {self.lease_s}, not within 2 to 4")
        if self.open_timeout_s <= 0:
            faults.append(f"open_timeout_s is {self.open_timeout_s}, not positive")
        if not 0 <= self.bulk_port < 65536:
            faults.append(f"bulk_port is {self.bulk_port}, not a port")
        if faults:
            raise InputError("fabric configuration: " + "; ".join(faults), todo="correct the node's configuration")


class Holder(msgspec.Struct, frozen=True):
    """A node that holds chunks, and where its direct bulk server is, if it has one."""

    node: NodeId
    direct: tuple[str, ...] = ()


class Reports(msgspec.Struct, frozen=True):
    """Reports that arrived together, in the order in which they did; both lists are as long."""

    senders: list[NodeId]
    """Who sent each, proven by certificate."""
    payloads: list[bytes]
    cut: dict[NodeId, int] = {}
    """Reports that came before these and were beyond their sender's share, by sender."""


class ChunkWant(msgspec.Struct, frozen=True):
    """A chunk wanted: its digest, its size in bytes (1 to CHUNK_BYTES), and where it goes in the sink."""

    id: ChunkId
    size: int
    destination: int


class ChunkPlace(msgspec.Struct, frozen=True):
    """Where a chunk lies at its holder: `size` bytes at `offset` of the file `path`."""

    path: Path
    offset: int
    size: int


class ChunkProvider(Protocol):
    """What a node offers for fetching. Called from worker threads: must be thread-safe and quick."""

    def authorise(self, requester: NodeId, grant: GrantId, artifact: ArtifactId) -> None:
        """PolicyError unless `grant` lets `requester` (proven by certificate) take `artifact` now."""
        ...

    def locate(self, chunk: ChunkId, artifact: ArtifactId) -> ChunkPlace | None:
        """Where `chunk` lies as part of `artifact`, which a grant was shown for; None if this node does not hold it."""
        ...


class Stream(Protocol):
    """Ordered byte messages both ways between two nodes, with credits and prompt cancel."""

    @property
    def peer(self) -> NodeId:
        """The other end, proven by its certificate."""
        ...

    async def send(self, message: Buffer, *, on_sent: Callable[[], None] | None = None) -> None:
        """Send up to STREAM_MESSAGE_BYTES; waits for credit. UnavailableError once the other end is gone.

        The message is not copied: memory that changes must stay as it is until `on_sent` was called, on the event loop
        (which does not happen once the stream has failed).
        """
        ...

    def send_now(self, message: bytes) -> bool:
        """Send in this turn of the loop; False, and nothing is sent, where `send` would wait or fail, which then says
        why. One sender."""
        ...

    async def ready(self) -> None:
        """Wait until `send` would not wait: for whoever sends what has gathered meanwhile. One sender."""
        ...

    async def receive_into(self, target: memoryview) -> int | None:
        """As `receive`, into memory of the caller's; how many bytes. PeerError for a message larger than `target`."""
        ...

    async def receive(self) -> bytes | None:
        """The next message in order; None after the other end finished. UnavailableError if it was cancelled or cut."""
        ...

    def hand_on(self, take: Callable[[bytes], None], over: Callable[[DaitnError | None], None]) -> None:
        """In place of receiving: give `take` each message in the turn of the loop in which it comes, those that wait
        already now. It counts as taken when `take` returns, so nothing is waited for there; a DaitnError of it drops
        the stream. `over`: called once when no more will come: with None after the other end finished, else with why.
        """
        ...

    async def finish(self) -> None:
        """Say that nothing more will be sent; what was sent is still delivered. Receiving goes on."""
        ...

    async def cancel(self) -> None:
        """Drop the stream at once, both ways; the other end notices within 50 ms on a healthy link."""
        ...


class FabricCounters(msgspec.Struct):
    """What was dropped, refused, retried or timed out since opening. A rise of any needs a look."""

    calls_timed_out: int = 0
    calls_unserved: int = 0
    calls_busy: int = 0
    inbox_refused: int = 0
    inbox_malformed: int = 0
    handlers_failed: int = 0
    telemetry_dropped: int = 0
    reports_dropped: int = 0
    reports_cut: int = 0
    chunks_served: int = 0
    chunks_refused: int = 0
    chunks_direct: int = 0
    chunks_routed: int = 0
    chunks_wrong: int = 0
    direct_failed: int = 0
    direct_refused: int = 0
    streams_refused: int = 0
    link_losses: int = 0


CallHandler = Callable[[NodeId, bytes], Awaitable[bytes]]
StreamHandler = Callable[[NodeId, str, Stream], Awaitable[None]]
Sink = int | memoryview
"""Where chunks go: a file descriptor (written with pwrite) or writable memory."""


class Fabric(Protocol):
    """The carrier of a node, open between `open_fabric` and the end of its context."""

    @property
    def node(self) -> NodeId:
        """This node's slot."""
        ...

    @property
    def direct_addresses(self) -> tuple[str, ...]:
        """Where this node's bulk server is reached; empty if it has none. Others put it into their `Holder`."""
        ...

    @property
    def connected(self) -> bool:
        """Whether both links to a router, control and data, stand now."""
        ...

    @property
    def counters(self) -> FabricCounters:
        """Counters since opening; read only."""
        ...

    def links(self) -> AsyncIterator[bool]:
        """`connected` now and after each change; only the newest is kept for a slow reader.

        The fabric rejoins by itself when a router is back, and everything served, published or watched stands again.
        """
        ...

    def link_states(self) -> LinksNow:
        """Every link that exists now: sessions to the router while they stand, direct connections made or accepted,
        streams through the router; and the payload carried since opening. O(links)."""
        ...

    def link_news(self) -> AsyncIterator[TransferSeen | None]:
        """None at once, and whenever which links exist has changed; a transfer for each fetch that brought something.

        A slow reader sees one change for many, and of each peer and way the newest transfer.
        """
        ...

    async def warm_link(self, peer: Holder) -> None:
        """Have a direct connection to `peer` ready for bulk, where it has an address that is worth trying.

        UnavailableError or PeerError if it cannot be made; its addresses are then not tried for a while.
        """
        ...

    def drop_links(self, peer: NodeId) -> None:
        """End direct connections to a peer that left or is elsewhere: idle ones made here, all that it made; forget
        which addresses failed. A transfer under way that was opened here ends by itself."""
        ...

    def pace_links(self, bytes_per_s: float) -> None:
        """Hold bulk (chunks and streams, both ways together) to this rate from now on; 0: no limit. Calls and
        telemetry are not held."""
        ...

    async def call(self, receiver: NodeId, payload: bytes, *, plane: Plane = Plane.CP, timeout_s: float) -> bytes:
        """Ask `receiver` and return its answer.

        UnavailableError if nobody serves there, no answer came within `timeout_s`, or the receiver is busy; the
        request may still have been handled. PolicyError if the receiver's handler refused by policy, PeerError if it
        failed in any other way. InputError if `payload` is larger than PLANE_BYTES. Calls overtake each other.
        """
        ...

    async def serve(self, handler: CallHandler, *, plane: Plane = Plane.CP) -> None:
        """Answer calls on `plane` with `handler(sender, payload)` until the fabric closes.

        The sender is the one whose certificate carried the call. At most INBOX_MESSAGES calls are in hand; beyond it
        callers get `busy`. A DaitnError raised by the handler is told to the caller by kind and text, any other
        exception as a bare failure. One handler per plane: a second is a BugError.
        """
        ...

    async def publish_latest(self, topic: str, payload: bytes) -> None:
        """Tell overseers the newest value of `topic` (a name as in `check_name`); never waits for the network.

        Values may be dropped under congestion; the newest of each topic is repeated every few seconds and whenever
        the link is back, so a lost or late reader heals. A value therefore carries its own sequence or time.
        """
        ...

    def subscribe_latest(self) -> AsyncIterator[tuple[NodeId, str, bytes]]:
        """(sender, topic, payload) of all nodes, overseers only; of each topic a slow reader sees the newest."""
        ...

    async def report(self, payloads: Sequence[bytes]) -> None:
        """Tell overseers each of these, up to TELEMETRY_BYTES; never waits for the network.

        What a node sends stays in order. Under congestion some are dropped, and nothing is repeated: they carry
        sequences of their own, and who counts on them asks again. InputError if one is larger.
        """
        ...

    def subscribe_reports(self, share_of: ShareOf | None = None) -> AsyncIterator[Reports]:
        """What all nodes report, overseers only, as many together as have arrived; a slow reader loses the oldest.

        `share_of`: bytes per second that a sender may report; what is beyond is cut before it is read, and counted. It
        is that of the last who subscribed; None leaves what holds.
        """
        ...

    def presence(self) -> AsyncIterator[tuple[NodeId, bool]]:
        """(node, present): first those present now, then each change, of nodes this one may watch.

        A killed node is reported as soon as its connection breaks, a silent one after the lease. While the own link
        is down everyone is reported absent. A slow reader sees the newest state of each node.
        """
        ...

    async def serve_chunks(self, provider: ChunkProvider) -> None:
        """Let other nodes fetch what `provider` locates and authorises, until the fabric closes."""
        ...

    async def fetch_chunks(
        self,
        holder: Holder,
        artifact: ArtifactId,
        grant: GrantId,
        chunks: Sequence[ChunkWant],
        sink: Sink,
        *,
        on_chunk: Callable[[ChunkId], None],
    ) -> None:
        """Pull `chunks` from `holder` into `sink`, direct if it can be, else through the router.

        Each chunk is checked against its BLAKE3 digest before it is written; then `on_chunk(id)` is called on the
        event loop, before this returns or raises. UnavailableError if the holder cannot be had, NotHeldError if it has
        not all of them (what arrived is kept), PolicyError if it refuses the grant, WrongChunkError, a PeerError, on
        wrong bytes (counted, that chunk is not written). Memory stays constant in the size of the artifact. After a
        cancel nothing is written.
        """
        ...

    async def open_stream(self, receiver: Holder, tag: str, *, timeout_s: float, light: bool = False) -> Stream:
        """A stream to `receiver`, direct if it can be. UnavailableError if it does not accept within `timeout_s`.

        `light`: for messages that are small and many; they cost less, large ones hold up the event loop.
        """
        ...

    async def accept_streams(self, handler: StreamHandler, *, word: str = "") -> None:
        """Run `handler(peer, tag, stream)` for each stream opened to this node whose tag begins with `word` and a
        space; without a word, for those that no other handler takes. Its return ends the stream. One handler for a
        word: a second is a BugError."""
        ...
