"""The control centre (DCC): one core for a domain's map, its jobs, and all that terminals and owners say to it.

Paper II-A, DCC and DRRT layers, centralised form: the map's orchestration and the training centre in one process.
Events come in, the job or the map they concern is found, one turn is made.
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
from daitn.control_center.training.visit_desk import VisitDesk
from daitn.control_center.turn import Turn
from daitn.descriptors.job import Phase
from daitn.descriptors.trust import Evidence
from daitn.topology.knowledge_map import KnowledgeMap, NodeDescribed, NodeRemoved
from daitn.topology.orchestrator import TUNE_TIMER
from daitn.topology.trust import EvidenceFound
from daitn.wire.center_tools import (
    JobsEnded,
    JobsHeld,
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
        self._visits = VisitDesk(config, self.knowledge, self.jobs, self.counters, tools.verify)
        self.tools = ToolsDesk(self.knowledge)
        self.inference = InferenceDesks(config, tools, self.knowledge, self.counters, self.jobs, alarms)

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
            case VisitProgress() | VisitResult() | VisitFailed() | VisitRefused():
                self.orchestration.spoke(turn, sender)
                machine = self._visits.hear(turn, sender, message)
                self._facts.bounded(turn)
                if machine is not None:
                    self._advance(turn, machine)
            case RecordsReported(since_ns=since_ns):
                self.orchestration.spoke(turn, sender)
                turn.record_if(self.records.take(sender, message, turn.now_ns))
                turn.send(sender, RecordsKept(since_ns=since_ns, up_to=self.records.held(sender, since_ns)))
            case _:
                self.counters.count("messages_for_another_role")

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
            self._facts.bounded(turn)
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
            machine = self._visits.machine_of(VisitId(subject))
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
