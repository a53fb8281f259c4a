"""A gateway's side of queries at hosts: one stream to each host, many queries on it (`wire.answers`).

The stream goes to the host directly where it can be reached so, else through the router. What queries of one moment
have to say to a host goes as one message, and so do its answers.

Each query may have `PIECES` on their way; what was taken is allowed anew when half of them are gone. A host that sends
more than it may, or what is no frame, is cut off: with its stream all its queries end, and they are asked elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final

import msgspec

from daitn.base.errors import DaitnError, InputError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.descriptors.grant import Holder
from daitn.descriptors.texts import Given, TextAsk
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.fabric.contract import Holder as FabricHolder
from daitn.node.serving.alarms import Alarms
from daitn.node.serving.frames import FRAME_BYTES, FrameWriter
from daitn.wire.answers import (
    STREAM_WORD,
    FromHost,
    MoreWanted,
    NoMoreWanted,
    OfText,
    QueryAsked,
    QueryDone,
    SealedPiece,
    SecretTextAsked,
    TextAsked,
    TextPiece,
    decode_from_host,
    encode_frame,
)
from daitn.wire.queries import KeyCall, KeyTold, QueryAnswer, QueryCall, QueryRefused
from daitn.wire.secret_queries import SealedPart

PIECES: Final = 32
"""Pieces of one query on their way or waiting for its client: at 50 tokens a second, six tenths of a second."""

OPEN_S: Final = 5.0
"""Longest opening of a stream to a host."""


Taker = Callable[[TextPiece | SealedPiece], bool]
"""Takes a piece in the turn in which it comes; False where it cannot now, DaitnError for one that is wrong."""


class Answer:
    """One query at one host: what it sends, in order. Ended by its last frame, by `stop`, or with its stream."""

    def __init__(self, link: _Link, number: int) -> None:
        self._link, self._number = link, number
        self._arrived: deque[OfText] = deque()
        self._waits: asyncio.Future[None] | None = None
        """Of whoever waits for the next one."""
        self._taker: Taker | None = None
        self._heard_s = self._patience_s = self._until_s = 0.0
        self._fault: DaitnError | None = None
        self._taken = 0
        self.over = False
        """Whether the host will send nothing more of it."""

    async def next(self, patience_s: float, left_s: float, taker: Taker | None = None) -> OfText:
        """What the host says next that `taker` does not take; UnavailableError where its stream is gone, PeerError
        where it broke the rules, TimeoutError where it says nothing for `patience_s`, or comes to no end in `left_s`.

        `taker` is given pieces where they are read, while it is waited here: neither a task is woken for them nor a
        timer wound. What it raises of a piece is raised here."""
        while not self._arrived:
            if self._fault is not None:
                raise self._fault
            loop = asyncio.get_running_loop()
            self._waits = loop.create_future()
            self._heard_s = now_s = loop.time()
            self._patience_s, self._until_s = patience_s, now_s + left_s
            timer = _Timer(loop, self._due_s, self._wake)
            self._taker = taker
            try:
                await self._waits
            finally:
                self._taker = None
                timer.cancel()
            if not self._arrived and self._fault is None:
                raise TimeoutError
        frame = self._arrived.popleft()
        if isinstance(frame, TextPiece | SealedPiece):
            self._took_one()
        return frame

    def stop(self) -> None:
        """Nobody wants the rest: the host stops its work. May be called at any time."""
        self._link.forget(self._number, tell=not self.over)
        self.over = True

    def arrive(self, frame: FromHost) -> bool:
        """A frame came; False where the host may not send it."""
        if isinstance(frame, TextPiece | SealedPiece):
            if self._taker is not None and not self._arrived and self._given(self._taker, frame):
                return True
        elif isinstance(frame, QueryDone):
            return False
        else:
            self.over = True
        if len(self._arrived) > PIECES:
            return False
        self._arrived.append(frame)
        self._wake()
        return True

    def _given(self, taker: Taker, piece: TextPiece | SealedPiece) -> bool:
        """Whether it was taken, or the answer ends with it."""
        try:
            if self._fault is None:
                if not taker(piece):
                    return False
                self._heard_s = asyncio.get_running_loop().time()
                self._took_one()
        except DaitnError as fault:
            self._fault = fault
            self._wake()
        return True

    def _took_one(self) -> None:
        self._taken += 1
        if self._taken >= PIECES // 2 and not self.over:
            self._link.say(MoreWanted(query=self._number, pieces=self._taken))
            self._taken = 0

    def _due_s(self) -> float:
        """When it is late, by what was heard so far."""
        return min(self._heard_s + self._patience_s, self._until_s)

    def fail(self, fault: DaitnError) -> None:
        """The stream is gone."""
        self._fault, self.over = fault, True
        self._wake()

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)


class _Timer:
    """Rings once it is late; when that is, is asked anew each time that it would have been."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due_s: Callable[[], float], ring: Callable[[], None]) -> None:
        self._loop, self._due_s, self._ring = loop, due_s, ring
        self._handle = loop.call_at(due_s(), self._look)

    def cancel(self) -> None:
        """It is waited no more."""
        self._handle.cancel()

    def _look(self) -> None:
        due_s = self._due_s()
        if self._loop.time() < due_s:
            self._handle = self._loop.call_at(due_s, self._look)
        else:
            self._ring()


class Whole:
    """One query of tensors at one host: its answer comes whole, in time, or not at all. What waits for it is called in
    the turn in which it comes: a future would have it wait for two more turns of the loop."""

    __slots__ = ("_alarm", "_answer", "_fault", "_host", "_of_key", "_patience_s", "_waits", "link", "number", "over")

    def __init__(self, host: NodeId, patience_s: float, alarms: Alarms, *, of_key: bool = False) -> None:
        self._host, self._patience_s, self._of_key = host, patience_s, of_key
        self._answer: QueryAnswer | QueryRefused | KeyTold | None = None
        self._fault: BaseException | None = None
        self._waits: Callable[[], None] | None = None
        self.over = False
        self.link: _Link | None = None
        self.number = 0
        self._alarm = alarms.set(patience_s, self._late)

    def done(self) -> bool:
        """Whether it is known what came."""
        return self.over

    def result(self) -> Any:
        """What came; raises what came in its place."""
        if self._fault is not None:
            raise self._fault
        return self._answer

    def call_when_done(self, wake: Callable[[], None] | None) -> None:
        """Whom to call, once, when it is known what came; None: nobody any more."""
        self._waits = wake

    def cancel(self) -> None:
        """Nobody waits for it any more: the host stops."""
        self._end(asyncio.CancelledError(), tell=True)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for it; for whoever waits for nothing else. As `result`."""
        if not self.over:
            some: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waits = lambda: None if some.done() else some.set_result(None)
            try:
                yield from some
            finally:
                self.cancel()
        return self.result()

    def arrive(self, frame: FromHost) -> bool:
        """Its answer, or what the host may not send."""
        if not isinstance(frame, QueryDone) or isinstance(frame.answer, KeyTold) != self._of_key:
            return False
        self._answer = frame.answer
        self._end(None)
        return True

    def fail(self, fault: DaitnError) -> None:
        """The stream is gone, or cannot be had."""
        self._end(fault)

    def _late(self) -> None:
        late = UnavailableError(f"{self._host} did not answer within {self._patience_s:.3g} s")
        self._end(late, tell=True)

    def _end(self, fault: BaseException | None, *, tell: bool = False) -> None:
        if self.over:
            return
        self.over, self._fault = True, fault
        Alarms.off(self._alarm)
        if tell and self.link is not None:
            self.link.forget(self.number, tell=True)
        wake, self._waits = self._waits, None
        if wake is not None:
            wake()


class AnswerLinks:
    """See the module's docstring."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._links: dict[NodeId, _Link] = {}
        self._opening: dict[NodeId, asyncio.Lock] = {}
        self._alarms = Alarms()
        self._numbers = 0
        self._soon: set[asyncio.Task[None]] = set()

    def query(self, host: Holder, call: QueryCall, patience_s: float) -> Whole:
        """What a host says to a query of tensors: `QueryAnswer` or `QueryRefused`; UnavailableError where it says
        nothing in time or cannot be reached, PeerError where it breaks the rules, InputError for what cannot be
        carried. Cancelled, the host stops."""
        return self._ask_whole(host, call, Whole(host.node, patience_s, self._alarms))

    async def key(self, host: Holder, patience_s: float) -> KeyTold:
        """The key with which queries may be encrypted for a host; errors as `query`."""
        told: KeyTold = await self._ask_whole(host, KeyCall(), Whole(host.node, patience_s, self._alarms, of_key=True))
        return told

    def _ask_whole(self, host: Holder, call: QueryCall | KeyCall, whole: Whole) -> Whole:
        link = self._links.get(host.node)
        if link is not None and not link.over and link.writer.free:
            self._put(link, whole, call)
        else:
            task = asyncio.get_running_loop().create_task(self._put_soon(host, whole, call))
            self._soon.add(task)
            task.add_done_callback(self._soon.discard)
        return whole

    def _put(self, link: _Link, whole: Whole, call: QueryCall | KeyCall) -> None:
        self._numbers += 1
        data = encode_frame(QueryAsked(query=self._numbers, call=call))
        if len(data) > FRAME_BYTES:
            whole.fail(InputError(f"it has {len(data)} bytes, {FRAME_BYTES} are carried", todo="ask for less"))
            return
        whole.link, whole.number = link, self._numbers
        link.answers[self._numbers] = whole
        link.writer.put_now(data, at_once=len(link.answers) == 1)

    async def _put_soon(self, host: Holder, whole: Whole, call: QueryCall | KeyCall) -> None:
        try:
            link = await self._link(host)
            await link.writer.room()
            if not whole.over:
                self._put(link, whole, call)
        except DaitnError as fault:
            whole.fail(fault)

    async def ask(
        self, host: Holder, model: ModelName, artifact: ArtifactId, asked: TextAsk, given: Given, left_s: float
    ) -> Answer:
        """Send a query; UnavailableError where the host cannot be reached, InputError where it cannot be carried."""
        frame = TextAsked(
            query=0, model=model, artifact=artifact, left_s=max(0.0, left_s), asked=asked, given=given, pieces=PIECES
        )
        return await self._tell(host, frame)

    async def ask_secret(
        self, host: Holder, model: ModelName, artifact: ArtifactId, sealed: SealedPart, left_s: float
    ) -> Answer:
        """Send a query that only the host can read; errors as `ask`."""
        frame = SecretTextAsked(
            query=0, model=model, artifact=artifact, left_s=max(0.0, left_s), sealed=sealed, pieces=PIECES
        )
        return await self._tell(host, frame)

    async def _tell(self, host: Holder, frame: TextAsked | SecretTextAsked) -> Answer:
        link = await self._link(host)
        self._numbers += 1
        number = self._numbers
        answer = Answer(link, number)
        link.answers[number] = answer
        try:
            await link.writer.put(msgspec.structs.replace(frame, query=number))
        except BaseException:
            link.forget(number, tell=False)
            raise
        return answer

    async def close(self) -> None:
        """End every stream, and with it what is under way."""
        for task in list(self._soon):
            task.cancel()
        await asyncio.gather(*self._soon, return_exceptions=True)
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    async def _link(self, host: Holder) -> _Link:
        async with self._opening.setdefault(host.node, asyncio.Lock()):
            link = self._links.get(host.node)
            if link is None or link.over:
                if link is not None:
                    await link.close()
                receiver = FabricHolder(node=host.node, direct=tuple(host.direct))
                stream = await self._fabric.open_stream(receiver, STREAM_WORD + " 1", timeout_s=OPEN_S, light=True)
                link = self._links[host.node] = _Link(stream)
            return link


class _Link:
    """The stream to one host."""

    def __init__(self, stream: Stream) -> None:
        self.answers: dict[int, Answer | Whole] = {}
        self.writer = FrameWriter(stream)
        self.over = False
        self._stream = stream
        self._writing = asyncio.create_task(self._write())
        stream.hand_on(self._take, self._over)

    def say(self, frame: MoreWanted | NoMoreWanted) -> None:
        """A small frame, at once."""
        if not self.over:
            self.writer.put_now(encode_frame(frame))

    def forget(self, number: int, *, tell: bool) -> None:
        """Nobody waits for this query any more."""
        if self.answers.pop(number, None) is not None and tell:
            self.say(NoMoreWanted(query=number))

    async def close(self) -> None:
        """End it."""
        self._end(UnavailableError("the stream to the host was closed here"))
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self._stream.cancel()

    async def _write(self) -> None:
        try:
            await self.writer.run()
        except DaitnError as error:
            self._end(error)

    def _take(self, data: bytes) -> None:
        """What the host says; the first fault ends all its queries with it, then the stream is dropped."""
        try:
            for frame in decode_from_host(data):
                answer = self.answers.get(frame.query)  # None: it was stopped, and the host does not know yet
                if answer is not None and not answer.arrive(frame):
                    raise PeerError(f"{self._stream.peer} sends more than it was allowed")
                if answer is not None and answer.over:
                    self.answers.pop(frame.query, None)
        except DaitnError as error:
            self._end(error)
            raise

    def _over(self, fault: DaitnError | None) -> None:
        self._end(fault or UnavailableError(f"{self._stream.peer} ended its stream"))

    def _end(self, fault: DaitnError) -> None:
        self.over = True
        answers, self.answers = list(self.answers.values()), {}
        for answer in answers:
            answer.fail(fault)
