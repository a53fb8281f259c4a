"""Fetching chunks: direct from the holder if it can be reached, the rest through the router.

Through the router a chunk is a query of its own, pulled with a window that adapts (`chunks.Window`); nothing is
pushed, so a slow receiver stalls nobody. Over a slow link a chunk is pulled piece by piece, so that what waits for the
link stays small. Direct transfers are in `bulk`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import BugError, DaitnError, NotHeldError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.base.names import check_name
from daitn.node.fabric import keys
from daitn.node.fabric.bulk import BufferPool, BulkClient, Transfer
from daitn.node.fabric.bulk_server import BulkServer
from daitn.node.fabric.chunks import (
    PIECE_BYTES,
    PIECES,
    WINDOW_WHOLE,
    ChunkAsk,
    ChunkLedger,
    Refusal,
    Window,
    check_wants,
    pieces_of,
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

QUERIES_WAITING: Final = 4 * PIECES
"""Chunk queries waiting for them: four requesters with a window of sixteen; beyond it the data link is held back."""

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
            content = read_chunk(self._provider, ask.chunk, ask.artifact, buffer, ask.start, ask.size)
            self._pacer.wait(len(content))
            if ask.start == 0:
                _log.debug("sending chunk %s to %s", ask.chunk, requester)
            question.answer(content)
            self._counters.chunks_served += ask.start == 0
        except PeerError as fault:
            self._counters.inbox_malformed += 1
            question.refuse(Refusal(fault.kind, fault.what))
        except DaitnError as fault:
            self._counters.chunks_refused += 1
            question.refuse(Refusal(fault.kind, fault.what))
        finally:
            self._buffers.give(buffer)


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


class _Growing:
    """A chunk that is on its way, whole or in pieces."""

    def __init__(self, want: ChunkWant, *, whole: bool) -> None:
        self.want = want
        self.whole = whole
        self.over = False
        """Whether no more of it is to be asked for: it is all here, or its holder does not have it."""
        self._buffer = bytearray() if whole else bytearray(want.size)
        self._left = want.size

    def pieces(self) -> Iterator[_Piece]:
        """What is to be asked for, in order."""
        size = self.want.size if self.whole else PIECE_BYTES
        for start in range(0, self.want.size, size):
            if self.over:
                return
            yield _Piece(self, start, min(size, self.want.size - start))

    def put(self, piece: _Piece, content: bytes) -> bytes | None:
        """Take a piece; the bytes of the chunk if it was the last one. What has another size than was asked for comes
        back as it is, to be judged as the chunk."""
        if self.whole or len(content) != piece.size:
            return content
        self._buffer[piece.start : piece.start + piece.size] = content
        self._left -= piece.size
        return bytes(self._buffer) if self._left == 0 else None


class _Piece(NamedTuple):
    chunk: _Growing
    start: int
    size: int


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
        waiting = self._pieces()
        following = next(waiting, None)
        flying: dict[asyncio.Task[None], _Piece] = {}
        try:
            while True:
                in_flight = sum(pieces_of(piece.size) for piece in flying.values())
                while following is not None and (
                    not flying or in_flight + pieces_of(following.size) <= self._window.size
                ):
                    flying[asyncio.ensure_future(self._pull(following))] = following
                    in_flight += pieces_of(following.size)
                    following = next(waiting, None)
                if not flying:
                    return missing
                landed, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for task in landed:
                    piece = flying.pop(task)
                    try:
                        task.result()
                        self._window.arrived(piece.size, time.monotonic())
                    except NotHeldError:
                        if not piece.chunk.over:
                            missing.append(piece.chunk.want)
                        piece.chunk.over = True
        finally:
            await self._end(flying)

    def _pieces(self) -> Iterator[_Piece]:
        """All that is to be asked for; whether a chunk is asked for whole is decided when its turn comes."""
        for want in self._wants:
            yield from _Growing(want, whole=self._window.size >= WINDOW_WHOLE).pieces()

    async def _pull(self, piece: _Piece) -> None:
        if piece.chunk.over:
            return
        content = piece.chunk.put(piece, await self._fetcher._workers.run(lambda: self._ask(piece)))
        if content is not None and not piece.chunk.over:
            piece.chunk.over = True
            await self._fetcher._workers.run(lambda: self._ledger.accept(piece.chunk.want, content))
            self._fetcher._counters.chunks_routed += 1

    def _ask(self, piece: _Piece) -> bytes:
        self._fetcher.pacer.wait(piece.size, lambda: self._cancel.cancelled)
        part = (0, 0) if piece.chunk.whole else (piece.start, piece.size)
        body = msgspec.msgpack.encode(ChunkAsk(self._artifact, self._grant, piece.chunk.want.id, *part))
        return bytes(
            self._fetcher._session.ask(self._key, keys.CHUNK_LANE, body, timeout_s=CHUNK_ASK_S, cancel=self._cancel)
        )

    async def _end(self, flying: dict[asyncio.Task[None], _Piece]) -> None:
        """Stop what is in flight and wait for it: nothing may be written after the fetch has ended."""
        if not flying:
            return
        self._ledger.stop()
        self._fetcher._session.soon(self._cancel.pull)
        waiting = asyncio.gather(*flying, return_exceptions=True)
        while not waiting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
