"""The map's orchestrator (DRRT-O) within a control centre: what it is told of the domain, and what follows from it.

Paper II-A: the orchestrator may be integrated into other layers. It is a core of its own (`topology.orchestrator`);
here its events are made of what the centre sees, and its effects become turns: a node that it declares failed is lost
to the map, tunings are sent. Fixed limits of silence are no more: only visits have leases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from daitn.base.effects import Compute, Computed, Delivered, Effect, Event, Send, SetTimer, Started, TimerFired
from daitn.base.ids import JobId, NodeId
from daitn.control_center.config import CenterConfig
from daitn.control_center.fact_desk import FactDesk, ReportsArrived
from daitn.control_center.presence import Presence
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.records import JobPhased, JobRecord
from daitn.control_center.turn import Turn
from daitn.decision.query_route.standing import ranges_of, standing_of
from daitn.describe.reporting import registered_shape
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.query_view import QueryRequest
from daitn.descriptors.reporting import Reading
from daitn.topology.intake import Intake
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.orchestrator import (
    LOOK_TIMER,
    TUNE_TIMER,
    DeclareFailure,
    NodeDropped,
    NodeSignalled,
    NodeVanished,
    OrchestratorConfig,
    RangesStated,
    ReadingsAccepted,
    TopologyOrchestrator,
)
from daitn.topology.query_views import make_query_view
from daitn.topology.tuning import TunerConfig
from daitn.wire.packed_facts import HEADER
from daitn.wire.topology_tools import Heartbeat, ReportingTuned

TIMERS: Final = (LOOK_TIMER, TUNE_TIMER)

QUERIES: Final = "queries of "
"""First words of who depends on hosts' facts: those who route queries of a model."""

MODELS_WEIGHED: Final = 64
"""Models whose query routes reports are weighed by: some ten milliseconds once a tuning."""

LEARNT_AT_ONCE: Final = 256
"""Records of a group that the orchestrator learns from in one turn: half a millisecond."""


def make_orchestrator(config: CenterConfig) -> TopologyOrchestrator:
    """The orchestrator of a domain: beats and looks follow from its patience."""
    tuner = TunerConfig(budget_bytes_per_s=config.report_bytes_per_s)
    beat_s = config.heartbeat_s
    ours = OrchestratorConfig(tuner=tuner, beat_s=beat_s, look_s=beat_s, damping=config.damping)
    return TopologyOrchestrator(ours, registered_shape, HEADER.itemsize)


class Orchestration:
    """See the module's docstring."""

    def __init__(
        self,
        orchestrator: TopologyOrchestrator,
        knowledge: KnowledgeMap,
        presence: Presence,
        desk: FactDesk,
    ) -> None:
        self._counters = desk.counters
        self.orchestrator = orchestrator
        self._facts = desk
        self._knowledge = knowledge
        self._presence = presence
        self.weighing: set[JobId] = set()
        """Jobs whose plans reports are weighed by."""
        self._changed: dict[JobId, None] = {}
        self._queried: set[str] = set()
        """Models whose queries reports were weighed by."""

    def started(self, turn: Turn) -> None:
        """The centre runs."""
        self._tell(turn, Started())

    def spoke(self, turn: Turn, node: NodeId, *, beat: bool = False) -> None:
        """Something came from a node; `beat`: its heartbeat."""
        self._knowledge.spoke(node, turn.now_ns)
        if self._knowledge.node(node) is not None:
            self._tell(turn, NodeSignalled(node=node, beat=beat))

    def beat(self, turn: Turn, node: NodeId, message: Heartbeat) -> None:
        """A node's heartbeat came, and with it perhaps which tuning it has taken."""
        self.spoke(turn, node, beat=True)
        if message.tuned:
            self.tuned(turn, Delivered(sender=node, message=ReportingTuned(number=message.tuned)))

    def appeared(self, turn: Turn, node: NodeId) -> None:
        """The fabric sees a node: from now on its silence counts."""
        if self._knowledge.node(node) is not None:
            self._tell(turn, NodeSignalled(node=node, beat=False))

    def vanished(self, turn: Turn, node: NodeId) -> None:
        """The fabric does not see a node any more. No fall of the node's, where it was the centre's link that broke."""
        if not self._presence.own_link_lost(turn):
            self._tell(turn, NodeVanished(node=node))

    def removed(self, turn: Turn, node: NodeId) -> None:
        """A node left for good."""
        self._tell(turn, NodeDropped(node=node))

    def arrived(self, turn: Turn, event: ReportsArrived) -> None:
        """Packed reports came: the map takes them, and the orchestrator learns from what it took."""
        seen = self._facts.arrived(turn, event)
        told: Counter[NodeId] = Counter()
        for sender, payload in zip(event.senders, event.payloads, strict=True):
            told[sender] += len(payload)
        readings = self._readings(seen)
        for site, wire_bytes in told.items():
            if self._knowledge.node(site) is not None:
                taken = tuple(readings.get(site, ()))
                self._tell(turn, ReadingsAccepted(site=site, readings=taken, wire_bytes=wire_bytes))

    def _readings(self, seen: Intake) -> dict[NodeId, list[Reading]]:
        """What the map took, by who told it, as it stands in the columns; of a flood a part, which teaches as much."""
        found: dict[NodeId, list[Reading]] = {}
        intake = self._knowledge.intake
        for group, taken in seen.taken:
            table = self._knowledge.facts[group.kind]
            columns = table.group(group.name)
            for row in taken.rows[:LEARNT_AT_ONCE].tolist() if columns is not None else ():
                assert columns is not None
                values = tuple(float(columns.values[fact.name][row]) for fact in group.facts)
                site = intake.sources.node(int(columns.source[row]))
                measured_ns = int(columns.generated_ns[row])
                found.setdefault(site, []).append(
                    Reading(
                        thing=table.id_of(row),
                        group=group.name,
                        values=values,
                        measured_ns=measured_ns,
                        part=taken.part,
                    )
                )
        return found

    def tuned(self, turn: Turn, event: Delivered) -> None:
        """A site says which tuning is in force there."""
        if self._knowledge.node(event.sender) is not None:
            self._tell(turn, event)

    def noted(self, record: JobRecord) -> None:
        """A fact of a job: one that is in another phase weighs reports differently."""
        if isinstance(record, JobPhased):
            self.reweigh(record.job)

    def reweigh(self, job: JobId) -> None:
        """At the end of this turn reports are weighed by what this job's choice stands on by then."""
        self._changed[job] = None

    def weigh(self, turn: Turn, jobs: Mapping[JobId, JobMachine]) -> None:
        """At the end of a turn: choices of jobs that changed in it are from now on what reports are weighed by."""
        while self._changed:
            job = next(iter(self._changed))
            del self._changed[job]
            validity = jobs[job].validity
            ranges = validity.ranges if validity is not None else ()
            (self.weighing.add if ranges else self.weighing.discard)(job)
            self._tell(turn, RangesStated(holder=f"job {job}", ranges=ranges))

    def computed(self, turn: Turn, event: Computed) -> None:
        """Something that it wanted solved is."""
        self._tell(turn, event)

    def timer(self, turn: Turn, name: str) -> None:
        """One of its timers fired."""
        if name == TUNE_TIMER:
            self._weigh_queries(turn)
            self._knowledge.count_presence(turn.now_ns)
        self._tell(turn, TimerFired(name=name))

    def _weigh_queries(self, turn: Turn) -> None:
        """Before reports are tuned: which hosts' queues are near to changing where queries go, by model."""
        table = self._knowledge.facts[Kind.MODEL]
        codes = np.unique(table.column("model")[table.alive()])
        names = [self._knowledge.facts.words.text(int(code)) for code in codes[codes >= 0][:MODELS_WEIGHED]]
        for gone in self._queried - set(names):
            self._tell(turn, RangesStated(holder=QUERIES + gone))
        self._queried = set(names)
        for name in names:
            view = make_query_view(self._knowledge.facts, QueryRequest(model=name), turn.now_ns)
            ranges = ranges_of(view, standing_of(view, 1))
            self._tell(turn, RangesStated(holder=QUERIES + name, ranges=ranges))

    def _tell(self, turn: Turn, event: Event) -> None:
        for effect in self.orchestrator.handle(event, turn.now_ns):
            self._perform(turn, effect)

    def _perform(self, turn: Turn, effect: Effect) -> None:
        match effect:
            case DeclareFailure(node=node, phi=phi, silent_s=silent_s):
                self._counters.count("nodes_silent")
                self._presence.lost(turn, node, f"not heard of for {silent_s:.1f} s, φ {phi:.1f}")
            case Send() | SetTimer() | Compute():
                turn.perform(effect)
            case _:
                pass  # suspects are asked for when a view is made
