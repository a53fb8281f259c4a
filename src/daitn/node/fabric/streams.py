"""Streams: ordered byte messages both ways, over a direct pair of TLS links or as queries through the router.

What both carriers share is here: the reader's side with its buffer, ending and failing, and the book that opens,
accepts and closes. A carrier moves messages and gives credit: a sender may be STREAM_CREDITS messages ahead of the
reader at the other end, so memory is bounded whatever the speeds. When a stream fails at one end, both directions fail
at both ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.errors import BugError, DaitnError, InputError, PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.node.fabric.contract import STREAM_CREDITS, STREAM_MESSAGE_BYTES, Buffer, FabricCounters, StreamHandler
from daitn.node.fabric.credit import Credit
from daitn.node.fabric.link_ledger import LinkLedger
from daitn.node.fabric.pacing import Pacer

TAG_CHARS: Final = 200
"""Longest tag: a job, a visit and a name."""

STREAMS: Final = 64
"""Streams accepted at one node at once; beyond it the opener is refused and tries elsewhere or later."""

_log = logging.getLogger(__name__)


class StreamHello(msgspec.Struct, frozen=True, array_like=True):
    """Opener → acceptor: a new stream; `stream` is random and unique for its opener."""

    stream: str
    tag: str


class StreamEnd(ABC):
    """One end of a stream, on the event loop; carriers add how messages move."""

    def __init__(self, peer: NodeId, name: str, credits: int = STREAM_CREDITS) -> None:
        self._peer = peer
        self._name = name
        self._arrived: deque[tuple[int, Buffer]] = deque()
        self._changed = asyncio.Event()
        self._peer_finished = False
        self._finished = False
        self._fault: UnavailableError | None = None
        self._credit = Credit(credits)
        self._take_message: Callable[[bytes], None] | None = None
        self._when_over: Callable[[DaitnError | None], None] | None = None

    @property
    def peer(self) -> NodeId:
        """The other end, proven by its certificate."""
        return self._peer

    async def send(self, message: Buffer, *, on_sent: Callable[[], None] | None = None) -> None:
        """See `Stream.send`."""
        if len(message) > STREAM_MESSAGE_BYTES:
            raise InputError(f"stream message of {len(message)} bytes is larger than {STREAM_MESSAGE_BYTES}")
        if self._finished:
            raise BugError(f"stream {self._name} was finished and is sent to")
        await self._credit.acquire()
        if self._fault is not None:
            self._credit.release()  # for the next one who waits
            raise self._fault
        self._carry(message, on_sent)

    def send_now(self, message: bytes) -> bool:
        """See `Stream.send_now`."""
        if len(message) > STREAM_MESSAGE_BYTES:
            raise InputError(f"stream message of {len(message)} bytes is larger than {STREAM_MESSAGE_BYTES}")
        if self._finished or self._fault is not None or not self._credit.take():
            return False
        self._carry(message, None)
        return True

    async def ready(self) -> None:
        """See `Stream.ready`."""
        await self._credit.acquire()
        self._credit.release()
        self._check()

    async def receive(self) -> bytes | None:
        """See `Stream.receive`."""
        if not await self._any():
            return None
        number, message = self._arrived.popleft()
        found = bytes(message)
        self._taken(number, message)
        return found

    async def receive_into(self, target: memoryview) -> int | None:
        """See `Stream.receive_into`."""
        if not await self._any():
            return None
        number, message = self._arrived.popleft()
        size = len(message)
        if size > len(target):
            raise PeerError(f"{self._peer} sent a message of {size} bytes, at most {len(target)} were expected")
        target[:size] = message
        self._taken(number, message)
        return size

    def hand_on(self, take: Callable[[bytes], None], over: Callable[[DaitnError | None], None]) -> None:
        """See `Stream.hand_on`."""
        self._take_message, self._when_over = take, over
        while self._arrived and self._fault is None:
            self._hand(*self._arrived.popleft())
        if self._fault is not None or self._peer_finished:
            self._tell_over()

    def _hand(self, number: int, message: Buffer) -> None:
        assert self._take_message is not None
        try:
            self._take_message(bytes(message))
        except DaitnError as fault:
            self.fail(f"was dropped: {fault.what}")
            return
        if self._fault is None:
            self._taken(number, message)

    def _tell_over(self) -> None:
        over, self._when_over = self._when_over, None
        if over is not None:
            over(self._fault)

    async def _any(self) -> bool:
        """Wait until a message is there; False if there will be none."""
        while True:
            self._check()
            if self._arrived:
                return True
            if self._peer_finished:
                return False
            self._changed.clear()
            await self._changed.wait()

    async def finish(self) -> None:
        """See `Stream.finish`."""
        if not self._finished and self._fault is None:
            self._finished = True
            self._carry_finish()
            self._release_if_over()

    async def cancel(self) -> None:
        """See `Stream.cancel`."""
        self.fail("was cancelled here")

    def fail(self, why: str) -> None:
        """Drop the stream both ways and wake whoever waits; a second call changes nothing."""
        if self._fault is not None or self.over:
            return
        self._fault = UnavailableError(
            f"stream {self._name} with {self._peer} {why}", todo="open a new one", ids={"node": self._peer}
        )
        self._arrived.clear()
        self._changed.set()
        for _ in range(STREAM_CREDITS):
            self._credit.release()
        self._abort()
        self._release()
        self._tell_over()

    @property
    def failed(self) -> bool:
        """Whether it was cancelled or cut."""
        return self._fault is not None

    @property
    def over(self) -> bool:
        """Whether both ends finished and everything was read."""
        return self._finished and self._peer_finished and not self._arrived

    def arrive(self, number: int, message: Buffer) -> None:
        """A message came, in order; called by the carrier on the loop."""
        if self._fault is not None:
            return
        if self._take_message is not None:
            self._hand(number, message)
        else:
            self._arrived.append((number, message))
            self._changed.set()

    def arrive_finish(self) -> None:
        """The other end will send nothing more; called by the carrier on the loop."""
        self._peer_finished = True
        self._changed.set()
        self._release_if_over()
        if self._take_message is not None:
            self._tell_over()

    def give_credit(self, on_sent: Callable[[], None] | None) -> None:
        """A message is sent and one more may be; called by the carrier on the loop."""
        if self._fault is None:
            self._credit.release()
            if on_sent is not None:
                on_sent()

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _taken(self, number: int, message: Buffer) -> None:
        self._recycle(message)
        self._acknowledge(number)
        self._release_if_over()

    def _recycle(self, message: Buffer) -> None:  # noqa: B027  # a carrier that keeps no memory has nothing to do
        """The message was copied: its memory may serve again."""

    def _release_if_over(self) -> None:
        if self.over and self._fault is None:
            self._release()

    @abstractmethod
    def _carry(self, message: Buffer, on_sent: Callable[[], None] | None) -> None:
        """Move a message towards the other end without blocking, then `give_credit(on_sent)`; credit was taken."""

    @abstractmethod
    def _carry_finish(self) -> None:
        """Tell the other end, after all messages, that there are no more."""

    @abstractmethod
    def _acknowledge(self, number: int) -> None:
        """Let the other end send one more, because the reader took a message."""

    @abstractmethod
    def _abort(self) -> None:
        """Tell the other end at once that the stream is gone, and stop what is in flight."""

    @abstractmethod
    def _release(self) -> None:
        """Free what the stream holds: it is over or has failed."""


class StreamRegister:
    """The streams accepted at this node: runs the handler for each and ends them with the fabric."""

    def __init__(self, node: NodeId, counters: FabricCounters, ledger: LinkLedger, pacer: Pacer) -> None:
        self.ledger = ledger
        self.pacer = pacer
        self._node = node
        self._counters = counters
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[StreamEnd] = set()

    def accept_with(self, handler: StreamHandler, word: str) -> bool:
        """Accept from now on what begins with a word; BugError for a second handler of it. Whether it is the first."""
        if word in self._handlers:
            raise BugError(f"{self._node} accepts streams {word!r} already")
        self._handlers[word] = handler
        return len(self._handlers) == 1

    def refusal(self, tag: str) -> str | None:
        """Why a new stream cannot be accepted now; None if it can."""
        if self._handler_of(tag) is None:
            return "accepts no streams"
        if len(self._tasks) >= STREAMS:
            self._counters.streams_refused += 1
            return f"has {STREAMS} streams open"
        return None

    def run(self, end: StreamEnd, tag: str) -> None:
        """Give an accepted stream to the handler."""
        handler = self._handler_of(tag)
        assert handler is not None  # `refusal` was asked before
        self.keep(end)
        task = asyncio.ensure_future(self._handle(handler, end, tag))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _handler_of(self, tag: str) -> StreamHandler | None:
        return self._handlers.get(tag.partition(" ")[0]) or self._handlers.get("")

    def keep(self, end: StreamEnd) -> None:
        """Fail this stream when the fabric closes."""
        self._ends.add(end)

    def forget(self, end: StreamEnd) -> None:
        """The stream is over or has failed."""
        self._ends.discard(end)

    async def close(self) -> None:
        """Cancel handlers and fail what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in list(self._ends):
            end.fail("was cut: the fabric closed")

    async def _handle(self, handler: StreamHandler, end: StreamEnd, tag: str) -> None:
        try:
            await handler(end.peer, tag, end)
            await end.finish()
            # The handler has what it wanted: what the other end still sends is read and dropped until it finishes.
            with contextlib.suppress(UnavailableError):
                while await end.receive() is not None:
                    pass
        except asyncio.CancelledError:
            end.fail("was cut: the fabric closed")
            raise
        except DaitnError as fault:
            end.fail(f"was dropped: {fault.what}")
        except Exception:  # noqa: BLE001 - a handler's bug ends its stream, not the node
            self._counters.handlers_failed += 1
            _log.exception("stream handler failed for %s", end.peer)
            end.fail("was dropped: the handler failed")
