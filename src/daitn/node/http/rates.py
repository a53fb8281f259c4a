"""Rates: a token bucket per caller, so that one who calls without end slows nobody but himself.

Bounded memory: the callers not heard of for longest are forgotten, which gives them a full bucket, so forgetting never
refuses anybody. The caller passes the time, so tests need no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

REQUESTS_PER_S: Final = 200.0
"""Requests of one token a second: an upload of 2 MiB chunks at 1 Gbit/s makes 60."""

REQUESTS_BURST: Final = 400.0
"""Requests at once: a dashboard that opens a page of jobs with their logs."""

ANONYMOUS_PER_S: Final = 20.0
"""Requests of one address without a valid token: a mistyped one is tried a few times, a guesser should not get far."""

ANONYMOUS_BURST: Final = 200.0
"""A classroom behind one address, each of whom asks for the authority's certificate at the same time."""

CALLERS: Final = 10_000
"""Callers remembered, 100 bytes each."""


class RateBook:
    """See the module's docstring. `per_s` and `burst` count requests."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __contains__(self, caller: str) -> bool:
        return caller in self._buckets

    def take(self, caller: str, now_s: float) -> float:
        """Count one request at `now_s` (monotonic): 0 if it may go on, else seconds until the next may. O(1)."""
        left, since_s = self._buckets.pop(caller, (self._burst, now_s))
        left = min(self._burst, left + (now_s - since_s) * self._per_s)
        wait_s = 0.0
        if left >= 1:
            left -= 1
        else:
            wait_s = (1 - left) / self._per_s
        self._buckets[caller] = (left, now_s)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        return wait_s
