"""Link terminal–tools, control plane: a terminal comes and goes, says what links and machine it has and what it
measured, and is told whom to measure and what its links may carry (paper, II-A, terminal-tool CP).

Joining itself is enrolment, an HTTPS endpoint of its own, because before it there is no certificate to speak with. The
services' manager is the control centre, or the node that it named (`wire.topology_tools.ToolsAt`).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base.effects import Message
from daitn.base.ids import NodeId
from daitn.descriptors.access import Access
from daitn.descriptors.links import LINKS, LinkState
from daitn.descriptors.machine import Hardware, WorkProcess
from daitn.descriptors.places import Place, RoundTrip

PEERS_REPORTED: Final = 64
"""Peers in one report; a node measures fewer."""

NEIGHBORS: Final = 32
"""Peers a node is given to measure: on 490 PlanetLab nodes 32 place a node to a tenth of each round trip."""

PROCESSES: Final = 256
"""Processes for visits at one node."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Leaving(Message, frozen=True, kw_only=True, tag="leaving"):
    """Terminal → communication service: I leave for good; take me off the map. Repeated until `Left`."""

    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Left(Message, frozen=True, kw_only=True, tag="left"):
    """Communication service → terminal: done; your slot is retired and never given out again."""


class Probe(Message, frozen=True, kw_only=True, tag="probe"):
    """Node → node: answer at once, so that I know the way to you. A node that is asked too often does not answer."""

    number: Number


class ProbeAnswered(Message, frozen=True, kw_only=True, tag="probe_answered"):
    """Node → node: here, and this is my place."""

    number: Number
    place: Place


class MeasuredReported(Message, frozen=True, kw_only=True, tag="measured_reported"):
    """Terminal → location service: my place and what I measured. Repeated until `NeighborsGiven` with this sequence."""

    sequence: Number
    place: Place
    round_trips: Annotated[tuple[RoundTrip, ...], msgspec.Meta(max_length=PEERS_REPORTED)] = ()
    carried_bytes: Number = 0
    """Payload this process has carried so far, both ways, probes included."""
    probe_bytes: Number = 0
    """Of these, what measuring took."""


class Neighbor(msgspec.Struct, frozen=True, kw_only=True):
    """A peer to measure, and where it is as far as the service knows."""

    node: NodeId
    place: Place


class NeighborsGiven(Message, frozen=True, kw_only=True, tag="neighbors_given"):
    """Location service → terminal: I have that report; measure these, within your budget."""

    sequence: Number
    neighbors: Annotated[tuple[Neighbor, ...], msgspec.Meta(max_length=NEIGHBORS)] = ()


class LinksReported(Message, frozen=True, kw_only=True, tag="links_reported"):
    """Terminal → communication service: all links I have. Repeated until `LinksPlanned` with this sequence."""

    sequence: Number
    access: Access
    direct: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    """Where direct links to me can be made now."""
    links: Annotated[tuple[LinkState, ...], msgspec.Meta(max_length=LINKS)] = ()


class LinksPlanned(Message, frozen=True, kw_only=True, tag="links_planned"):
    """Communication service → terminal: I have that report, and your links are to be like this. Also sent unasked, with
    the sequence last heard of, when somebody left or moved."""

    sequence: Number
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """Most that data may take of your access; 0: no limit."""
    close: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=LINKS)] = ()
    """Peers that have left, or are elsewhere now: direct links to them end."""


class MachineReported(Message, frozen=True, kw_only=True, tag="machine_reported"):
    """Terminal → compute and process services: my machine, and what runs on it for visits. The newest counts; it is
    sent when something changed and now and then, and answered by nothing. How busy it is, is a fact of the map
    (`topology_tools`), told there and nowhere else."""

    sequence: Number
    machine: Hardware
    processes: Annotated[tuple[WorkProcess, ...], msgspec.Meta(max_length=PROCESSES)] = ()
