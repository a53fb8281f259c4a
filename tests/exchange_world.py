"""What tests of exchanges share: streams in memory, and children that are threads with a real room and real frames."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.dialogue import Dialogue
from daitn.node.sandbox.exchange_port import ExchangePort
from daitn.node.sandbox.exchanging import ChildExchange
from daitn.node.sandbox.protocol import HEADER, decode_answer, encode_frame

NUMBER = 1


class MemoryStream:
    """One end of a stream in memory, with the promises of `Stream`."""

    def __init__(self) -> None:
        self.peer = NodeId("n0002")
        self.other: MemoryStream = self
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._on_taken: deque[Callable[[], None] | None] = deque()
        self.cancelled = asyncio.Event()
        self.most_waiting = 0

    async def send(self, message: Any, *, on_sent: Callable[[], None] | None = None) -> None:
        if self.cancelled.is_set():
            raise UnavailableError("the stream is gone")
        while self.other.arrived.qsize() >= 8:
            await asyncio.sleep(0)
            if self.cancelled.is_set():
                raise UnavailableError("the stream is gone")
        self.other.arrived.put_nowait(bytes(message))
        self.other.most_waiting = max(self.other.most_waiting, self.other.arrived.qsize())
        self.other._on_taken.append(on_sent)  # as a carrier may: only what was taken counts as sent

    async def receive(self) -> bytes | None:
        getting = asyncio.ensure_future(self.arrived.get())
        gone = asyncio.ensure_future(self.cancelled.wait())
        try:
            await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                if self._on_taken and (on_sent := self._on_taken.popleft()) is not None:
                    asyncio.get_running_loop().call_soon(on_sent)
                return getting.result()
            raise UnavailableError("the stream was cut")
        finally:
            getting.cancel()
            gone.cancel()

    async def receive_into(self, target: memoryview) -> int | None:
        message = await self.receive()
        if message is None:
            return None
        if len(message) > len(target):
            raise PeerError(f"a message of {len(message)} bytes")
        target[: len(message)] = message
        return len(message)

    async def finish(self) -> None:
        self.other.arrived.put_nowait(None)

    async def cancel(self) -> None:
        self.cancelled.set()
        self.other.cancelled.set()


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    """Two ends of one stream."""
    a, b = MemoryStream(), MemoryStream()
    a.other, b.other = b, a
    return a, b


class ThreadChild:
    """A child's half of the frames in a thread, the node's half on the loop, and the port between."""

    def __init__(self, port: ExchangePort) -> None:
        self.port = port
        self.fault: Exception | None = None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._ours = ours
        self._channel = ChildChannel(theirs.detach())
        self._area = os.dup(port.area)
        self._reader = asyncio.ensure_future(self._read())
        port.attach(NUMBER, self._say)

    async def run(self, work: Callable[[ChildExchange], Any]) -> Any:
        """Do `work` in a thread; what it returns, or raises."""
        try:
            return await asyncio.to_thread(self._work, work)
        finally:
            self._channel.close()
            await asyncio.gather(self._reader, return_exceptions=True)  # all that was said before is heard
            self._ours.close()

    def _work(self, work: Callable[[ChildExchange], Any]) -> Any:
        dialogue = Dialogue(self._channel)
        dialogue.number = NUMBER
        dialogue.exchange = ChildExchange(self.port.room, self._area, NUMBER, dialogue)
        try:
            return work(dialogue.exchange)
        finally:
            dialogue.exchange.close()
            os.close(self._area)

    async def _say(self, message: Any) -> None:
        with suppress(BrokenPipeError):
            await asyncio.get_running_loop().sock_sendall(self._ours, encode_frame(message))

    async def _read(self) -> None:
        loop, buffer = asyncio.get_running_loop(), bytearray()
        while data := await loop.sock_recv(self._ours, 65536):
            buffer += data
            while len(buffer) >= HEADER.size:
                length = HEADER.unpack(buffer[: HEADER.size])[0]
                if len(buffer) < HEADER.size + length:
                    break
                self.port.take(decode_answer(buffer[HEADER.size : HEADER.size + length]))  # type: ignore[arg-type]
                del buffer[: HEADER.size + length]


async def run_group(works: Sequence[Callable[[ChildExchange], Any]]) -> list[Any]:
    """One child per work, all connected; what each returned or raised, in order. A child that raises drops its
    streams, as a visit does."""
    size = len(works)
    streams: list[dict[int, MemoryStream]] = [{} for _ in works]
    for low in range(size):
        for high in range(low + 1, size):
            streams[low][high], streams[high][low] = stream_pair()
    ports = [ExchangePort(rank, streams[rank]) for rank in range(size)]

    async def member(rank: int) -> Any:
        try:
            found = await ThreadChild(ports[rank]).run(works[rank])
        except BaseException:
            await ports[rank].cancel()
            raise
        await ports[rank].finish()
        return found

    return await asyncio.gather(*(member(rank) for rank in range(size)), return_exceptions=True)
