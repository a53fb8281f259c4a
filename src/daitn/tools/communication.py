"""Communication service: the book of a domain's links, and the plan each node gets for its own (paper, II-A, tools).

The domain's half; `link_keeper` is the node's. A link is in the book because a node that has it said so: whole reports,
numbered, the newest counts. What nobody can say any more is not in it: with a node that left its links go at once, of
one that is only silent they stay, marked as uncertain. Classes follow from what both ends are (priority, metered, the
lower of two limits), so they are right whenever an access changes. Links are re-planned where somebody left or moved:
others close what leads to where it was, and the next transfer finds it anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.effects import Delivered, Effect, Event, Send
from daitn.base.errors import BugError
from daitn.base.ids import NodeId
from daitn.base.units import ns_to_seconds
from daitn.descriptors.access import Access
from daitn.descriptors.links import PRIORITIES, LinkClass, LinkKind, LinkShown, LinkState
from daitn.tools.service import ServiceView
from daitn.wire.terminal_tools import LinksPlanned, LinksReported
from daitn.wire.topology_tools import TerminalNoticed

NODES: Final = 100_000
"""Nodes in one book; each has a slot, so this is never met by members."""


class LinkBook(ServiceView, frozen=True, kw_only=True, tag="communication"):
    """All links of the domain, by node."""

    links: tuple[LinkShown, ...]


class _Node(msgspec.Struct, kw_only=True):
    """What one node said."""

    sequence: int = 0
    access: Access = Access()
    direct: tuple[str, ...] = ()
    links: tuple[LinkState, ...] = ()
    told_ns: int = 0
    present: bool = True


class CommunicationService:
    """See the module's docstring."""

    name: Final = "communication"

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._left: set[NodeId] = set()

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Delivered(sender=sender, message=LinksReported() as report):
                return self._reported(sender, report, now_ns)
            case Delivered(message=TerminalNoticed(node=node, present=present, left=left)):
                return self.noticed(node, present=present, left=left)
            case _:
                return []

    def noticed(self, node: NodeId, *, present: bool, left: bool) -> list[Effect]:
        """A node is there, is not seen any more, or has left for good: others' links to it end."""
        if left:
            self._left.add(node)
            self._nodes.pop(node, None)
            return self._plan_others(node)
        if (known := self._nodes.get(node)) is not None:
            known.present = present
        return []

    def links_of(self, node: NodeId) -> tuple[LinkState, ...]:
        """As that node said last; empty where it has left or is unknown."""
        known = self._nodes.get(node)
        return known.links if known is not None else ()

    def access_of(self, node: NodeId) -> Access:
        """How that node reaches the network, as it said last."""
        known = self._nodes.get(node)
        return known.access if known is not None else Access()

    def view(self) -> LinkBook:
        """The book without ages, which need a clock: see `shown`."""
        return LinkBook(links=self.shown(0))

    def shown(self, now_ns: int) -> tuple[LinkShown, ...]:
        """Every link of the domain, its class, and whether its node can be heard. O(links)."""
        return tuple(
            LinkShown(
                node=node,
                state=link,
                link_class=self._class(known, link),
                certain=known.present and self._is_there(link),
                age_s=ns_to_seconds(max(0, now_ns - known.told_ns)),
            )
            for node, known in sorted(self._nodes.items())
            for link in known.links
        )

    def check_invariants(self) -> None:
        """BugError where a node that left has links."""
        if self._left & set(self._nodes):
            raise BugError("a node that left is in the book of links")

    def _reported(self, sender: NodeId, report: LinksReported, now_ns: int) -> list[Effect]:
        if sender in self._left or (sender not in self._nodes and len(self._nodes) >= NODES):
            return []
        known = self._nodes.setdefault(sender, _Node())
        moved = bool(known.told_ns) and (known.access, known.direct) != (report.access, report.direct)
        known.sequence, known.links = report.sequence, report.links
        known.access, known.direct = report.access, report.direct
        known.told_ns, known.present = now_ns, True
        return [self._plan(sender, report.sequence), *(self._plan_others(sender) if moved else ())]

    def _plan(self, node: NodeId, sequence: int) -> Send:
        known = self._nodes[node]
        close = sorted({link.peer for link in known.links if self._is_stale(link)})
        plan = LinksPlanned(sequence=sequence, bytes_per_s=known.access.bytes_per_s, close=tuple(close))
        return Send(receiver=node, message=plan)

    def _plan_others(self, node: NodeId) -> list[Effect]:
        """Those that have direct links to a node which left or moved are told."""
        others = [one for one, known in self._nodes.items() if one != node and known.present]
        others = [one for one in others if any(link.peer == node and link.direct for link in self._nodes[one].links)]
        return [self._plan(one, self._nodes[one].sequence) for one in others]

    def _is_stale(self, link: LinkState) -> bool:
        """Whether a direct link leads to somebody who left, or to where it is not any more."""
        if not link.direct:
            return False
        peer = self._nodes.get(link.peer)
        if peer is None:
            return link.peer in self._left
        return bool(link.address) and bool(peer.told_ns) and link.address not in peer.direct

    def _is_there(self, link: LinkState) -> bool:
        peer = self._nodes.get(link.peer)
        return not link.direct or (peer is not None and peer.present)

    def _class(self, known: _Node, link: LinkState) -> LinkClass:
        peer = self._nodes.get(link.peer)
        return link_class(link.kind, known.access, *([peer.access] if peer is not None else ()))


def link_class(kind: LinkKind, *ends: Access) -> LinkClass:
    """What a link of that kind may expect and cost, by how its ends reach the network. The control session is not
    paced: what it carries is small, and late it is worth nothing."""
    limits = [one.bytes_per_s for one in ends if one.bytes_per_s > 0]
    return LinkClass(
        priority=PRIORITIES[kind],
        metered=any(one.metered for one in ends),
        bytes_per_s=min(limits) if limits and kind is not LinkKind.CONTROL else 0.0,
    )
