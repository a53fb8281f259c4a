"""Link measurement: round trip, loss and rate of the ways to peers, at a stated share of what is carried anyway.

Passive first: the kernel's own figures of direct connections (round trip, segments sent again) and the rate of
transfers cost nothing. Ways through the router are probed, one small message and its answer, and only within a budget:
probes take at most `SHARE` of the payload carried, and `JOINING_BYTES` once, without which a new node could never be
placed. Rates are never probed: a packet train that tells one would cost more than the whole budget, and its timing
would be lost in TLS and the router's queue. So a peer that nothing came from has no rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from daitn.base.effects import Delivered, Effect, Event, Send, SendFailed, SetTimer, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds, seconds_to_ns
from daitn.descriptors.links import LinkKind, LinkState
from daitn.descriptors.places import ROUND_TRIP_MOST_S, Place, RoundTrip
from daitn.tools.service import LinksSeen, ManagerChanged, RoundTripMeasured, ServiceView, TransferEnded
from daitn.wire.codec import encode
from daitn.wire.terminal_tools import NEIGHBORS, NeighborsGiven, Probe, ProbeAnswered

SHARE: Final = 0.001
"""Probes take at most this part of what is carried."""

FRAME_BYTES: Final = 96
"""Key and frame of a message, beside its body; the answer to it is empty."""

PROBE_BYTES: Final = (
    2 * FRAME_BYTES
    + len(encode(Probe(number=2**62)))
    + len(encode(ProbeAnswered(number=2**62, place=Place(x_s=0.1, y_s=0.1, z_s=0.1, height_s=0.1))))
)
"""What a probe and its answer cost, both charged to who asks."""

JOINING_BYTES: Final = 2 * NEIGHBORS * PROBE_BYTES
"""Two probes of each neighbour when a node is new: what placing it takes."""

PEERS: Final = NEIGHBORS + 16
"""Peers kept: neighbours, and those with direct links; the longest unheard go first."""

SAMPLES: Final = 8
"""Newest samples of a way; their low quartile counts, since queues only add (Ledlie et al., NSDI 2007)."""

OUTCOMES: Final = 64
"""Newest probes that loss is counted over."""

AT_ONCE: Final = 2
"""Probes under way: more would measure each other's queues."""

PROBE_S: Final = 3.0
"""A probe unanswered for this long is lost: longer than a geostationary round trip through a busy router."""

PAUSE_S: Final = 0.02
"""Between two probes while a node is new."""

AGAIN_S: Final = 10.0
"""Between two probes of the same peer, once it is known."""

RATE_BYTES: Final = 1_000_000
"""Smaller transfers say nothing of a rate."""

SMOOTHING: Final = 0.3

ANSWERS_PER_S: Final = 32
"""Probes answered; beyond it they are dropped and count as lost where they came from."""

TIMER: Final = "measurement probe"


class Ways(ServiceView, frozen=True, kw_only=True, tag="measurement"):
    """What was measured, and what it cost."""

    round_trips: tuple[RoundTrip, ...]
    carried_bytes: Annotated[int, msgspec.Meta(ge=0)]
    probe_bytes: Annotated[int, msgspec.Meta(ge=0)]
    probes_sent: int
    probes_lost: int
    answers_refused: int


class _Peer:
    """A peer and what is known of the way to it."""

    def __init__(self) -> None:
        self.samples_s: deque[float] = deque(maxlen=SAMPLES)
        self.lost: deque[bool] = deque(maxlen=OUTCOMES)
        self.count = 0
        self.passive = self.direct = False
        self.kernel_lost_frac = 0.0
        self.bytes_per_s = 0.0
        self.heard_ns = 0
        self.asked_ns = 0

    def take(self, seconds: float, now_ns: int) -> None:
        self.samples_s.append(min(ROUND_TRIP_MOST_S, max(0.0, seconds)))
        self.count += 1
        self.heard_ns = now_ns


class LinkMeasurement:
    """See the module's docstring. `news`: what was measured since somebody took it."""

    name: Final = "measurement"

    def __init__(self, node: NodeId) -> None:
        self.news: list[RoundTripMeasured] = []
        self._node = node
        self._neighbors: dict[NodeId, None] = {} if node == CENTER else {CENTER: None}
        self._peers: dict[NodeId, _Peer] = {}
        self._flying: dict[int, tuple[NodeId, int]] = {}
        self._number = 0
        self._carried_bytes = self._probe_bytes = 0
        self._sent = self._lost = self._refused = 0
        self.unasked = 0
        """Answers to probes that were never sent, were given up, or were answered before."""
        self._answers: deque[int] = deque(maxlen=ANSWERS_PER_S)

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ManagerChanged():
                return self._probe(now_ns)
            case TimerFired(name="measurement probe"):
                self._expire(now_ns)
                return self._probe(now_ns)
            case Delivered(sender=sender, message=Probe(number=number)):
                return self._answer(sender, number, now_ns)
            case Delivered(sender=sender, message=ProbeAnswered(number=number, place=place)):
                return self._answered(sender, number, place, now_ns)
            case SendFailed(receiver=receiver, message=Probe(number=number)):
                self._fail(receiver, number)
                return self._probe(now_ns)
            case Delivered(message=NeighborsGiven(neighbors=neighbors)):
                self._neighbors = {one.node: None for one in neighbors if one.node != self._node}
                return self._probe(now_ns)
            case LinksSeen(links=links, carried_bytes=carried_bytes):
                self._carried_bytes = max(self._carried_bytes, carried_bytes)
                self._look(links, now_ns)
                return self._probe(now_ns)
            case TransferEnded(peer=peer, direct=direct, moved_bytes=moved_bytes, seconds=seconds):
                if moved_bytes >= RATE_BYTES and seconds > 0:
                    known = self._known(peer, now_ns)
                    rate = moved_bytes / seconds
                    known.bytes_per_s += (SMOOTHING if known.bytes_per_s else 1.0) * (rate - known.bytes_per_s)
                    known.direct = direct
            case _:
                pass
        return []

    def place(self) -> Place:
        """The node's place, which its answers carry; set by whoever puts services together."""
        return Place()

    def view(self) -> Ways:
        """What was measured, and what it cost."""
        return Ways(
            round_trips=self.round_trips(),
            carried_bytes=self._carried_bytes,
            probe_bytes=self._probe_bytes,
            probes_sent=self._sent,
            probes_lost=self._lost,
            answers_refused=self._refused,
        )

    def round_trips(self) -> tuple[RoundTrip, ...]:
        """Of every peer that was measured, by name."""
        return tuple(_shown(peer, known) for peer, known in sorted(self._peers.items()) if known.samples_s)

    def check_invariants(self) -> None:
        """BugError where probes cost more than their share, or more is kept than may be."""
        if self._probe_bytes > self._allowance():
            raise BugError(f"probes took {self._probe_bytes} bytes of {self._carried_bytes} carried")
        if len(self._peers) > PEERS or len(self._flying) > AT_ONCE:
            raise BugError(f"{len(self._peers)} peers and {len(self._flying)} probes are kept")

    # --- probing ----------------------------------------------------------------------------------------------------

    def _allowance(self) -> float:
        return JOINING_BYTES + SHARE * self._carried_bytes

    def _probe(self, now_ns: int) -> list[Effect]:
        """The next probe that is due and can be paid for, and a timer for the one after."""
        effects: list[Effect] = []
        due = [peer for peer in self._neighbors if self._due_ns(peer) <= now_ns]
        due.sort(key=lambda peer: (self._peers[peer].count if peer in self._peers else 0, self._due_ns(peer)))
        for peer in due[: AT_ONCE - len(self._flying)]:
            if self._probe_bytes + PROBE_BYTES > self._allowance():
                break
            self._number += 1
            self._flying[self._number] = (peer, now_ns)
            self._known(peer, now_ns).asked_ns = now_ns
            self._probe_bytes += PROBE_BYTES
            self._sent += 1
            effects.append(Send(receiver=peer, message=Probe(number=self._number)))
        if self._flying:
            first_ns = min(asked_ns for _, asked_ns in self._flying.values())
            return [*effects, SetTimer(name=TIMER, at_ns=first_ns + seconds_to_ns(PROBE_S))]
        waiting = [self._due_ns(peer) for peer in self._neighbors]
        if waiting and self._probe_bytes + PROBE_BYTES <= self._allowance():
            at_ns = max(min(waiting), now_ns + seconds_to_ns(PAUSE_S))
            return [*effects, SetTimer(name=TIMER, at_ns=at_ns)]
        return effects  # what is carried from now on pays for the next one

    def _due_ns(self, peer: NodeId) -> int:
        known = self._peers.get(peer)
        if known is None or not known.asked_ns:
            return 0
        if any(asked == peer for asked, _ in self._flying.values()):
            return 2**62
        # Directly measured ways are probed too: calls go through the router, whatever bulk does.
        return known.asked_ns + seconds_to_ns(AGAIN_S if known.count > 1 else PAUSE_S)

    def _answer(self, sender: NodeId, number: int, now_ns: int) -> list[Effect]:
        if len(self._answers) == ANSWERS_PER_S and now_ns - self._answers[0] < NS_PER_S:
            self._refused += 1
            return []
        self._answers.append(now_ns)
        return [Send(receiver=sender, message=ProbeAnswered(number=number, place=self.place()))]

    def _answered(self, sender: NodeId, number: int, place: Place, now_ns: int) -> list[Effect]:
        peer, asked_ns = self._flying.get(number, (None, 0))
        if peer != sender:
            self.unasked += 1
            return []  # late, doubled, or of somebody who was not asked
        del self._flying[number]
        seconds = ns_to_seconds(now_ns - asked_ns)
        known = self._known(sender, now_ns)
        known.lost.append(False)
        if not known.passive:
            known.take(seconds, now_ns)
        self.news.append(RoundTripMeasured(peer=sender, seconds=_quartile(known.samples_s, 0.25), place=place))
        return [SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(PAUSE_S))]

    def _expire(self, now_ns: int) -> None:
        late = [number for number, (_, asked_ns) in self._flying.items() if now_ns - asked_ns >= seconds_to_ns(PROBE_S)]
        for number in late:
            self._fail(self._flying[number][0], number)

    def _fail(self, peer: NodeId, number: int) -> None:
        if self._flying.get(number, (None, 0))[0] != peer:
            return
        del self._flying[number]
        self._lost += 1
        if (known := self._peers.get(peer)) is not None:
            known.lost.append(True)

    # --- what connections tell --------------------------------------------------------------------------------------

    def _look(self, links: Iterable[LinkState], now_ns: int) -> None:
        for link in links:
            if not link.direct or link.round_trip_s is None or link.kind not in (LinkKind.CHUNKS, LinkKind.STREAM):
                continue
            known = self._known(link.peer, now_ns)
            if not known.passive:
                known.samples_s.clear()  # what was probed went through the router
            known.passive = known.direct = True
            known.kernel_lost_frac = link.lost_frac
            known.take(link.round_trip_s, now_ns)
        direct = {link.peer for link in links if link.direct}
        for peer, known in self._peers.items():
            if known.passive and peer not in direct:
                known.passive = known.direct = False
                known.samples_s.clear()

    def _known(self, peer: NodeId, now_ns: int) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            while len(self._peers) >= PEERS:
                spare = [one for one in self._peers if one not in self._neighbors] or list(self._peers)
                del self._peers[min(spare, key=lambda one: self._peers[one].heard_ns)]
            known = self._peers[peer] = _Peer()
            known.heard_ns = now_ns
        return known


def _shown(peer: NodeId, known: _Peer) -> RoundTrip:
    lost_frac = known.kernel_lost_frac if known.passive else sum(known.lost) / max(1, len(known.lost))
    return RoundTrip(
        peer=peer,
        seconds=_quartile(known.samples_s, 0.25),
        spread_s=_quartile(known.samples_s, 0.75) - _quartile(known.samples_s, 0.25),
        lost_frac=lost_frac,
        samples=known.count,
        passive=known.passive,
        direct=known.direct,
        bytes_per_s=known.bytes_per_s,
    )


def _quartile(samples_s: Iterable[float], share: float) -> float:
    ordered = sorted(samples_s)
    return ordered[int(share * (len(ordered) - 1))]
