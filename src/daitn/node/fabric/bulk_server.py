"""The direct bulk server: answers chunk batches of other nodes, one thread per connection (protocol: `bulk`)."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import DaitnError, NotHeldError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, NodeId
from daitn.base.limits import MESSAGE_BYTES
from daitn.node.fabric.bulk import CHUNK, FETCH, MISSING, REFUSED, STALL_S, BufferPool, ChunkBatch
from daitn.node.fabric.chunks import Refusal, read_chunk
from daitn.node.fabric.contract import ChunkProvider, FabricCounters
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.tls import HEADER, Link, TlsContexts

IDLE_S: Final = 600.0
"""The server closes a connection unused for this long."""

CONNECTIONS: Final = 128
"""Connections one server keeps; beyond it new ones are closed at once and the peer goes through the router."""

_log = logging.getLogger(__name__)


class BulkServer:
    """Answers chunk batches of other nodes; one thread per connection. Streams are handed to `streams`."""

    def __init__(self, contexts: TlsContexts, counters: FabricCounters, host: str, port: int, pacer: Pacer) -> None:
        self._contexts = contexts
        self._counters = counters
        self._pacer = pacer
        self._buffers = BufferPool()
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.provider: ChunkProvider | None = None
        self.streams: dict[int, Callable[[Link, bytes], None]] = {}
        """By the kind of their first frame, who attends to a stream until it ends."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        except OSError as fault:
            raise UnavailableError(f"bulk server cannot listen on {host}:{port}: {fault.strerror}") from fault
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="bulk-accept", daemon=True)
        self._threads: list[threading.Thread] = [self._acceptor]
        self._acceptor.start()

    def close(self) -> list[threading.Thread]:
        """Stop listening and break all connections; returns the threads that are about to end."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close alone does not
        self._listener.close()
        with self._lock:
            for link in self._links:
                link.interrupt()
            return list(self._threads)

    def drop(self, node: NodeId) -> int:
        """Break the connections of a node that has left; how many."""
        with self._lock:
            gone = [link for link in self._links if link.peer == node]
        for link in gone:
            link.interrupt()
        return len(gone)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                if self._closed.wait(0.05):  # else out of descriptors: let connections end instead of spinning
                    return
                continue
            with self._lock:
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                if len(self._threads) > CONNECTIONS:
                    self._counters.direct_refused += 1
                    raw.close()
                    continue
                thread = threading.Thread(target=self._attend, args=(raw,), name="bulk-serve", daemon=True)
                self._threads.append(thread)
            thread.start()

    def _attend(self, raw: socket.socket) -> None:
        try:
            link = self._contexts.accept(raw)
        except (OSError, ValueError, PeerError):
            self._counters.direct_refused += 1  # no certificate of this domain, or not TLS at all
            raw.close()
            return
        with self._lock:
            self._links.add(link)
        try:
            if not self._closed.is_set():
                self._serve(link)
        except OSError:
            pass  # the peer went away: it will resume elsewhere
        except PeerError as fault:
            self._counters.direct_refused += 1
            _log.warning("bulk connection dropped: %s", fault)
        finally:
            with self._lock:
                self._links.discard(link)
            link.close()

    def _serve(self, link: Link) -> None:
        while True:
            link.patience(IDLE_S)
            kind, length = link.receive_header()
            link.patience(STALL_S)
            body = link.receive_body(length, MESSAGE_BYTES)
            if link.expired:
                raise PeerError(f"certificate of {link.peer} has run out", todo="renew it and connect again")
            if kind == FETCH:
                self._send_batch(link, body)
            elif (attend := self.streams.get(kind)) is not None:
                attend(link, body)
                return
            else:
                raise PeerError(f"{link.peer} sent a frame of unknown kind {kind}")

    def _send_batch(self, link: Link, body: bytes) -> None:
        buffer = self._buffers.take()
        try:
            batch = from_msgpack(body, ChunkBatch, "a chunk request")
            if self.provider is None:
                raise UnavailableError("this node serves no chunks")
            self.provider.authorise(link.peer, batch.grant, batch.artifact)
            for chunk in batch.chunks:
                self._send_chunk(link, self.provider, chunk, batch.artifact, buffer)
        except DaitnError as fault:
            self._counters.chunks_refused += 1
            link.send_frame(REFUSED, msgspec.msgpack.encode(Refusal(fault.kind, fault.what)))
        finally:
            self._buffers.give(buffer)

    def _send_chunk(
        self,
        link: Link,
        provider: ChunkProvider,
        chunk: ChunkId,
        artifact: ArtifactId,
        buffer: memoryview,
    ) -> None:
        try:
            content = read_chunk(provider, chunk, artifact, buffer[HEADER.size :])
        except NotHeldError:
            link.send_frame(MISSING)
            return
        self._pacer.wait(content.nbytes, self._closed.is_set)
        HEADER.pack_into(buffer, 0, CHUNK, content.nbytes)
        link.send_prepared(buffer[: HEADER.size + content.nbytes])
        self._counters.chunks_served += 1
        _log.debug("sent chunk %s to %s", chunk, link.peer)
