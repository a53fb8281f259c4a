"""Shares of reports: what one sender may report, cut off before anything of it is looked at.

An overseer takes reports many at a time, and where they come faster than it takes them the oldest are dropped, whoever
sent them. So what a sender sends beyond its share is cut on the way in, by length alone: nobody else loses a report to
it. Counted in windows, because a counter costs a tenth of a microsecond a report and a bucket that leaks several times
that; two windows that meet let twice a window's share through, never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from daitn.base.ids import NodeId

ShareOf = Callable[[NodeId], float]
"""Bytes per second that a sender may report. Asked on the fabric's thread, once a window, of those who sent much."""

WINDOW_S: Final = 2.0
"""Share that may come at once, as after a cut link."""

UNASKED_BYTES: Final = 8192
"""What anybody may send in a window without being looked up: a few dozen reports."""

REPORT_LEAST: Final = 64
"""Bytes that a report counts as at least: a flood of empty ones is one, too."""


class ReportShares:
    """See the module's docstring."""

    def __init__(self, share_of: ShareOf) -> None:
        self._share_of = share_of
        self._taken: dict[NodeId, int] = {}
        self._most: dict[NodeId, float] = {}
        self._began_s = float("-inf")

    def within(
        self, senders: list[NodeId], payloads: list[bytes], now_s: float
    ) -> tuple[list[NodeId], list[bytes], dict[NodeId, int]]:
        """The reports that are within their senders' shares, in order, and how many of whom are not. O(reports)."""
        if not 0 <= now_s - self._began_s < WINDOW_S:
            self._taken, self._most, self._began_s = {}, {}, now_s
        taken = self._taken
        over: list[int] = []
        for place, (sender, payload) in enumerate(zip(senders, payloads, strict=True)):
            total = taken.get(sender, 0) + (len(payload) if len(payload) > REPORT_LEAST else REPORT_LEAST)
            taken[sender] = total
            if total > UNASKED_BYTES and total > self._most_of(sender):
                over.append(place)
        if not over:
            return senders, payloads, {}
        cut = Counter(senders[place] for place in over)
        gone = set(over)
        kept = [place for place in range(len(senders)) if place not in gone]
        return [senders[place] for place in kept], [payloads[place] for place in kept], dict(cut)

    def _most_of(self, sender: NodeId) -> float:
        most = self._most.get(sender)
        if most is None:
            most = self._most[sender] = max(float(UNASKED_BYTES), WINDOW_S * self._share_of(sender))
        return most
