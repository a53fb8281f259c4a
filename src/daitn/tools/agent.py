"""The tools' agent: a node's half of all services, put together (paper, II-A, terminal-tool CP).

Every event goes to every service; what one measures is handed to those that build on it. Orders are taken from the
services' manager only: the control centre, or the node that the control centre named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from daitn.base.effects import Delivered, Effect, Event, Message, Send, SendFailed, Started, TimerFired
from daitn.base.ids import CENTER, NodeId
from daitn.tools.compute import ComputeService
from daitn.tools.link_keeper import AccessChanged, LinkKeeper
from daitn.tools.location import LocationService
from daitn.tools.measurement import LinkMeasurement
from daitn.tools.processes import ProcessService
from daitn.tools.service import (
    ChildEnded,
    ChildMeasured,
    ChildStarted,
    LinksSeen,
    MachineMeasured,
    ManagerChanged,
    Service,
    ServiceView,
    TransferEnded,
)
from daitn.wire.terminal_tools import (
    LinksPlanned,
    LinksReported,
    MachineReported,
    MeasuredReported,
    NeighborsGiven,
    Probe,
    ProbeAnswered,
)
from daitn.wire.topology_tools import ToolsAt

MESSAGES: Final = (Probe, ProbeAnswered, NeighborsGiven, LinksPlanned, ToolsAt)
"""What is for the agent and nobody else at its node."""

REPORTS: Final = (MeasuredReported, LinksReported, MachineReported)
"""What it says to the manager."""

TIMERS: Final = frozenset({"measurement", "location", "links", "compute"})
"""First words of the timers of the services."""


EVENTS: Final = (
    *(LinksSeen, TransferEnded, AccessChanged),
    *(MachineMeasured, ChildStarted, ChildMeasured, ChildEnded),
)
"""What a node's own fabric and machine show."""


def concerns_tools(event: Event) -> bool:
    """Whether an event is for a node's half of the services, and for nobody else there."""
    match event:
        case Delivered(message=message):
            return isinstance(message, MESSAGES)
        case TimerFired(name=name):
            return name.partition(" ")[0] in TIMERS
        case SendFailed(message=message):
            return isinstance(message, (Probe, ProbeAnswered, *REPORTS))
        case _:
            return isinstance(event, EVENTS)


ROUNDS: Final = 64
"""Messages that a node says to itself in one go at most; they end by themselves after three."""


def settle_own(effects: list[Effect], own: NodeId, hear: Callable[[Message], list[Effect]]) -> list[Effect]:
    """Effects without what a node would say to itself: that is heard here and now, and what comes of it too."""
    others: list[Effect] = []
    waiting = deque(effects)
    for _ in range(ROUNDS):
        if not waiting:
            break
        effect = waiting.popleft()
        if isinstance(effect, Send) and effect.receiver == own:
            waiting.extend(hear(effect.message))
        else:
            others.append(effect)
    return others


class ToolsAgent:
    """See the module's docstring."""

    def __init__(self, node: NodeId) -> None:
        self.manager = CENTER
        self.location = LocationService(node)
        self.measurement = LinkMeasurement(node)
        self.links = LinkKeeper(node)
        self.compute = ComputeService()
        self.processes = ProcessService()
        self.measurement.place = lambda: self.location.place  # type: ignore[method-assign]
        self.orders_refused = 0
        """Orders that were not the manager's, and were ignored."""
        self._services: tuple[Service, ...] = (
            *(self.measurement, self.location, self.links),
            *(self.processes, self.compute),
        )

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event, for all services."""
        match event:
            case Started():
                return self._manage_at(self.manager, now_ns)
            case Delivered(sender=sender, message=ToolsAt(node=node)):
                return self._manage_at(node, now_ns) if sender == CENTER else self._refuse()
            case SendFailed(receiver=receiver, message=message) if isinstance(message, REPORTS):
                # A manager that is not there: the control centre knows who manages now.
                is_lost = receiver == self.manager != CENTER
                return self._manage_at(CENTER, now_ns) if is_lost else []
            case Delivered(sender=sender, message=NeighborsGiven() | LinksPlanned()) if sender != self.manager:
                return self._refuse()
            case _:
                return self._all(event, now_ns)

    def linked(self, now_ns: int) -> list[Effect]:
        """The link to the router is up again: the manager may not know what was said meanwhile."""
        return self._manage_at(self.manager, now_ns)

    def _refuse(self) -> list[Effect]:
        self.orders_refused += 1
        return []

    def counts(self) -> dict[str, int]:
        """What was refused, lost and not answered, by the declared names."""
        ways = self.measurement.view()
        return {
            "probes_lost": ways.probes_lost,
            "probes_not_answered": ways.answers_refused,
            "answers_unasked": self.measurement.unasked,
            "orders_refused": self.orders_refused,
        }

    def views(self) -> tuple[ServiceView, ...]:
        """What each service shows."""
        return tuple(service.view() for service in self._services)

    def check_invariants(self) -> None:
        """BugError if a service's state contradicts itself."""
        for service in self._services:
            service.check_invariants()

    def _manage_at(self, node: NodeId, now_ns: int) -> list[Effect]:
        self.manager = node
        return self._all(ManagerChanged(manager=node), now_ns)

    def _all(self, event: Event, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for service in self._services:
            if service is self.location:
                self.location.look(self.measurement.view())
            effects += service.handle(event, now_ns)
            news, self.measurement.news = self.measurement.news, []
            for one in news:
                effects += self.location.handle(one, now_ns)
        return effects + self.compute.look(self.processes.running(), now_ns)
