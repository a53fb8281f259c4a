"""Whose turn it is: keys share what hosts can do by their weights, however many queries one of them sends.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng 1996), one queue for each priority: a query's tag is the later of
the queue's virtual time and the tag of its key's last query, plus one over its key's weight; the least tag is next, and
virtual time is the tag of what was taken last. Whoever sends little is next soon after it comes; whoever sends much
waits behind itself; of two that always wait, one of twice the weight gets twice the turns.

Of priorities the highest that waits goes first, but for one turn in `LOWER_TURN`, which goes to the lowest that waits:
a key of low priority gets little beside others, and never nothing. Bounded for each key and in all; what does not fit
is refused with nothing spent. Pure; O(log n) a query.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

WAITING_PER_KEY: Final = 1024
"""Queries of one key that may wait: at a thousand a second, a second."""

WAITING_MOST: Final = 16_384
"""Queries that may wait in all: one each of as many keys as a gateway knows, and ten of each."""

LOWER_TURN: Final = 16
"""Every so many turns the lowest priority that waits has one."""

T = TypeVar("T")


class _Share(Generic[T]):
    """The keys of one priority."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, str, T]] = []
        self.tags: dict[str, float] = {}
        self.now = 0.0


class FairQueue(Generic[T]):
    """See the module's docstring."""

    def __init__(self, per_key: int = WAITING_PER_KEY, most: int = WAITING_MOST) -> None:
        self._per_key, self._most = per_key, most
        self._shares: dict[int, _Share[T]] = {}
        self._waiting: dict[str, int] = {}
        self._count = self._numbers = self._turns = 0
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return self._count

    def waiting(self, key: str) -> int:
        """Queries of a key that wait."""
        return self._waiting.get(key, 0)

    def push(self, key: str, query: T, weight: float = 1.0, rank: int = 0) -> int | None:
        """Have a query wait; its number, or None where its key or all keys together have too many waiting. `weight`: of
        its key, above 0; `rank`: of its priority, the least goes first."""
        if self.waiting(key) >= self._per_key or self._count >= self._most:
            return None
        share = self._shares.get(rank)
        if share is None:
            share = self._shares[rank] = _Share()
        tag = max(share.now, share.tags.get(key, 0.0)) + 1.0 / weight
        share.tags[key] = tag
        self._waiting[key] = self.waiting(key) + 1
        self._count += 1
        self._numbers += 1
        heapq.heappush(share.heap, (tag, self._numbers, key, query))
        return self._numbers

    def pop(self) -> T | None:
        """The query whose turn it is."""
        if not self._count:
            return None
        self._turns += 1
        for rank in sorted(self._shares, reverse=self._turns % LOWER_TURN == 0):
            share = self._shares[rank]
            while share.heap:
                tag, number, key, query = heapq.heappop(share.heap)
                if number in self._gone:
                    self._gone.discard(number)
                    continue
                share.now = tag
                self._left(key)
                return query
        return None

    def remove(self, number: int, key: str) -> None:
        """Nobody waits for a query any more; its number was given by `push` and it was not taken yet."""
        self._gone.add(number)
        self._left(key)

    def _left(self, key: str) -> None:
        self._count -= 1
        left = self._waiting[key] - 1
        if left:
            self._waiting[key] = left
        else:
            del self._waiting[key]
        if not self._waiting:
            self._shares.clear()
            self._gone.clear()
