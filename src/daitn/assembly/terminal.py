"""A terminal node: visit keeper, reporter, record outbox and the tools' services in one core, whatever roles the node
carries; one with the role `tools` also manages the services for its domain."""

from __future__ import annotations

from daitn.base.effects import Append, Delivered, Effect, Event, Message, Record, Started, TimerFired
from daitn.base.ids import NodeId
from daitn.oam.outbox import TIMER as OUTBOX_TIMER
from daitn.oam.outbox import AlarmNoticed, RecordOutbox
from daitn.terminal.fact_reporter import TIMER as FACTS_TIMER
from daitn.terminal.fact_reporter import FactReporter, FactsMeasured, ThingDropped
from daitn.terminal.gateway import TIMER as GATEWAY_TIMER
from daitn.terminal.gateway import Gateway, OutcomesCounted, QueriesCounted, QuotasWanted
from daitn.terminal.model_host import TIMER as HOST_TIMER
from daitn.terminal.model_host import ModelHost, OfferChanged, ReplicaChanged
from daitn.terminal.reporter import TIMER, DescriptorChanged, LeaveAsked, Linked, Reporter
from daitn.terminal.visit_keeper import VisitKeeper
from daitn.terminal.work import JobsPinned
from daitn.tools.agent import ToolsAgent, concerns_tools, settle_own
from daitn.tools.manager import ServiceManager, concerns_manager
from daitn.wire.center_serving import KeysGiven, QuotasGiven, RoutesGiven, ServeModels
from daitn.wire.center_tools import JobsEnded, VisitPrepare
from daitn.wire.oam_records import RecordsKept
from daitn.wire.terminal_tools import Left
from daitn.wire.topology_tools import DescribeAgain, Described, FactsAsked, RosterKept, TuneReporting


class TerminalCore:
    """Hands each event to the role it is for; `Started` to all. The outbox hears of every fact."""

    def __init__(
        self,
        keeper: VisitKeeper,
        reporter: Reporter,
        node: NodeId,
        manager: ServiceManager | None = None,
        host: ModelHost | None = None,
        gateway: Gateway | None = None,
    ) -> None:
        self.keeper = keeper
        self.reporter = reporter
        self.facts = FactReporter()
        self.reporter.told = self.facts.beat
        self.outbox = RecordOutbox()
        self.agent = ToolsAgent(node)
        self.manager = manager
        self.host = host
        self.gateway = gateway
        self._node = node

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Started():
                self.facts.handle(event, now_ns)
                effects = [*self.reporter.handle(event, now_ns), *self._keep(event, now_ns)]
                effects += [*self.outbox.handle(event, now_ns), *self._tool(event, now_ns)]
                serving = [role for role in (self.host, self.gateway) if role is not None]
                return [*effects, *(effect for role in serving for effect in role.handle(event, now_ns))]
            case _ if self.host is not None and concerns_host(event):
                return self.host.handle(event, now_ns)
            case _ if self.gateway is not None and concerns_gateway(event):
                return self.gateway.handle(event, now_ns)
            case Linked():
                effects = [*self.reporter.handle(event, now_ns), *self.outbox.handle(event, now_ns)]
                return [*effects, *self._settled(self.agent.linked(now_ns), now_ns)]
            case Delivered(message=Described() | DescribeAgain() | Left() | JobsEnded()):
                return self.reporter.handle(event, now_ns)
            case TimerFired(name=name) if name == TIMER:
                return self.reporter.handle(event, now_ns)
            case Delivered(message=RosterKept() | FactsAsked() | TuneReporting()) | FactsMeasured() | ThingDropped():
                return self.facts.handle(event, now_ns)
            case TimerFired(name=name) if name == FACTS_TIMER:
                return self.facts.handle(event, now_ns)
            case LeaveAsked():
                return [*self.outbox.speak(now_ns), *self.reporter.handle(event, now_ns)]
            case DescriptorChanged() | JobsPinned():
                return self.reporter.handle(event, now_ns)
            case Delivered(message=RecordsKept()) | AlarmNoticed():
                return self.outbox.handle(event, now_ns)
            case TimerFired(name=name) if name == OUTBOX_TIMER:
                return self.outbox.handle(event, now_ns)
            case _ if concerns_tools(event) or (self.manager is not None and concerns_manager(event)):
                return self._tool(event, now_ns)
            case Delivered(message=VisitPrepare()):
                effects = self._keep(event, now_ns)
                return [*effects, *self.outbox.gather(now_ns), *self._tool(event, now_ns)]
            case _:
                effects = self._keep(event, now_ns)
                return [*effects, *self.outbox.gather(now_ns)]

    def _tool(self, event: Event, now_ns: int) -> list[Effect]:
        """The services' turn: the manager's where it is here and the event is for it, else the agent's."""
        if self.manager is not None and concerns_manager(event):
            return self._settled(self.manager.handle(event, now_ns), now_ns)
        return self._settled(self.agent.handle(event, now_ns), now_ns)

    def _settled(self, effects: list[Effect], now_ns: int) -> list[Effect]:
        def hear(message: Message) -> list[Effect]:
            event = Delivered(sender=self._node, message=message)
            if self.manager is not None and concerns_manager(event):
                return self.manager.handle(event, now_ns)
            return self.agent.handle(event, now_ns)

        return settle_own(effects, self._node, hear)

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

    def tools_counts(self) -> dict[str, int]:
        """What the services here refused, lost and dropped, by the declared names."""
        managed = {} if self.manager is None else {"reports_dropped": self.manager.dropped}
        return self.agent.counts() | managed

    def check_invariants(self) -> None:
        """BugError if a role's state contradicts itself."""
        self.keeper.check_invariants()
        self.reporter.check_invariants()
        self.facts.check_invariants()
        self.outbox.check_invariants()
        self.agent.check_invariants()
        if self.manager is not None:
            self.manager.check_invariants()
        if self.host is not None:
            self.host.check_invariants()


def concerns_host(event: Event) -> bool:
    """Whether an event is for a model host."""
    match event:
        case Delivered(message=ServeModels()) | ReplicaChanged() | OfferChanged():
            return True
        case TimerFired(name=name):
            return name == HOST_TIMER
        case _:
            return False


def concerns_gateway(event: Event) -> bool:
    """Whether an event is for a gateway."""
    match event:
        case Delivered(message=RoutesGiven() | KeysGiven() | QuotasGiven()):
            return True
        case TimerFired(name=name):
            return name == GATEWAY_TIMER
        case QueriesCounted() | OutcomesCounted() | QuotasWanted():
            return True
        case _:
            return False
