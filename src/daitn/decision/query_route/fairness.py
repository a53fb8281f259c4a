"""Whose turn it is: keys share what hosts can do in equal parts, however many queries one of them sends.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng 1996): a query's tag is the later of the virtual time and the tag
of its key's last query, plus one; the least tag is next, and virtual time is the tag of what was taken last. Whoever
sends little is next soon after it comes; whoever sends much waits behind itself. Bounded for each key and in all; what
does not fit is refused with nothing spent. Pure; O(log n) a query.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

WAITING_PER_KEY: Final = 1024
"""Queries of one key that may wait: at a thousand a second, a second."""

WAITING_MOST: Final = 16_384
"""Queries that may wait in all: one each of as many keys as a gateway knows, and eight of each."""

T = TypeVar("T")


class FairQueue(Generic[T]):
    """See the module's docstring."""

    def __init__(self, per_key: int = WAITING_PER_KEY, most: int = WAITING_MOST) -> None:
        self._per_key, self._most = per_key, most
        self._heap: list[tuple[float, int, str, T]] = []
        self._waiting: dict[str, int] = {}
        self._tags: dict[str, float] = {}
        self._now = 0.0
        self._numbers = 0
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def waiting(self, key: str) -> int:
        """Queries of a key that wait."""
        return self._waiting.get(key, 0)

    def push(self, key: str, query: T) -> int | None:
        """Have a query wait; its number, or None where its key or all keys together have too many waiting."""
        if self.waiting(key) >= self._per_key or len(self) >= self._most:
            return None
        tag = max(self._now, self._tags.get(key, 0.0)) + 1.0
        self._tags[key] = tag
        self._waiting[key] = self.waiting(key) + 1
        self._numbers += 1
        heapq.heappush(self._heap, (tag, self._numbers, key, query))
        return self._numbers

    def pop(self) -> T | None:
        """The query whose turn it is."""
        while self._heap:
            tag, number, key, query = heapq.heappop(self._heap)
            if number in self._gone:
                self._gone.discard(number)
                continue
            self._now = tag
            self._left(key)
            return query
        self._tags.clear()
        return None

    def remove(self, number: int, key: str) -> None:
        """Nobody waits for a query any more; its number was given by `push` and it was not taken yet."""
        self._gone.add(number)
        self._left(key)

    def _left(self, key: str) -> None:
        left = self._waiting[key] - 1
        if left:
            self._waiting[key] = left
        else:
            del self._waiting[key]
        if not self._waiting:
            self._heap.clear()
            self._gone.clear()
            self._tags.clear()
