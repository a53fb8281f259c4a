"""Quotas of a key: how many queries and tokens it may ask for in a minute and in a day (paper II-B, Q-FAM).

Each quota is a bucket that is full at first and fills up again at its pace, so that no window begins or ends for all
keys at once, and whoever asked little lately may ask much at once. What a query takes in tokens is known when it has
ended: it is let in while something is left, and what it took beyond that is waited for before the next. Pure; moments
are given, in seconds of one monotonic clock. O(1).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from daitn.descriptors.key_terms import KeyTerms

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0


class QuotaSpent(NamedTuple):
    """Which quota is used up, and when coming back helps."""

    what: str
    wait_s: float


class _Bucket:
    """One quota."""

    def __init__(self, what: str, most: int, over_s: float, now_s: float) -> None:
        self.what, self._most, self._per_s = what, float(most), most / over_s
        self._left, self._since_s = float(most), now_s

    def wait_s(self, least: float, now_s: float) -> float:
        """Until so much is left."""
        self._fill(now_s)
        return max(0.0, least - self._left) / self._per_s

    def left(self, now_s: float) -> float:
        """What is left; negative: owed."""
        self._fill(now_s)
        return self._left

    def take(self, amount: float, now_s: float) -> None:
        """So much was spent."""
        self._fill(now_s)
        self._left -= amount

    def _fill(self, now_s: float) -> None:
        if now_s > self._since_s:
            self._left = min(self._most, self._left + (now_s - self._since_s) * self._per_s)
            self._since_s = now_s


class KeyQuotas:
    """What is left of one key's quotas."""

    def __init__(self, terms: KeyTerms, now_s: float) -> None:
        per_minute, tokens, day = terms.queries_per_minute, terms.tokens_per_minute, terms.tokens_per_day
        self._queries = [_Bucket(f"{per_minute} queries a minute", per_minute, MINUTE_S, now_s)] if per_minute else []
        self._tokens = [_Bucket(f"{tokens} tokens a minute", tokens, MINUTE_S, now_s)] if tokens else []
        self._tokens += [_Bucket(f"{day} tokens a day", day, DAY_S, now_s)] if day else []

    def refusal(self, now_s: float) -> QuotaSpent | None:
        """The quota that lasts longest of those used up; None: a query may be asked."""
        waits = [QuotaSpent(one.what, one.wait_s(1.0, now_s)) for one in (*self._queries, *self._tokens)]
        longest = max(waits, key=lambda one: one.wait_s, default=None)
        return longest if longest is not None and longest.wait_s > 0 else None

    def left(self, now_s: float) -> tuple[float, float]:
        """Queries and tokens that are left; infinite where they are not counted."""
        queries = min((one.left(now_s) for one in self._queries), default=math.inf)
        return queries, min((one.left(now_s) for one in self._tokens), default=math.inf)

    def empty(self, now_s: float) -> None:
        """Nothing is left of any."""
        for one in (*self._queries, *self._tokens):
            one.take(one.left(now_s), now_s)

    def spend(self, now_s: float, *, queries: int = 0, tokens: int = 0) -> None:
        """So much was asked."""
        for one in self._queries:
            one.take(queries, now_s)
        for one in self._tokens:
            one.take(tokens, now_s)
