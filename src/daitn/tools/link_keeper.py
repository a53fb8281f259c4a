"""Link keeper: a node's half of the communication service. It says which links there are, and has them made, paced and
closed as planned.

The fabric makes links when somebody needs them; this core has one made ahead where bulk is likely (a visit that is
announced), ends those to peers that left or moved, and holds data to what the access allows. What it reports is what
the fabric showed last, whole each time, so that the book of the domain is never a sum of guesses.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import msgspec

from daitn.base.effects import Delivered, Effect, Event, Send, SetTimer, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import seconds_to_ns
from daitn.descriptors.access import Access
from daitn.descriptors.links import LINKS, LinkState
from daitn.tools.service import CloseLinks, LinksSeen, ManagerChanged, OpenLink, PaceLinks, ServiceView
from daitn.wire.center_tools import InputRef, VisitPrepare
from daitn.wire.terminal_tools import LinksPlanned, LinksReported

REPEAT_S: Final = 0.5
"""Between two tries of a report that nobody has heard of; doubles up to `REPORT_S`."""

REPORT_S: Final = 30.0
"""Links that stay are said again after this long, with what they carried."""

TIMER: Final = "links report"


class AccessChanged(Event, frozen=True, kw_only=True):
    """The node reaches the network this way now, and is reached for direct links there."""

    access: Access
    direct: tuple[str, ...]


class KeptLinks(ServiceView, frozen=True, kw_only=True, tag="links"):
    """The node's links, and whether the domain knows them."""

    links: tuple[LinkState, ...]
    reported: bool
    bytes_per_s: float


class LinkKeeper:
    """See the module's docstring."""

    name: Final = "links"

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._manager = CENTER
        self._access = Access()
        self._direct: tuple[str, ...] = ()
        self._links: tuple[LinkState, ...] = ()
        self._sequence = 0
        self._heard = False
        self._repeat_s = REPEAT_S
        self._bytes_per_s = 0.0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ManagerChanged(manager=manager):
                self._manager, self._repeat_s = manager, REPEAT_S
                return self._report(now_ns)
            case AccessChanged(access=access, direct=direct):
                if (access, direct) == (self._access, self._direct):
                    return []
                self._access, self._direct = access, direct
                return [*self._pace(access.bytes_per_s), *self._news(now_ns)]
            case LinksSeen(links=links):
                before, self._links = self._links, links[:LINKS]
                return self._news(now_ns) if _which(before) != _which(self._links) else []
            case Delivered(sender=sender, message=LinksPlanned() as plan):
                return self._planned(plan, now_ns) if sender == self._manager else []
            case Delivered(sender=sender, message=VisitPrepare(package=package)):
                return self._ahead(package) if sender == CENTER else []
            case TimerFired(name="links report"):
                return self._report(now_ns)
            case _:
                pass
        return []

    def view(self) -> KeptLinks:
        """The node's links."""
        return KeptLinks(links=self._links, reported=self._heard, bytes_per_s=self._bytes_per_s)

    def check_invariants(self) -> None:
        """BugError where one link is there twice."""
        numbers = [one.number for one in self._links]
        if len(set(numbers)) != len(numbers):
            raise BugError("two links of this node have one number")

    def _ahead(self, package: InputRef) -> list[Effect]:
        """A link to whoever holds what a visit will need. A site that was visited before is a holder itself, often the
        newest: it needs no link to itself, but the model is coming from another that was visited, too."""
        others = (one for one in package.holders if one.direct and one.node != self._node)
        return [OpenLink(peer=one.node, direct=one.direct) for one in islice(others, 1)]

    def _news(self, now_ns: int) -> list[Effect]:
        self._repeat_s = REPEAT_S
        return self._report(now_ns)

    def _report(self, now_ns: int) -> list[Effect]:
        self._sequence = max(self._sequence + 1, now_ns // 1000)
        self._heard = False
        report = LinksReported(
            sequence=self._sequence, access=self._access, direct=self._direct[:16], links=self._links
        )
        repeat_s, self._repeat_s = self._repeat_s, min(REPORT_S, 2 * self._repeat_s)
        again = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(repeat_s))
        return [Send(receiver=self._manager, message=report), again]

    def _planned(self, plan: LinksPlanned, now_ns: int) -> list[Effect]:
        peers = {one.peer for one in self._links if one.direct}
        effects: list[Effect] = [CloseLinks(peer=peer) for peer in plan.close if peer in peers]
        effects += self._pace(plan.bytes_per_s)
        if plan.sequence == self._sequence and not self._heard:
            self._heard, self._repeat_s = True, REPEAT_S
            effects.append(SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(REPORT_S)))
        return effects

    def _pace(self, bytes_per_s: float) -> list[Effect]:
        if bytes_per_s == self._bytes_per_s:
            return []
        self._bytes_per_s = bytes_per_s
        return [PaceLinks(bytes_per_s=bytes_per_s)]


def _which(links: tuple[LinkState, ...]) -> frozenset[tuple[int, NodeId, str, str]]:
    """Which links there are, whatever they carried."""
    return frozenset((one.number, one.peer, one.kind.value, one.address) for one in links)


def without_figures(link: LinkState) -> LinkState:
    """A link as it is named, without what it carried: for comparing."""
    return msgspec.structs.replace(link, sent_bytes=0, received_bytes=0, round_trip_s=None, lost_frac=0.0)
