"""Location service: where a node is in the network, from a few measured round trips instead of from probing everyone.

The node's half. Each measurement moves its place (`tools.vivaldi`); as long as it is new, it settles anew among all it
has measured. Place and measurements are reported to the service's manager, which gives neighbours to measure: some
near, some anywhere, for that is what keeps coordinates true (SIGCOMM 2004, section 4.2).
"""

from __future__ import annotations

from typing import Final

from daitn.base.effects import Delivered, Effect, Event, Send, SetTimer, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import seconds_to_ns
from daitn.descriptors.places import Place, estimate_s
from daitn.tools.measurement import PEERS, Ways
from daitn.tools.service import ManagerChanged, RoundTripMeasured, ServiceView
from daitn.tools.vivaldi import move, settle
from daitn.wire.terminal_tools import MeasuredReported, NeighborsGiven

SETTLING: Final = frozenset({2, 4, 8, 16, 24, 32})
"""Peers measured at which a new node settles anew; later it moves a little with each measurement."""

REPORT_S: Final = 60.0
"""A place that stays is said again after this long."""

SOON_S: Final = 0.5
"""A changed place is said this soon at the most often."""

REPEAT_S: Final = 2.0
"""Between two tries of a report that nobody has heard of; doubles up to `REPORT_S`."""

MOVED_FRAC: Final = 0.1
MOVED_S: Final = 0.001
"""A move by this part of the height, and by this much, is news."""

TIMER: Final = "location report"


class Located(ServiceView, frozen=True, kw_only=True, tag="location"):
    """Where the node is, by how many measurements."""

    place: Place
    peers: int
    reported: bool


class LocationService:
    """See the module's docstring. `ways`: what was measured, from `LinkMeasurement.view`."""

    name: Final = "location"

    def __init__(self, node: NodeId) -> None:
        self.place = Place()
        self._node = node
        self._manager = CENTER
        self._samples: dict[NodeId, tuple[Place, float]] = {}
        self._ways = Ways(
            round_trips=(), carried_bytes=0, probe_bytes=0, probes_sent=0, probes_lost=0, answers_refused=0
        )
        self._sequence = 0
        self._said: Place | None = None
        self._heard = True
        self._repeat_s = REPEAT_S
        self._due_ns: int | None = None

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ManagerChanged(manager=manager):
                self._manager = manager
                return self._report(now_ns)
            case RoundTripMeasured(peer=peer, seconds=seconds, place=place):
                if place is not None and peer != self._node and seconds > 0:
                    return self._measured(peer, place, seconds, now_ns)
            case Delivered(sender=sender, message=NeighborsGiven(sequence=sequence)):
                if sender == self._manager and sequence == self._sequence:
                    self._heard, self._repeat_s = True, REPEAT_S
                    return self._wake(now_ns, REPORT_S)
            case TimerFired(name="location report"):
                self._due_ns = None
                return self._report(now_ns)
            case _:
                pass
        return []

    def look(self, ways: Ways) -> None:
        """What is to be reported beside the place."""
        self._ways = ways

    def view(self) -> Located:
        """Where the node is."""
        return Located(place=self.place, peers=len(self._samples), reported=self._heard)

    def check_invariants(self) -> None:
        """BugError where more is kept than may be."""
        if len(self._samples) > PEERS:
            raise BugError(f"{len(self._samples)} samples are kept")

    def _measured(self, peer: NodeId, place: Place, seconds: float, now_ns: int) -> list[Effect]:
        is_new = self._samples.pop(peer, None) is None
        if len(self._samples) >= PEERS:
            del self._samples[next(iter(self._samples))]  # the longest unheard
        self._samples[peer] = (place, seconds)
        if is_new and len(self._samples) in SETTLING:
            samples = [(str(one), where, took_s) for one, (where, took_s) in self._samples.items()]
            self.place = settle(self.place, samples)
        else:
            self.place = move(self.place, place, seconds, peer)
        return self._wake(now_ns, SOON_S) if self._is_news() and self._heard else []

    def _is_news(self) -> bool:
        if self._said is None:
            return True
        flat = Place(x_s=self._said.x_s, y_s=self._said.y_s, z_s=self._said.z_s)
        now = Place(x_s=self.place.x_s, y_s=self.place.y_s, z_s=self.place.z_s)
        moved_s = estimate_s(flat, now) + abs(self._said.height_s - self.place.height_s)
        return moved_s > max(MOVED_S, MOVED_FRAC * self._said.height_s)

    def _report(self, now_ns: int) -> list[Effect]:
        self._sequence = max(self._sequence + 1, now_ns // 1000)
        self._said, self._heard = self.place, False
        report = MeasuredReported(
            sequence=self._sequence,
            place=self.place,
            round_trips=self._ways.round_trips,
            carried_bytes=self._ways.carried_bytes,
            probe_bytes=self._ways.probe_bytes,
        )
        repeat_s, self._repeat_s = self._repeat_s, min(REPORT_S, 2 * self._repeat_s)
        self._due_ns = None
        return [Send(receiver=self._manager, message=report), *self._wake(now_ns, repeat_s)]

    def _wake(self, now_ns: int, seconds: float) -> list[Effect]:
        """At the latest then; an earlier time that is set already stays, unless it was for a repetition."""
        at_ns = now_ns + seconds_to_ns(seconds)
        if self._due_ns is not None and self._due_ns <= at_ns and not (self._heard and seconds == REPORT_S):
            return []
        self._due_ns = at_ns
        return [SetTimer(name=TIMER, at_ns=at_ns)]
