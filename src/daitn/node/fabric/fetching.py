"""Fetching chunks: direct from the holder if it can be reached, the rest through the router.

Through the router each chunk is a query of its own, pulled with a window that adapts (`chunks.Window`); nothing is
pushed, so a slow receiver stalls nobody. Direct transfers are in `bulk`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import BugError, DaitnError, NotHeldError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId, check_name
from daitn.node.fabric import keys
from daitn.node.fabric.bulk import BufferPool, BulkClient, Transfer
from daitn.node.fabric.bulk_server import BulkServer
from daitn.node.fabric.chunks import (
    WINDOW_MAX,
    ChunkAsk,
    ChunkLedger,
    PackReader,
    Refusal,
    Window,
    check_wants,
    read_chunk,
)
from daitn.node.fabric.contract import ChunkProvider, ChunkWant, FabricConfig, FabricCounters, Holder, Sink
from daitn.node.fabric.handoff import LoopMailbox, Workers
from daitn.node.fabric.link_ledger import LinkLedger, TransferSeen
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.session import Cancel, Question, Session
from daitn.node.fabric.tls import TlsContexts

SERVING_THREADS: Final = 4
"""Threads that read and answer chunk queries; encryption runs on zenoh's own."""

QUERIES_WAITING: Final = 4 * WINDOW_MAX
"""Chunk queries waiting for them: four requesters with the largest window; beyond it the data link is held back."""

CHUNK_ASK_S: Final = 30.0
"""Longest wait for one chunk: 2 MiB at 70 kB/s."""

_log = logging.getLogger(__name__)


class ChunkService:
    """The serving side through the router; the direct side shares its provider."""

    def __init__(
        self, config: FabricConfig, session: Session, bulk: BulkServer | None, counters: FabricCounters, pacer: Pacer
    ) -> None:
        self._pacer = pacer
        self._config = config
        self._session = session
        self._bulk = bulk
        self._counters = counters
        self._buffers = BufferPool()
        self._local = threading.local()
        self._provider: ChunkProvider | None = None

    def start(self, provider: ChunkProvider) -> None:
        """Serve until the session ends; blocks shortly."""
        if self._provider is not None:
            raise BugError(f"{self._config.node} serves chunks already")
        self._provider = provider
        if self._bulk is not None:
            self._bulk.provider = provider
        expression = keys.inbox(self._config.domain, keys.CHUNK_LANE, self._config.node)
        probe = keys.message(self._config.domain, keys.CHUNK_LANE, self._config.node, self._config.node)
        self._session.serve(expression, probe, QUERIES_WAITING, self._answer, threads=SERVING_THREADS)

    def _answer(self, question: Question) -> None:
        assert self._provider is not None  # set before the queryable is declared
        buffer = self._buffers.take()
        try:
            requester = keys.sender_of_message(question.key, self._config.domain, keys.CHUNK_LANE, self._config.node)
            ask = from_msgpack(question.payload(), ChunkAsk, "a chunk request")
            self._provider.authorise(requester, ask.grant, ask.artifact)
            content = read_chunk(self._provider, ask.chunk, ask.artifact, self._reader(), buffer)
            self._pacer.wait(len(content))
            question.answer(content)
            self._counters.chunks_served += 1
            _log.debug("sent chunk %s to %s", ask.chunk, requester)
        except PeerError as fault:
            self._counters.inbox_malformed += 1
            question.refuse(Refusal(fault.kind, fault.what))
        except DaitnError as fault:
            self._counters.chunks_refused += 1
            question.refuse(Refusal(fault.kind, fault.what))
        finally:
            self._buffers.give(buffer)

    def _reader(self) -> PackReader:
        reader: PackReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = PackReader()
        return reader


class ChunkFetcher:
    """The fetching side, both ways."""

    def __init__(
        self,
        config: FabricConfig,
        session: Session,
        contexts: TlsContexts,
        workers: Workers,
        counters: FabricCounters,
        ledger: LinkLedger,
        pacer: Pacer,
    ) -> None:
        self._config = config
        self._session = session
        self._workers = workers
        self._counters = counters
        self._ledger = ledger
        self.pacer = pacer
        self.bulk = BulkClient(contexts, counters, pacer)

    async def fetch(
        self,
        holder: Holder,
        artifact: ArtifactId,
        grant: GrantId,
        chunks: Sequence[ChunkWant],
        sink: Sink,
        on_chunk: Callable[[ChunkId], None],
    ) -> None:
        """See `Fabric.fetch_chunks`."""
        check_name("holder", holder.node)
        wants = list(chunks)
        check_wants(wants, sink)
        began_s = time.monotonic()
        reports: LoopMailbox[ChunkId] = LoopMailbox(asyncio.get_running_loop(), on_chunk)
        ledger = ChunkLedger(holder.node, sink, self._counters, reports.put)
        try:
            missing: list[ChunkWant] = []
            if holder.direct and self.bulk.reachable(holder):
                missing = await self._fetch_direct(holder, artifact, grant, wants, ledger)
                began_s = self._moved(holder.node, wants, ledger, set(), began_s, direct=True)
            came_direct = set(ledger.arrived)
            known_missing = set(missing)
            rest = [want for want in wants if want not in ledger.arrived and want not in known_missing]
            if rest:
                missing += await _RoutedFetch(self, holder.node, artifact, grant, rest, ledger).run()
                self._moved(holder.node, wants, ledger, came_direct, began_s, direct=False)
            if missing:
                raise NotHeldError(
                    f"{holder.node} does not hold {len(missing)} of {len(wants)} chunks, first {missing[0].id[:16]}…",
                    todo="fetch the rest from another holder",
                    ids={"node": holder.node, "artifact": artifact},
                )
        finally:
            reports.flush()

    def _moved(
        self,
        peer: NodeId,
        wants: list[ChunkWant],
        ledger: ChunkLedger,
        before: set[ChunkWant],
        began_s: float,
        *,
        direct: bool,
    ) -> float:
        """Tell the ledger of links what came by one way since `began_s`; now, in seconds."""
        now_s = time.monotonic()
        size = sum(want.size for want in wants if want in ledger.arrived and want not in before)
        if size:
            self._ledger.on_transfer(TransferSeen(peer, direct, size, now_s - began_s))
        return now_s

    def close(self) -> None:
        """Close idle direct connections."""
        self.bulk.close()

    async def _fetch_direct(
        self, holder: Holder, artifact: ArtifactId, grant: GrantId, wants: list[ChunkWant], ledger: ChunkLedger
    ) -> list[ChunkWant]:
        transfer = Transfer(ledger)
        try:
            missing = await self._workers.run_to_end(
                lambda: self.bulk.fetch(holder, artifact, grant, wants, transfer), transfer.stop
            )
        except UnavailableError:
            self._counters.direct_failed += 1
            missing = []
        self._counters.chunks_direct += len(ledger.arrived)
        return missing


class _RoutedFetch:
    """One fetch through the router: a window of queries, each on a worker thread."""

    def __init__(
        self,
        fetcher: ChunkFetcher,
        holder: NodeId,
        artifact: ArtifactId,
        grant: GrantId,
        wants: list[ChunkWant],
        ledger: ChunkLedger,
    ) -> None:
        self._fetcher = fetcher
        self._holder = holder
        self._artifact = artifact
        self._grant = grant
        self._wants = wants
        self._ledger = ledger
        self._window = Window()
        self._cancel = Cancel()
        config = fetcher._config
        self._key = keys.message(config.domain, keys.CHUNK_LANE, holder, config.node)

    async def run(self) -> list[ChunkWant]:
        """Fetch all; returns those not held. What arrived before an error is kept."""
        missing: list[ChunkWant] = []
        waiting = iter(self._wants)
        flying: dict[asyncio.Task[None], ChunkWant] = {}
        try:
            while True:
                while len(flying) < self._window.size and (want := next(waiting, None)) is not None:
                    flying[asyncio.ensure_future(self._pull(want))] = want
                if not flying:
                    return missing
                landed, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for task in landed:
                    want = flying.pop(task)
                    try:
                        task.result()
                        self._window.arrived(want.size, time.monotonic())
                    except NotHeldError:
                        missing.append(want)
        finally:
            await self._end(flying)

    async def _pull(self, want: ChunkWant) -> None:
        await self._fetcher._workers.run(lambda: self._pull_now(want))

    def _pull_now(self, want: ChunkWant) -> None:
        self._fetcher.pacer.wait(want.size, lambda: self._cancel.cancelled)
        body = msgspec.msgpack.encode(ChunkAsk(self._artifact, self._grant, want.id))
        content = self._fetcher._session.ask(
            self._key, keys.CHUNK_LANE, body, timeout_s=CHUNK_ASK_S, cancel=self._cancel
        )
        self._ledger.accept(want, content)
        self._fetcher._counters.chunks_routed += 1

    async def _end(self, flying: dict[asyncio.Task[None], ChunkWant]) -> None:
        """Stop what is in flight and wait for it: nothing may be written after the fetch has ended."""
        if not flying:
            return
        self._ledger.stop()
        self._fetcher._session.soon(self._cancel.pull)
        waiting = asyncio.gather(*flying, return_exceptions=True)
        while not waiting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
