"""What a service of the tools layer is, and the events and effects that services share (paper, II-A, tools layer).

A service is a core without I/O. It takes every event of its node or of the domain, minds those that are its own, and
answers the rest with nothing. It speaks with its far half by messages of the tools links, and with others at the same
place by the events below. The paper lets services have managers of their own, or be integrated into other layers: the
same services run either way, put together by `agent` at terminals and by `manager` for the domain.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from daitn.base.effects import Effect, Event
from daitn.base.ids import JobId, NodeId
from daitn.descriptors.links import LinkState
from daitn.descriptors.machine import MachineState
from daitn.descriptors.places import Place


class ServiceView(msgspec.Struct, frozen=True, kw_only=True, tag_field="service"):
    """What a service shows of its state; each has its own."""


class Service(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str:
        """What it is called, in one word; its timers begin with it."""
        ...

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event. Never raises for what a peer sent; an event that is not this service's changes nothing."""
        ...

    def view(self) -> ServiceView:
        """Its state, frozen, for people and other layers."""
        ...

    def check_invariants(self) -> None:
        """BugError if its state contradicts itself, or a bound is exceeded."""
        ...


class ManagerChanged(Event, frozen=True, kw_only=True):
    """The services are managed there now, or can be reached again: what it must know is said (again)."""

    manager: NodeId


class LinksSeen(Event, frozen=True, kw_only=True):
    """The links this node has, all of them, and the payload it has carried so far."""

    links: tuple[LinkState, ...]
    carried_bytes: int


class TransferEnded(Event, frozen=True, kw_only=True):
    """Bulk came from a peer: how much, in how long, and by which way."""

    peer: NodeId
    direct: bool
    moved_bytes: int
    seconds: float


class RoundTripMeasured(Event, frozen=True, kw_only=True):
    """The way to a peer was measured, by a probe or from a connection; `place` is the peer's, as it said."""

    peer: NodeId
    seconds: float
    place: Place | None


class MachineMeasured(Event, frozen=True, kw_only=True):
    """This machine, looked at now."""

    machine: MachineState


class ChildStarted(Event, frozen=True, kw_only=True):
    """A process for visits was started."""

    pid: int
    job: JobId
    use: str


class ChildMeasured(Event, frozen=True, kw_only=True):
    """What a process for visits uses, and whether a visit works in it."""

    pid: int
    busy: bool
    memory_bytes: float
    cpu_s: float


class ChildEnded(Event, frozen=True, kw_only=True):
    """A process for visits is gone."""

    pid: int


class OpenLink(Effect, frozen=True, kw_only=True):
    """Have a direct link ready: bulk from this peer is likely."""

    peer: NodeId
    direct: tuple[str, ...]


class CloseLinks(Effect, frozen=True, kw_only=True):
    """End direct links to a peer that left or is elsewhere, and forget what addresses of it failed."""

    peer: NodeId


class PaceLinks(Effect, frozen=True, kw_only=True):
    """Data may take this much of the access from now on, both ways together; 0: no limit."""

    bytes_per_s: float
