"""The control centre (DCC): one core for a domain's map, its jobs, and all that terminals and owners say to it.

Paper II-A, DCC and DRRT layers, centralised form: the map's orchestration and the training centre in one process.
Events come in, the job or the map they concern is found, one turn is made. A message for a visit that is not this
sender's now is answered with a fence, never ignored, because a terminal repeats what it owes until it is told.
"""

from __future__ import annotations

from daitn.base.effects import (
    Computed,
    Delivered,
    Effect,
    Event,
    LinkBroken,
    Message,
    PeerAppeared,
    PeerVanished,
    Record,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError
from daitn.base.ids import JobId, NodeId, VisitId
from daitn.base.metrics import Counters
from daitn.base.units import ns_to_seconds
from daitn.control_center.config import CenterConfig, CenterTools
from daitn.control_center.counting import count_fact
from daitn.control_center.enrolled import forgery_of
from daitn.control_center.fact_desk import ASK_TIMER, FactDesk, MapDamaged, ReportsArrived
from daitn.control_center.inference.desks import InferenceDesks
from daitn.control_center.inference.records import DeploymentRecord
from daitn.control_center.node_records import NodeRecorded, NodeRecords
from daitn.control_center.orchestration import TIMERS, Orchestration, make_orchestrator
from daitn.control_center.presence import Presence
from daitn.control_center.question_desk import KEY as QUESTION_KEY
from daitn.control_center.tools_desk import ToolsDesk
from daitn.control_center.training.commands import (
    CancelAsked,
    ChangeAsked,
    ModelFetched,
    ModelNotFetched,
    NodeExpelled,
    PauseAsked,
    ResumeAsked,
    RetireSlot,
    SubmissionReceived,
)
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.lesson_book import LESSONS, LessonBook
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.promise_book import PromiseBook
from daitn.control_center.training.queueing import WAITING, makes_room, next_up
from daitn.control_center.training.records import ExperienceGained, JobRecord, JobSubmitted
from daitn.control_center.training.results import wrong_in
from daitn.control_center.turn import Turn
from daitn.descriptors.job import Phase
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import TrainOutcome
from daitn.topology.knowledge_map import KnowledgeMap, NodeDescribed, NodeRemoved
from daitn.topology.orchestrator import TUNE_TIMER
from daitn.topology.trust import EvidenceFound
from daitn.wire.center_tools import (
    JobsEnded,
    JobsHeld,
    LeaseRenewed,
    ResultAccepted,
    ResultFenced,
    VisitFailed,
    VisitProgress,
    VisitRefused,
    VisitResult,
)
from daitn.wire.center_topology import QuestionAsked
from daitn.wire.oam_records import RecordsKept, RecordsReported
from daitn.wire.terminal_tools import Leaving, Left
from daitn.wire.topology_tools import (
    Describe,
    DescribeAgain,
    Described,
    FactsTold,
    Heartbeat,
    ReportingTuned,
    RosterAnnounced,
)


class ControlCenter:
    """See the module's docstring."""

    def __init__(self, config: CenterConfig, tools: CenterTools) -> None:
        self.config = config
        self.knowledge = KnowledgeMap()
        self.jobs: dict[JobId, JobMachine] = {}
        self.counters = Counters()
        self.records = NodeRecords()
        self.forgeries: dict[NodeId, str] = {}
        """What a node last claimed to be and is not; at most one entry a slot."""
        self._tools = tools
        self._facts = FactDesk(self.knowledge, self.records, self.counters, tools.member, config.askers)
        self.orchestrator = make_orchestrator(config)
        self.lessons = LessonBook()
        promises = PromiseBook(lambda: (machine.state for machine in self.jobs.values()))
        orders, alarms = OrderDesk(config, tools, self.knowledge), self._facts.alarms
        self._desks = (orders, self.orchestrator, self.lessons, promises, alarms)
        self._most = (config.running_jobs, config.running_jobs_per_owner)
        self._presence = Presence(self.knowledge, self.jobs)
        self.orchestration = Orchestration(self.orchestrator, self.knowledge, self._presence, self._facts)
        self.tools = ToolsDesk(self.knowledge)
        self.inference = InferenceDesks(config, tools, self.knowledge, self.counters)

    # --- core -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event, one turn, one durable write at most."""
        turn = Turn(now_ns, self.apply)
        match event:
            case _ if self.tools.minds(event):
                self.tools.handle(turn, event)
            case _ if self.inference.minds(event):
                self.inference.handle(turn, event)
            case Delivered(sender=sender, message=message):
                self._delivered(turn, sender, message)
            case TimerFired(name=name):
                self._timer(turn, name)
            case Computed():
                self._computed(turn, event)
            case SubmissionReceived():
                self._submitted(turn, event)
            case PauseAsked(job=job):
                self._asked(turn, job, "pause")
            case ResumeAsked(job=job):
                self._asked(turn, job, "resume")
            case CancelAsked(job=job, reason=reason):
                if (machine := self.jobs.get(job)) is not None and machine.cancel(turn, reason):
                    self._advance_queued(turn)
            case ChangeAsked(job=job, request=request):
                if (machine := self.jobs.get(job)) is not None:
                    machine.change(turn, request)
                    self._advance(turn, machine)
                    self._advance_queued(turn)
            case ModelFetched(job=job):
                machine = self.jobs.get(job)
                if machine is not None and machine.state.phase is Phase.DELIVERING:
                    machine.delivered(turn)
                    self._advance_queued(turn)
            case ModelNotFetched(job=job, lacking=lacking):
                if (machine := self.jobs.get(job)) is not None and machine.state.phase is Phase.DELIVERING:
                    machine.fetch_failed(turn, lacking)
            case NodeExpelled(node=node, reason=reason):
                self._remove(turn, node, f"expelled: {reason}")
                turn.send(node, Left())
            case ReportsArrived():
                self.orchestration.arrived(turn, event)
            case MapDamaged():
                self._facts.damaged(turn, event)
            case PeerAppeared(node=node):
                self._presence.appeared(turn, node)
                self.orchestration.appeared(turn, node)
                self.tools.handle(turn, event)
                self._advance_idle(turn)
            case PeerVanished(node=node):
                self._presence.vanished(turn, node)
                self.orchestration.vanished(turn, node)
                self.tools.handle(turn, event)
            case LinkBroken():
                self._presence.link_lost(turn)
            case Started():
                self._started(turn)
                self.tools.handle(turn, event)
            case _:
                pass
        self.inference.follow(turn, event)
        self.orchestration.weigh(turn, self.jobs)
        return turn.effects()

    def apply(self, record: Record) -> None:
        """One fact, of the map or of a job."""
        match record:
            case NodeDescribed() | NodeRemoved() | EvidenceFound():
                self.knowledge.apply(record) if self._replaying else None
            case NodeRecorded():
                self.records.apply(record)
            case DeploymentRecord():
                self.inference.deployment.apply(record)
            case JobSubmitted(job=job):
                self.jobs[job] = JobMachine(JobState(record), self.config, self.knowledge, *self._desks)
            case ExperienceGained():
                self.lessons.apply(record)
            case JobRecord(job=job):
                self.jobs[job].state.apply(record)
                if not self._replaying:
                    count_fact(self.counters, record)
                    self.orchestration.noted(record)
            case _:
                raise BugError(f"the control centre has no rule for {type(record).__name__}")

    _replaying = True
    """Until `Started`, facts of the map come from the journal; later the map has changed before they are kept."""

    def check_invariants(self) -> None:
        """BugError unless visits, fences and phases agree, and no site was promised more bytes than there are."""
        self.orchestrator.check_invariants()
        self.inference.deployment.check_invariants()
        for machine in self.jobs.values():
            machine.check_invariants()

    # --- what terminals say -----------------------------------------------------------------------------------------

    def _delivered(self, turn: Turn, sender: NodeId, message: Message) -> None:
        match message:
            case Describe():
                self._described(turn, sender, message)
                return
            case Heartbeat(sequence=sequence):
                if self.knowledge.has_left(sender):
                    turn.send(sender, Left())
                elif self.knowledge.heard(sender, sequence, turn.now_ns):
                    self.orchestration.beat(turn, sender, message)
                    self._facts.beat(turn, sender, message)
                else:
                    facts = self.knowledge.node(sender)
                    turn.send(sender, DescribeAgain(known_sequence=facts.sequence if facts is not None else 0))
                return
            case Leaving(reason=reason):
                self._remove(turn, sender, reason or "left")
                turn.perform(RetireSlot(node=sender))
                turn.send(sender, Left())
                return
            case RosterAnnounced() | FactsTold() | QuestionAsked():
                self._facts.heard(turn, sender, message)
                self.orchestration.spoke(turn, sender)
                return
            case ReportingTuned():
                self.orchestration.tuned(turn, Delivered(sender=sender, message=message))
                return
            case JobsHeld(jobs=jobs):
                ended = tuple(job for job in jobs if job not in self.jobs or self.jobs[job].state.ended)
                if ended:
                    turn.send(sender, JobsEnded(jobs=ended))
                return
            case VisitProgress(visit=visit, fence=fence):
                self._progressed(turn, sender, message)
                return
            case RecordsReported(since_ns=since_ns):
                self.orchestration.spoke(turn, sender)
                turn.record_if(self.records.take(sender, message, turn.now_ns))
                turn.send(sender, RecordsKept(since_ns=since_ns, up_to=self.records.held(sender, since_ns)))
                return
            case VisitResult(report=report):
                visit, fence = report.visit, report.fence
            case VisitFailed(visit=visit, fence=fence) | VisitRefused(visit=visit, fence=fence):
                pass
            case _:
                self.counters.count("messages_for_another_role")
                return
        self.orchestration.spoke(turn, sender)
        self._ended(turn, sender, visit, fence, message)

    def _remove(self, turn: Turn, node: NodeId, why: str) -> None:
        """Take a node off the map; its visits are given up when their leases run out."""
        gone = self.knowledge.remove(node, why)
        turn.record_if(gone)
        self.orchestration.removed(turn, node)
        if gone is not None:
            self.tools.noticed(turn, node, present=False, left=True)

    def _described(self, turn: Turn, sender: NodeId, message: Describe) -> None:
        if fault := forgery_of(self._tools.member(sender), sender, message.descriptor):
            self.counters.count("descriptions_forged")
            self.forgeries[sender] = fault
            turn.record_if(self.knowledge.found(sender, Evidence.REFUTED, turn.now_ns, why=fault))
            return
        if self.knowledge.has_left(sender):
            self.counters.count("descriptions_after_leaving")
            turn.send(sender, Left())
            return
        described = self.knowledge.describe(message.descriptor, message.sequence, turn.now_ns)
        if described is not None:
            turn.record(described)
        self.knowledge.heard(sender, message.sequence, turn.now_ns)
        self.orchestration.spoke(turn, sender)
        turn.send(sender, Described(sequence=message.sequence, heartbeat_s=self.config.heartbeat_s))
        if described is not None:
            self.tools.described(turn, sender)
            self.inference.deployment.described(turn)
            self._advance_idle(turn)

    def _advance_idle(self, turn: Turn) -> None:
        """A node is there, or says something new: jobs that have nothing under way may go on with it."""
        for machine in list(self.jobs.values()):
            if not machine.state.ended and not machine.state.under_way():
                self._advance(turn, machine)

    def _progressed(self, turn: Turn, sender: NodeId, message: VisitProgress) -> None:
        machine = self._machine_of(message.visit)
        opened = machine.state.open.get(message.visit) if machine is not None else None
        self.orchestration.spoke(turn, sender)
        if opened is None or opened.ordered.node != sender or opened.ordered.fence != message.fence:
            self.counters.count("progress_fenced")
            turn.send(sender, ResultFenced(visit=message.visit, fence=message.fence))
            return
        if opened.heard_ns:
            self.knowledge.measured_gap(sender, ns_to_seconds(max(0, turn.now_ns - opened.heard_ns)))
        opened.heard_ns = opened.spoken_ns = turn.now_ns
        opened.asked_again = opened.ended_ns = 0
        before = opened.progress
        if before is None or (message.phase.step, message.done) >= (before.phase.step, before.done):
            opened.progress = message
        opened.lease_s = self.knowledge.patience_with(sender, self.config.lease_s)
        turn.send(sender, LeaseRenewed(visit=message.visit, fence=message.fence, lease_s=opened.lease_s))
        turn.timer(f"visit {message.visit}", opened.gives_up_at())
        if machine is not None and before != opened.progress:
            machine.changed(turn)

    def _ended(self, turn: Turn, sender: NodeId, visit: VisitId, fence: int, message: Message) -> None:
        """A terminal says that a visit is over: accept, acknowledge again, or fence."""
        machine = self._machine_of(visit)
        opened = machine.state.open.get(visit) if machine is not None else None
        if machine is None or opened is None or opened.ordered.node != sender or opened.ordered.fence != fence:
            ordered = machine.state.ordered.get(visit) if machine is not None else None
            mine = ordered is not None and ordered.node == sender and ordered.fence == fence
            if mine and machine is not None and visit in machine.state.accepted:
                turn.send(sender, ResultAccepted(visit=visit, fence=fence))
            else:
                self.counters.count("results_fenced")
                turn.send(sender, ResultFenced(visit=visit, fence=fence))
            return
        match message:
            case VisitResult():
                self._take_result(turn, machine, sender, message)
            case VisitFailed(reason=reason, blame=blame, partner=partner, lacking=lacking, unfit=unfit):
                turn.send(sender, ResultFenced(visit=visit, fence=fence))
                machine.lose(turn, visit, reason, blame, partner=partner, lacking=lacking, unfit=unfit)
            case VisitRefused(newest_route=newest) if 0 < newest <= machine.state.route_version:
                machine.repeat(turn, visit)
                return
            case VisitRefused(faults=faults, reason=reason):
                text = "; ".join(f"{one.rule}: asked {one.asked!r}, allowed {one.allowed}" for one in faults)
                machine.lose(turn, visit, f"refused: {text or reason}", "policy" if faults else "unavailable")
            case _:
                raise BugError(f"{type(message).__name__} ends no visit")
        self._advance(turn, machine)

    def _take_result(self, turn: Turn, machine: JobMachine, sender: NodeId, message: VisitResult) -> None:
        report = message.report
        opened = machine.state.open[report.visit]
        facts = self.knowledge.node(sender)
        key = facts.descriptor.public_key if facts is not None else ""
        wrong = wrong_in(message, opened.ordered.work, key, self._tools.verify)
        wrong = wrong or machine.state.made.not_new(opened.ordered, report.outcome)
        if wrong is None:
            machine.accept(turn, report.visit, report.outcome, message.signature)
            turn.send(sender, ResultAccepted(visit=report.visit, fence=report.fence))
            if isinstance(report.outcome, TrainOutcome):
                self.knowledge.measured_transfer(sender, report.outcome.fetched_bytes, report.outcome.fetch_s)
            return
        self.counters.count("results_refused", wrong.label)
        turn.send(sender, ResultFenced(visit=report.visit, fence=report.fence))
        if wrong.blame == "peer":
            turn.record_if(self.knowledge.found(sender, Evidence.REFUTED, turn.now_ns, why=wrong.fault))
        machine.lose(turn, report.visit, wrong.fault, wrong.blame)

    # --- owners and time --------------------------------------------------------------------------------------------

    def _submitted(self, turn: Turn, event: SubmissionReceived) -> None:
        if event.job in self.jobs:
            self.counters.count("submissions_repeated")
            return
        turn.record(event.as_record(turn.now_ns))
        self.jobs[event.job].watch_deadline(turn)
        self._advance(turn, self.jobs[event.job])

    def submitted_before(self, owner: str, key: str) -> JobId | None:
        """The job that an owner submitted with this idempotency key, if any."""
        for job, machine in self.jobs.items():
            if machine.state.owner == owner and machine.state.key == key:
                return job
        return None

    def _asked(self, turn: Turn, job: JobId, what: str) -> None:
        machine = self.jobs.get(job)
        if machine is None:
            return
        if machine.pause(turn) if what == "pause" else machine.resume_run(turn):
            self._advance(turn, machine)
            self._advance_queued(turn)

    def _computed(self, turn: Turn, event: Computed) -> None:
        kind, _, subject = event.key.partition(" ")
        if event.key == TUNE_TIMER:
            self.orchestration.computed(turn, event)
        elif kind == LESSONS:
            self.lessons.computed(event)
        elif kind == QUESTION_KEY:
            self._facts.questions.answered(turn, NodeId(subject), event)
        elif (machine := self.jobs.get(job := JobId(subject))) is not None:
            if machine.computed(event):
                self._advance(turn, machine)
            self.orchestration.reweigh(job)

    def _timer(self, turn: Turn, timer: str) -> None:
        kind, _, subject = timer.partition(" ")
        if kind == "visit":
            machine = self._machine_of(VisitId(subject))
            if machine is not None and machine.check(turn, VisitId(subject)):
                self._advance(turn, machine)
        elif kind in ("job", "deadline"):
            machine = self.jobs.get(JobId(subject))
            if machine is not None:
                self._advance(turn, machine)
        elif kind == "view":
            machine = self.jobs.get(JobId(subject))
            if machine is not None and machine.look(turn):
                self.counters.count("views_told")
        elif timer == ASK_TIMER:
            self._facts.ask(turn)
        elif timer in TIMERS:
            self.orchestration.timer(turn, timer)

    def _started(self, turn: Turn) -> None:
        self._replaying = False
        self._facts.ask(turn)
        self.lessons.learn(turn)
        self.orchestration.started(turn)
        for machine in self.jobs.values():
            if not machine.state.ended:
                machine.resume(turn)
                turn.wake_in(f"job {machine.state.job}", self.config.heartbeat_s)

    def _advance(self, turn: Turn, machine: JobMachine) -> None:
        was = machine.state.phase
        may_start = was in WAITING and machine.state.job in self._next_up()
        room_for = makes_room(self.jobs, machine.state.job, *self._most) if machine.at_border else None
        machine.advance(turn, may_start=may_start, room_for=room_for)
        if (machine.state.ended or room_for) and was is not machine.state.phase:
            self._advance_queued(turn)

    def _next_up(self) -> list[JobId]:
        return next_up(self.jobs, *self._most)

    def _advance_queued(self, turn: Turn) -> None:
        """Start every job whose turn it is; one that ends as it starts makes room for the next."""
        while starting := [job for job in self._next_up() if self.jobs[job].state.phase is Phase.QUEUED]:
            for job in starting:
                self.jobs[job].advance(turn)

    def _machine_of(self, visit: VisitId) -> JobMachine | None:
        return self.jobs.get(JobId(visit.rpartition("/")[0]))
