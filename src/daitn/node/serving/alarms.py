"""Alarms: moments after which a query is late, of which nearly all are called off before they come.

A timer of the event loop costs a query more than its host's choice does: an object, and a place in a heap that is
sorted in Python. Here alarms of the same `TICK_S` lie in one dictionary, and only that has a timer. So an alarm comes
up to a tick late, never early.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.002
"""Alarms within it come together. Nothing here has to be known sooner: a deadline is a millisecond at least."""

_NEVER: Final = 2**62

Alarm = tuple[dict[int, Callable[[], None]], int]
"""One that was set; for `Alarms.off`."""


class Alarms:
    """See the module's docstring. Of the loop that runs when the first one is set; set and called off in O(1)."""

    def __init__(self) -> None:
        self._ticks: dict[int, dict[int, Callable[[], None]]] = {}
        self._order: list[int] = []
        """A heap of the ticks."""
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._next = _NEVER
        """The tick that the timer is for."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """Have `ring` called after so long, unless it is called off."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        tick = int((loop.time() + seconds) / TICK_S) + 1
        held = self._ticks.get(tick)
        if held is None:
            held = self._ticks[tick] = {}
            heapq.heappush(self._order, tick)
        self._count += 1
        held[self._count] = ring
        if tick < self._next:
            self._wind()
        return held, self._count

    @staticmethod
    def off(alarm: Alarm) -> None:
        """Call it off; one that rang already is no error."""
        alarm[0].pop(alarm[1], None)

    def __len__(self) -> int:
        return sum(map(len, self._ticks.values()))

    def _wind(self) -> None:
        assert self._loop is not None
        while self._order and not self._ticks[self._order[0]]:  # all of it was called off
            del self._ticks[heapq.heappop(self._order)]
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, _NEVER
        if self._order:
            self._next = self._order[0]
            self._timer = self._loop.call_at(self._next * TICK_S, self._ring)

    def _ring(self) -> None:
        assert self._loop is not None
        # The loop's clock may say a little less than the moment at which it was to call.
        now = (self._loop.time() + TICK_S / 4) / TICK_S
        while self._order and self._order[0] <= now:
            held = self._ticks.pop(heapq.heappop(self._order))
            while held:
                held.pop(next(iter(held)))()
        self._wind()
