"""The desks of inference together, as the control centre's core sees them: deployment, and gateways."""

from __future__ import annotations

from daitn.base.effects import Delivered, Event, PeerAppeared, PeerVanished, Started
from daitn.base.metrics import Counters
from daitn.control_center.alarms import CenterAlarms
from daitn.control_center.config import CenterConfig, CenterTools
from daitn.control_center.inference.answer_checks import AnswerChecks
from daitn.control_center.inference.deployment_desk import DeploymentDesk
from daitn.control_center.inference.gateway_desk import GatewayDesk
from daitn.control_center.inference.refereeing import Refereeing
from daitn.control_center.inference.retraining import Jobs
from daitn.control_center.turn import Turn
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_serving import OutcomesTold


class InferenceDesks:
    """See the module's docstring."""

    def __init__(
        self,
        config: CenterConfig,
        tools: CenterTools,
        knowledge: KnowledgeMap,
        counters: Counters,
        jobs: Jobs,
        alarms: CenterAlarms,
    ) -> None:
        self.deployment = DeploymentDesk(config, tools, knowledge, counters, jobs)
        self.gateways = GatewayDesk(self.deployment, knowledge, counters)
        live = self.deployment.judging.live
        referees = Refereeing(self.deployment.models, knowledge, self.deployment)
        self.checks = AnswerChecks(self.deployment.models, live, knowledge, counters, alarms, referees)

    def minds(self, event: Event) -> bool:
        """Whether an event is for these desks alone."""
        return self.deployment.minds(event) or self.gateways.minds(event)

    def handle(self, turn: Turn, event: Event) -> None:
        """One event that `minds` says yes to."""
        if self.gateways.minds(event):
            self.gateways.handle(turn, event)
        else:
            self.deployment.handle(turn, event)
            told = isinstance(event, Delivered) and isinstance(event.message, OutcomesTold)
            if told and (changed := self.checks.look(turn)):
                self.deployment.changed(turn, changed)

    def follow(self, turn: Turn, event: Event) -> None:
        """At the end of each turn: what concerns others too (presence, the start), then what gateways are told."""
        if isinstance(event, PeerAppeared | PeerVanished | Started):
            self.deployment.handle(turn, event)
        self.gateways.settle(turn)
