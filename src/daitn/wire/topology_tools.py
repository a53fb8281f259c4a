"""Link topology–tools, control plane: what the map is made from (paper, II-A, DRRT-tool CP).

Terminals describe themselves when they join and when something changed, and say regularly that it still holds. The
descriptor's digest in each heartbeat is what keeps consent and identity fresh without sending them again.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base.effects import Message
from daitn.base.ids import NodeId
from daitn.descriptors.availability import UpTime
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.links import LINKS, LinkState
from daitn.descriptors.machine import Hardware, WorkProcess
from daitn.descriptors.places import Place, RoundTrip
from daitn.descriptors.reporting import (
    BURST_STEP_LEAST,
    BURST_STEP_MOST,
    RATE_STEP_LEAST,
    RATE_STEP_MOST,
    TUNINGS_OF_A_SITE,
    GroupTuning,
    SweepStep,
    SweptFacts,
    rate_of,
)
from daitn.descriptors.terminals import NodeDescriptor

THINGS_MOST: Final = 4096
"""Things in one part of a roster: with ids of 128 characters half of the largest message."""

Incarnation = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Thing = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Describe(Message, frozen=True, kw_only=True, tag="describe"):
    """Terminal → topology: all that I am. Repeated until `Described` with this sequence."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    generated_unix_s: float
    descriptor: NodeDescriptor


class Described(Message, frozen=True, kw_only=True, tag="described"):
    """Topology → terminal: the map holds this sequence."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat", omit_defaults=True):
    """Terminal → topology: the description with `sequence` still holds. One that the map does not hold is asked for; so
    are facts, where messages up to `told` did not arrive and no later one showed it."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    told: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    """Messages of facts that the process of this incarnation has sent."""
    busy_slots: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    tuned: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """A tuning that was taken since the heartbeat before, and is in force here; 0: none was."""


class DescribeAgain(Message, frozen=True, kw_only=True, tag="describe_again"):
    """Topology → terminal: the map does not hold your description (restart, loss); send it."""

    known_sequence: Annotated[int, msgspec.Meta(ge=0)] = 0


class RosterAnnounced(Message, frozen=True, kw_only=True, tag="roster_announced"):
    """Terminal → topology: in my reports (`wire.packed_facts`) numbers from `first` on mean these things, of which I
    speak for each. Repeated until `RosterKept` up to its end; things of others are refused, and nothing of it taken."""

    incarnation: Incarnation
    """Millisecond of Unix time at which this process began: sequences of reports begin anew with it."""
    kind: Kind
    first: Annotated[int, msgspec.Meta(ge=0, lt=1 << 18)]
    things: Annotated[tuple[Thing, ...], msgspec.Meta(min_length=1, max_length=THINGS_MOST)]


class RosterKept(Message, frozen=True, kw_only=True, tag="roster_kept"):
    """Topology → terminal: your things of this kind with numbers below `up_to` are known."""

    incarnation: Incarnation
    kind: Kind
    up_to: Annotated[int, msgspec.Meta(ge=0, le=1 << 18)]


class FactsAsked(Message, frozen=True, kw_only=True, tag="facts_asked"):
    """Topology → terminal: report everything again, since some of your reports did not arrive, or I have begun anew."""

    incarnation: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    """Of yours that I know, 0: none. Where it is not yours, announce your roster again; where it is later than yours
    your clock was set back: begin a later one."""


class FactsTold(Message, frozen=True, kw_only=True, tag="facts_told"):
    """Terminal → topology: after `FactsAsked` everything was reported; my messages so far have numbers up to this."""

    incarnation: Incarnation
    sequence: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class TuneReporting(
    Message,
    frozen=True,
    kw_only=True,
    tag="tune",
    rename={
        "number": "n",
        "back": "b",
        "rate_step": "r",
        "burst_step": "u",
        "sweep_step": "s",
        "swept": "w",
        "groups": "g",
    },
    omit_defaults=True,
):
    """Topology → terminal: report like this from now on. Taken, it is acknowledged by the next `Heartbeat`; a tuning
    that is not newer than the one in force, or tells changes of another one, changes nothing and is answered by
    `ReportingTuned`. Short, because these messages and their answers were a quarter of what small budgets pay for."""

    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    back: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """How far back the number is of the tuning of which this one tells the changes; 0: this is all of it. A terminal
    with another one in force says so, and is sent all."""
    rate_step: Annotated[int, msgspec.Meta(ge=RATE_STEP_LEAST, le=RATE_STEP_MOST)]
    """Bytes per second that all reports may take in the mean: `descriptors.reporting.rate_of` this step."""
    burst_step: Annotated[int, msgspec.Meta(ge=BURST_STEP_LEAST, le=BURST_STEP_MOST)]
    """Bytes that may be saved up, in the same steps."""
    sweep_step: SweepStep = 0
    swept: SweptFacts = msgspec.field(default_factory=dict)
    """How often these facts of all things are told together, where they have changed at all; said in each tuning."""
    groups: Annotated[tuple[GroupTuning, ...], msgspec.Meta(max_length=TUNINGS_OF_A_SITE)] = ()

    @property
    def since(self) -> int:
        """The number of the tuning of which this one tells the changes; 0: this is all of it."""
        return max(0, self.number - self.back) if self.back else 0

    @property
    def bytes_per_s(self) -> float:
        """What all reports may take in the mean."""
        return rate_of(self.rate_step)

    @property
    def burst_bytes(self) -> int:
        """What may be saved up."""
        return int(rate_of(self.burst_step))


class ReportingTuned(Message, frozen=True, kw_only=True, tag="reporting_tuned"):
    """Terminal → topology: the tuning with this number is in force here (0: none), whatever came since."""

    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class ToolsAt(Message, frozen=True, kw_only=True, tag="tools_at"):
    """Topology → terminal: the tools' services are managed by this node from now on (a process of its own, or the
    control centre). Said again with each `Described`; unanswered."""

    node: NodeId


class TerminalNoticed(Message, frozen=True, kw_only=True, tag="terminal_noticed"):
    """Topology → tools: a terminal came, is seen again, is not seen any more, or left for good. With each change, and
    the whole membership to a manager that appears. One that is lost costs a forecast until the next: the map knows
    itself who is there and who left."""

    node: NodeId
    present: bool
    left: bool = False


class TerminalGathered(Message, frozen=True, kw_only=True, tag="terminal_gathered"):
    """Tools → topology: what the services know of one terminal. Fields that are None are as they were; the newest of
    each counts."""

    node: NodeId
    place: Place | None = None
    round_trips: Annotated[tuple[RoundTrip, ...], msgspec.Meta(max_length=64)] | None = None
    carried_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    probe_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    """Payload carried, and what of it was probes, as the terminal counted."""
    up_time: UpTime | None = None
    links: Annotated[tuple[LinkState, ...], msgspec.Meta(max_length=LINKS)] | None = None
    machine: Hardware | None = None
    processes: Annotated[tuple[WorkProcess, ...], msgspec.Meta(max_length=256)] | None = None
