"""Streams through the router: each message is a query that is answered when the reader took it.

The answer is the credit, so nothing is pushed at a reader that does not read. Queries may overtake each other; numbers
put them in order again. Each end keeps one WATCH query open at the other, which answers it only when it drops the
stream: so a cancel arrives as one answer, and the death of a peer is told by the router itself, within milliseconds.

    either → other end: OPEN (tag; number 1: for small messages), DATA (number, message),
    FINISH (number = count of messages), WATCH
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.decoding import from_msgpack
from daitn.base.errors import DaitnError, PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.descriptors.links import LinkKind
from daitn.node.fabric import keys
from daitn.node.fabric.chunks import Refusal
from daitn.node.fabric.contract import (
    STREAM_CREDITS,
    STREAM_MESSAGE_BYTES,
    Buffer,
    FabricConfig,
    FabricCounters,
)
from daitn.node.fabric.handoff import LoopMailbox, Workers
from daitn.node.fabric.link_ledger import Entry
from daitn.node.fabric.session import Cancel, Question, Session, TimedOutError
from daitn.node.fabric.streams import STREAMS, TAG_CHARS, StreamEnd, StreamRegister

OPEN: Final = 0
DATA: Final = 1
FINISH: Final = 2
WATCH: Final = 3

LIGHT_CREDITS: Final = 2
"""Messages on their way in a stream of small ones: one through the router costs the same with one query as with thirty,
so what comes meanwhile goes together."""

STALL_S: Final = 300.0
"""A message that its reader has not taken for this long breaks the stream."""

WATCH_S: Final = 60.0
"""How long one WATCH stays open before it is asked again."""

FAILED_KEPT: Final = 1024
"""Names of failed streams remembered, so that a late WATCH hears of the failure."""

QUERIES_WAITING: Final = STREAMS * (STREAM_CREDITS + 2)
"""Stream queries waiting for their thread, which only hands them on."""


class StreamFrame(msgspec.Struct, frozen=True, array_like=True):
    """One end of a stream → the other; answered with nothing, or with a `Refusal` if the stream is not there."""

    stream: str
    kind: int
    number: int
    body: bytes = b""


def decode_frame(data: bytes) -> StreamFrame:
    """A peer's frame; PeerError where it does not decode or goes beyond its limits."""
    frame = from_msgpack(data, StreamFrame, "a stream frame")
    if len(frame.stream) > TAG_CHARS or len(frame.body) > STREAM_MESSAGE_BYTES:
        raise PeerError(f"a stream frame has a name of {len(frame.stream)} and a body of {len(frame.body)} bytes")
    return frame


class RoutedStream(StreamEnd):
    """One end of a stream through the router."""

    def __init__(self, peer: NodeId, name: str, streams: RoutedStreams, *, light: bool) -> None:
        super().__init__(peer, name, LIGHT_CREDITS if light else STREAM_CREDITS)
        self.name = name
        self._streams = streams
        self._cancel = Cancel()
        self._next_out = 0
        self._next_in = 0
        self._early: dict[int, tuple[StreamFrame, Question]] = {}
        self._unanswered: dict[int, Question] = {}
        self._watcher: Question | None = None
        self._under_way: set[asyncio.Future[None]] = set()
        self._entry: Entry | None = None

    def begin(self, *, opened_here: bool) -> None:
        """Watch the other end from now on."""
        self._entry = self._streams.ledger.open(self._peer, LinkKind.STREAM, opened_here=opened_here)
        self._keep(asyncio.ensure_future(self._watch()))

    def take(self, frame: StreamFrame, question: Question) -> None:
        """A frame of the other end, in any order; called on the loop."""
        if frame.kind == WATCH:
            self._streams.drop(self._watcher)
            self._watcher = question
        elif frame.kind in (DATA, FINISH) and self._next_in <= frame.number <= self._next_in + 2 * STREAM_CREDITS:
            self._early[frame.number] = (frame, question)
            while (entry := self._early.pop(self._next_in, None)) is not None:
                self._take_next(*entry)
        else:
            self._streams.refuse(question, Refusal(PeerError.kind, "stream frame out of turn"))
            self.fail("was cut: the other end sent a frame out of turn")

    async def settle(self) -> None:
        """Wait until nothing of this end runs any more."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _take_next(self, frame: StreamFrame, question: Question) -> None:
        self._next_in += 1
        if frame.kind == FINISH:
            self._streams.answer(question)
            self.arrive_finish()
        else:
            self._unanswered[frame.number] = question
            self._note(received=len(frame.body))
            self.arrive(frame.number, frame.body)

    def _carry(self, message: Buffer, on_sent: Callable[[], None] | None) -> None:
        frame = StreamFrame(self.name, DATA, self._next_out, bytes(message))
        self._note(sent=len(frame.body))
        self._next_out += 1
        self._deliver(frame, on_sent)

    def _carry_finish(self) -> None:
        self._deliver(StreamFrame(self.name, FINISH, self._next_out), None)

    def _acknowledge(self, number: int) -> None:
        self._streams.answer(self._unanswered.pop(number))

    def _deliver(self, frame: StreamFrame, on_sent: Callable[[], None] | None) -> None:
        """Have it sent at once, not by a task of the next turn of the loop: credit bounds how many are under way."""

        def answered(asking: asyncio.Future[None]) -> None:
            fault = None if asking.cancelled() else asking.exception()
            if isinstance(fault, DaitnError):
                self.fail(f"was cut: {fault.what}")
            elif fault is None and frame.kind == DATA:
                self.give_credit(on_sent)

        self._keep(self._streams.begin(self._peer, frame, STALL_S, self._cancel)).add_done_callback(answered)

    async def _watch(self) -> None:
        while True:
            try:
                await self._streams.ask(self._peer, StreamFrame(self.name, WATCH, 0), WATCH_S, self._cancel)
                return  # answered without a refusal: the other end is over and released
            except TimedOutError:
                continue
            except DaitnError as fault:
                self.fail(f"was cut: {fault.what}")
                return

    def _abort(self) -> None:
        gone = Refusal(UnavailableError.kind, "the other end dropped the stream")
        held = [*self._unanswered.values(), *(question for _, question in self._early.values())]
        if self._watcher is not None:
            held.insert(0, self._watcher)
        self._watcher = None
        self._unanswered.clear()
        self._early.clear()
        for question in held:
            self._streams.refuse(question, gone)
        self._streams.pull(self._cancel)

    def _release(self) -> None:
        if self._watcher is not None:
            self._streams.answer(self._watcher)
            self._watcher = None
        if self._entry is not None:
            self._entry.close()
        self._streams.forget(self)

    def _note(self, *, sent: int = 0, received: int = 0) -> None:
        if self._entry is not None:
            self._entry.sent(sent)
            self._entry.received(received)

    def _keep(self, work: asyncio.Future[None]) -> asyncio.Future[None]:
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        return work


class RoutedStreams:
    """All streams of a node through the router: opens, accepts, and gives each frame to its stream."""

    def __init__(
        self,
        config: FabricConfig,
        session: Session,
        workers: Workers,
        register: StreamRegister,
        counters: FabricCounters,
    ) -> None:
        self._config = config
        self._session = session
        self._workers = workers
        self._register = register
        self.ledger = register.ledger
        self._counters = counters
        self._streams: dict[tuple[NodeId, str], RoutedStream] = {}
        self._failed: OrderedDict[tuple[NodeId, str], None] = OrderedDict()
        self._settling: set[RoutedStream] = set()
        self._serving: asyncio.Task[None] | None = None
        self._arrivals: LoopMailbox[tuple[NodeId, StreamFrame, Question]]
        self._arrivals = LoopMailbox(asyncio.get_running_loop(), lambda arrival: self._take(*arrival))

    async def serve(self) -> None:
        """Receive frames: needed by openers and acceptors alike; declared once, at the first use."""
        if self._serving is None:
            expression = keys.inbox(self._config.domain, keys.STREAM_LANE, self._config.node)
            probe = keys.message(self._config.domain, keys.STREAM_LANE, self._config.node, self._config.node)
            serving = self._workers.run(lambda: self._session.serve(expression, probe, QUERIES_WAITING, self._receive))
            self._serving = asyncio.ensure_future(serving)
        await asyncio.shield(self._serving)

    async def open(self, receiver: NodeId, tag: str, timeout_s: float, *, light: bool = False) -> RoutedStream:
        """Ask `receiver` for a stream; UnavailableError if it refuses or does not answer."""
        await self.serve()
        end = RoutedStream(receiver, secrets.token_hex(8), self, light=light)
        self._streams[(receiver, end.name)] = end
        try:
            await self.ask(receiver, StreamFrame(end.name, OPEN, int(light), tag.encode()), timeout_s, Cancel())
        except BaseException:
            del self._streams[(receiver, end.name)]
            raise
        self._register.keep(end)
        end.begin(opened_here=True)
        return end

    async def close(self) -> None:
        """Wait for what the failed streams still had in flight."""
        await asyncio.gather(*(end.settle() for end in list(self._settling)))

    async def ask(self, peer: NodeId, frame: StreamFrame, timeout_s: float, cancel: Cancel) -> None:
        """Send a frame and wait for its answer."""
        await self._workers.run(self._asking(peer, frame, timeout_s, cancel))

    def begin(self, peer: NodeId, frame: StreamFrame, timeout_s: float, cancel: Cancel) -> asyncio.Future[None]:
        """As `ask`, sent as soon as a thread is free, before what waits in `ask`."""
        return self._workers.begin(self._asking(peer, frame, timeout_s, cancel))

    def _asking(self, peer: NodeId, frame: StreamFrame, timeout_s: float, cancel: Cancel) -> Callable[[], None]:
        key = keys.message(self._config.domain, keys.STREAM_LANE, peer, self._config.node)
        body = msgspec.msgpack.encode(frame)

        def ask() -> None:
            if frame.kind == DATA:
                self._register.pacer.wait(len(body), lambda: cancel.cancelled)
            self._session.ask(key, keys.STREAM_LANE, body, timeout_s=timeout_s, cancel=cancel)

        return ask

    def answer(self, question: Question) -> None:
        """Answer with nothing, soon."""
        self._session.soon(lambda: question.answer(b""))

    def refuse(self, question: Question, refusal: Refusal) -> None:
        """Refuse, soon."""
        self._session.soon(lambda: question.refuse(refusal))

    def drop(self, question: Question | None) -> None:
        """Answer a question that was replaced by a newer one."""
        if question is not None:
            self._session.soon(question.drop)

    def pull(self, cancel: Cancel) -> None:
        """Break asks in flight, soon, after the refusals already under way."""
        self._session.soon(cancel.pull)

    def forget(self, end: RoutedStream) -> None:
        """The stream is over or has failed."""
        self._streams.pop((end.peer, end.name), None)
        if end.failed:
            self._failed[(end.peer, end.name)] = None
            if len(self._failed) > FAILED_KEPT:
                self._failed.popitem(last=False)
        self._register.forget(end)
        self._settling.add(end)
        settled = asyncio.ensure_future(end.settle())
        settled.add_done_callback(lambda _: self._settling.discard(end))

    def _receive(self, question: Question) -> None:
        try:
            sender = keys.sender_of_message(question.key, self._config.domain, keys.STREAM_LANE, self._config.node)
            frame = decode_frame(question.payload())
        except PeerError as fault:
            self._counters.inbox_malformed += 1
            question.refuse(Refusal(fault.kind, fault.what))
            return
        self._arrivals.put((sender, frame, question))

    def _take(self, sender: NodeId, frame: StreamFrame, question: Question) -> None:
        end = self._streams.get((sender, frame.stream))
        if frame.kind == OPEN:
            self._accept(sender, frame, question)
        elif end is not None:
            end.take(frame, question)
        elif frame.kind == WATCH and (sender, frame.stream) not in self._failed:
            self.answer(question)  # it ended well, perhaps before the other end has read everything
        else:
            self.refuse(question, Refusal(UnavailableError.kind, "this stream is not open here"))

    def _accept(self, sender: NodeId, frame: StreamFrame, question: Question) -> None:
        tag = frame.body.decode(errors="replace")
        why = self._register.refusal(tag)
        if why is None and (len(tag) > TAG_CHARS or (sender, frame.stream) in self._streams):
            why = "does not accept this stream: its tag is too long or its name is taken"
        if why is not None:
            self.refuse(question, Refusal(UnavailableError.kind, why))
            return
        end = RoutedStream(sender, frame.stream, self, light=frame.number == 1)
        self._streams[(sender, frame.stream)] = end
        self.answer(question)
        end.begin(opened_here=False)
        self._register.run(end, tag)
