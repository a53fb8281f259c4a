"""Credit of a stream: how many messages more may be sent, and who waits to send.

A semaphore that can be asked without waiting: what may go at once is sent by whoever has it, in the turn of the loop in
which it has it, and no task is woken for it.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Credit:
    """Of one end of a stream, on the event loop. Who waits is served by arrival; nobody passes by those who wait."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take one; False, and nothing is taken, where there is none or somebody waits for one."""
        if not self._count or self._waiting:
            return False
        self._count -= 1
        return True

    async def acquire(self) -> None:
        """Take one, as soon as there is one."""
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was given, and nobody is left to use it
            elif turn in self._waiting:
                self._waiting.remove(turn)
                self._serve()
            raise

    def release(self) -> None:
        """One more may be sent."""
        self._count += 1
        self._serve()

    def _serve(self) -> None:
        while self._count and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._count -= 1
                turn.set_result(None)
