"""Frames on their way out: whatever waits is sent together, and whoever brings more than the stream takes waits.

What comes in one turn of the loop goes together at its end: a message costs more than the frames in it. Whoever knows
that nobody else has anything to say (`at_once`) does not wait for company; whoever knows that others will have, and is
in no hurry (`patient`), waits `GATHER_S` for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from daitn.base.errors import InputError
from daitn.node.fabric.contract import STREAM_MESSAGE_BYTES, Stream
from daitn.wire.answers import FRAMES, FromHost, ToHost, encode_frame, join_frames

WAITING_BYTES: Final = 2 * STREAM_MESSAGE_BYTES
"""Frames that may wait for the stream, all queries together: two of the largest messages."""

FRAME_BYTES: Final = STREAM_MESSAGE_BYTES - 16
"""Largest frame: alone in its message."""

GATHER_S: Final = 0.001
"""How long a frame that is in no hurry waits for others: a piece of a text, of which the next one takes tens of
milliseconds. With a hundred texts at once, five of them go in one message."""


class FrameWriter:
    """See the module's docstring. `run` sends what the stream did not take at once, until it is cancelled or the stream
    fails."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        """What waits is for `run` to send."""
        self._gathering = False
        """What waits goes at the end of this turn."""
        self._due: asyncio.TimerHandle | None = None
        """What waits goes by then at the latest."""
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, frame: ToHost | FromHost, *, patient: bool = False) -> None:
        """Have a frame sent; waits while too much does. InputError for one that is too large to be carried."""
        data = encode_frame(frame)
        if len(data) > FRAME_BYTES:
            raise InputError(f"it has {len(data)} bytes, {FRAME_BYTES} are carried", todo="ask for less at a time")
        while self._bytes and self._bytes + len(data) > WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        self.put_now(data, patient=patient)

    @property
    def free(self) -> bool:
        """Whether there is room for a frame of any size."""
        return self._bytes <= WAITING_BYTES - FRAME_BYTES

    async def room(self) -> None:
        """Wait until there is room for a frame of any size."""
        while not self.free:
            self._room.clear()
            await self._room.wait()

    def put_now(self, data: bytes, *, at_once: bool = False, patient: bool = False) -> None:
        """Have a small frame sent that must not wait for room, such as one that ends something."""
        self._waiting.append(data)
        self._bytes += len(data)
        if at_once:
            self._send_those()
        elif self._gathering:
            return
        elif not patient:
            self._gathering = True
            self._loop.call_soon(self._send_those)
        elif self._due is None:
            self._due = self._loop.call_later(GATHER_S, self._send_those)

    def _send_those(self) -> None:
        """Send what waits, as much as the stream takes without waiting; the rest is for `run`."""
        self._gathering = False
        if self._due is not None:
            self._due.cancel()
            self._due = None
        while self._waiting and not self._some.is_set():
            batch, size = self._gathered()
            if self._stream.send_now(join_frames(batch)):
                self._sent(size)
            else:
                self._waiting.extendleft(reversed(batch))
                self._some.set()

    def _gathered(self) -> tuple[list[bytes], int]:
        """The frames of the next message, which wait no more, and their bytes."""
        batch = [self._waiting.popleft()]
        size = len(batch[0])
        while self._waiting and len(batch) < FRAMES and size + len(self._waiting[0]) <= FRAME_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1])
        return batch, size

    def _sent(self, size: int) -> None:
        self._bytes -= size
        self._room.set()

    async def run(self) -> None:
        """Send what comes and was not taken at once; UnavailableError once the other end is gone."""
        while True:
            await self._some.wait()
            await self._stream.ready()
            batch, size = self._gathered()
            await self._stream.send(join_frames(batch))
            self._sent(size)
            if not self._waiting:
                self._some.clear()
