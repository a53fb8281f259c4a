"""A site's sweeps: when what has changed at all is told together, and what is set aside for it.

Paper V-A. Where bytes are scarce, more than half of a report of one number is its header, and thresholds that save
enough are so wide that a fact that stays within its own is as good as unknown. So a share of a site's bytes goes to
sweeps: one message for all things of the site, headers shared, at intervals that the orchestrator gives
(`topology.thresholds`). Without bytes set aside there would be none to sweep with: what is due for its threshold takes
each byte as it comes, one header each. So what a sweep takes is set aside evenly until it is due.

No clock, no I/O. Cost: O(1).
"""

from __future__ import annotations

from typing import Final

from daitn.base.units import ns_to_seconds, seconds_to_ns
from daitn.descriptors.reporting import Tuning, amount_of

SET_ASIDE_MOST: Final = 0.95
"""Of a site's rate, and of what it may save up: the rest stays free for what cannot wait for the next sweep."""


class Sweeps:
    """When a site sweeps. `bytes`: what a sweep takes at most, where all has changed."""

    __slots__ = ("_every_s", "_last_ns", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._every_s: float | None = None
        self._last_ns = 0

    def tune(self, tuning: Tuning, now_ns: int) -> None:
        """Other intervals; the first sweep is one interval after the first tuning that asks for them."""
        if self._every_s is None:
            self._last_ns = now_ns
        self._every_s = amount_of(tuning.sweep_step) if tuning.swept else None

    @property
    def next_ns(self) -> int | None:
        """When the next one is; None: there is none."""
        return None if self._every_s is None else self._last_ns + seconds_to_ns(self._every_s)

    def begin(self, now_ns: int) -> bool:
        """Whether it is time; the interval begins anew then."""
        next_ns = self.next_ns
        if next_ns is None or now_ns < next_ns:
            return False
        self._last_ns = now_ns
        return True

    def rate(self, tuning: Tuning) -> float:
        """Bytes per second that are set aside."""
        return 0.0 if self._every_s is None else min(SET_ASIDE_MOST * tuning.bytes_per_s, self.bytes / self._every_s)

    def set_aside(self, tuning: Tuning, now_ns: int) -> float:
        """Bytes that are set aside for the next one by now: as many as it takes once it is due."""
        if self._every_s is None:
            return 0.0
        saved = self.rate(tuning) * ns_to_seconds(max(0, now_ns - self._last_ns))
        return min(saved, float(self.bytes), SET_ASIDE_MOST * tuning.burst_bytes)
