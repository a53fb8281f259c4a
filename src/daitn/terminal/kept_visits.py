"""Open visits at a terminal: where each is, and how long one that was ordered now would wait for a slot."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from enum import StrEnum
from typing import Final

from daitn.base.ids import JobId
from daitn.base.states import StateTable
from daitn.base.units import ns_to_seconds
from daitn.wire.center_tools import VisitFailed, VisitOrder, VisitResult

REPORT_FIRST_S: Final = 0.25
"""First repetition of an unacknowledged result; doubles up to `visit_keeper.REPORT_MOST_S`."""

SMOOTHING: Final = 0.3
"""Weight of the last visit in what a visit usually takes here."""


class State(StrEnum):
    """Where a visit is, at its terminal."""

    FETCHING = "fetching"
    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    CLOSED = "closed"


TABLE: Final = StateTable(
    "visit",
    {
        State.FETCHING: {"arrived": State.WAITING, "failed": State.DONE, "dropped": State.CLOSED},
        State.WAITING: {"begun": State.WORKING, "failed": State.DONE, "dropped": State.CLOSED},
        State.WORKING: {"finished": State.DONE, "failed": State.DONE, "dropped": State.CLOSED},
        State.DONE: {"acknowledged": State.CLOSED, "dropped": State.CLOSED},
        State.CLOSED: {},
    },
)


class KeptVisit:
    """One open visit."""

    def __init__(self, job: JobId, fence: int, order: VisitOrder | None) -> None:
        self.job = job
        self.fence = fence
        self.order = order
        self.state = State.FETCHING
        self.begun_ns = 0
        """When it began to work."""
        self.done = 0
        self.of = 0
        self.loss: float | None = None
        self.fetched_bytes = 0
        self.fetch_s = 0.0
        self.owed: VisitResult | VisitFailed | None = None
        self.repeat_s = REPORT_FIRST_S


class SlotTimes:
    """How long visits take at a terminal, and so when its slots are free."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._usual_s: float | None = None

    def finished(self, visit: KeptVisit, now_ns: int) -> None:
        """A visit has done its work."""
        took_s = ns_to_seconds(max(0, now_ns - visit.begun_ns))
        usual_s = took_s if self._usual_s is None else self._usual_s
        self._usual_s = usual_s + SMOOTHING * (took_s - usual_s)

    def wait_s(self, visits: Collection[KeptVisit], now_ns: int) -> float:
        """Seconds that a visit ordered now would wait until a slot is its own: those before it go on as they went so
        far, and take as long as visits usually do here where nothing is known of them. O(visits · log slots)."""
        ends = [self._left_s(one, now_ns) for one in visits if one.state is State.WORKING]
        ends += [0.0] * (self._slots - len(ends))
        heapq.heapify(ends)
        for one in visits:
            if one.state in (State.FETCHING, State.WAITING):
                heapq.heapreplace(ends, ends[0] + (self._usual_s or 0.0))
        return ends[0]

    def _left_s(self, visit: KeptVisit, now_ns: int) -> float:
        gone_s = ns_to_seconds(max(0, now_ns - visit.begun_ns))
        if 0 < visit.done <= visit.of:
            return gone_s * (visit.of - visit.done) / visit.done
        return max(0.0, (self._usual_s or 0.0) - gone_s)
