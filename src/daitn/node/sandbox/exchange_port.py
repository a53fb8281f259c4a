"""The node's half of an exchange: carries parts between a child's room and the streams of its partners.

Parts are opaque here: the node looks at how long they are and whose slot they lie in, never into them. The child is not
trusted: it may hand over only slots that are its own, so what it can have under way is bounded by the room, and a child
that breaks this is garbage. The memory is made by the node and sealed, so that a child cannot shrink it under the
node's hands; what a child writes into a slot while that is being sent changes only the bytes that it sends itself.

Bounds, for each partner: `OUT_SLOTS` parts on their way out (shared by all partners), `IN_SLOTS` parts in the room, and
what the stream's credits allow in between (`STREAM_CREDITS`). A child that does not take its parts stops the partner
that sends them, and nobody else.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from daitn.base.errors import DaitnError, PeerError, UnavailableError
from daitn.node.sandbox.protocol import (
    OUT_SLOTS,
    PART_BYTES,
    WHAT_CHARS,
    ExchangeRoom,
    PartIn,
    PartnerGone,
    PartOut,
    PartSent,
    PartTaken,
)

ToRoom = PartSent | PartIn | PartnerGone


class PartStream(Protocol):
    """What carries parts to and from one partner: a stream of the fabric."""

    async def send(
        self, message: bytes | bytearray | memoryview, *, on_sent: Callable[[], None] | None = None
    ) -> None: ...

    async def receive_into(self, target: memoryview) -> int | None: ...

    async def finish(self) -> None: ...

    async def cancel(self) -> None: ...


class ExchangePort:
    """See the module's docstring. `streams`: the partners', by rank. Ended by `finish` or `cancel`."""

    def __init__(self, rank: int, streams: Mapping[int, PartStream]) -> None:
        self.room = ExchangeRoom(rank=rank, members=len(streams) + 1)
        self.moved_bytes = 0
        self._streams = dict(streams)
        self.area = _make_memory(self.room.nbytes)
        self._map = mmap.mmap(self.area, self.room.nbytes)
        self._view = memoryview(self._map)
        self._with_child = set(range(OUT_SLOTS))
        self._sending: dict[int, set[int]] = {}
        """Slots on their way out, and the partners that have not taken them yet."""
        self._queues: dict[int, asyncio.Queue[tuple[int, int] | None]] = {rank: asyncio.Queue() for rank in streams}
        self._free: dict[int, asyncio.Queue[int]] = {}
        self._given: dict[int, int] = {}
        for partner in streams:
            self._free[partner] = asyncio.Queue()
            for slot in self.room.slots_of(partner):
                self._free[partner].put_nowait(slot)
        self._frames: asyncio.Queue[ToRoom] = asyncio.Queue()
        self._number = 0
        self._gone: set[int] = set()
        self._senders: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []

    def attach(self, number: int, say: Callable[[ToRoom], Awaitable[None]]) -> None:
        """A child begins the run with this number; `say` sends it a frame."""
        self._number = number
        self._senders = [asyncio.create_task(self._send_parts(rank, one)) for rank, one in self._streams.items()]
        self._others = [asyncio.create_task(self._take_parts(rank, one)) for rank, one in self._streams.items()]
        self._others.append(asyncio.create_task(self._say_all(say)))

    def take(self, message: PartOut | PartTaken) -> None:
        """A frame of the child; PeerError where it speaks of a slot that is not its own."""
        if isinstance(message, PartOut):
            if message.slot not in self._with_child:
                raise PeerError(f"the child handed over slot {message.slot}, which is not its own to write")
            self._with_child.remove(message.slot)
            self._sending[message.slot] = set(self._queues)
            for queue in self._queues.values():
                queue.put_nowait((message.slot, message.size))
        else:
            rank = self._given.pop(message.slot, None)
            if rank is None:
                raise PeerError(f"the child took slot {message.slot}, which it was not given")
            self._free[rank].put_nowait(message.slot)

    async def finish(self) -> None:
        """The child has ended well: hand over what it still sent, then say to partners that there is no more."""
        for queue in self._queues.values():
            queue.put_nowait(None)
        await asyncio.gather(*self._senders)
        await asyncio.gather(*(stream.finish() for stream in self._streams.values()))
        await self._stop()

    async def cancel(self) -> None:
        """Drop the streams at once; partners notice. May be called again."""
        for stream in self._streams.values():
            with suppress(DaitnError):
                await stream.cancel()
        await self._stop()

    async def _stop(self) -> None:
        tasks = [*self._senders, *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._senders, self._others = [], []
        if self.area >= 0:
            os.close(self.area)
            self.area = -1
        self._view = memoryview(b"")
        with suppress(BufferError):  # a stream's thread still sends from it; the memory goes with the last of them
            self._map.close()

    # --- pumps ------------------------------------------------------------------------------------------------------

    async def _send_parts(self, rank: int, stream: PartStream) -> None:
        queue = self._queues[rank]
        while (part := await queue.get()) is not None:
            slot, size = part
            start = slot * PART_BYTES
            try:
                await stream.send(
                    self._view[start : start + size],
                    on_sent=lambda slot=slot: self._sent(rank, slot),  # type: ignore[misc]
                )
                self.moved_bytes += size
            except DaitnError as error:
                self._lose(rank, f"is gone: {error.what}")
            if rank in self._gone:
                self._sent(rank, slot)

    def _sent(self, rank: int, slot: int) -> None:
        """A partner has a part, or will never take it; once that holds for all, the child may write the slot again."""
        waiting = self._sending.get(slot)
        if waiting is None or rank not in waiting:
            return
        waiting.remove(rank)
        if not waiting:
            del self._sending[slot]
            self._with_child.add(slot)
            self._frames.put_nowait(PartSent(number=self._number, slot=slot))

    async def _take_parts(self, rank: int, stream: PartStream) -> None:
        try:
            while True:
                slot = await self._free[rank].get()
                with self._view[slot * PART_BYTES : (slot + 1) * PART_BYTES] as target:
                    size = await stream.receive_into(target)
                if size is None:
                    break
                if not size:
                    raise PeerError("sent a part of no bytes")
                self.moved_bytes += size
                self._given[slot] = rank
                self._frames.put_nowait(PartIn(number=self._number, rank=rank, slot=slot, size=size))
            self._lose(rank, "ended its side of the exchange")
        except PeerError as error:
            self._lose(rank, error.what)
            await stream.cancel()
        except UnavailableError as error:
            self._lose(rank, f"is gone: {error.what}")

    def _lose(self, rank: int, why: str) -> None:
        if rank not in self._gone:
            self._gone.add(rank)
            for slot in list(self._sending):
                self._sent(rank, slot)  # what was on its way there is on its way no more
            self._frames.put_nowait(PartnerGone(number=self._number, rank=rank, why=why[:WHAT_CHARS]))

    async def _say_all(self, say: Callable[[ToRoom], Awaitable[None]]) -> None:
        """Frames in order; how many wait is bounded by the slots."""
        with suppress(OSError):  # the child is gone, which its run will say
            while True:
                await say(await self._frames.get())


def _make_memory(size: int) -> int:
    """A descriptor of shared memory that nobody can make shorter or longer."""
    fd = os.memfd_create("daitn-exchange", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
