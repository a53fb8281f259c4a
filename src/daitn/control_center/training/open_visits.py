"""Visits that are under way, as the centre sees them: orders repeated until heard of, leases, and when to give up.

A lease runs on the terminal's clock from when it last heard the centre; here it is counted from when the centre last
spoke, which is earlier, so the centre never takes over while the terminal may still believe the visit its own, but for
messages under way, for which `MARGIN_S` is added. Giving up too early would only waste work: results are fenced.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.ids import NodeId, VisitId
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.records import VisitOrdered
from daitn.wire.center_tools import VisitProgress

MARGIN_S: Final = 0.5
"""Longest a message is believed to be under way; a later one meets a lease that has lapsed, or a fence."""

REPEAT_FIRST_S: Final = 0.25
"""First repetition of an order nobody answered; doubles each time."""

ENDED_S: Final = 0.5
"""A node whose link was closed has this long to be back before its visits are given up. A link that broke is made anew
within 0.35 s; a process that was started again takes a second, and its visits are lost in any case."""

REPEATS: Final = 4
"""Repetitions of an unanswered order; each renews the lease it may have, so there must be few."""


class OpenVisit(msgspec.Struct, kw_only=True):
    """One visit under way."""

    ordered: VisitOrdered
    lease_s: float = 0.0
    """The lease given when the centre last spoke."""
    spoken_ns: int
    """When the centre last sent an order or a renewal for it."""
    heard_ns: int = 0
    """When the terminal last spoke of it; 0: not yet."""
    repeats: int = 0
    asked_again: int = 0
    """Times its order was repeated because its node appeared, since the terminal last spoke of it."""
    progress: VisitProgress | None = None
    ended_ns: int = 0
    """When its node's link was closed, and so its process ended and its lease with it; 0: it was not, or it is back."""

    def gives_up_at(self) -> int:
        """When the visit counts as lost unless something is heard."""
        lapses_ns = self.spoken_ns + seconds_to_ns(self.lease_s + MARGIN_S)
        return min(lapses_ns, self.ended_ns + seconds_to_ns(ENDED_S)) if self.ended_ns else lapses_ns

    def repeats_at(self) -> int | None:
        """When the order is to be repeated; None: it was heard, or repeated often enough."""
        if self.heard_ns or self.repeats >= REPEATS:
            return None
        return self.spoken_ns + seconds_to_ns(REPEAT_FIRST_S * 2**self.repeats)


def next_check_ns(visit: OpenVisit) -> int:
    """When to look at this visit again."""
    repeat = visit.repeats_at()
    give_up = visit.gives_up_at()
    return give_up if repeat is None else min(repeat, give_up)


def on_node(visits: dict[VisitId, OpenVisit], node: NodeId) -> list[VisitId]:
    """Visits under way at a node."""
    return [name for name, visit in visits.items() if visit.ordered.node == node]
