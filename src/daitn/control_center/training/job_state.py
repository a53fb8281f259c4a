"""The state of one job: nothing but what its records say, so that a restart loses nothing.

`JobState.apply` is the only place where it changes. Derived figures (progress, holders, what was measured where) are
kept up to date here, so that the machine above only decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from daitn.base.errors import BugError
from daitn.base.ids import CENTER, ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.control_center.training.agreed_rounds import note_agreed
from daitn.control_center.training.buffer_book import BufferBook
from daitn.control_center.training.charge_book import ChargeBook
from daitn.control_center.training.clear_book import ClearBook, Mark
from daitn.control_center.training.control_book import ControlBook
from daitn.control_center.training.gossip_book import GossipBook
from daitn.control_center.training.handed_in import note_averaged
from daitn.control_center.training.held_copies import drop_holder, note_copies_let_go
from daitn.control_center.training.judged_models import note_judged, note_traced
from daitn.control_center.training.lost_visits import note_lost, note_round_lost
from daitn.control_center.training.made_book import MadeBook
from daitn.control_center.training.mask_book import MaskBook
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.opinion_book import OpinionBook
from daitn.control_center.training.promised import Promised
from daitn.control_center.training.records import (
    AllMet,
    CopiesLetGo,
    DoubtRefuted,
    GroupAgreed,
    GroupLost,
    GroupsDrawn,
    HarmTraced,
    HolderDropped,
    JobAssessed,
    JobPhased,
    JobRecord,
    JobSubmitted,
    MakerRefuted,
    MaskedRoundLost,
    ModelGone,
    ModelJudged,
    OtherTestSet,
    PreflightDone,
    ProbeDone,
    PromiseMade,
    RecordsGiven,
    Replanned,
    RequestChanged,
    RouteIssued,
    SampleGiven,
    SiteBarred,
    SitesSetAside,
    StepMeasured,
    TuningDone,
    TuningTried,
    UnitsCompared,
    VariantTried,
    VisitAccepted,
    VisitLost,
    VisitOrdered,
)
from daitn.control_center.training.round_book import RoundBook
from daitn.control_center.training.sample_book import SampleBook
from daitn.control_center.training.trail import Trail
from daitn.control_center.training.trained_visits import note_trained
from daitn.control_center.training.yardstick import note_best_gone, note_change, note_compared, note_other_test_set
from daitn.decision.experience import Situation
from daitn.decision.facts import Preflight
from daitn.decision.keeping import score
from daitn.decision.stalling import Standing, noise
from daitn.decision.tuning import Stage
from daitn.descriptors.job import FINAL_PHASES, Phase
from daitn.descriptors.outcome import TriedVariant, Verdict
from daitn.descriptors.plan import Plan
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Measurement,
    TrainOutcome,
    TrainWork,
    UpdateRef,
)
from daitn.learning.methods import METHODS


class JobState:
    """See the module's docstring."""

    def __init__(self, submitted: JobSubmitted) -> None:
        self.job: JobId = submitted.job
        self.owner: OwnerId = submitted.owner
        self.request = submitted.request
        self.package = submitted.package
        self.key = submitted.key
        self.submitted_ns = submitted.at_ns
        self.ended_ns: int | None = None
        self.phase = Phase.ASSESSING
        self.reason = ""
        self.verdict: Verdict | None = None
        self.situation: Situation | None = None
        self.measured_after: list[tuple[int, tuple[Measurement, ...]]] = []
        """Rounds that had been made when a model was measured, and what was found."""
        self.refusals: list[Verdict] = []
        """Verdicts whose counter-offers were taken at once, in order."""
        self.plan: Plan | None = None
        self.planned_rate = self.first_rate = 0.0
        """The learning rate first planned: roll backs lower it, kept models raise it again up to here."""
        self.preflight: Preflight | None = None
        self.variants = submitted.variants
        self.tried: dict[ArtifactId, TriedVariant] = {}
        """Of the variants, what was found of them, in the order of the search."""
        self.stages: list[Stage] = []
        """What was tried of hyper-parameters before the verdict."""
        self.open: dict[VisitId, OpenVisit] = {}
        self.accepted: set[VisitId] = set()
        self.fence = 0
        self.route: RouteIssued | None = None
        """The newest version of the route."""
        self.head: ArtifactId = submitted.request.package
        self.kept: ArtifactId = submitted.request.package
        self.kept_measurements: tuple[Measurement, ...] = ()
        self.best: ArtifactId = submitted.request.package
        self.best_measurements: tuple[Measurement, ...] = ()
        self.best_score = float("-inf")
        self.met = False
        self.untrained: tuple[Measurement, ...] = ()
        self.updates: list[UpdateRef] = []
        self.round_begun = False
        self.rounds = self.rounds_since_verified = 0
        self.visits = self.verifications = self.lost = 0
        self.rolled_back = self.rolled_back_in_row = 0
        self.lost_in_row = self.lost_fence = 0
        """Lost visits since the last accepted one, those that were under way together counted once; and the newest
        fence when one was counted last."""
        self.lost_ns = 0
        """When the last visit was lost to a site that could not, as against one that would not."""
        self.last_loss = ""
        self.transfer_bytes = 0
        self.charges = ChargeBook()
        self.promised = Promised()
        self.evaluations_left: int | None = None
        self.seen: list[tuple[DataSetId, int]] = []
        self.seen_kept = self.seen_best = self.looks_since_gain = 0
        self.looks: list[tuple[int, tuple[Measurement, ...]]] = []
        """Visits seen and figures of the submitted model and of each kept one that the head comes from."""
        self.visits_since_gain: Counter[DataSetId] = Counter()
        self.gain_score = float("-inf")
        """Score of the model that last brought a gain beyond noise (`decision.stalling`)."""
        self.avoided: set[DataSetId] = set()
        """Data sets of visits rolled back since a model was last kept: asked again only when no other is there."""
        self.batch_s: dict[tuple[DataSetId, NodeId], float] = {}
        self.holders: dict[ArtifactId, list[NodeId]] = {
            package: [CENTER] for package in (submitted.request.package, *submitted.variants)
        }
        self.server_states: dict[ArtifactId, ArtifactId] = {}
        """What the server's optimizer remembers beside each model that it made."""
        self.controls = ControlBook()
        self.round_book = RoundBook()
        self.buffer = BufferBook(submitted.request.package)
        self.gossip = GossipBook()
        self.made = MadeBook(submitted.request.package, submitted.package.weights)
        self.trail = Trail()
        self.clearing = ClearBook()
        self.opinions = OpinionBook()
        self.masks = MaskBook()
        self.released: dict[NodeId, list[ArtifactId]] = {}
        """Models that nothing needs any more since the last accepted result or judgement, by holder."""
        self.sampled = SampleBook()
        self.records: dict[tuple[DataSetId, NodeId], tuple[ArtifactId, NodeId]] = {}
        self.barred: dict[DataSetId, str] = {}
        self.harm: dict[DataSetId, int] = {}
        """Visits at a data set that broke the model or returned what could not be accepted."""
        self.group: dict[VisitId, tuple[TrainWork, TrainOutcome]] = {}
        """Accepted results of a group of which others are still to come: the head stays until all agree."""
        self.left_out: set[DataSetId] = set()
        """Data sets because of which a group's round was lost since the last one that was not."""
        self.preflight_fault = ""
        self.log: list[JobRecord] = [submitted]
        self.ordered: dict[VisitId, VisitOrdered] = {}

    @property
    def ended(self) -> bool:
        """Whether the job is in a final phase."""
        return self.phase in FINAL_PHASES

    def apply(self, record: JobRecord) -> None:
        """One fact of this job."""
        if self.ended:
            raise BugError(f"job {self.job} is {self.phase} and was told {type(record).__name__}")
        self.log.append(record)
        match record:
            case JobAssessed():
                self.verdict, self.plan, self.situation = record.verdict, record.plan, record.situation
                self.planned_rate = self.first_rate = record.plan.training.learning_rate
                if record.taken is not None:
                    self.refusals.append(record.verdict)
                    note_change(self, record.taken)
            case PromiseMade(promise=promise):
                self.promised.made(promise)
            case PreflightDone(preflight=preflight):
                self.preflight = preflight
                self.untrained = self.kept_measurements = self.best_measurements = preflight.measurements
                self.best_score = score(self.request.targets, preflight.measurements)
                self.looks = [(0, preflight.measurements)]
                self.count_gains_anew()
            case ProbeDone(point=point):
                found = self.preflight or Preflight()
                self.preflight = msgspec.structs.replace(found, probe=point, probed=True)
            case VariantTried(variant=variant):
                self.tried[variant.package] = variant
            case TuningTried(stage=stage):
                self.stages.append(stage)
            case TuningDone(searched=searched):
                self.preflight = msgspec.structs.replace(self.preflight or Preflight(), searched=searched)
            case VisitOrdered():
                self._ordered(record)
            case RouteIssued():
                self.route = record
            case VisitAccepted():
                self._accepted(record)
            case VisitLost():
                note_lost(self, record)
            case GroupAgreed():
                note_agreed(self)
                self.advance_head(record.model)
            case GroupLost() | MaskedRoundLost():
                note_round_lost(self, record)
            case GroupsDrawn(groups=groups):
                self.gossip.drew(groups)
            case AllMet(head=met_in):
                self.gossip.met()
                if met_in is not None:
                    self.advance_head(met_in)
            case SampleGiven(unit=unit, sample=sample):
                self.sampled.given[(unit, sample.dataset)] = sample
            case RecordsGiven():
                self.records[(record.dataset, record.receiver)] = (record.artifact, record.holder)
            case ModelJudged():
                note_judged(self, record)
            case OtherTestSet():
                note_other_test_set(self, record)
            case CopiesLetGo():
                note_copies_let_go(self, record)
            case HolderDropped(artifact=artifact, node=node):
                drop_holder(self, artifact, node)
                self.lost_ns = 0  # the next try is another one: there is nothing to wait for
            case UnitsCompared():
                note_compared(self, record)
            case ModelGone(model=model, instead=instead):
                self.updates, self.round_begun = [], False
                self.masks.clear()
                self.gossip.gone(model)
                if model == self.best and not self.holders.get(model):
                    note_best_gone(self, instead)
                if instead != self.head:
                    self._go_back_to(instead)
            case DoubtRefuted(model=model, dataset=dataset):
                self.made.settled(model)
                self.harm[dataset] = self.harm.get(dataset, 0) + 1
            case MakerRefuted(model=model):
                self.made.settled(model)
            case StepMeasured(model=model, measurements=measurements):
                self.verifications += 1
                self.trail.measured(model, measurements)
            case HarmTraced():
                note_traced(self, record)
            case SitesSetAside(model=model):
                self.clearing.took(record, self.verifications, self.gain_score)
                if model is not None:
                    self._go_back_to(model, self.clearing.fertile)
                    self.avoided.clear()
                    self.release()
            case Replanned(plan=plan, planned_rate=rate):
                self.plan = plan
                self.planned_rate = rate or self.planned_rate
            case SiteBarred(dataset=dataset, why=why):
                self.barred[dataset] = why
            case RequestChanged(request=request, plan=plan):
                note_change(self, request)
                self.plan = plan or self.plan
            case JobPhased(phase=phase, reason=reason, at_ns=at_ns):
                self.phase, self.reason = phase, reason
                self.promised.phased(phase)
                if phase in FINAL_PHASES:
                    self.ended_ns = at_ns
                    self.open.clear()
            case _:
                raise BugError(f"job {self.job}: no rule for {type(record).__name__}")

    @property
    def route_version(self) -> int:
        """Number of the newest version of the route; 0: there is none."""
        return self.route.version if self.route is not None else 0

    def standing(self) -> Standing:
        """Where the run stands."""
        return Standing(
            looks=self.verifications, looks_since=self.looks_since_gain, visits_since=self.visits_since_gain
        )

    def gain_in_noise(self, score: float, measurements: Sequence[Measurement]) -> float:
        """By how many times the noise of its measurement a score is better than at the last gain."""
        return (score - self.gain_score) / max(1e-9, noise(self.request.targets, measurements))

    def under_way(self) -> int:
        """Visits that the job waits for; samples for a unit that stands by are made beside it."""
        return sum(not self.is_beside(opened.ordered) for opened in self.open.values())

    def is_beside(self, ordered: VisitOrdered) -> bool:
        """Whether a visit is made beside what the job waits for."""
        return ordered.purpose == "sample" and self.phase is not Phase.ASSESSING

    def _ordered(self, record: VisitOrdered) -> None:
        self.fence = max(self.fence, record.fence)
        self.open[record.visit] = OpenVisit(ordered=record, spoken_ns=record.at_ns)
        self.ordered[record.visit] = record
        self.masks.ordered(record.work)
        if isinstance(record.work, AggregateWork):
            self.buffer.averaging(len(self.updates))
        if record.purpose == "train" and isinstance(record.work, TrainWork):
            if not self.round_begun:
                self.round_book.round_begins()
            self.round_begun = True

    def _accepted(self, record: VisitAccepted) -> None:
        if record.visit in self.accepted:
            raise BugError(f"visit {record.visit} accepted twice")
        ordered = self.open.pop(record.visit).ordered
        self.accepted.add(record.visit)
        self.made.accepted(ordered, record.outcome)
        self.masks.accepted(ordered.node, ordered.work, record.outcome)
        match record.outcome:
            case TrainOutcome() as outcome if isinstance(ordered.work, TrainWork):
                if not note_trained(self, ordered.work, record, outcome):
                    return
            case AggregateOutcome() as outcome if isinstance(ordered.work, AggregateWork):
                if not note_averaged(self, ordered.node, ordered.work, outcome):
                    return
            case EvaluateOutcome(model=model, fetched_bytes=fetched) if isinstance(ordered.work, EvaluateWork):
                self.transfer_bytes += fetched
                unit = self.sampled.unit if ordered.purpose == "compare" else ordered.node
                self.evaluations_left = self.sampled.measured(ordered.node, ordered.work, record.outcome)
                self.sampled.unit = unit
                self.opinions.heard(model, ordered.node, record.outcome.measurements)
                self.hold(model, ordered.node)
            case _:
                pass
        if not self.is_beside(ordered):
            self.lost_in_row = 0

    @property
    def aggregates(self) -> bool:
        """Whether updates are averaged before they become the head."""
        return self.plan is not None and METHODS[self.plan.method].aggregates

    def drop_round(self) -> None:
        """Updates that were not averaged are not needed any more."""
        self.updates, self.round_begun = [], False
        self.release()

    @property
    def gossips(self) -> bool:
        """Whether sites have models of their own, and average with one another."""
        return self.plan is not None and METHODS[self.plan.method].gossips

    @property
    def buffered(self) -> bool:
        """Whether the head moves on while sites are still training from older ones."""
        return self.plan is not None and METHODS[self.plan.method].buffered

    def training_meanwhile(self) -> frozenset[DataSetId]:
        """Data sets whose visits are under way without anything depending on when they end."""
        orders = (opened.ordered for opened in self.open.values()) if self.buffered else ()
        trained = (one.work for one in orders if one.purpose == "train")
        return frozenset(work.dataset for work in trained if isinstance(work, TrainWork))

    def waited_for(self) -> int:
        """Visits under way that must end before the method goes on."""
        return self.under_way() - len(self.training_meanwhile())

    def advance_head(self, model: ArtifactId) -> None:
        self.head = model
        self.gossip.clear()
        self.rounds += 1
        self.rounds_since_verified += 1
        used = self.buffer.advanced(model)
        self.updates, self.round_begun = self.updates[used:] if self.buffered else [], False
        self.release()

    def count_gains_anew(self, gain_score: float | None = None) -> None:
        """From here on, against the best model so far unless a score is given."""
        self.gain_score = self.best_score if gain_score is None else gain_score
        self.looks_since_gain = 0
        self.visits_since_gain.clear()

    def _go_back_to(self, model: ArtifactId, mark: Mark | None = None) -> None:
        """The head is an older model again, and is compared with what that one was measured at."""
        if mark is not None and model == mark.model:
            self.kept_measurements, self.seen_kept = mark.measurements, min(mark.seen, len(self.seen))
        elif model == self.best:
            self.kept_measurements, self.seen_kept = self.best_measurements, min(self.seen_best, len(self.seen))
        elif model != self.kept:
            self.kept_measurements, self.seen_kept = self.untrained, 0
        del self.seen[self.seen_kept :]
        self.looks = [one for one in self.looks if one[0] <= self.seen_kept]
        self.head = self.kept = model
        self.drop_newer()
        self.trail.clear()
        self.rounds_since_verified = 0

    def drop_newer(self) -> None:
        """The head is an older model again: what was trained from newer ones is worth nothing to it."""
        self.buffer.went_back(self.head)
        self.gossip.clear()
        if self.buffered:
            self.updates = [one for one in self.updates if one.base is not None and self.buffer.is_known(one.base)]

    def release(self) -> None:
        """Forget what nothing needs any more, and whom to tell that they may drop it."""
        needed = {self.head, self.kept, self.best, self.request.package, *(one.model for one in self.updates)}
        needed |= self.trail.models() | self.clearing.models() | self.opinions.models() | self.gossip.models()
        if self.buffered:
            works = (opened.ordered.work for opened in self.open.values())
            needed |= {one.base for one in self.updates if one.base is not None}
            needed |= {work.model for work in works if isinstance(work, TrainWork)}
            self.buffer.keep(needed)
        self.opinions.keep(needed)
        self.server_states = {model: state for model, state in self.server_states.items() if model in needed}
        needed |= set(self.server_states.values()) | self.controls.keep(needed)
        self.released = {}
        for artifact in [one for one in self.holders if one not in needed]:
            for node in self.holders.pop(artifact):
                if node != CENTER:
                    self.released.setdefault(node, []).append(artifact)

    def hold(self, artifact: ArtifactId, node: NodeId) -> None:
        nodes = self.holders.setdefault(artifact, [])
        if node not in nodes:
            nodes.append(node)
