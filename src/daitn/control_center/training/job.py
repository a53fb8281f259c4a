"""The job machine: carries one job from submission to delivery, through restarts, lost sites and harmful visits.

Paper II-A and III. Durable and event-sourced: `JobState` is rebuilt from records; this module only decides. Its one
entry is `advance`, called after anything that concerns the job; it orders whatever should be under way and is not, so
that there is no difference between going on and resuming.

    assessing: samples to the verification unit → preflight → verdict
    running:   the method's next steps, one record and one message each
    delivering: fetch the best model → delivered, or exhausted where the goal was not reached

The stages are in `assessing`, `running` and `ending`; what they share is in `job_desk`. What none of them does: numbers
(terminals), choices (`decision`), methods (`learning.methods`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.effects import Computed
from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId, JobId, NodeId, VisitId
from daitn.base.units import seconds_to_ns
from daitn.control_center.alarms import CenterAlarms
from daitn.control_center.config import CenterConfig
from daitn.control_center.training.assessing import Assessing
from daitn.control_center.training.commands import JobChanged
from daitn.control_center.training.doubts import Doubts
from daitn.control_center.training.ending import Ending
from daitn.control_center.training.groups import Groups
from daitn.control_center.training.job_desk import REST_PATIENCES, JobDesk
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.lesson_book import LessonBook
from daitn.control_center.training.open_visits import ENDED_S, REPEAT_FIRST_S, REPEATS, next_check_ns, on_node
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.promise_book import PromiseBook
from daitn.control_center.training.records import (
    RecordsGiven,
    RequestChanged,
    SampleGiven,
    SiteBarred,
    VisitAccepted,
    VisitLost,
)
from daitn.control_center.training.running import Running
from daitn.control_center.turn import Turn
from daitn.decision.drafting import OF_TRAINING, draft_training
from daitn.decision.hyperparameters import propose_server
from daitn.decision.planned_routes import RoutePlanned
from daitn.decision.tuning import CandidatesFound
from daitn.decision.validity import ValidityFound
from daitn.descriptors.grant import Lacking
from daitn.descriptors.job import Phase
from daitn.descriptors.masked import AgreeWork
from daitn.descriptors.origin import Unfit
from daitn.descriptors.plan import Validity
from daitn.descriptors.request import Request
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import ViewFollowed
from daitn.descriptors.work import (
    AggregateOutcome,
    EvaluateOutcome,
    EvaluateWork,
    Outcome,
    SampleRef,
    ShareOutcome,
    ShareWork,
    TrainOutcome,
    TrainWork,
    inputs_of,
)
from daitn.learning.methods import METHODS
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.orchestrator import TopologyOrchestrator
from daitn.wire.center_tools import VisitCancel

HARM_MOST: Final = 2
"""Visits at one data set that may break the model before the job leaves it out."""


class JobMachine:
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
        self._desk = JobDesk(state, config, knowledge, orders, orchestrator, book, promises, alarms)
        self._ending = Ending(self._desk)
        self._assessing = Assessing(self._desk, self._ending)
        self._running = Running(self._desk, self._ending)
        self._groups = Groups(self._desk)
        self._doubts = Doubts(self._desk, self._running)

    def check_invariants(self) -> None:
        """BugError unless visits, fences and what was measured agree."""
        state = self.state
        if state.ended and state.open:
            raise BugError(f"job {state.job} has ended and has visits under way")
        if len({visit.ordered.fence for visit in state.open.values()}) != len(state.open):
            raise BugError(f"job {state.job} has two visits with one fence")
        if state.accepted & set(state.open):
            raise BugError(f"job {state.job} waits for visits it has accepted")
        if state.promised.in_force and state.phase not in (Phase.QUEUED, Phase.RUNNING, Phase.DELIVERING):
            raise BugError(f"job {state.job} is {state.phase} and still holds what it was promised")
        if state.met and not state.best_measurements:
            raise BugError(f"job {state.job} met its targets without being measured")

    # --- what others call -------------------------------------------------------------------------------------------

    @property
    def at_border(self) -> bool:
        """Whether the job runs and waits for nothing that is under way: between two visits, or two rounds."""
        return self.state.phase is Phase.RUNNING and not self.state.waited_for()

    def advance(self, turn: Turn, *, may_start: bool = True, room_for: JobId | None = None) -> None:
        """Order whatever should be under way. `may_start`: whether a queued job may begin to run; `room_for`: the job
        for which a running one is queued again, if it is at the border of a visit."""
        state = self.state
        if state.ended:
            return
        turn.perform(JobChanged(job=state.job))
        if turn.now_ns >= self._desk.deadline_ns and state.phase is not Phase.DELIVERING:
            self._ending.finish(turn, met=state.met, why=f"the deadline of {state.request.deadline_s:g} s has passed")
        if state.phase is Phase.ASSESSING:
            self._assessing.assess(turn)
        if state.phase is Phase.QUEUED and may_start:
            self._running.start(turn)
        if room_for is not None and self.at_border and not state.met:
            self._desk.enter(turn, Phase.QUEUED, f"makes room for job {room_for}, which has a higher priority")
        if state.phase is Phase.RUNNING:
            self._running.run(turn)
        if state.phase is Phase.DELIVERING:
            self._ending.deliver(turn)

    def resume(self, turn: Turn) -> None:
        """After a restart of the centre: everything under way is asked for again, with the same fences."""
        self._desk.resumed_ns = turn.now_ns
        for visit in self.state.open.values():
            self._desk.speak(turn, visit)
        self._desk.watch_deadline(turn)

    def accept(self, turn: Turn, visit: VisitId, outcome: Outcome, signature: str) -> None:
        """A result that stands: record it and what follows from it."""
        state = self.state
        ordered = state.open[visit].ordered
        turn.record(VisitAccepted(job=state.job, at_ns=turn.now_ns, visit=visit, outcome=outcome, signature=signature))
        self._desk.found(turn, ordered.node, Evidence.KEPT, f"{ordered.purpose} of job {state.job} accepted")
        match ordered.purpose:
            case "sample" if isinstance(outcome, ShareOutcome) and isinstance(ordered.work, ShareWork):
                sample = SampleRef(
                    dataset=ordered.work.dataset,
                    artifact=outcome.artifact,
                    holder=ordered.node,
                    records=outcome.records,
                )
                turn.record(SampleGiven(job=state.job, at_ns=turn.now_ns, unit=ordered.work.receiver, sample=sample))
                self._running.measuring.look_again()
            case "records" if isinstance(outcome, ShareOutcome) and isinstance(ordered.work, ShareWork):
                given = RecordsGiven(
                    job=state.job,
                    at_ns=turn.now_ns,
                    dataset=ordered.work.dataset,
                    receiver=ordered.work.receiver,
                    artifact=outcome.artifact,
                    holder=ordered.node,
                )
                turn.record(given)
            case "preflight" if isinstance(outcome, EvaluateOutcome) and isinstance(ordered.work, EvaluateWork):
                self._assessing.preflighted(turn, ordered.node, ordered.work, outcome)
            case "advise" if isinstance(outcome, EvaluateOutcome) and isinstance(ordered.work, EvaluateWork):
                self._assessing.advised(turn, ordered.node, ordered.work, outcome)
            case "tune" if isinstance(outcome, EvaluateOutcome) and isinstance(ordered.work, EvaluateWork):
                self._assessing.tuning.tried(turn, ordered.work, outcome)
            case "probe":
                if isinstance(outcome, EvaluateOutcome):
                    self._assessing.probed(turn, outcome)
            case "aggregate" if isinstance(outcome, AggregateOutcome):
                self._refuse_updates(turn, outcome.left_out)
                self._running.judging.release(turn)
            case "train" if isinstance(ordered.work, TrainWork) and ordered.work.group is not None:
                if self._groups.accepted(turn, ordered.work.group):
                    self._running.judging.release(turn)
            case "train" if not state.aggregates:
                self._running.judging.release(turn)
            case "verify" if isinstance(outcome, EvaluateOutcome) and isinstance(ordered.work, EvaluateWork):
                self._doubts.measured(turn, outcome.model)
                self._running.judging.judge(turn, ordered.node, ordered.work, outcome)
            case "compare" if isinstance(outcome, EvaluateOutcome):
                self._running.opinions.heard(turn, ordered.node, outcome)
                self._running.judging.release(turn)
            case _:
                pass

    def _refuse_updates(self, turn: Turn, left_out: tuple[ArtifactId, ...]) -> None:
        """Updates that could not be averaged: no honest child hands such on, so their sites are not asked again."""
        state = self.state
        for record in list(state.log) if left_out else ():
            match record:
                case VisitAccepted(visit=visit, outcome=TrainOutcome(model=model)) if model in left_out:
                    ordered = state.ordered[visit]
                    why = f"its model {model[:16]} of visit {visit} cannot be averaged: not finite, or of other tensors"
                    self._desk.found(turn, ordered.node, Evidence.REFUTED, why)
                    if isinstance(ordered.work, TrainWork) and ordered.work.dataset not in state.barred:
                        dataset = ordered.work.dataset
                        turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=dataset, why=why))

    def lose(
        self,
        turn: Turn,
        visit: VisitId,
        why: str,
        blame: str,
        *,
        partner: NodeId | None = None,
        lacking: Lacking | None = None,
        unfit: Unfit | None = None,
    ) -> None:
        """A visit will not be waited for any more. `partner`: the node because of which, where it blames one;
        `lacking`: holders that did not hold an input of it; `unfit`: what its site says of a model it was given."""
        state = self.state
        if blame == "unfit" and unfit is None:
            blame = "peer"
        ordered = state.open[visit].ordered
        turn.record(VisitLost(job=state.job, at_ns=turn.now_ns, visit=visit, why=why, blame=blame))
        if lacking is not None and lacking.artifact in inputs_of(ordered.work):
            self._desk.drop_holders(turn, lacking)
        middle = isinstance(ordered.work, TrainWork) and ordered.work.is_middle
        if blame in ("unavailable", "peer", "bug", "no-room", "not-held") or (middle and blame == "policy"):
            rest_ns = turn.now_ns + seconds_to_ns(REST_PATIENCES * self._desk.config.patience_s)
            self._desk.knowledge.rest(ordered.node, rest_ns)
        if blame in ("unavailable", "peer", "bug"):
            self._desk.found(turn, ordered.node, Evidence.BROKEN, f"{ordered.purpose} of job {state.job} lost: {why}")
        trains = isinstance(ordered.work, TrainWork | ShareWork | AgreeWork) and not middle
        if isinstance(ordered.work, TrainWork | ShareWork | AgreeWork) and trains and ordered.purpose != "sample":
            dataset = ordered.work.dataset
            harmful = state.harm.get(dataset, 0) >= HARM_MOST
            if (blame == "policy" or harmful) and dataset not in state.barred:
                turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=dataset, why=why))
        measured = ordered.work.model if isinstance(ordered.work, EvaluateWork) else None
        known = (state.kept, state.best)
        if ordered.purpose == "verify" and blame == "input" and measured is not None and measured not in known:
            self._running.judging.judge_unfit(turn, measured, f"it cannot be measured: {why}")
        if unfit is not None and blame == "unfit":
            self._doubts.told(turn, ordered, unfit, why)
        if ordered.purpose == "verify":
            self._running.measuring.look_again(ordered.node)
        self._groups.lost(turn, ordered, why, blame, partner)

    def make_room(self, turn: Turn, node: NodeId) -> None:
        """A node had no room for a visit of this job or of another one."""
        if not self.state.ended:
            self._desk.make_room(turn, node)

    def check(self, turn: Turn, visit: VisitId) -> bool:
        """The timer of a visit fired: repeat its order, wait on, or give it up (True)."""
        opened = self.state.open.get(visit)
        if opened is None:
            return False
        if turn.now_ns >= opened.gives_up_at():
            silent = (turn.now_ns - max(opened.heard_ns, opened.ordered.at_ns)) / 1e9
            name = self._desk.name_of(opened.ordered.node)
            lease = f"its lease of {opened.lease_s:.1f} s has run out"
            why = f"nothing was heard from {name} for {silent:.1f} s; {lease}"
            if opened.ended_ns:
                why = f"the process of {name} has ended, and did not come back within {ENDED_S:g} s"
            self.lose(turn, visit, why, "unavailable")
            return True
        repeat_ns = opened.repeats_at()
        facts = self._desk.knowledge.node(opened.ordered.node)
        if repeat_ns is None or turn.now_ns < repeat_ns:
            turn.timer(f"visit {visit}", next_check_ns(opened))
        elif facts is not None and facts.reachable:
            opened.repeats += 1
            self._desk.speak(turn, opened)
        else:
            later_ns = turn.now_ns + seconds_to_ns(REPEAT_FIRST_S)
            turn.timer(f"visit {visit}", min(later_ns, opened.gives_up_at()))
        return False

    def repeat(self, turn: Turn, visit: VisitId) -> None:
        """A visit's order came late, by a route that its site knows to be an old one: send it by the newest."""
        self._desk.speak(turn, self.state.open[visit])

    def ask_again(self, turn: Turn, node: NodeId) -> None:
        """A node is back: repeat the orders it has. Not for ever: one that comes and goes and never speaks of a visit
        would otherwise hold it."""
        self._running.measuring.look_again(node)
        for opened in self.state.open.values():
            if opened.ordered.node == node and opened.asked_again < REPEATS:
                opened.asked_again += 1
                opened.repeats = 0
                self._desk.speak(turn, opened)

    def node_ended(self, turn: Turn, node: NodeId) -> None:
        """A node's process has ended, and its leases with it: what it worked on is soon given up."""
        for name in on_node(self.state.open, node):
            opened = self.state.open[name]
            opened.ended_ns = turn.now_ns
            turn.timer(f"visit {name}", next_check_ns(opened))

    def node_lives(self, turn: Turn, node: NodeId | None) -> None:
        """A node's process has not ended after all; None: of no node that is known to have."""
        for name, opened in self.state.open.items():
            if opened.ended_ns and node in (None, opened.ordered.node):
                opened.ended_ns = 0
                turn.timer(f"visit {name}", next_check_ns(opened))

    @property
    def validity(self) -> Validity | None:
        """Within which ranges its last choice stands, where that is known; of a job that has ended nothing stands."""
        return None if self.state.ended else self._desk.validity

    def look(self, turn: Turn) -> bool:
        """Look at the map for whoever planned: whether there was something to tell."""
        told = self._running.look(turn)
        if told:
            self.changed(turn)
        return told

    def followed(self, since: int) -> ViewFollowed:
        """The view that its choices are made on, as its planner was told of it after a step."""
        told = self._desk.followed.told(since)
        return msgspec.structs.replace(told, over=True) if self.state.ended else told

    def computed(self, event: Computed) -> bool:
        """Something that this job wanted solved is. Whether the job goes on because of it."""
        match event.solution:
            case ValidityFound(validity=validity):
                self._desk.validity = validity
                self._desk.followed.valid(event.basis, validity)
            case RoutePlanned() as plan:
                self._desk.followed.valid(event.basis, plan.validity)
                self._running.routes.answered(plan)
                return True
            case _ if event.key.startswith("route "):
                self._running.routes.answered(None)
            case CandidatesFound() as found:
                self._assessing.tuning.answered(event.basis, found)
                return True
            case _ if event.key.startswith("tune "):
                self._assessing.tuning.answered(event.basis, None, event.fault)
                return True
            case _:
                pass
        return False

    def watch_deadline(self, turn: Turn) -> None:
        """Wake up at the deadline, wherever it is now."""
        self._desk.watch_deadline(turn)

    def changed(self, turn: Turn) -> None:
        """Something its watchers want to see."""
        turn.perform(JobChanged(job=self.state.job))

    def change(self, turn: Turn, request: Request) -> None:
        """Another request from now on. The method stays, since visits of it are under way, and privacy, as sites have
        booked it; hyper-parameters are for the next order. Once the model is being fetched there is nothing left to
        change."""
        state = self.state
        if state.ended or state.phase is Phase.DELIVERING:
            return
        plan = state.plan
        request = msgspec.structs.replace(request, privacy=state.request.privacy)
        if plan is not None:
            request = msgspec.structs.replace(request, method=state.request.method)
            if request.hyperparameters != state.request.hyperparameters:
                method = METHODS[plan.method]
                view = self._desk.view(turn, request)
                training, epochs, said = draft_training(view, request, state.package, method, state.preflight)
                server = propose_server(method.prefers, request.hyperparameters)
                kept = tuple(one for one in plan.choices if one.what not in OF_TRAINING)
                plan = msgspec.structs.replace(
                    plan, training=training, epochs=epochs, server=server, choices=(*kept, *said)
                )
        turn.record(RequestChanged(job=state.job, at_ns=turn.now_ns, request=request, plan=plan))
        if state.promised.in_force:
            self._desk.promise_again(turn)
        self._stop_excluded(turn)
        self._desk.watch_deadline(turn)

    def _stop_excluded(self, turn: Turn) -> None:
        """What is under way at sites that the owner does not want any more is stopped, and its results are fenced."""
        data = self.state.request.data
        for name, visit in list(self.state.open.items()):
            ordered = visit.ordered
            dataset = getattr(ordered.work, "dataset", None)
            if dataset is None or ordered.purpose == "sample":
                continue
            left_out = dataset in data.exclude or (data.include and dataset not in data.include)
            if left_out or ordered.node in data.exclude_nodes:
                turn.send(ordered.node, VisitCancel(visit=name, fence=ordered.fence))
                self.lose(turn, name, f"its owner has excluded {dataset}", "over")

    def pause(self, turn: Turn) -> bool:
        """No further visits; those under way may finish. False if the job does not run."""
        if self.state.phase not in (Phase.RUNNING, Phase.QUEUED):
            return False
        self._desk.enter(turn, Phase.PAUSED, "paused by its owner")
        return True

    def resume_run(self, turn: Turn) -> bool:
        """A paused job goes on. False if it is not paused."""
        if self.state.phase is not Phase.PAUSED:
            return False
        self._desk.enter(turn, Phase.QUEUED, "resumed by its owner")
        self._desk.promise_again(turn)
        return True

    def cancel(self, turn: Turn, why: str) -> bool:
        """End the job; visits under way are told to stop. False if it has ended."""
        if self.state.ended:
            return False
        for name, visit in self.state.open.items():
            turn.send(visit.ordered.node, VisitCancel(visit=name, fence=visit.ordered.fence))
        self._ending.end(turn, Phase.CANCELLED, why)
        return True

    def fetch_failed(self, turn: Turn, lacking: Lacking | None) -> None:
        """The best model could not be fetched this time."""
        self._ending.fetch_failed(turn, lacking)

    def delivered(self, turn: Turn) -> None:
        """The best model is at the centre."""
        self._ending.delivered(turn)

    def name_of(self, node: NodeId) -> str:
        """A node's own name where the map knows it."""
        return self._desk.name_of(node)
