"""A terminal node: visit keeper, reporters and record outbox in one core, whatever roles the node carries."""

from __future__ import annotations

from daitn.base.effects import Append, Delivered, Effect, Event, Record, Started, TimerFired
from daitn.oam.outbox import TIMER as OUTBOX_TIMER
from daitn.oam.outbox import AlarmNoticed, RecordOutbox
from daitn.terminal.fact_reporter import TIMER as FACTS_TIMER
from daitn.terminal.fact_reporter import FactReporter, FactsMeasured, ThingDropped
from daitn.terminal.reporter import TIMER, DescriptorChanged, LeaveAsked, Linked, Reporter
from daitn.terminal.visit_keeper import VisitKeeper
from daitn.terminal.work import JobsPinned
from daitn.wire.center_tools import JobsEnded
from daitn.wire.oam_records import RecordsKept
from daitn.wire.terminal_tools import Left
from daitn.wire.topology_tools import DescribeAgain, Described, FactsAsked, RosterKept, TuneReporting


class TerminalCore:
    """Hands each event to the role it is for; `Started` to all. The outbox hears of every fact."""

    def __init__(self, keeper: VisitKeeper, reporter: Reporter) -> None:
        self.keeper = keeper
        self.reporter = reporter
        self.facts = FactReporter()
        self.outbox = RecordOutbox()

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Started():
                self.facts.handle(event, now_ns)
                effects = [*self.reporter.handle(event, now_ns), *self._keep(event, now_ns)]
                return [*effects, *self.outbox.handle(event, now_ns)]
            case Linked():
                return [*self.reporter.handle(event, now_ns), *self.outbox.handle(event, now_ns)]
            case Delivered(message=Described() | DescribeAgain() | Left() | JobsEnded()):
                return self.reporter.handle(event, now_ns)
            case TimerFired(name=name) if name == TIMER:
                return self.reporter.handle(event, now_ns)
            case Delivered(message=RosterKept() | FactsAsked() | TuneReporting()) | FactsMeasured() | ThingDropped():
                return self.facts.handle(event, now_ns)
            case TimerFired(name=name) if name == FACTS_TIMER:
                return self.facts.handle(event, now_ns)
            case DescriptorChanged() | LeaveAsked() | JobsPinned():
                return self.reporter.handle(event, now_ns)
            case Delivered(message=RecordsKept()) | AlarmNoticed():
                return self.outbox.handle(event, now_ns)
            case TimerFired(name=name) if name == OUTBOX_TIMER:
                return self.outbox.handle(event, now_ns)
            case _:
                effects = self._keep(event, now_ns)
                return [*effects, *self.outbox.speak(now_ns)]

    def _keep(self, event: Event, now_ns: int) -> list[Effect]:
        """The keeper's turn, its facts shown to the outbox."""
        effects = self.keeper.handle(event, now_ns)
        for effect in effects:
            if isinstance(effect, Append):
                for record in effect.records:
                    self.outbox.apply(record)
        return effects

    def apply(self, record: Record) -> None:
        """Facts of a terminal are the keeper's, and the outbox's."""
        self.keeper.apply(record)
        self.outbox.apply(record)

    def check_invariants(self) -> None:
        """BugError if a role's state contradicts itself."""
        self.keeper.check_invariants()
        self.reporter.check_invariants()
        self.facts.check_invariants()
        self.outbox.check_invariants()
