"""Streams over direct TLS: two links, one per direction, each used by one thread at either end.

One link could not do: OpenSSL allows no reader beside a writer. Within a direction the link alternates: the sender
writes until its credit is used up and then reads the next; the receiver reads until the sender must have run dry and
then writes credit for what was taken. Breaking both links is the cancel; it is noticed as fast as TCP says so.

    opener → acceptor, first frame of each link: STREAM (msgpack `DirectHello`); answer ACCEPTED or REFUSED
    sender → receiver: DATA (message), FINISH (empty); receiver → sender: CREDIT (2 bytes: how many more)
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.limits import MESSAGE_BYTES
from daitn.descriptors.links import LinkKind
from daitn.node.fabric.bulk import REFUSED, STREAM, BulkClient
from daitn.node.fabric.chunks import Refusal, decode_refusal
from daitn.node.fabric.contract import STREAM_CREDITS, STREAM_MESSAGE_BYTES, Buffer, Holder
from daitn.node.fabric.handoff import LoopMailbox, Workers
from daitn.node.fabric.streams import TAG_CHARS, StreamEnd, StreamRegister
from daitn.node.fabric.tls import Link

ACCEPTED: Final = 6
DATA: Final = 7
FINISH: Final = 8
CREDIT: Final = 9

PAIRING_S: Final = 5.0
"""Longest wait for the second link of a stream after the first."""

SPARE_LEAST_BYTES: Final = 64 * 1024
"""Memory of messages from this size on is used again. Left to the allocator, messages that one thread takes in and
another lets go of grew the arenas of both to three times what credits allow, 80 MB for one stream."""

NO_LIMIT_S: Final = 0.0
"""A stream may be silent for long; a dead host is noticed by TCP keep-alive, see `tls.Link`."""


class DirectHello(msgspec.Struct, frozen=True, array_like=True):
    """Opener → acceptor: this link is one direction of a new stream."""

    stream: str
    tag: str
    from_opener: bool


class DirectStream(StreamEnd):
    """One end of a stream over two links."""

    def __init__(self, peer: NodeId, name: str, outgoing: Link, incoming: Link, register: StreamRegister) -> None:
        super().__init__(peer, name)
        self._pacer = register.pacer
        self._outgoing = outgoing
        self._incoming = incoming
        self._register = register
        self._to_send: queue.SimpleQueue[tuple[Buffer, Callable[[], None] | None] | None] = queue.SimpleQueue()
        self._read = threading.Semaphore(0)
        self._spare: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._stopped = False
        self._events: LoopMailbox[Callable[[], None]]
        self._events = LoopMailbox(asyncio.get_running_loop(), lambda event: event())

    def run_sender(self) -> None:
        """Write messages while there is credit; for the thread of the outgoing link."""
        self._guard(self._send_all)

    def run_receiver(self) -> None:
        """Read messages and give credit; for the thread of the incoming link."""
        self._guard(self._receive_all)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, PeerError) as fault:
            why = f"was cut: {fault}"
            self._events.put(lambda: self.fail(why))

    def _send_all(self) -> None:
        link, credit = self._outgoing, STREAM_CREDITS
        link.patience(NO_LIMIT_S)
        while (entry := self._to_send.get()) is not None:
            message, on_sent = entry
            while credit == 0:
                kind, length = link.receive_header()
                if kind != CREDIT or length != 2:
                    raise PeerError(f"{link.peer} sent a frame of kind {kind} instead of credit")
                credit = int.from_bytes(link.receive_body(length, 2), "big")
            self._pacer.wait(len(message), lambda: self._stopped)
            link.send_frame(DATA, message)
            credit -= 1
            self._events.put(lambda on_sent=on_sent: self.give_credit(on_sent))  # type: ignore[misc]
        if self._stopped:
            return
        link.send_frame(FINISH)
        # Closing with unread credit would reset the connection and lose what is still on its way to the reader.
        with contextlib.suppress(OSError):
            while True:
                link.receive_body(link.receive_header()[1], 2)

    def _receive_all(self) -> None:
        link, unread = self._incoming, 0
        link.patience(NO_LIMIT_S)
        while True:
            if unread == STREAM_CREDITS:
                unread -= self._await_reader()
                link.send_frame(CREDIT, (STREAM_CREDITS - unread).to_bytes(2, "big"))
            kind, length = link.receive_header()
            if kind == FINISH and length == 0:
                self._events.put(self.arrive_finish)
                return
            if kind != DATA:
                raise PeerError(f"{link.peer} sent a frame of unknown kind {kind} in a stream")
            if length > STREAM_MESSAGE_BYTES:
                raise PeerError(f"{link.peer} sent a stream message of {length} bytes")
            message = self._room(length)
            link.receive_into(message)
            unread += 1
            self._events.put(lambda message=message: self.arrive(0, message))  # type: ignore[misc]

    def _room(self, length: int) -> memoryview:
        """Memory for a message: what one before it has left, if that is large enough."""
        if length >= SPARE_LEAST_BYTES:
            with contextlib.suppress(queue.Empty):
                spare = self._spare.get_nowait()
                if len(spare) >= length:
                    return memoryview(spare)[:length]
        return memoryview(bytearray(length))

    def _recycle(self, message: Buffer) -> None:
        memory = message.obj if isinstance(message, memoryview) else message
        if isinstance(memory, bytearray) and len(memory) >= SPARE_LEAST_BYTES:
            self._spare.put(memory)

    def _await_reader(self) -> int:
        """Wait until the reader took a message; how many it has taken since."""
        self._read.acquire()
        count = 1
        while count < STREAM_CREDITS and self._read.acquire(blocking=False):
            count += 1
        if self._stopped:
            raise ConnectionAbortedError("cancelled")
        return count

    def _carry(self, message: Buffer, on_sent: Callable[[], None] | None) -> None:
        self._to_send.put((message, on_sent))

    def _carry_finish(self) -> None:
        self._to_send.put(None)

    def _acknowledge(self, number: int) -> None:  # noqa: ARG002 - credit of a link is a count
        self._read.release()

    def _abort(self) -> None:
        self._stopped = True
        self._outgoing.interrupt()
        self._incoming.interrupt()
        self._to_send.put(None)
        self._read.release()

    def _release(self) -> None:
        # The links themselves are closed by the threads that use them, when they have written everything.
        self._register.forget(self)


class DirectStreams:
    """Opens direct streams, and pairs and accepts the links of those opened to this node."""

    def __init__(self, bulk: BulkClient, workers: Workers, register: StreamRegister) -> None:
        self._bulk = bulk
        self._workers = workers
        self._register = register
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Future[None]] = set()
        self._lock = threading.Lock()
        self._halves: dict[tuple[NodeId, str], _Half] = {}

    def reachable(self, receiver: Holder) -> bool:
        """Whether a direct address of `receiver` is worth trying."""
        return bool(receiver.direct) and self._bulk.reachable(receiver)

    async def open(self, receiver: Holder, tag: str) -> DirectStream:
        """Connect both links; UnavailableError if that fails or the other end refuses."""
        name = secrets.token_hex(8)
        connecting = asyncio.ensure_future(self._workers.run(lambda: self._connect(receiver, name, tag)))
        try:
            outgoing, incoming = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_links)
            raise
        end = DirectStream(receiver.node, name, outgoing, incoming, self._register)
        self._register.keep(end)
        for link, work in ((outgoing, end.run_sender), (incoming, end.run_receiver)):
            task = asyncio.ensure_future(self._workers.run(lambda link=link, work=work: _use(link, work)))  # type: ignore[misc]
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return end

    async def close(self) -> None:
        """Wait for the threads of streams that were failed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def attend(self, link: Link, body: bytes) -> None:
        """Serve one link of a stream opened to this node until it ends; for the bulk server's threads."""
        hello = decode_hello(body)
        link.entry.use_as(LinkKind.STREAM)
        key = (link.peer, hello.stream)
        with self._lock:
            half = self._halves.pop(key, None)
            first = half is None
            if half is None:
                half = self._halves[key] = _Half()
            half.links[hello.from_opener] = link
        if first:
            if not half.ready.wait(PAIRING_S):
                with self._lock:
                    self._halves.pop(key, None)
                return
        else:
            half.end = self._accept(hello, half)
            half.ready.set()
        end = half.end
        if end is None:
            return
        link.send_frame(ACCEPTED)
        (end.run_receiver if hello.from_opener else end.run_sender)()

    def _accept(self, hello: DirectHello, half: _Half) -> DirectStream | None:
        if len(half.links) != 2:
            raise PeerError("both links of a stream have the same direction")
        made: queue.SimpleQueue[DirectStream | str] = queue.SimpleQueue()

        def make() -> None:
            why = self._register.refusal(hello.tag)
            if why is not None:
                made.put(why)
                return
            end = DirectStream(half.links[True].peer, hello.stream, half.links[False], half.links[True], self._register)
            made.put(end)
            self._register.run(end, hello.tag)

        self._loop.call_soon_threadsafe(make)
        try:
            end = made.get(timeout=PAIRING_S)
        except queue.Empty:
            end = "is too busy to accept"
        if isinstance(end, DirectStream):
            return end
        refusal = msgspec.msgpack.encode(Refusal(UnavailableError.kind, end))
        for link in half.links.values():
            link.send_frame(REFUSED, refusal)
        return None

    def _connect(self, receiver: Holder, name: str, tag: str) -> tuple[Link, Link]:
        links: list[Link] = []
        try:
            for from_opener in (True, False):
                link = self._bulk.connect(receiver)
                links.append(link)
                link.entry.use_as(LinkKind.STREAM)
                link.patience(PAIRING_S)
                link.send_frame(STREAM, msgspec.msgpack.encode(DirectHello(name, tag, from_opener)))
            for link in links:
                kind, length = link.receive_header()
                body = link.receive_body(length, MESSAGE_BYTES)
                if kind != ACCEPTED:
                    raise decode_refusal(body).error(receiver.node)
        except BaseException as fault:
            for link in links:
                link.close()
            if isinstance(fault, OSError):
                raise UnavailableError(f"{receiver.node} cut the opening of a stream: {fault}") from fault
            raise
        return links[0], links[1]


class _Half:
    """The links of a stream that is being accepted, by direction, until both are there."""

    def __init__(self) -> None:
        self.links: dict[bool, Link] = {}
        self.ready = threading.Event()
        self.end: DirectStream | None = None


def _use(link: Link, work: Callable[[], None]) -> None:
    try:
        work()
    finally:
        link.close()


def _close_links(connecting: asyncio.Future[tuple[Link, Link]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        for link in connecting.result():
            link.close()


def decode_hello(data: bytes) -> DirectHello:
    """A peer's opening of a stream; PeerError where it does not decode or goes beyond its limits."""
    hello = from_msgpack(data, DirectHello, "a stream opening")
    if len(hello.tag) > TAG_CHARS or len(hello.stream) > TAG_CHARS:
        raise PeerError(f"a stream opening has a tag of {len(hello.tag)} and a name of {len(hello.stream)} characters")
    return hello
