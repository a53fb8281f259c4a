"""Direct bulk: chunks from node to node over mutual TLS, without the router in between.

The heart of moving models: one warm connection carries a whole artifact, requests are sent ahead in batches so that
the holder is never idle, and TCP's own window adapts to bandwidth and delay. Blocking sockets on threads, because
asyncio's TLS copies each byte twice more on the loop's thread; receiving runs on one thread, checking and writing on
another. Connections are kept for the next hop between the same two nodes, which pays no handshake.

    requester → holder: FETCH (msgpack `ChunkBatch`), answered by one frame per chunk asked, in order
    holder → requester: CHUNK (bytes), MISSING (empty), REFUSED (msgpack `Refusal`; ends the batch)
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from daitn.base.errors import DaitnError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.base.limits import CHUNK_BYTES, MESSAGE_BYTES
from daitn.node.fabric.chunks import ChunkLedger, decode_refusal
from daitn.node.fabric.contract import ChunkWant, FabricCounters, Holder
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.tls import HEADER, Link, TlsContexts

FETCH: Final = 1
CHUNK: Final = 2
MISSING: Final = 3
REFUSED: Final = 4
STREAM: Final = 5
LIGHT: Final = 10
"""A stream of small messages; 6 to 9 are frames of streams."""

BATCH_CHUNKS: Final = 256
"""Chunks per request: 17 kB, so that two of them ahead never fill a socket buffer."""

PIPE_CHUNKS: Final = 6
"""Chunks between receiving and writing: 12 MiB per fetch, constant in the artifact's size."""

BUFFERS_KEPT: Final = 16
"""Chunk buffers kept for reuse: fresh memory costs page faults, 0.3 ms each."""

SHUN_S: Final = 60.0
"""An address that failed is not tried again for this long, so that a firewall costs its timeout once, not per hop."""

STALL_S: Final = 30.0
"""A connection that moves no byte for this long in the middle of a transfer is cut."""

POOL_PER_NODE: Final = 2
POOL_NODES: Final = 64
"""Peers with idle connections; the longest unused goes first."""


class ChunkBatch(msgspec.Struct, frozen=True, array_like=True):
    """Requester → holder: send these chunks of `artifact` under `grant`, in order."""

    artifact: ArtifactId
    grant: GrantId
    chunks: tuple[ChunkId, ...]


class BufferPool:
    """Buffers for one chunk and its frame header, reused; for any thread."""

    def __init__(self) -> None:
        self._spare: queue.SimpleQueue[memoryview] = queue.SimpleQueue()

    def take(self) -> memoryview:
        """A buffer of HEADER.size + CHUNK_BYTES bytes, contents arbitrary."""
        try:
            return self._spare.get_nowait()
        except queue.Empty:
            return memoryview(bytearray(HEADER.size + CHUNK_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Return a buffer."""
        if self._spare.qsize() < BUFFERS_KEPT:
            self._spare.put(buffer)


class BulkClient:
    """Fetches chunks over pooled direct connections; its methods block and are called from worker threads."""

    def __init__(self, contexts: TlsContexts, counters: FabricCounters, pacer: Pacer) -> None:
        self._contexts = contexts
        self._counters = counters
        self._pacer = pacer
        self._buffers = BufferPool()
        self._lock = threading.Lock()
        self._idle: OrderedDict[NodeId, list[Link]] = OrderedDict()
        self._shunned: dict[str, float] = {}

    def reachable(self, holder: Holder) -> bool:
        """Whether one of its direct addresses is worth trying now, or a connection is at hand."""
        now = time.monotonic()
        return any(self._shunned.get(address, 0.0) <= now for address in holder.direct)

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            links = [link for idle in self._idle.values() for link in idle]
            self._idle.clear()
        for link in links:
            link.close()

    def sweep(self) -> None:
        """Close idle connections that their peers closed, or that died: nobody reads them, so nobody would notice."""
        dead: list[Link] = []
        with self._lock:
            for idle in self._idle.values():
                dead += [link for link in idle if not link.standing]
                idle[:] = [link for link in idle if link not in dead]
        for link in dead:
            link.close()

    def warm(self, holder: Holder) -> bool:
        """Have an idle connection to a holder at hand; whether there is one now. Failures are as those of `connect`."""
        with self._lock:
            if any(not link.expired for link in self._idle.get(holder.node, [])):
                return True
        self._give_idle(self.connect(holder))
        return True

    def drop(self, node: NodeId) -> int:
        """Close idle connections to a node, and try its addresses again from now on; how many were closed. Those in use
        end with their transfer, or by themselves where the node is gone."""
        with self._lock:
            links = self._idle.pop(node, [])
            self._shunned.clear()
        for link in links:
            link.close()
        return len(links)

    def connect(self, holder: Holder) -> Link:
        """A fresh connection; UnavailableError if no address leads to that node."""
        fault: DaitnError = UnavailableError(f"{holder.node} has no direct address to try now")
        for address in holder.direct:
            if self._shunned.get(address, 0.0) > time.monotonic():
                continue
            try:
                return self._contexts.connect(address, holder.node)
            except (UnavailableError, PeerError) as failed:
                self._shunned[address] = time.monotonic() + SHUN_S
                fault = failed
        raise UnavailableError(fault.what, todo="it is reached through the router") from fault

    def fetch(
        self, holder: Holder, artifact: ArtifactId, grant: GrantId, wants: Sequence[ChunkWant], transfer: Transfer
    ) -> list[ChunkWant]:
        """Get `wants` into the transfer's ledger; returns those the holder does not hold.

        UnavailableError if there is no connection or it broke, PolicyError or PeerError as the holder's answer is.
        """
        request = _Request(artifact, grant, wants)
        link = self._take_idle(holder.node)
        if link is not None:
            try:
                return self._run(link, request, transfer)
            except _StaleLinkError:
                pass  # the peer closed it while it was idle; nothing was received
        try:
            return self._run(self.connect(holder), request, transfer)
        except _StaleLinkError as fault:
            raise UnavailableError(f"{holder.node} closed the direct connection at once") from fault

    def _run(self, link: Link, request: _Request, transfer: Transfer) -> list[ChunkWant]:
        transfer.attach(link)
        pipe = _Pipe(transfer.ledger, self._buffers)
        clean = False
        try:
            link.patience(STALL_S)
            missing = self._receive(link, request, pipe, transfer)
            pipe.finish()
            clean = True
            return missing
        except OSError as fault:
            if not request.answered:
                raise _StaleLinkError from fault
            raise UnavailableError(f"the direct connection to {link.peer} broke: {fault}") from fault
        finally:
            pipe.stop()
            transfer.detach()
            if clean and not transfer.stopped:
                self._give_idle(link)
            else:
                link.close()

    def _receive(self, link: Link, request: _Request, pipe: _Pipe, transfer: Transfer) -> list[ChunkWant]:
        missing: list[ChunkWant] = []
        batches = request.batches()
        for _ in range(2):  # one batch ahead, so that the holder never waits for the next request
            _send_next(link, batches)
        for number, want in enumerate(request.wants):
            if number and number % BATCH_CHUNKS == 0:
                _send_next(link, batches)
            kind, length = link.receive_header()
            request.answered = True
            if kind == CHUNK:
                if length != want.size:
                    self._counters.chunks_wrong += 1
                    raise PeerError(f"{link.peer} sent {length} bytes for chunk {want.id[:16]}… of {want.size}")
                self._pacer.wait(length, lambda: transfer.stopped)
                buffer = pipe.take()
                link.receive_into(buffer[:length])
                pipe.give(want, buffer)
            elif kind == MISSING and length == 0:
                missing.append(want)
            elif kind == REFUSED:
                raise decode_refusal(link.receive_body(length, MESSAGE_BYTES)).error(link.peer)
            else:
                raise PeerError(f"{link.peer} answered with a frame of unknown kind {kind}")
        return missing

    def _take_idle(self, node: NodeId) -> Link | None:
        with self._lock:
            idle = self._idle.get(node, [])
            while idle:
                link = idle.pop()
                if not link.expired:
                    return link
                link.close()
            return None

    def _give_idle(self, link: Link) -> None:
        surplus: list[Link] = []
        with self._lock:
            idle = self._idle.setdefault(link.peer, [])
            self._idle.move_to_end(link.peer)
            idle.append(link)
            if len(idle) > POOL_PER_NODE:
                surplus.append(idle.pop(0))
            if len(self._idle) > POOL_NODES:
                surplus += self._idle.popitem(last=False)[1]
        for old in surplus:
            old.close()


class Transfer:
    """One fetch in progress, as the loop sees it: `stop` may be called while a worker thread runs it."""

    def __init__(self, ledger: ChunkLedger) -> None:
        self.ledger = ledger
        self.stopped = False
        self._lock = threading.Lock()
        self._link: Link | None = None

    def attach(self, link: Link) -> None:
        """The link this fetch blocks on from now."""
        with self._lock:
            self._link = link
            if self.stopped:
                link.interrupt()

    def detach(self) -> None:
        """The link is no longer this fetch's: `stop` must not touch it."""
        with self._lock:
            self._link = None

    def stop(self) -> None:
        """Write nothing more and break what blocks."""
        self.ledger.stop()
        with self._lock:
            self.stopped = True
            if self._link is not None:
                self._link.interrupt()


class _StaleLinkError(Exception):
    """The link broke before anything was answered."""


class _Request:
    """What is asked of one holder, and whether it has answered anything yet."""

    def __init__(self, artifact: ArtifactId, grant: GrantId, wants: Sequence[ChunkWant]) -> None:
        self.artifact = artifact
        self.grant = grant
        self.wants = wants
        self.answered = False

    def batches(self) -> Iterator[bytes]:
        """The request's frames, in order."""
        for start in range(0, len(self.wants), BATCH_CHUNKS):
            ids = tuple(want.id for want in self.wants[start : start + BATCH_CHUNKS])
            yield msgspec.msgpack.encode(ChunkBatch(self.artifact, self.grant, ids))


class _Pipe:
    """A thread that checks and writes chunks while the next ones are received; bounded by PIPE_CHUNKS buffers."""

    def __init__(self, ledger: ChunkLedger, buffers: BufferPool) -> None:
        self._ledger = ledger
        self._buffers = buffers
        self._full: queue.SimpleQueue[tuple[ChunkWant, memoryview] | None] = queue.SimpleQueue()
        self._permits = threading.Semaphore(PIPE_CHUNKS)
        self._fault: DaitnError | None = None
        self._thread: threading.Thread | None = None

    def take(self) -> memoryview:
        """A buffer to receive into; raises what went wrong with an earlier chunk."""
        self._permits.acquire()
        if self._fault is not None:
            raise self._fault
        return self._buffers.take()

    def give(self, want: ChunkWant, buffer: memoryview) -> None:
        """Check and write the received chunk."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="bulk-write", daemon=True)
            self._thread.start()
        self._full.put((want, buffer))

    def finish(self) -> None:
        """Wait until all is written; raises what went wrong."""
        self.stop()
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Let the thread finish what it was given, and end it."""
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def _write(self) -> None:
        while (entry := self._full.get()) is not None:
            want, buffer = entry
            if self._fault is None:
                try:
                    self._ledger.accept(want, buffer[: want.size])
                except DaitnError as fault:
                    self._fault = fault
            self._buffers.give(buffer)
            self._permits.release()


def _send_next(link: Link, batches: Iterator[bytes]) -> None:
    body = next(batches, None)
    if body is not None:
        link.send_frame(FETCH, body)
