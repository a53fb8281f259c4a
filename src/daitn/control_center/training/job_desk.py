"""What all stages of one job share: its view of the map, its orders to terminals, and when to wait before a next try.

The stages (`assessing`, `running`, `ending`) decide; this is how they see and speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from daitn.base import limits
from daitn.base.ids import CENTER, ArtifactId, DataSetId, NodeId, VisitId
from daitn.base.units import seconds_to_ns
from daitn.control_center.alarms import CenterAlarms
from daitn.control_center.config import CenterConfig
from daitn.control_center.training.commands import JobChanged
from daitn.control_center.training.followed_view import FollowedView
from daitn.control_center.training.itineraries import Itineraries
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.lesson_book import LessonBook
from daitn.control_center.training.open_visits import OpenVisit, next_check_ns
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.promise_book import PromiseBook, deadline_ns
from daitn.control_center.training.records import (
    CopiesLetGo,
    HolderDropped,
    JobPhased,
    PromiseMade,
    Purpose,
    VisitOrdered,
)
from daitn.control_center.turn import Turn
from daitn.decision.attainability import trial_seconds
from daitn.decision.drafting import seek_validity
from daitn.decision.promises import Promises, without_taken
from daitn.decision.routes.contract import Seen
from daitn.descriptors.contract import Classification
from daitn.descriptors.grant import Lacking
from daitn.descriptors.job import Phase
from daitn.descriptors.plan import Plan, Stop, Validity
from daitn.descriptors.request import METRICS, Request
from daitn.descriptors.terminals import Role
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import TrainingView, Verifier
from daitn.descriptors.work import (
    EvaluateWork,
    SampleRef,
    ShareWork,
    Training,
    Trying,
    Work,
    inputs_of,
)
from daitn.learning.methods import usual_method
from daitn.topology.adapter import ViewAdapter, standings
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.orchestrator import TopologyOrchestrator
from daitn.topology.relevance import needs_of
from daitn.topology.views import Asker, make_training_view
from daitn.wire.center_tools import ReleaseArtifacts

VALIDITY_S: Final = 10.0
"""How long stops of a job's route are told apart by the ranges of one: they take some milliseconds of a thread, and
reports are tuned by them every minute."""

WAIT_S: Final = 0.5
"""How soon a job that can do nothing now (no site, no unit) looks again."""

LOOK_S: Final = 1.0
LOOK_NODE_S: Final = 1e-3
"""How often the map is looked at for a job whose visits are under way, and how much less often for each of its nodes:
a look takes up to 2.6 microseconds a node, so that all looks of a job are a part in 400 of the thread."""

REST_PATIENCES: Final = 2.0
"""A node whose visit was lost is not asked again for this many patiences while others are there."""

RESTART_S: Final = 2.0
"""How long a process that ended is expected back: started again at once, a node is there after a second and a half.
Going on without it is no harm but the work that only it held."""

RETRIES_AT_ONCE: Final = 3
"""Lost visits in a row after which the next try waits, twice as long each time, up to a patience: a full disk or a site
that refuses at once would otherwise use up all tries within a second."""

TRIES_MOST: Final = 50
"""Lost visits in a row, or rounds, with no accepted one between, after which a job has failed."""


class JobDesk:
    """See the module's docstring."""

    def __init__(
        self,
        state: JobState,
        config: CenterConfig,
        knowledge: KnowledgeMap,
        orders: OrderDesk,
        orchestrator: TopologyOrchestrator,
        book: LessonBook,
        promises: PromiseBook,
        alarms: CenterAlarms,
    ) -> None:
        self.state = state
        self.alarms = alarms
        self.book = book
        self.promises = promises
        self.config = config
        self.knowledge = knowledge
        self.orders = orders
        self.itinerary = Itineraries(state, orders)
        self._orchestrator = orchestrator
        self._adapter = ViewAdapter(config.views)
        self.followed = FollowedView(config.views)
        self.resumed_ns = 0
        """When the centre took this job up again after its last start; 0: it has not."""
        self.validity: Validity | None = None
        """How far facts may move before the stop last asked about would be another; None: it is not known."""
        self._sought_ns = 0

    @property
    def deadline_ns(self) -> int:
        """When the owner wants the model back at the latest."""
        return deadline_ns(self.state)

    def watch_deadline(self, turn: Turn) -> None:
        """Wake up at the deadline, wherever it is now."""
        turn.timer(f"deadline {self.state.job}", self.deadline_ns)

    def name_of(self, node: NodeId) -> str:
        """A node's own name where the map knows it."""
        facts = self.knowledge.node(node)
        return facts.descriptor.name if facts is not None else node

    def region_of(self, node: NodeId) -> str:
        """Where a node says it is; empty where it does not."""
        facts = self.knowledge.node(node)
        return facts.descriptor.region if facts is not None else ""

    def view(self, turn: Turn, request: Request | None = None, package_bytes: int | None = None) -> TrainingView:
        """The view of this job's request (or a changed one) now; `package_bytes`: for a model of another size."""
        state = self.state
        begun = state.phase in (Phase.RUNNING, Phase.PAUSED)
        decided = state.plan is not None and (request is None or state.phase is not Phase.ASSESSING)
        planned = state.plan.method if state.plan is not None and decided else ""
        asker = Asker(
            owner=state.owner,
            signer=state.package.signer,
            method=(request or state.request).method or planned or usual_method(request or state.request),
            domain=self.config.domain,
            open=request is not None and not request.method and not decided,
            evaluations_used=state.verifications,
            package_bytes=state.package.total_bytes if package_bytes is None else package_bytes,
            begun=begun,
            promised_bytes={} if begun else self.promises.store_bytes(state.job),
            holding=frozenset(node for nodes in state.holders.values() for node in nodes),
            barred=tuple(state.barred),
            needs=needs_of(state.kept_measurements),
            taught=state.preflight.taught if state.preflight is not None else (),
        )
        nodes = [facts.descriptor.node for facts in self.knowledge.nodes()]
        resting = frozenset(node for node in nodes if self._avoided(turn, node))
        asked = request or state.request
        if request is not None:
            return self._made(turn, asked, asker, resting)
        found = standings(self.knowledge, asked.trust_floor, resting, asker, turn.now_ns)
        basis = (msgspec.structs.replace(asker, holding=frozenset()), asked)
        moved = self._adapter.refresh(found, basis, state.batch_s, self.knowledge.version, turn.now_ns)
        if moved is None:
            moved = self._made(turn, asked, asker, resting)
            self._adapter.made(moved, found, basis)
        return moved

    def spare_view(self, turn: Turn) -> TrainingView:
        """The view of this job's request, without sites that are promised to other jobs, where it has no promise."""
        state, view = self.state, self.view(turn)
        owed = self.promises.owed(state.job, turn.now_ns).owed
        taken = {node: each for node, each in owed.items() if not state.promised.left.get(node)}
        return without_taken(view, Promises(taken), (self.deadline_ns - turn.now_ns) / 1e9)

    def _made(self, turn: Turn, request: Request, asker: Asker, resting: frozenset[NodeId]) -> TrainingView:
        state = self.state
        contract = state.package.contract
        return make_training_view(self.knowledge, request, contract, asker, state.batch_s, resting, turn.now_ns)

    def _avoided(self, turn: Turn, node: NodeId) -> bool:
        """Whether others are asked before this node, while there are any: it lost a visit, comes and goes (by its own
        word, too, which knows of falls that nobody else saw), or is silent for longer than it usually is. That it lost
        a probe says nothing of whether a goal can be reached."""
        facts = self.knowledge.node(node)
        return (
            (self.cools(turn, node) and self.state.phase is not Phase.ASSESSING)
            or self._orchestrator.damped(node, turn.now_ns)
            or (facts is not None and not facts.attached)
            or self._orchestrator.suspect(node, turn.now_ns)
        )

    def seek_validity(self, turn: Turn, plan: Plan, view: TrainingView, seen: Seen, stop: Stop) -> None:
        """Have it worked out how long a choice stands, unless that was done a moment ago for the one before."""
        if turn.now_ns - self._sought_ns < seconds_to_ns(VALIDITY_S):
            return
        if (sought := seek_validity(plan, view, seen, stop)) is not None:
            self._sought_ns = turn.now_ns
            turn.compute(f"validity {self.state.job}", sought, view.version)

    def follow(self, turn: Turn) -> None:
        """Look at the map again in a while, for whoever planned on what it said."""
        updates = self.config.views
        every_s = max(LOOK_S, LOOK_NODE_S * len(self.knowledge.nodes()))
        turn.wake_in(f"view {self.state.job}", updates.period_s if updates.by == "periodic" else every_s)

    def promise_again(self, turn: Turn) -> None:
        """The job goes on after a pause, or its request is another: it is promised what is left of its promise at the
        sites that may be asked, as far as others leave that free."""
        state = self.state
        slots = {one.compute_node: one.slots for one in self.view(turn, state.request).candidates}
        promise = self.promises.again(state, slots, turn.now_ns)
        turn.record(PromiseMade(job=state.job, at_ns=turn.now_ns, promise=promise))

    def found(self, turn: Turn, node: NodeId, kind: Evidence, why: str, share: float = 1.0) -> None:
        """Evidence about a node: kept, so that its score outlives a restart."""
        turn.record_if(self.knowledge.found(node, kind, turn.now_ns, share=share, why=why))

    def silent_nodes(self, turn: Turn) -> bool:
        """Whether some node of the map does not answer now: what it has could change a verdict."""
        return any(not self.knowledge.usable(facts, turn.now_ns) for facts in self.knowledge.nodes())

    def waited(self, turn: Turn) -> float:
        """Patiences since the job's last fact."""
        return (turn.now_ns - self.state.log[-1].at_ns) / 1e9 / self.config.patience_s

    def rests(self, turn: Turn) -> bool:
        """Whether to wait before the next try, because the last ones were all lost."""
        over = self.state.lost_in_row - RETRIES_AT_ONCE
        if over < 0:
            return False
        wait_s = min(self.config.patience_s, WAIT_S * 2.0**over)
        until_ns = self.state.lost_ns + seconds_to_ns(wait_s)
        if turn.now_ns >= until_ns:
            return False
        turn.timer(f"job {self.state.job}", until_ns)
        return True

    def cools(self, turn: Turn, node: NodeId) -> bool:
        """Whether a node rests after a visit that was lost there."""
        facts = self.knowledge.node(node)
        return facts is not None and facts.cool_until_ns > turn.now_ns

    def answers(self, node: NodeId) -> bool:
        """Whether a node can be fetched from now."""
        facts = self.knowledge.node(node)
        return facts is not None and facts.reachable

    def computes(self, node: NodeId) -> bool:
        """Whether a node trains models."""
        facts = self.knowledge.node(node)
        return facts is not None and facts.descriptor.compute is not None and Role.COMPUTE in facts.descriptor.roles

    def ask_sample(self, turn: Turn, holder: NodeId, dataset: DataSetId, unit: Verifier, why: str) -> None:
        """Order a data set's sample for a unit; its site's policy is asked there."""
        work = ShareWork(
            dataset=dataset,
            kind="sample",
            receiver=unit.node,
            receiver_operator=unit.operator,
            contract=self.state.request.package,
        )
        self.order(turn, "sample", holder, work, why)

    def evaluation(
        self,
        model: ArtifactId,
        samples: tuple[SampleRef, ...],
        *,
        preflight: bool = False,
        trial: Training | None = None,
        cuts: bool = False,
        tries: Trying | None = None,
    ) -> EvaluateWork:
        """Everything the targets speak of, and the task's first metric per field, so that forgetting shows. `trial`:
        the hyper-parameters with which a preflight tries how the model learns; `cuts`: whether it looks where the model
        could be cut; `tries`: hyper-parameters to be compared."""
        state = self.state
        contract = state.package.contract
        primary = next(iter(METRICS[type(contract.task)]))
        names = [target.name for target in state.request.targets]
        names += [primary, "loss"] if isinstance(contract.task, Classification) else [primary]
        names += [f"{primary}@{field}" for field in contract.field_names()[: limits.FIELDS]]
        targets = tuple(dict.fromkeys(target.name for target in state.request.targets))
        return EvaluateWork(
            model=model,
            samples=samples,
            measurements=tuple(dict.fromkeys(names)),
            preflight=preflight,
            trial=trial,
            trial_measurements=targets if trial is not None else (),
            trial_s=trial_seconds(state.request.deadline_s),
            tries=tries,
            private=preflight and state.request.privacy is not None,
            cuts=cuts,
        )

    def reachable(self, artifact: ArtifactId) -> bool:
        """Whether somebody who answers now holds an artifact."""
        return bool(self.orders.holders(self.state, artifact))

    def drop_holders(self, turn: Turn, lacking: Lacking) -> None:
        """Named holders answered that they do not hold an artifact: they are not named for it again.

        What a site says of another is believed no further than this: the holder is not blamed, and of its other
        artifacts nothing is said. A site that lies throws a run back to its last kept model, as one can that trains
        badly. The centre knows itself what it holds.
        """
        state = self.state
        known = set(state.holders.get(lacking.artifact, []))
        known |= {sample.holder for sample in state.sampled.given.values() if sample.artifact == lacking.artifact}
        known |= {holder for artifact, holder in state.records.values() if artifact == lacking.artifact}
        for node in [one for one in lacking.holders if one in known and one != CENTER]:
            turn.record(HolderDropped(job=state.job, at_ns=turn.now_ns, artifact=lacking.artifact, node=node))

    def make_room(self, turn: Turn, node: NodeId) -> None:
        """A node had no room for a visit: it may let go what it keeps for this job and others that answer keep, too,
        but for what visits there work on. The only copy that can be reached stays where it is."""
        state = self.state
        works = [opened.ordered.work for opened in state.open.values() if opened.ordered.node == node]
        at_work = {artifact for work in works for artifact in inputs_of(work)}
        spare = [
            artifact
            for artifact, nodes in state.holders.items()
            if node in nodes
            and artifact not in at_work
            and any(one.node != node for one in self.orders.holders(state, artifact))
        ]
        if node != CENTER and spare:
            turn.record(CopiesLetGo(job=state.job, at_ns=turn.now_ns, node=node, artifacts=tuple(spare)))
            turn.send(node, ReleaseArtifacts(job=state.job, artifacts=tuple(spare)))

    def gone(self, turn: Turn, artifact: ArtifactId) -> bool:
        """Whether an artifact that nobody reachable holds is waited for no longer: a lease and a little, since a cut
        may end; less where the processes that held it have ended, which are started again at once or not soon; not at
        all where every holder has answered that it has it no more."""
        holders = self.state.holders.get(artifact)
        return not holders or self.away(turn, holders)

    def away(self, turn: Turn, nodes: Sequence[NodeId]) -> bool:
        """Whether none of these nodes is expected back soon, as `gone` counts it."""
        facts = [one for node in nodes if (one := self.knowledge.node(node)) is not None]
        patience_s = self.config.patience_s
        ended = all(one.ended for one in facts)
        wait_s = min(REST_PATIENCES * patience_s, RESTART_S if ended else patience_s + RESTART_S)
        silent_s = min((self.knowledge.silent_s(one, turn.now_ns) for one in facts), default=wait_s + 1)
        # After a restart of the centre nobody has been heard yet, which says nothing of them.
        return min(silent_s, (turn.now_ns - self.resumed_ns) / 1e9) > wait_s

    def aggregator(self, turn: Turn, view: TrainingView, rather: tuple[NodeId, ...] = ()) -> NodeId | None:
        """Where to average: `rather` one of these, and one that does not rest after a loss; None: none is there."""
        nodes = sorted((one.node for one in view.aggregators), key=lambda node: node not in rather)
        return next((node for node in nodes if not self.cools(turn, node)), nodes[0] if nodes else None)

    def order(self, turn: Turn, purpose: Purpose, node: NodeId, work: Work, why: str) -> None:
        """Record a new visit and send its order."""
        state = self.state
        fence = state.fence + 1
        visit = VisitId(f"{state.job}/{fence}")
        facts = self.knowledge.node(node) if purpose in ("train", "probe") else None
        compute = facts.descriptor.compute if facts is not None else None
        turn.record(
            VisitOrdered(
                job=state.job,
                at_ns=turn.now_ns,
                visit=visit,
                fence=fence,
                node=node,
                purpose=purpose,
                work=work,
                why=why,
                tariff=compute.tariff if compute is not None else None,
            )
        )
        self.speak(turn, state.open[visit])

    def speak(self, turn: Turn, opened: OpenVisit) -> None:
        """Send a visit's order (again); its lease counts from now."""
        opened.spoken_ns = turn.now_ns
        opened.lease_s = self.knowledge.patience_with(opened.ordered.node, self.config.lease_s)
        ordered = opened.ordered
        self.itinerary.send(turn, opened)
        turn.timer(f"visit {ordered.visit}", next_check_ns(opened))

    def enter(self, turn: Turn, phase: Phase, why: str) -> None:
        """Go into another phase, and let the watchers know."""
        turn.record(JobPhased(job=self.state.job, at_ns=turn.now_ns, phase=phase, reason=why))
        turn.perform(JobChanged(job=self.state.job))
