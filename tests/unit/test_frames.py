"""Frames on their way out: alone at once, together at the end of a turn, or after a moment if nobody is in a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.answer_world import GATE, MemoryStream

from daitn.base.ids import NodeId
from daitn.node.serving.frames import FrameWriter
from daitn.wire.answers import NoMoreWanted, decode_to_host, encode_frame


class Ends:
    """A writer, and the other end of its stream."""

    def __init__(self) -> None:
        self.near, self.far = MemoryStream(NodeId("h1")), MemoryStream(GATE)
        self.near.other, self.far.other = self.far, self.near
        self.writer = FrameWriter(self.near)  # type: ignore[arg-type]

    def put(self, number: int, *, at_once: bool = False, patient: bool = False) -> None:
        self.writer.put_now(encode_frame(NoMoreWanted(query=number)), at_once=at_once, patient=patient)

    async def message(self) -> list[int]:
        async with asyncio.timeout(5):
            data = await self.far.receive()
        assert data is not None
        return [frame.query for frame in decode_to_host(data)]

    @property
    def sent(self) -> int:
        return self.far.arrived.qsize()


def run(story: Callable[[Ends], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        ends = Ends()
        writing = asyncio.create_task(ends.writer.run())
        try:
            await story(ends)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(all_of_it())


def test_frames_of_one_turn_go_together_and_one_that_is_alone_at_once() -> None:
    async def story(ends: Ends) -> None:
        ends.put(1, at_once=True)
        assert ends.sent == 1
        ends.put(2)
        ends.put(3)
        assert ends.sent == 1
        assert [await ends.message(), await ends.message()] == [[1], [2, 3]]

    run(story)


def test_whoever_is_in_no_hurry_waits_for_company_and_not_for_ever() -> None:
    async def story(ends: Ends) -> None:
        ends.put(1, patient=True)
        await asyncio.sleep(0)
        ends.put(2, patient=True)
        await asyncio.sleep(0)
        assert ends.sent == 0
        assert await ends.message() == [1, 2]
        ends.put(3, patient=True)
        ends.put(4)  # is in a hurry, and takes along what waits before it
        assert await ends.message() == [3, 4]

    run(story)


def test_what_the_stream_does_not_take_waits_and_keeps_its_order() -> None:
    async def story(ends: Ends) -> None:
        numbers = range(60)
        for number in numbers:
            ends.put(number, at_once=True)
        assert ends.sent < len(numbers)
        found: list[int] = []
        while len(found) < len(numbers):
            found += await ends.message()
        assert found == list(numbers)
        ends.put(60, at_once=True)
        assert await ends.message() == [60]

    run(story)
