"""Streams of small messages over direct TLS: one link for both directions, used by the event loop itself.

Queries and answers have a kilobyte or two and there are thousands a second: handing each message to a thread and back,
as `streams_direct` does for bulk, costs more than all that is done with it. Here a message is encrypted where it is
sent and decrypted where it is received, without a thread in between; nothing blocks, and a large message goes in parts
of `TURN_BYTES`, so that no turn of the loop is long. One link is enough, since one thread reads and writes it.

    opener → acceptor, first frame: LIGHT (msgpack `StreamHello`); answer ACCEPTED or REFUSED; then from both ends
    DATA (message), CREDIT (2 bytes: how many more may be sent), FINISH (empty)

An end that is over says so to TCP and closes when the other one has, so that nothing under way is lost.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import PeerError, UnavailableError
from daitn.base.limits import MESSAGE_BYTES
from daitn.descriptors.links import LinkKind
from daitn.node.fabric.bulk import LIGHT, REFUSED, BulkClient
from daitn.node.fabric.chunks import Refusal, decode_refusal
from daitn.node.fabric.contract import STREAM_CREDITS, STREAM_MESSAGE_BYTES, Buffer, Holder
from daitn.node.fabric.handoff import Workers
from daitn.node.fabric.streams import TAG_CHARS, StreamEnd, StreamHello, StreamRegister
from daitn.node.fabric.streams_direct import ACCEPTED, CREDIT, DATA, FINISH, PAIRING_S
from daitn.node.fabric.tls import HEADER, WHOLE_BYTES, Link

TURN_BYTES: Final = 256 * 1024
"""Bytes of one link that are encrypted or decrypted in one turn of the loop: 0.3 ms."""

CREDIT_EVERY: Final = STREAM_CREDITS // 2
"""Messages that were taken before the other end is told so."""

CLOSING_S: Final = 5.0
"""Longest wait for the other end to close what is over."""


class LightStream(StreamEnd):
    """One end of a stream; everything happens on the loop."""

    def __init__(self, name: str, link: Link, register: StreamRegister) -> None:
        super().__init__(link.peer, name)
        self.closed = threading.Event()
        """Set when the link is this end's no more."""
        self._link, self._register, self._pacer = link, register, register.pacer
        self._loop = asyncio.get_running_loop()
        self._out: deque[memoryview | bytes] = deque()
        self._untaken = 0
        """Messages that were sent and not said to be taken."""
        self._partial = bytearray()
        self._uncredited = 0
        """Messages that were taken since the other end was told."""
        self._unread = 0
        """Messages that the other end believes untaken."""
        self._flushing = self._writing = self._ended = self._shut = False

    def begin(self, first: bytes = b"") -> None:
        """Use the link from now on; `first` is sent before all else."""
        self._descriptor = self._link.unblock()
        self._loop.add_reader(self._descriptor, self._readable)
        if first:
            self._out.append(first)
            self._flush()
        if self._link.pending:
            self._loop.call_soon(self._readable)

    # --- out --------------------------------------------------------------------------------------------------------

    async def send(self, message: Buffer, *, on_sent: Callable[[], None] | None = None) -> None:
        """See `Stream.send`; waits for its turn where the access is held to a limit."""
        if (due_s := self._pacer.due_s(len(message))) > 0:
            await asyncio.sleep(due_s)
        await super().send(message, on_sent=on_sent)

    def send_now(self, message: bytes) -> bool:
        """See `Stream.send_now`; not where the access is held to a limit, and a turn may have to be waited for."""
        return self._pacer.bytes_per_s <= 0 and super().send_now(message)

    def _carry(self, message: Buffer, on_sent: Callable[[], None] | None) -> None:
        self._out.append(HEADER.pack(DATA, len(message)) + message)  # a copy: the caller's memory is free at once
        if on_sent is not None:
            self._loop.call_soon(on_sent)
        self._untaken += 1
        self._link.entry.sent(len(message))
        self._flush()

    def _carry_finish(self) -> None:
        self._out.append(HEADER.pack(FINISH, 0))
        self._flush()

    def _acknowledge(self, number: int) -> None:  # noqa: ARG002 - credit of a link is a count
        self._uncredited += 1
        if self._uncredited >= CREDIT_EVERY and not self._peer_finished:
            self._out.append(HEADER.pack(CREDIT, 2) + self._uncredited.to_bytes(2, "big"))
            self._unread -= self._uncredited
            self._uncredited = 0
            if not self._flushing:
                # An answer to what was just read comes in this turn, mostly: both go out in one record's time.
                self._flushing = True
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what waits, as much as the socket takes and a turn allows."""
        self._flushing = False
        if self._ended or self._writing:
            return
        done = 0
        try:
            while self._out:
                if done >= TURN_BYTES:
                    self._flushing = True
                    self._loop.call_soon(self._flush)
                    return
                piece = self._out.popleft()
                while self._out and len(piece) + len(self._out[0]) <= WHOLE_BYTES:
                    piece = b"".join((piece, self._out.popleft()))
                count = self._link.send_some(piece[: TURN_BYTES - done])
                done += count
                if count < len(piece):
                    self._out.appendleft(memoryview(piece)[count:])
        except ssl.SSLWantWriteError:
            self._out.appendleft(piece)
            self._writing = True
            self._loop.add_writer(self._descriptor, self._writable)
            return
        except OSError as fault:
            self.fail(f"was cut: {fault}")
            return
        if self._shut:
            self._link.end_sending()

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._descriptor)
        self._flush()

    # --- in ---------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read what came, as much as a turn allows."""
        done = 0
        try:
            while not self._ended:
                data = self._link.receive_some()
                if not data:
                    self._gone("closed by the other side")
                    return
                done += len(data)
                self._read(data)
                if not self._link.pending:
                    return
                if done >= TURN_BYTES:
                    self._loop.call_soon(self._readable)  # what OpenSSL holds already, the socket does not tell of
                    return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as fault:
            self._gone(str(fault))
        except PeerError as fault:
            self.fail(f"was cut: {fault.what}")

    def _read(self, data: bytes) -> None:
        """The frames that end with this; the rest waits for more."""
        held: bytes | bytearray = data
        if self._partial:
            self._partial += data
            held = self._partial
        place, size = 0, len(held)
        while place + HEADER.size <= size and not self._ended:
            kind, length = HEADER.unpack_from(held, place)
            self._check_frame(kind, length)
            end = place + HEADER.size + length
            if end > size:
                break
            self._take(kind, bytes(held[place + HEADER.size : end]))
            place = end
        if held is self._partial:
            del self._partial[:place]
        elif place < size:
            self._partial += held[place:]

    def _check_frame(self, kind: int, length: int) -> None:
        most = {DATA: STREAM_MESSAGE_BYTES, CREDIT: 2, FINISH: 0}.get(kind, -1)
        if length > most or (kind == CREDIT and length < most):
            raise PeerError(f"{self._peer} sent a frame of kind {kind} and {length} bytes in a stream")

    def _take(self, kind: int, body: bytes) -> None:
        if kind == DATA:
            self._unread += 1
            if self._unread > STREAM_CREDITS or self._peer_finished:
                raise PeerError(f"{self._peer} sent more messages than it was allowed")
            self._link.entry.received(len(body))
            self.arrive(0, body)
        elif kind == FINISH:
            self.arrive_finish()
        else:
            count = int.from_bytes(body, "big")
            if count > self._untaken:
                raise PeerError(f"{self._peer} took {count} messages, {self._untaken} were sent")
            self._untaken -= count
            for _ in range(count):
                self.give_credit(None)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _gone(self, why: str) -> None:
        if self._finished and self._peer_finished:
            self._end()  # all has arrived, though perhaps not all is read
        else:
            self.fail(f"was cut: {why}")

    def _release(self) -> None:
        self._register.forget(self)
        if self._ended or self._shut:
            return
        self._shut = True
        self._loop.call_later(CLOSING_S, self._end)
        self._flush()

    def _abort(self) -> None:
        self._link.interrupt()
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._out.clear()
            self._link.close()
            self.closed.set()


class LightStreams:
    """Opens light streams, and accepts those opened to this node."""

    def __init__(self, bulk: BulkClient, workers: Workers, register: StreamRegister) -> None:
        self._bulk, self._workers, self._register = bulk, workers, register
        self._loop = asyncio.get_running_loop()

    async def open(self, receiver: Holder, tag: str) -> LightStream:
        """Connect; UnavailableError if that fails or the other end refuses."""
        name = secrets.token_hex(8)
        connecting = asyncio.ensure_future(self._workers.run(lambda: self._connect(receiver, name, tag)))
        try:
            link = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_link)
            raise
        end = LightStream(name, link, self._register)
        self._register.keep(end)
        end.begin()
        return end

    def attend(self, link: Link, body: bytes) -> None:
        """Serve a stream opened to this node until it ends; for the bulk server's threads, which has one for it."""
        hello = decode_light_hello(body)
        link.entry.use_as(LinkKind.STREAM)
        made: queue.SimpleQueue[LightStream | str] = queue.SimpleQueue()
        late = threading.Event()

        def make() -> None:
            if late.is_set():
                return
            why = self._register.refusal(hello.tag)
            if why is not None:
                made.put(why)
                return
            end = LightStream(hello.stream, link, self._register)
            end.begin(HEADER.pack(ACCEPTED, 0))
            made.put(end)
            self._register.run(end, hello.tag)

        self._loop.call_soon_threadsafe(make)
        try:
            end = made.get(timeout=PAIRING_S)
        except queue.Empty:
            late.set()
            raise PeerError(f"a stream of {link.peer} was not accepted: the node is too busy") from None
        if isinstance(end, LightStream):
            end.closed.wait()
        else:
            link.send_frame(REFUSED, msgspec.msgpack.encode(Refusal(UnavailableError.kind, end)))

    def _connect(self, receiver: Holder, name: str, tag: str) -> Link:
        link = self._bulk.connect(receiver)
        try:
            link.entry.use_as(LinkKind.STREAM)
            link.patience(PAIRING_S)
            link.send_frame(LIGHT, msgspec.msgpack.encode(StreamHello(name, tag)))
            kind, length = link.receive_header()
            body = link.receive_body(length, MESSAGE_BYTES)
            if kind != ACCEPTED:
                raise decode_refusal(body).error(receiver.node)
        except BaseException as fault:
            link.close()
            if isinstance(fault, OSError):
                raise UnavailableError(f"{receiver.node} cut the opening of a stream: {fault}") from fault
            raise
        return link


def _close_link(connecting: asyncio.Future[Link]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def decode_light_hello(data: bytes) -> StreamHello:
    """A peer's opening of a stream; PeerError where it does not decode or goes beyond its limits."""
    hello = from_msgpack(data, StreamHello, "a stream opening")
    if len(hello.tag) > TAG_CHARS or len(hello.stream) > TAG_CHARS:
        raise PeerError(f"a stream opening has a tag of {len(hello.tag)} and a name of {len(hello.stream)} characters")
    return hello
