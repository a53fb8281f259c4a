"""The services' manager: the domain's half of all services (paper, II-A: each may have a dedicated service manager, or
be integrated into another layer).

One core for both. Integrated, the control centre hands it its events and takes what it gathers by itself; as a process
of its own (`daitn tools serve`) it gets the same by messages of the topology–tools link. What terminals say comes
straight from them either way. Nothing of it is durable: terminals say it again when the manager is another.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from daitn.base.effects import Delivered, Effect, Event, Send
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.availability import UpTime
from daitn.descriptors.links import LinkShown
from daitn.descriptors.places import Place, estimate_s
from daitn.tools.availability import observe
from daitn.tools.communication import CommunicationService
from daitn.wire.terminal_tools import (
    NEIGHBORS,
    LinksReported,
    MachineReported,
    MeasuredReported,
    Neighbor,
    NeighborsGiven,
)
from daitn.wire.topology_tools import TerminalGathered, TerminalNoticed

NEAR: Final = 8
"""Neighbours that are near by their places; the others are anywhere (SIGCOMM 2004, section 4.2)."""

MESSAGES: Final = (MeasuredReported, LinksReported, MachineReported)
"""What terminals say to the manager."""


def concerns_manager(event: Event) -> bool:
    """Whether an event is for the services' manager."""
    return isinstance(event, Delivered) and isinstance(event.message, (*MESSAGES, TerminalNoticed))


class ServiceManager:
    """See the module's docstring. What it gathers goes to the topology, at the control centre."""

    def __init__(self) -> None:
        self.communication = CommunicationService()
        self._places: dict[NodeId, Place] = {}
        self._present: dict[NodeId, bool] = {}
        self._left: set[NodeId] = set()
        self.dropped = 0
        """Reports that were older than what their sender had said, doubled, or of one that had left."""
        self._up_times: dict[NodeId, UpTime] = {}
        self._given: dict[NodeId, int] = {}
        """How many neighbours a terminal was given last."""
        self._newest: dict[tuple[NodeId, str], int] = {}
        """Newest sequence by terminal and kind of report; they begin with a clock, so another life goes on above."""

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event: what a terminal said, or what the topology said of one."""
        match event:
            case Delivered(sender=sender, message=message) if isinstance(message, MESSAGES):
                return self._told(sender, message, event, now_ns)
            case Delivered(sender=sender, message=TerminalNoticed() as notice) if sender == CENTER:
                return self.noticed(notice, now_ns)
            case _:
                return []

    def _told(
        self, sender: NodeId, message: MeasuredReported | LinksReported | MachineReported, event: Event, now_ns: int
    ) -> list[Effect]:
        """A terminal said something; what is older than what it said before is dropped, and answered all the same."""
        if sender in self._left:
            self.dropped += 1
            return []
        self._present.setdefault(sender, True)
        key = (sender, type(message).__name__)
        is_new = message.sequence >= self._newest.get(key, 0)
        if is_new:
            self._newest[key] = message.sequence
        else:
            self.dropped += 1
        match message:
            case MeasuredReported():
                return self._measured(sender, message, is_new=is_new)
            case LinksReported() if is_new:
                effects = self.communication.handle(event, now_ns)
                return [*effects, _gathered(sender, links=self.communication.links_of(sender))]
            case MachineReported(machine=machine, processes=processes) if is_new:
                return [_gathered(sender, machine=machine, processes=processes)]
            case _:
                return []

    def noticed(self, notice: TerminalNoticed, now_ns: int) -> list[Effect]:
        """A terminal came, is seen again or not any more, or left."""
        node = notice.node
        if node in self._left:
            return []  # its process ends a moment after it has left
        effects = self.communication.noticed(node, present=notice.present, left=notice.left)
        if notice.left:
            self._left.add(node)
            self._forget_sequences(node)
            for book in (self._places, self._present, self._up_times, self._given):
                book.pop(node, None)
            return effects
        if not notice.present:
            self._forget_sequences(node)  # it may come back with its clock set back
        now_s = now_ns / NS_PER_S
        known = self._up_times.get(node) or UpTime(is_up=notice.present, since_s=now_s)
        if known.is_up == notice.present and node in self._present:
            return effects
        self._present[node] = notice.present
        seen = observe(known, notice.present, now_s, self.communication.access_of(node))
        self._up_times[node] = seen
        return [*effects, _gathered(node, up_time=seen), *(self._introduce(node) if notice.present else ())]

    def links(self, now_ns: int) -> tuple[LinkShown, ...]:
        """The book of all links."""
        return self.communication.shown(now_ns)

    def check_invariants(self) -> None:
        """BugError where a node that left is still somebody's neighbour."""
        self.communication.check_invariants()
        if self._left & (set(self._places) | set(self._present)):
            raise BugError("a node that left is known to the services' manager")

    def _forget_sequences(self, node: NodeId) -> None:
        for kind in MESSAGES:
            self._newest.pop((node, kind.__name__), None)

    def _measured(self, sender: NodeId, report: MeasuredReported, *, is_new: bool) -> list[Effect]:
        if is_new:
            self._places[sender] = report.place
        given = self._give_neighbors(sender, report.sequence)
        if not is_new:
            return [given]
        gathered = _gathered(
            sender,
            place=report.place,
            round_trips=report.round_trips,
            carried_bytes=report.carried_bytes,
            probe_bytes=report.probe_bytes,
        )
        return [given, gathered]

    def _give_neighbors(self, node: NodeId, sequence: int) -> Send:
        neighbors = self.neighbors_of(node)
        self._given[node] = len(neighbors)
        return Send(receiver=node, message=NeighborsGiven(sequence=sequence, neighbors=neighbors))

    def _introduce(self, newcomer: NodeId) -> list[Effect]:
        """Terminals that lack neighbours hear of a newcomer at once: few do, unless the domain itself is small."""
        lacking = [one for one, count in self._given.items() if count < NEIGHBORS and one != newcomer]
        there = [one for one in lacking if one == CENTER or self._present.get(one)]
        return [self._give_neighbors(one, 0) for one in there]

    def neighbors_of(self, node: NodeId) -> tuple[Neighbor, ...]:
        """Whom a node is to measure: the control centre, those near by, and some anywhere, the same ones as long as
        they are there. O(nodes · log nodes)."""
        others = [one for one, there in self._present.items() if there and one not in (node, CENTER)]
        mine = self._places.get(node, Place())
        chosen = [] if node == CENTER else [CENTER]
        if mine.error_frac < 1:
            placed = [one for one in others if self._places.get(one, Place()).error_frac < 1]
            chosen += sorted(placed, key=lambda one: (estimate_s(mine, self._places[one]), one))[:NEAR]
        anywhere = sorted(set(others) - set(chosen), key=lambda one: blake3(f"{node} {one}".encode()).digest())
        chosen += anywhere[: NEIGHBORS - len(chosen)]
        return tuple(Neighbor(node=one, place=self._places.get(one, Place())) for one in chosen)


def _gathered(node: NodeId, **facts: object) -> Send:
    return Send(receiver=CENTER, message=TerminalGathered(node=node, **facts))  # type: ignore[arg-type]
