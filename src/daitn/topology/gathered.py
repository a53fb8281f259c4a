"""What the tools layer gathered of each terminal, beside what terminals say of themselves (paper, II-A, DRRT-tool CP).

Places and round trips, so that every pair has a latency though few were measured; presence, so that availability can be
forecast; links; machines and what runs on them. Nothing here is durable: after a restart it is gathered anew within
seconds, and until then estimates are missing rather than stale.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds
from daitn.descriptors.access import Access
from daitn.descriptors.availability import UpTime
from daitn.descriptors.links import LinkShown, LinkState
from daitn.descriptors.machine import Hardware, WorkProcess
from daitn.descriptors.places import Place, RoundTrip, estimate_s
from daitn.tools.availability import forecast, forecast_span, share_up
from daitn.tools.communication import link_class
from daitn.wire.topology_tools import TerminalGathered


class Gathered(msgspec.Struct, kw_only=True):
    """What was gathered of one terminal; None: nothing yet."""

    place: Place | None = None
    round_trips: dict[NodeId, RoundTrip] = {}
    carried_bytes: int = 0
    probe_bytes: int = 0
    up_time: UpTime | None = None
    links: tuple[LinkState, ...] = ()
    links_ns: int = 0
    machine: Hardware | None = None
    machine_ns: int = 0
    processes: tuple[WorkProcess, ...] = ()


class GatheredFacts:
    """See the module's docstring. All calls O(1) but `links`."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Gathered] = {}

    def take(self, message: TerminalGathered, now_ns: int) -> None:
        """The services know this of a terminal; the newest of each counts."""
        known = self._nodes.setdefault(message.node, Gathered())
        if message.place is not None:
            known.place = message.place
        if message.round_trips is not None:
            known.round_trips = {one.peer: one for one in message.round_trips}
        if message.carried_bytes is not None and message.probe_bytes is not None:
            known.carried_bytes, known.probe_bytes = message.carried_bytes, message.probe_bytes
        if message.up_time is not None:
            known.up_time = message.up_time
        if message.links is not None:
            known.links, known.links_ns = message.links, now_ns
        if message.machine is not None:
            known.machine, known.machine_ns = message.machine, now_ns
        if message.processes is not None:
            known.processes = message.processes

    def forget(self, node: NodeId) -> None:
        """The terminal has left."""
        self._nodes.pop(node, None)

    def node(self, node: NodeId) -> Gathered:
        """What is known of a terminal; of an unknown one, nothing."""
        return self._nodes.get(node) or Gathered()

    def round_trip_s(self, one: NodeId, other: NodeId) -> float | None:
        """Between two nodes: as either measured it, else estimated from their places; None where one has none yet."""
        if one == other:
            return 0.0
        here, there = self.node(one), self.node(other)
        measured = here.round_trips.get(other) or there.round_trips.get(one)
        if measured is not None:
            return measured.seconds
        if here.place is None or there.place is None or max(here.place.error_frac, there.place.error_frac) >= 1:
            return None
        return estimate_s(here.place, there.place)

    def rate_bytes_per_s(self, receiver: NodeId, holder: NodeId) -> float | None:
        """As transfers between the two had it; None where none was seen."""
        measured = self.node(receiver).round_trips.get(holder)
        return measured.bytes_per_s if measured is not None and measured.bytes_per_s > 0 else None

    def availability_at(self, node: NodeId, access: Access, now_ns: int, seconds: float) -> float:
        """Probability that a terminal is there so many seconds from now."""
        now_s = now_ns / NS_PER_S
        return forecast(self._up_time(node, now_s), access, now_s, now_s + seconds)

    def availability_over(self, node: NodeId, access: Access, now_ns: int, seconds: float) -> float:
        """Share of the next seconds for which a terminal can be counted on."""
        now_s = now_ns / NS_PER_S
        return forecast_span(self._up_time(node, now_s), access, now_s, seconds)

    def reachable_frac(self, node: NodeId, access: Access, now_ns: int) -> float | None:
        """Share of the last days in which a terminal answered; None where it was not watched yet."""
        seen = self.node(node).up_time
        return None if seen is None else share_up(seen, access, now_ns / NS_PER_S)

    def links(self, access: dict[NodeId, Access], reachable: Iterable[NodeId], now_ns: int) -> tuple[LinkShown, ...]:
        """The book of links as the topology has it. `access`: of each node on the map; `reachable`: who is there."""
        there = {CENTER, *reachable}
        return tuple(
            LinkShown(
                node=node,
                state=link,
                link_class=link_class(link.kind, access.get(node, Access()), access.get(link.peer, Access())),
                certain=node in there and (not link.direct or link.peer in there),
                age_s=ns_to_seconds(max(0, now_ns - known.links_ns)),
            )
            for node, known in sorted(self._nodes.items())
            for link in known.links
        )

    def _up_time(self, node: NodeId, now_s: float) -> UpTime:
        return self.node(node).up_time or UpTime(since_s=now_s)
