"""The fabric over zenoh: calls, latest values and presence through a router; chunks and streams direct if they can be.

Two sessions, one for control and one for data, so that bulk never stands before a call in the same socket. The parts
(`calls`, `telemetry`, `presence`, `fetching`, `streams`) share them; this is where they are opened, put together,
told that a link came back, and closed in the right order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Final

from daitn.base.errors import UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.base.names import check_name
from daitn.descriptors.links import ROUTER, LinkKind
from daitn.node.fabric.bulk_server import BulkServer
from daitn.node.fabric.calls import Calls
from daitn.node.fabric.contract import (
    CallHandler,
    ChunkProvider,
    ChunkWant,
    FabricConfig,
    FabricCounters,
    Holder,
    Plane,
    Reports,
    Sink,
    Stream,
    StreamHandler,
)
from daitn.node.fabric.fetching import ChunkFetcher, ChunkService
from daitn.node.fabric.handoff import LatestByKey, LoopMailbox, Workers, join_threads
from daitn.node.fabric.link_ledger import LinkLedger, LinksNow, TransferSeen
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.presence import PresenceBook
from daitn.node.fabric.report_shares import ShareOf
from daitn.node.fabric.reports import ReportLane
from daitn.node.fabric.router import bracketed
from daitn.node.fabric.session import Session
from daitn.node.fabric.stream_book import StreamBook
from daitn.node.fabric.telemetry import LatestValues
from daitn.node.fabric.tls import Identity, TlsContexts
from daitn.node.pki import clock_fault, expiry_of

CALLS: Final = 256
"""Calls in flight per node, each holding a thread while it waits; beyond it callers wait for one to end."""

NEWS: Final = 1024
"""Peers whose newest transfer waits for a slow reader."""

TRANSFERS: Final = 64
"""Blocking pieces of fetches at once: four fetches with the largest window through the router, or 64 direct ones."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_fabric(config: FabricConfig) -> AsyncIterator[ZenohFabric]:
    """Join the domain's fabric for the time of the context.

    InputError for a bad configuration, UnavailableError if no router accepts within `config.open_timeout_s` or the
    certificate has run out. At the end nothing is served, shown or running any more.
    """
    config.check()
    certificate, now_unix_s = config.certificate.read_bytes(), time.time()
    said = clock_fault(certificate, now_unix_s)
    if expiry_of(certificate) <= now_unix_s:
        raise UnavailableError(
            f"the certificate of {config.node} has run out: {said}",
            todo="enrol with a new join token; or set the clock, where that is what is wrong",
        )
    workers = Workers("fabric-call", CALLS)
    opened = await asyncio.gather(
        workers.run(lambda: Session(config)), workers.run(lambda: Session(config)), return_exceptions=True
    )
    sessions = [session for session in opened if isinstance(session, Session)]
    fabric: ZenohFabric | None = None
    try:
        for fault in opened:
            if isinstance(fault, UnavailableError) and said:
                # The router's certificate is seldom younger than ours, so this end does not believe it either.
                raise UnavailableError(f"{fault.what}: {said}", todo="set the clock of this machine") from fault
            if isinstance(fault, BaseException):
                raise fault
        fabric = ZenohFabric(config, sessions[0], sessions[1], workers)
        await fabric.start()
        yield fabric
    finally:
        if fabric is not None:
            await fabric.close()
        for session in sessions:
            await workers.run(session.close)
        await join_threads([thread for session in sessions for thread in session.threads])
        await workers.close()


class ZenohFabric:
    """See `contract.Fabric`; made by `open_fabric`."""

    def __init__(self, config: FabricConfig, control: Session, data: Session, workers: Workers) -> None:
        self._config = config
        self._sessions = {"control": control, "data": data}
        self._workers = workers
        self._transfers = Workers("fabric-transfer", TRANSFERS)
        self._counters = FabricCounters()
        self._pacer = Pacer()
        self._ledger = LinkLedger()
        self._link_news: LoopMailbox[TransferSeen | None]
        self._link_news = LoopMailbox(asyncio.get_running_loop(), self._note_news)
        self._ledger.on_change = lambda: self._link_news.put(None)
        self._ledger.on_transfer = self._link_news.put
        self._news_readers: list[LatestByKey[tuple[NodeId, bool] | None, TransferSeen | None]] = []
        self._up = dict.fromkeys(self._sessions, True)
        self._link_readers: list[LatestByKey[None, bool]] = []
        self._link_changes: LoopMailbox[tuple[str, bool]]
        self._link_changes = LoopMailbox(asyncio.get_running_loop(), lambda change: self._note_link(*change))
        self._tasks: set[asyncio.Task[None]] = set()
        identity = Identity(
            domain=config.domain,
            node=config.node,
            certificate=config.certificate,
            key=config.key,
            authority=config.authority,
        )
        contexts = TlsContexts(identity, self._ledger)
        self._bulk: BulkServer | None = None
        if config.bulk_host is not None:
            self._bulk = BulkServer(contexts, self._counters, config.bulk_host, config.bulk_port, self._pacer)
        planes = {Plane.CP: control, Plane.RECORD: control, Plane.DP: data}
        self._calls = Calls(config, planes, workers, self._counters)
        self._telemetry = LatestValues(config, control, workers, self._counters)
        self._reports = ReportLane(config, data, workers, self._counters)
        self._presence = PresenceBook(config, control, workers)
        self._chunks = ChunkService(config, data, self._bulk, self._counters, self._pacer)
        self._fetcher = ChunkFetcher(config, data, contexts, self._transfers, self._counters, self._ledger, self._pacer)
        self._streams = StreamBook(
            config, data, self._bulk, self._fetcher.bulk, self._counters, self._ledger, self._pacer
        )

    async def start(self) -> None:
        """Show presence and watch the links; called once by `open_fabric`."""
        for name in self._sessions:
            self._enter(name)
        for name, session in self._sessions.items():
            await self._workers.run(lambda name=name, session=session: self._watch_link(name, session))  # type: ignore[misc]
        await self._presence.show()
        self._spawn(self._telemetry.keep_repeating())
        self._spawn(self._presence.keep_checking())

    async def close(self) -> None:
        """Stop serving, watching and fetching; called once by `open_fabric`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._calls.close()
        await self._streams.close()
        self._fetcher.close()
        if self._bulk is not None:
            await join_threads(self._bulk.close())
        self._presence.close()
        self._telemetry.close()
        self._reports.close()
        for reader in self._link_readers:
            reader.close()
        for one in self._news_readers:
            one.close()
        await self._transfers.close()

    @property
    def node(self) -> NodeId:
        """This node's slot."""
        return self._config.node

    @property
    def direct_addresses(self) -> tuple[str, ...]:
        """Where this node's bulk server is reached; empty if it has none."""
        if self._bulk is None or self._config.bulk_host is None:
            return ()
        return self._config.bulk_advertised or (f"{bracketed(self._config.bulk_host)}:{self._bulk.port}",)

    @property
    def connected(self) -> bool:
        """Whether both links to a router stand now."""
        return all(self._up.values())

    @property
    def counters(self) -> FabricCounters:
        """Counters since opening; read only."""
        return self._counters

    async def links(self) -> AsyncIterator[bool]:
        """See `Fabric.links`."""
        reader: LatestByKey[None, bool] = LatestByKey(1)
        reader.put(None, self.connected)
        self._link_readers.append(reader)
        try:
            async for _, connected in reader.read():
                yield connected
        finally:
            self._link_readers.remove(reader)

    def link_states(self) -> LinksNow:
        """See `Fabric.link_states`."""
        self._fetcher.bulk.sweep()
        return self._ledger.now()

    async def link_news(self) -> AsyncIterator[TransferSeen | None]:
        """See `Fabric.link_news`."""
        reader: LatestByKey[tuple[NodeId, bool] | None, TransferSeen | None] = LatestByKey(NEWS)
        reader.put(None, None)
        self._news_readers.append(reader)
        try:
            async for _, news in reader.read():
                yield news
        finally:
            self._news_readers.remove(reader)

    async def warm_link(self, peer: Holder) -> None:
        """See `Fabric.warm_link`."""
        check_name("peer", peer.node)
        if peer.direct and self._fetcher.bulk.reachable(peer):
            await self._transfers.run(lambda: self._fetcher.bulk.warm(peer))

    def drop_links(self, peer: NodeId) -> None:
        """See `Fabric.drop_links`."""
        self._fetcher.bulk.drop(peer)
        if self._bulk is not None:
            self._bulk.drop(peer)

    def pace_links(self, bytes_per_s: float) -> None:
        """See `Fabric.pace_links`."""
        self._pacer.bytes_per_s = bytes_per_s

    async def call(self, receiver: NodeId, payload: bytes, *, plane: Plane = Plane.CP, timeout_s: float) -> bytes:
        """See `Fabric.call`."""
        return await self._calls.call(receiver, payload, plane, timeout_s)

    async def serve(self, handler: CallHandler, *, plane: Plane = Plane.CP) -> None:
        """See `Fabric.serve`."""
        await self._calls.serve(handler, plane)

    async def publish_latest(self, topic: str, payload: bytes) -> None:
        """See `Fabric.publish_latest`."""
        self._telemetry.publish(topic, payload)

    def subscribe_latest(self) -> AsyncIterator[tuple[NodeId, str, bytes]]:
        """See `Fabric.subscribe_latest`."""
        return self._telemetry.follow()

    async def report(self, payloads: Sequence[bytes]) -> None:
        """See `Fabric.report`."""
        self._reports.send(payloads)

    def subscribe_reports(self, share_of: ShareOf | None = None) -> AsyncIterator[Reports]:
        """See `Fabric.subscribe_reports`."""
        return self._reports.follow(share_of)

    def presence(self) -> AsyncIterator[tuple[NodeId, bool]]:
        """See `Fabric.presence`."""
        return self._presence.follow()

    async def serve_chunks(self, provider: ChunkProvider) -> None:
        """See `Fabric.serve_chunks`."""
        await self._workers.run(lambda: self._chunks.start(provider))

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
        """See `Fabric.fetch_chunks`."""
        await self._fetcher.fetch(holder, artifact, grant, chunks, sink, on_chunk)

    async def open_stream(self, receiver: Holder, tag: str, *, timeout_s: float, light: bool = False) -> Stream:
        """See `Fabric.open_stream`."""
        return await self._streams.open(receiver, tag, timeout_s, light=light)

    async def accept_streams(self, handler: StreamHandler, *, word: str = "") -> None:
        """See `Fabric.accept_streams`."""
        await self._streams.accept(handler, word)

    def _watch_link(self, name: str, session: Session) -> None:
        session.watch_link(lambda up: self._link_changes.put((name, up)))

    def _note_link(self, name: str, up: bool) -> None:
        if self._up[name] == up:
            return
        before = self.connected
        self._up[name] = up
        self._enter(name)
        self._counters.link_losses += not up
        if self.connected != before:
            _log.info("%s", "the router is linked again" if self.connected else "the link to the router is lost")
            for reader in self._link_readers:
                reader.put(None, self.connected)
        if up and name == "control":
            self._telemetry.repeat()
            self._spawn(self._presence.reconcile())

    def _enter(self, name: str) -> None:
        """The ledger's entry of a session: there as long as its link stands."""
        tally = self._sessions[name].tally
        if (old := tally.entry) is not None:
            tally.entry = None
            old.close()
        if self._up[name]:
            kind = LinkKind.CONTROL if name == "control" else LinkKind.DATA
            tally.entry = self._ledger.open(ROUTER, kind)

    def _note_news(self, news: TransferSeen | None) -> None:
        key = None if news is None else (news.peer, news.direct)
        for reader in self._news_readers:
            reader.put(key, news)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
