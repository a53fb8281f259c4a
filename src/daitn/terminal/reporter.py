"""The reporter: tells the map what this node is, says regularly that it still holds, and takes leave.

Paper II-A: the DRRT layer gathers what terminals say through the tools layer. A description is repeated until the map
has it; heartbeats carry only its sequence, and a map that does not know that sequence (restart, loss) asks again. It
also names the jobs for which artifacts are kept here, and lets those go that have ended: the centre says so once when a
job ends, and that message may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daitn.base import limits
from daitn.base.effects import (
    CancelTimer,
    Delivered,
    Effect,
    Event,
    Record,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError
from daitn.base.ids import CENTER
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.descriptors.terminals import NodeDescriptor
from daitn.terminal.work import DropArtifacts, JobsPinned
from daitn.wire.center_tools import JobsEnded, JobsHeld
from daitn.wire.terminal_tools import Leaving, Left
from daitn.wire.topology_tools import Describe, DescribeAgain, Described, Heartbeat

REPEAT_S: Final = 0.5
"""Between two tries to describe or to leave, while unanswered."""

TIMER: Final = "report node"


class DescriptorChanged(Event, frozen=True, kw_only=True):
    """This node is now that: its first description, or a new one."""

    descriptor: NodeDescriptor


class LeaveAsked(Event, frozen=True, kw_only=True):
    """The operator wants the node out of the domain."""

    reason: str = ""


class NodeLeft(Effect, frozen=True, kw_only=True):
    """The domain has let the node go; its process may end."""


class Linked(Event, frozen=True, kw_only=True):
    """The link to the router is up (again)."""


class Reporter:
    """See the module's docstring. Sequences continue from the clock, so that a restarted node is not behind itself;
    where the clock was set back, the map says how far it is."""

    def __init__(self) -> None:
        self.descriptor: NodeDescriptor | None = None
        self.sequence = 0
        self.known = False
        self.heartbeat_s = 1.0
        self.leaving: Leaving | None = None
        self.told: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        """Incarnation and number of the last message of facts that this node sent, and the tuning of reports that the
        heartbeat acknowledges; asked once for each that is said."""

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case DescriptorChanged(descriptor=descriptor):
                self.descriptor = descriptor
                self.sequence = max(self.sequence + 1, now_ns // 1000)
                self.known = False
                return self._say(now_ns)
            case Started() | Linked() | TimerFired(name="report node"):
                return self._say(now_ns)
            case Delivered(sender=sender, message=Described(sequence=sequence, heartbeat_s=heartbeat_s)):
                if sender == CENTER and sequence == self.sequence:
                    self.known, self.heartbeat_s = True, heartbeat_s
                    return [SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(heartbeat_s))]
            case Delivered(sender=sender, message=DescribeAgain(known_sequence=known_sequence)):
                if sender == CENTER:
                    if known_sequence > self.sequence:  # this machine's clock was set back between two starts
                        self.sequence = known_sequence + 1
                    self.known = False
                    return self._say(now_ns)
            case JobsPinned(jobs=jobs):
                return [Send(receiver=CENTER, message=JobsHeld(jobs=jobs[: limits.JOBS_HELD]))] if jobs else []
            case Delivered(sender=sender, message=JobsEnded(jobs=jobs)):
                if sender == CENTER:
                    return [DropArtifacts(job=job, artifacts=(), job_ended=True) for job in jobs]
            case LeaveAsked(reason=reason):
                self.leaving = Leaving(reason=reason)
                return self._say(now_ns)
            case Delivered(sender=sender, message=Left()):
                if sender == CENTER:  # asked for, or the domain's operator has put this node out
                    return [CancelTimer(name=TIMER), NodeLeft()]
            case _:
                pass
        return []

    def apply(self, record: Record) -> None:
        """Nothing of this core is journalled: the map asks again for what it does not hold."""

    def check_invariants(self) -> None:
        """BugError if a description is believed known that was never made."""
        if self.known and self.descriptor is None:
            raise BugError("a description is known that was never made")

    def _say(self, now_ns: int) -> list[Effect]:
        if self.leaving is not None:
            repeat: Effect = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(REPEAT_S))
            return [Send(receiver=CENTER, message=self.leaving), repeat]
        if self.descriptor is None:
            return []
        if self.known:
            again: Effect = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(self.heartbeat_s))
            incarnation, told, tuned = self.told()
            beat = Heartbeat(sequence=self.sequence, incarnation=incarnation, told=told, tuned=tuned)
            return [Send(receiver=CENTER, message=beat), again]
        describe = Describe(sequence=self.sequence, generated_unix_s=now_ns / NS_PER_S, descriptor=self.descriptor)
        again = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(REPEAT_S))
        return [Send(receiver=CENTER, message=describe), again]
