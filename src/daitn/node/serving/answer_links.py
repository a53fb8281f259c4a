"""A gateway's side of answers piece by piece: one stream to each host, many queries on it (`wire.answers`).

Each query may have `PIECES` on their way; what was taken is allowed anew when half of them are gone. A host that sends
more than it may, or what is no frame, is cut off: with its stream all its queries end, and they are asked elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from daitn.base.errors import DaitnError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.descriptors.grant import Holder
from daitn.descriptors.texts import Given, TextAsk
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.fabric.contract import Holder as FabricHolder
from daitn.node.serving.frames import FrameWriter
from daitn.wire.answers import (
    STREAM_WORD,
    FromHost,
    MoreWanted,
    NoMoreWanted,
    TextAsked,
    TextPiece,
    decode_from_host,
    encode_frame,
)

PIECES: Final = 32
"""Pieces of one query on their way or waiting for its client: at 50 tokens a second, six tenths of a second."""

OPEN_S: Final = 5.0
"""Longest opening of a stream to a host."""


class Answer:
    """One query at one host: what it sends, in order. Ended by its last frame, by `stop`, or with its stream."""

    def __init__(self, link: _Link, number: int) -> None:
        self._link, self._number = link, number
        self._arrived: deque[FromHost] = deque()
        self._some = asyncio.Event()
        self._fault: DaitnError | None = None
        self._taken = 0
        self.over = False
        """Whether the host will send nothing more of it."""

    async def next(self) -> FromHost:
        """What the host says next; UnavailableError where its stream is gone, PeerError where it broke the rules."""
        while not self._arrived:
            if self._fault is not None:
                raise self._fault
            self._some.clear()
            await self._some.wait()
        frame = self._arrived.popleft()
        if isinstance(frame, TextPiece):
            self._taken += 1
            if self._taken >= PIECES // 2 and not self.over:
                self._link.say(MoreWanted(query=self._number, pieces=self._taken))
                self._taken = 0
        return frame

    def stop(self) -> None:
        """Nobody wants the rest: the host stops its work. May be called at any time."""
        self._link.forget(self._number, tell=not self.over)
        self.over = True

    def arrive(self, frame: FromHost) -> bool:
        """A frame came; False where the host may not send it."""
        if len(self._arrived) > PIECES:
            return False
        self._arrived.append(frame)
        self.over = not isinstance(frame, TextPiece)
        self._some.set()
        return True

    def fail(self, fault: DaitnError) -> None:
        """The stream is gone."""
        self._fault, self.over = fault, True
        self._some.set()


class AnswerLinks:
    """See the module's docstring."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._links: dict[NodeId, _Link] = {}
        self._opening: dict[NodeId, asyncio.Lock] = {}
        self._numbers = 0

    async def ask(
        self, host: Holder, model: ModelName, artifact: ArtifactId, asked: TextAsk, given: Given, left_s: float
    ) -> Answer:
        """Send a query; UnavailableError where the host cannot be reached, InputError where it cannot be carried."""
        link = await self._link(host)
        self._numbers += 1
        answer = Answer(link, self._numbers)
        link.answers[self._numbers] = answer
        frame = TextAsked(
            query=self._numbers,
            model=model,
            artifact=artifact,
            left_s=max(0.0, left_s),
            asked=asked,
            given=given,
            pieces=PIECES,
        )
        try:
            await link.writer.put(frame)
        except BaseException:
            link.forget(self._numbers, tell=False)
            raise
        return answer

    async def close(self) -> None:
        """End every stream, and with it what is under way."""
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
                stream = await self._fabric.open_stream(receiver, STREAM_WORD + " 1", timeout_s=OPEN_S)
                link = self._links[host.node] = _Link(stream)
            return link


class _Link:
    """The stream to one host."""

    def __init__(self, stream: Stream) -> None:
        self.answers: dict[int, Answer] = {}
        self.writer = FrameWriter(stream)
        self.over = False
        self._stream = stream
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.cancel()

    async def _write(self) -> None:
        try:
            await self.writer.run()
        except DaitnError as error:
            self._end(error)

    async def _read(self) -> None:
        try:
            while (data := await self._stream.receive()) is not None:
                for frame in decode_from_host(data):
                    answer = self.answers.get(frame.query)  # None: it was stopped, and the host does not know yet
                    if answer is not None and not answer.arrive(frame):
                        raise PeerError(f"{self._stream.peer} sends more than it was allowed")
                    if answer is not None and answer.over:
                        del self.answers[frame.query]
            self._end(UnavailableError(f"{self._stream.peer} ended its stream"))
        except DaitnError as error:
            self._end(error)
            with suppress(DaitnError):
                await self._stream.cancel()

    def _end(self, fault: DaitnError) -> None:
        self.over = True
        answers, self.answers = list(self.answers.values()), {}
        for answer in answers:
            answer.fail(fault)
