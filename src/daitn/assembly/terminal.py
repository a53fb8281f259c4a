"""A terminal node: the visit keeper and the reporter in one core, whatever roles the node carries."""

from __future__ import annotations

from daitn.base.effects import Delivered, Effect, Event, Record, Started, TimerFired
from daitn.terminal.reporter import TIMER, DescriptorChanged, LeaveAsked, Linked, Reporter
from daitn.terminal.visit_keeper import VisitKeeper
from daitn.terminal.work import JobsPinned
from daitn.wire.center_tools import JobsEnded
from daitn.wire.terminal_tools import Left
from daitn.wire.topology_tools import DescribeAgain, Described


class TerminalCore:
    """Hands each event to the role it is for; `Started` to all."""

    def __init__(self, keeper: VisitKeeper, reporter: Reporter) -> None:
        self.keeper = keeper
        self.reporter = reporter

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Started():
                return [*self.reporter.handle(event, now_ns), *self.keeper.handle(event, now_ns)]
            case Delivered(message=Described() | DescribeAgain() | Left() | JobsEnded()):
                return self.reporter.handle(event, now_ns)
            case TimerFired(name=name) if name == TIMER:
                return self.reporter.handle(event, now_ns)
            case DescriptorChanged() | LeaveAsked() | Linked() | JobsPinned():
                return self.reporter.handle(event, now_ns)
            case _:
                return self.keeper.handle(event, now_ns)

    def apply(self, record: Record) -> None:
        """Facts of a terminal are the keeper's."""
        self.keeper.apply(record)

    def check_invariants(self) -> None:
        """BugError if a role's state contradicts itself."""
        self.keeper.check_invariants()
        self.reporter.check_invariants()
