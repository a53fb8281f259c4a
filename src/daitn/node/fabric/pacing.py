"""Pacing: holds what data takes of an access to a limit, both ways together (a token bucket whose debt is slept off).

Threads that move bulk ask before each piece. A piece is let through at once and its time is paid by the next one, so
small traffic after a pause is never held up. Without a limit it costs one comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

SLICE_S: Final = 0.1
"""Longest sleep before looking whether the wait was given up."""


class Pacer:
    """See the module's docstring. For any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.bytes_per_s = 0.0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_s = 0.0
        """When what was let through so far is paid for."""

    def wait(self, count: int, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until `count` bytes may be moved, or the wait is given up."""
        if (due_s := self.due_s(count)) <= 0:
            return
        turn_s = self._clock() + due_s
        while (left_s := turn_s - self._clock()) > 0 and not given_up():
            self._sleep(min(left_s, SLICE_S))

    def due_s(self, count: int) -> float:
        """In how many seconds `count` bytes may be moved, which are then moved; for whoever must not sleep."""
        rate = self.bytes_per_s
        if rate <= 0:
            return 0.0
        with self._lock:
            now_s = self._clock()
            turn_s = max(now_s, self._free_s)
            self._free_s = turn_s + count / rate
        return turn_s - now_s
