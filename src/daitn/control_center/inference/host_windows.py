"""Access windows of model hosts: queries go where an access is there by plan, replicas where it will stay a while.

Paper II-A and II-B; what visits do with windows is `control_center.training.windows`. Gateways are told anew at each
moment at which a window of a host opens or closes, so no query has to find out by being lost. Placement leaves out
hosts whose window closes soon, as long as others can do: what they serve is brought elsewhere before they go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from daitn.base.units import NS_PER_S
from daitn.decision.hosting import HostView
from daitn.descriptors.access import open_span
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.node_facts import NodeFacts

CLOSING_S: Final = 60.0
"""A host whose window closes within this is not counted on: a model of a few hundred megabytes is moved and started
elsewhere by then, and one that is placed serves longer than it took to place."""


def next_edge_s(hosts: Iterable[NodeFacts], now_ns: int) -> float | None:
    """Seconds until what is planned of some host's access is another thing: its window opens, closes, or is about to
    close; None where no host has windows to come. O(hosts × windows)."""
    now_s = now_ns / NS_PER_S
    edges = [
        edge
        for facts in hosts
        if facts.descriptor.access.windows and (span := open_span(facts.descriptor.access, now_s)) is not None
        for edge in (span[0], span[1] - CLOSING_S, span[1])
        if edge > now_s
    ]
    return min(edges) - now_s if edges else None


def lasting(hosts: list[HostView], knowledge: KnowledgeMap, now_ns: int, least: int) -> list[HostView]:
    """The hosts whose access is there for a while, by plan; all of them where those are fewer than `least`."""
    now_s = now_ns / NS_PER_S

    def lasts(host: HostView) -> bool:
        facts = knowledge.node(host.node)
        span = None if facts is None else open_span(facts.descriptor.access, now_s)
        return span is not None and span[0] <= now_s and now_s + CLOSING_S < span[1]

    left = [host for host in hosts if lasts(host)]
    return left if len(left) >= least else hosts
