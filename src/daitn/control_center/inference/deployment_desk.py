"""Deployment desk (MDO, paper II-B): which models a domain serves and on which hosts, and who is told so.

What providers want and what was placed are facts in the journal; what hosts really do is what they said last, and what
they and gateways are told follows from both: whole states under a sequence, said again to whoever is behind. A host
that vanishes gets no queries from that moment; after `PATIENCES` of silence its replicas are placed elsewhere, as are
those that fail or prove too slow for their goal when they were warmed up. Where replicas shall be, `placing` says, by
demand and distance; a replica that is let go answers until others do. A model whose goal allows none and that nobody
asks has none, and gets one when it is asked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from daitn.base import limits
from daitn.base.effects import Computed, Delivered, Event, PeerAppeared, PeerVanished, Started, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, ArtifactId, GrantId, JobId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.control_center.config import CenterConfig, CenterTools
from daitn.control_center.inference.answering import routed, said_of, served_model
from daitn.control_center.inference.commands import (
    CanaryAsked,
    DeployAsked,
    DeployStagesAsked,
    RetrainingAnswered,
    UndeployAsked,
)
from daitn.control_center.inference.demand_book import DemandBook
from daitn.control_center.inference.deployed import Deployed, apply_record
from daitn.control_center.inference.host_views import host_views, hosting
from daitn.control_center.inference.host_windows import lasting, next_edge_s
from daitn.control_center.inference.judging import Judging
from daitn.control_center.inference.offered import OfferedModels
from daitn.control_center.inference.placing import KEY, Placing
from daitn.control_center.inference.records import DeploymentRecord, ReplicaLeaving, ReplicaTaken
from daitn.control_center.inference.retraining import Jobs
from daitn.control_center.inference.staged import parts_of, record_deployment, record_withdrawal
from daitn.control_center.turn import Turn
from daitn.decision.hosting import HostAdmission, HostView, admit
from daitn.decision.model_placement import PlacementFound
from daitn.descriptors.grant import GRANT_S, Grant, Holder
from daitn.descriptors.serving import (
    ENGINES_FOR,
    ModelNeeds,
    Replica,
    ReplicaPhase,
    ServedModel,
    ServingGoal,
)
from daitn.descriptors.terminals import Role
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_serving import DemandTold, ModelsServed, OutcomesTold, ServeModels, ServeOrder
from daitn.wire.center_tools import InputRef

TIMER: Final = "hosting"
"""Looks after hosts that are silent, and models that lack replicas."""

PATIENCES: Final = 1.0
"""A host silent for so many patiences of the domain is given up: its models are served by others meanwhile, and coming
back costs it a start only."""

WINDOW_TIMER: Final = "windows of hosts"
LOOK_TIMER: Final = "placing"
LOOK_S: Final = 5.0
"""How often placements are looked at, as demand moves."""

LOOKS: Final = 8
"""Models that are looked at then, in turn: a look at a hundred hosts takes a tenth of a millisecond."""

QUIET_S: Final = 3.0
"""A replica that is let go is ended so long after gateways were told to ask it no more: they hear that within two
seconds, and what is under way there is answered."""

ELSEWHERE_S: Final = 60.0
"""A replica in a region that its provider has ruled out answers no longer than this, whether others do or not."""


class DeploymentDesk:
    """See the module's docstring."""

    def __init__(
        self, config: CenterConfig, tools: CenterTools, knowledge: KnowledgeMap, counters: Counters, jobs: Jobs
    ) -> None:
        self.models: dict[ModelName, Deployed] = {}
        self._config, self._tools, self._knowledge, self._counters = config, tools, knowledge, counters
        self._observed: dict[NodeId, dict[ModelName, Replica]] = {}
        self._offered = OfferedModels(knowledge, counters)
        self._looks = False
        """Whether placements will be looked at."""
        self._lost_ns: dict[NodeId, int] = {}
        self._sequence = 0
        """Of what hosts are told: each change has a greater one, also after a restart."""
        self.gateways: tuple[NodeId, ...] = ()
        """Whose queries hosts answer."""
        self.version = 0
        """Grows whenever what is served, or who serves it, may have changed."""
        self._host_sequences: dict[NodeId, int] = {}
        self._ordered: dict[NodeId, tuple[dict[ModelName, ArtifactId], tuple[NodeId, ...]]] = {}
        self.demand = DemandBook()
        self.placing = Placing(knowledge, self.demand)
        self.judging = Judging(self.models, jobs, self._answers)
        self._started_ns = self._settled_ns = 0
        self._looked = 0

    # --- core -------------------------------------------------------------------------------------------------------

    def minds(self, event: Event) -> bool:
        """Whether an event is for this desk alone."""
        match event:
            case (
                DeployAsked()
                | DeployStagesAsked()
                | CanaryAsked()
                | UndeployAsked()
                | RetrainingAnswered()
                | TimerFired(name="hosting" | "placing" | "windows of hosts")
            ):
                return True
            case Delivered(message=ModelsServed() | DemandTold() | OutcomesTold()):
                return True
            case Computed(key=key):
                return key.startswith(KEY)
            case _:
                return False

    def handle(self, turn: Turn, event: Event) -> None:
        """One event that `minds` says yes to, or one that concerns others too (presence, the start)."""
        match event:
            case DeployAsked() | DeployStagesAsked():
                self._deploy(turn, event)
            case CanaryAsked():
                self.changed(turn, self.judging.versions.begin(turn, event))
            case UndeployAsked(model=model):
                self.changed(turn, record_withdrawal(turn, self.models, model))
            case RetrainingAnswered():
                self.judging.retraining.answered(turn, event)
            case Delivered(sender=sender, message=ModelsServed() as told):
                self._served(turn, sender, told)
            case Delivered(sender=sender, message=DemandTold() | OutcomesTold() as told):
                self._told(turn, sender, told)
            case Computed(solution=PlacementFound() as plan) if plan.model in self.models:
                self.placing.found(turn, self.models[plan.model], plan)
                self._settle(turn)
            case PeerAppeared(node=node):
                self._lost_ns.pop(node, None)
                self._settle(turn)
            case PeerVanished(node=node):
                # Whether its engines live is not known any more; it tells when it is back.
                self._observed.pop(node, None)
                self._offered.forget(node)
                if any(node in model.placed for model in self.models.values()):
                    self._lost_ns.setdefault(node, turn.now_ns)
                    turn.wake_in(TIMER, PATIENCES * self._config.patience_s)
                self._settle(turn)
            case Started():
                for deployed in self.models.values():
                    for node in deployed.placed:
                        self._lost_ns.setdefault(node, turn.now_ns)
                self._started_ns = turn.now_ns
                turn.wake_in(TIMER, PATIENCES * self._config.patience_s)
                if self.models:
                    self._look_soon(turn)
            case TimerFired(name="placing"):
                self._look(turn)
            case TimerFired():
                self._settle(turn)
            case _:
                pass

    def described(self, turn: Turn) -> None:
        """A node says something new of itself: it may be a host, or another one than before."""
        self._settle(turn)

    def apply(self, record: DeploymentRecord) -> None:
        """One fact."""
        apply_record(self.models, record)

    def check_invariants(self) -> None:
        """BugError if a model has more replicas than its provider wants, or the domain more than it may."""
        for name, model in self.models.items():
            if len(model.staying) > model.goal.replicas_most:
                raise BugError(f"model {name} has {len(model.staying)} replicas, {model.goal.replicas_most} are wanted")
        if (count := sum(len(model.placed) for model in self.models.values())) > limits.REPLICAS_SERVED:
            raise BugError(f"{count} replicas, the limit is {limits.REPLICAS_SERVED}")

    # --- what providers want ----------------------------------------------------------------------------------------

    def judge(
        self, needs: ModelNeeds, goal: ServingGoal, owner: OwnerId, measured: dict[str, float], replacing: ModelName
    ) -> HostAdmission:
        """Whether a model would be admitted now, under a name that may be its own already. Changes nothing."""
        hosts = self.hosts(parts_of(self.models, replacing))
        return admit(needs, goal, owner, hosts, measured, engines=ENGINES_FOR[needs.kind])

    def _deploy(self, turn: Turn, asked: DeployAsked | DeployStagesAsked) -> None:
        self.changed(turn, record_deployment(turn, self.models, asked))
        self._look_soon(turn)

    def changed(self, turn: Turn, names: Collection[ModelName]) -> None:
        for name in names:
            self.placing.forget(name)
        self._settle(turn)

    def _answers(self, name: ModelName) -> bool:
        """Whether as many hosts answer for a model as its goal wants at least, one in any case."""
        model = self.models[name]
        return len(routed(name, model, self._knowledge, self._observed, self._settled_ns)) >= max(
            1, model.goal.replicas_least
        )

    # --- what gateways say -------------------------------------------------------------------------------------------

    def _told(self, turn: Turn, sender: NodeId, told: DemandTold | OutcomesTold) -> None:
        facts = self._knowledge.node(sender)
        if facts is None or Role.GATEWAY not in facts.descriptor.roles:
            self._counters.count("messages_for_another_role")
        elif isinstance(told, OutcomesTold):
            if changed := self.judging.hear(turn, sender, told):
                self.changed(turn, changed)
        else:
            known = {*self.models, *self._offered.names()}
            self.demand.take(sender, facts.descriptor.region, told, known, turn.now_ns)
            self._look_soon(turn)
            for one in told.counts:
                model = self.models.get(one.model)
                if model is not None and not model.staying:
                    self._place(turn, one.model, model)

    def _look(self, turn: Turn) -> None:
        """Demand has moved: some models are looked at, and the map is told, until nobody asks anything any more."""
        self._looks = False
        goals = {name: one.goal for name, one in self.models.items()}
        demands = self.demand.demands(goals, turn.now_ns)
        self._knowledge.demanded(demands, turn.now_ns)
        if not self.models:
            if demands:
                self._look_soon(turn)
            return
        names = sorted(self.models)
        for place in range(min(LOOKS, len(names))):
            name = names[(self._looked + place) % len(names)]
            self._place(turn, name, self.models[name])
        self._looked += LOOKS
        self.placing.follow(self.models)
        for name in self.judging.look(turn):
            self.placing.forget(name)
        self._settle(turn)
        self._look_soon(turn)

    def _look_soon(self, turn: Turn) -> None:
        if not self._looks:
            self._looks = True
            turn.wake_in(LOOK_TIMER, LOOK_S)

    # --- what hosts say ---------------------------------------------------------------------------------------------

    def _served(self, turn: Turn, sender: NodeId, told: ModelsServed) -> None:
        facts = self._knowledge.node(sender)
        if facts is None or facts.descriptor.host is None:
            self._counters.count("messages_for_another_role")
            return
        self._host_sequences.setdefault(sender, 0)  # a unit that has models loaded is no host, and is told, too
        if self._offered.take(sender, told.offered):
            self.version += 1
        before = self._observed.get(sender)
        self._observed[sender] = {replica.model: replica for replica in told.replicas}
        if told.sequence > self._sequence:  # the clock of this machine was set back between two starts
            self._sequence = told.sequence
            self._ordered.pop(sender, None)
        ordered = self._host_sequences.get(sender) if sender in self._ordered else None
        if before != self._observed[sender]:
            self._show(turn, sender)
        if before != self._observed[sender] or ordered is None or self._lost_ns.pop(sender, None) is not None:
            self._settle(turn)
        elif told.sequence < ordered:
            self._order(turn, sender)

    def _show(self, turn: Turn, node: NodeId) -> None:
        """What a host serves becomes rows of the map."""
        shown = {
            str(name): (replica, self.models[name].quality)
            for name, replica in self._observed[node].items()
            if name in self.models and self.models[name].artifact == replica.artifact
        }
        self._knowledge.hosted(node, shown, turn.now_ns)

    # --- settling ---------------------------------------------------------------------------------------------------

    def _settle(self, turn: Turn) -> None:
        """Take away what failed or is lost, place what is lacking, and tell whoever is concerned."""
        self.version += 1
        self._settled_ns = turn.now_ns
        if (edge_s := next_edge_s(hosting(self._knowledge), turn.now_ns)) is not None:
            turn.wake_in(WINDOW_TIMER, edge_s)
        for name, model in list(self.models.items()):
            self._weed(turn, name, model)
            self._let_go(turn, name, model)
            if len(model.staying) < model.goal.replicas_least:
                self._place(turn, name, model)
        for node in {facts.descriptor.node for facts in hosting(self._knowledge)} | set(self._host_sequences):
            self._order_if_new(turn, node)

    def _weed(self, turn: Turn, name: ModelName, model: Deployed) -> None:
        for node in list(model.placed):
            replica = self._replica(node, name, model.artifact)
            why, failed = "", False
            lost_ns, facts = self._lost_ns.get(node), self._knowledge.node(node)
            if facts is None or facts.descriptor.host is None:
                why = "the host has left"
            elif model.goal.regions and facts.descriptor.region not in model.goal.regions:
                region = f"its region is {facts.descriptor.region or 'none'}"
                if node not in model.leaving:
                    turn.record(ReplicaLeaving(model=name, at_ns=turn.now_ns, node=node, why=region))
                    turn.wake_in(TIMER, ELSEWHERE_S)
                elif turn.now_ns - model.leaving[node] >= seconds_to_ns(ELSEWHERE_S):
                    why = region
            elif lost_ns is not None and turn.now_ns - lost_ns >= seconds_to_ns(PATIENCES * self._config.patience_s):
                why = "the host is not reachable"
            elif replica is not None and replica.phase is ReplicaPhase.FAILED:
                why, failed = replica.why or "it failed", True
            elif replica is not None and (slow := model.too_slow(replica)):
                why, failed = slow, True
            if why:
                self._counters.count("replicas_lost", "failed" if failed else "host")
                turn.record(ReplicaTaken(model=name, at_ns=turn.now_ns, node=node, why=why, failed=failed))
                self.placing.forget(name)

    def _let_go(self, turn: Turn, name: ModelName, model: Deployed) -> None:
        """Replicas beyond what is wanted leave; those that leave are ended once gateways ask others."""
        spare = model.staying[model.goal.replicas_most :]
        why = f"{model.goal.replicas_most} replicas are wanted"
        if self.idle(name, model, turn.now_ns):
            spare, why = model.staying, f"nobody asked for {model.goal.idle_s:g} s"
        for node in spare:
            turn.record(ReplicaLeaving(model=name, at_ns=turn.now_ns, node=node, why=why))
        for node in list(model.leaving):
            if node in routed(name, model, self._knowledge, self._observed, turn.now_ns):
                model.quiet_ns.pop(node, None)
                continue
            since_ns = model.quiet_ns.setdefault(node, turn.now_ns)
            if turn.now_ns - since_ns >= seconds_to_ns(QUIET_S):
                turn.record(ReplicaTaken(model=name, at_ns=turn.now_ns, node=node, why=model.because[node]))
                self.placing.forget(name)
            else:
                turn.wake_in(TIMER, QUIET_S)

    def idle(self, name: ModelName, model: Deployed, now_ns: int) -> bool:
        """Whether a model is to have no replica now, because nobody asks it and its goal allows that."""
        asked_ns = max(self.demand.asked_ns(name), model.deployed_ns, self._started_ns)
        return model.goal.replicas_least == 0 and now_ns - asked_ns >= seconds_to_ns(model.goal.idle_s)

    def _place(self, turn: Turn, name: ModelName, model: Deployed) -> None:
        """Have it thought over which hosts shall carry a model, of those that can."""
        if self.idle(name, model, turn.now_ns):
            return
        hosts = self.hosts({name})
        admission = admit(model.needs, model.goal, model.owner, hosts, {}, engines=ENGINES_FOR[model.needs.kind])
        able = set(admission.candidates) - set(model.failed)
        measured = {
            node: replica.measured
            for node in model.placed
            if (replica := self._replica(node, name, model.artifact)) is not None
        }
        total = sum(len(one.placed) for one in self.models.values())
        room = limits.REPLICAS_SERVED - total + len(model.staying)
        found = [host for host in hosts if host.node in able]
        found = lasting(found, self._knowledge, turn.now_ns, max(1, model.goal.replicas_least))
        self.placing.seek(turn, name, model, found, measured, room)

    def hosts(self, besides: Collection[ModelName]) -> list[HostView]:
        """All hosts, with the memory they have beside models other than `besides`."""
        return host_views(self._knowledge, self.models, besides, self.gateways)

    def _replica(self, node: NodeId, model: ModelName, artifact: ArtifactId) -> Replica | None:
        """What a host said last of a model, if it speaks of this package."""
        return said_of(self._observed, node, model, artifact)

    def replica(self, node: NodeId, model: ModelName) -> Replica | None:
        """What a host said last of a model."""
        deployed = self.models.get(model)
        return None if deployed is None else self._replica(node, model, deployed.artifact)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _next(self, turn: Turn) -> int:
        self._sequence = max(self._sequence + 1, turn.now_ns // 1000)
        return self._sequence

    def _order_if_new(self, turn: Turn, node: NodeId) -> None:
        wanted = {name: model.artifact for name, model in self.models.items() if node in model.carriers}
        if self._ordered.get(node) != (wanted, self.gateways):
            self._ordered[node] = (wanted, self.gateways)
            self._host_sequences[node] = self._next(turn)
            self._order(turn, node)

    def _order(self, turn: Turn, node: NodeId) -> None:
        """Tell a host all it is to serve, under fresh grants."""
        orders = []
        for name, model in self.models.items():
            if node not in model.carriers:
                continue
            grant = Grant(
                id=GrantId(f"model:{name}:{node}"),
                domain=self._config.domain,
                artifact=model.artifact,
                requester=node,
                job=JobId(f"model:{name}"),
                expires_unix_s=turn.now_ns // NS_PER_S + GRANT_S,
            )
            package = InputRef(
                artifact=model.artifact, holders=self._holders(name, model, node), grant=self._tools.issue(grant)
            )
            orders.append(ServeOrder(model=name, package=package, owner=model.owner, needs=model.needs))
        turn.send(
            node,
            ServeModels(sequence=self._host_sequences[node], orders=tuple(orders), gateways=self.gateways),
        )

    def _holders(self, name: ModelName, model: Deployed, node: NodeId) -> tuple[Holder, ...]:
        """The centre, and hosts that serve it already."""
        found = [Holder(node=CENTER, direct=self._config.direct)]
        for other in model.placed:
            facts, replica = self._knowledge.node(other), self._replica(other, name, model.artifact)
            if other != node and facts is not None and replica is not None and replica.phase is ReplicaPhase.SERVING:
                found.append(Holder(node=other, direct=facts.descriptor.direct))
        return tuple(found[: limits.HOLDERS])

    # --- what may be asked ------------------------------------------------------------------------------------------

    def served(self) -> tuple[ServedModel, ...]:
        """Every model with the replicas that answer now."""
        deployed = tuple(
            served_model(name, model, self._knowledge, self._observed, self._settled_ns)
            for name, model in self.models.items()
        )
        return deployed + self._offered.served(self.models, limits.MODELS_SERVED - len(deployed), self._settled_ns)
