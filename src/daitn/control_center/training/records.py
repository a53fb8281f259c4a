"""The journal of jobs: a closed set of facts from which every job's state is rebuilt, and its log rendered.

Each carries the job it speaks of and `at_ns`, the centre's clock (Unix nanoseconds at start, then monotonic).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from daitn.base.effects import Record
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.decision.experience import PastRun, Situation
from daitn.decision.facts import PackageFacts, Preflight, ProbePoint, Searched
from daitn.decision.tuning import Stage
from daitn.descriptors.itinerary import Segment
from daitn.descriptors.job import Phase
from daitn.descriptors.origin import UnfitFault
from daitn.descriptors.outcome import TriedVariant, Verdict
from daitn.descriptors.plan import Plan
from daitn.descriptors.promise import Promise
from daitn.descriptors.request import Request
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.work import Measurement, Outcome, SampleRef, Work

Purpose = Literal[
    "sample",
    "preflight",
    "records",
    "train",
    "aggregate",
    "verify",
    "compare",
    "agree",
    "seal",
    "unmask",
    "probe",
    "advise",
    "tune",
]


class JobRecord(Record, frozen=True, kw_only=True):
    """What all have in common."""

    job: JobId
    at_ns: int


class JobSubmitted(JobRecord, frozen=True, kw_only=True, tag="job_submitted"):
    """An owner asked for training."""

    owner: OwnerId
    request: Request
    package: PackageFacts
    key: str
    """The owner's idempotency key: the same submission twice is one job."""
    variants: dict[ArtifactId, PackageFacts] = msgspec.field(default_factory=dict)
    """Other models that the request declares."""


class JobAssessed(JobRecord, frozen=True, kw_only=True, tag="job_assessed"):
    """T-FAM's verdict, with the plan it judged. A counter-offer taken at once is `taken`."""

    verdict: Verdict
    plan: Plan
    taken: Request | None = None
    situation: Situation | None = None
    """What was known before the first visit, where a trial was made: others learn by it once the run is over."""


class PromiseMade(JobRecord, frozen=True, kw_only=True, tag="promise_made"):
    """What the job may count on at sites from now on, instead of what it could before; promised to nobody else."""

    promise: Promise


class PreflightDone(JobRecord, frozen=True, kw_only=True, tag="preflight_done"):
    """The verification unit has tried the model before any visit."""

    preflight: Preflight


class ProbeDone(JobRecord, frozen=True, kw_only=True, tag="probe_done"):
    """What a probe before the verdict has shown; None: nothing, for the reason given. There is no further one."""

    point: ProbePoint | None = None
    why: str = ""


class VariantTried(JobRecord, frozen=True, kw_only=True, tag="variant_tried"):
    """Another model that the owner declared was tried before a refusal, or could not be."""

    variant: TriedVariant


class TuningTried(JobRecord, frozen=True, kw_only=True, tag="tuning_tried"):
    """Hyper-parameters were compared at the unit before the verdict."""

    stage: Stage


class TuningDone(JobRecord, frozen=True, kw_only=True, tag="tuning_done"):
    """The search for hyper-parameters is over, whatever came of it."""

    searched: Searched


class VisitOrdered(JobRecord, frozen=True, kw_only=True, tag="visit_ordered"):
    """A terminal was chosen for a piece of work. `fence` grows with each order of a job."""

    visit: VisitId
    fence: int
    node: NodeId
    purpose: Purpose
    work: Work
    why: str
    tariff: Tariff | None = None
    """The node's as it stood, for training visits: what its work is charged by."""


class RouteIssued(JobRecord, frozen=True, kw_only=True, tag="route_issued"):
    """A version of the job's route was signed: the visits that were under way then, the new ones among them, and what
    was to follow."""

    version: int
    visits: tuple[VisitId, ...]
    ahead: tuple[Segment, ...] = ()
    root: bytes = b""
    """What was signed: of the hash tree over all of these."""


class VisitAccepted(JobRecord, frozen=True, kw_only=True, tag="visit_accepted"):
    """A result was accepted: once per visit, and only while its fence stands."""

    visit: VisitId
    outcome: Outcome
    signature: str


class VisitLost(JobRecord, frozen=True, kw_only=True, tag="visit_lost"):
    """A visit will not be waited for any more: its lease ran out, it failed, or its site refused."""

    visit: VisitId
    why: str
    blame: str
    done_frac: float = 0.0
    """How far it was, where it was stopped because it was late (`blame` "slow")."""


class GroupAgreed(JobRecord, frozen=True, kw_only=True, tag="group_agreed"):
    """Every member of a group has made the same model: it is the head."""

    visits: tuple[VisitId, ...]
    model: ArtifactId


class GroupLost(JobRecord, frozen=True, kw_only=True, tag="group_lost"):
    """A group's round came to nothing: a member was lost, or their models differ. The head stays where it was."""

    visits: tuple[VisitId, ...]
    why: str
    left_out: DataSetId | None = None
    """Whose member it was, where that can be said: it is left out of the next round."""
    differs: bool = False
    """Whether that member made another model than the others."""


class GroupsDrawn(JobRecord, frozen=True, kw_only=True, tag="groups_drawn"):
    """A round of gossip begins: who averages with whom after the visits."""

    groups: tuple[tuple[DataSetId, ...], ...]


class AllMet(JobRecord, frozen=True, kw_only=True, tag="all_met"):
    """The models of all members of a gossip are to become one."""

    models: int
    """How many they are."""
    head: ArtifactId | None = None
    """Where it is one already: the head from now on."""


class MaskedRoundLost(JobRecord, frozen=True, kw_only=True, tag="masked_round_lost"):
    """A masked round came to nothing: too few were left to hide in, or its sum is gone. The head stays where it was."""

    round: str
    why: str


class SampleGiven(JobRecord, frozen=True, kw_only=True, tag="sample_given"):
    """A data set's sample is ready for a verification unit."""

    unit: NodeId
    sample: SampleRef


class RecordsGiven(JobRecord, frozen=True, kw_only=True, tag="records_given"):
    """A data set's records are ready to stream to a compute site of its trust zone."""

    dataset: DataSetId
    receiver: NodeId
    artifact: ArtifactId
    holder: NodeId


class ModelJudged(JobRecord, frozen=True, kw_only=True, tag="model_judged"):
    """A measured model was kept or rolled back."""

    model: ArtifactId
    keep: bool
    best: bool
    met: bool
    score: float
    measurements: tuple[Measurement, ...]
    why: str
    culprit: DataSetId | None = None
    """The data set whose visit alone is to blame, where that is known."""


class OtherTestSet(JobRecord, frozen=True, kw_only=True, tag="other_test_set"):
    """No unit with the job's test set was to be expected: the best model was measured on another one, which is the
    job's from now on."""

    unit: NodeId
    samples: tuple[SampleRef, ...]
    model: ArtifactId
    measurements: tuple[Measurement, ...]
    score: float


class UnitsCompared(JobRecord, frozen=True, kw_only=True, tag="units_compared"):
    """A model that one verification unit had measured was measured by a second one on the same records."""

    model: ArtifactId
    unit: NodeId
    """Who measured it now."""
    other: NodeId
    """Who had measured it first."""
    difference: str
    """In which figure they differ beyond their joint interval; empty: in none."""
    odd: NodeId | None = None
    """The one unit that stands alone against others that agree: it is believed no more."""
    lower: NodeId
    """Of those that are believed, the one that thinks least of the model."""


class ModelGone(JobRecord, frozen=True, kw_only=True, tag="model_gone"):
    """No site that holds this model came back in time, or none has it any more; the job goes on from an older one.
    `instead` is the head where only the updates of a round are gone."""

    model: ArtifactId
    instead: ArtifactId


class HolderDropped(JobRecord, frozen=True, kw_only=True, tag="holder_dropped"):
    """A node that was named as a holder of an artifact answered that it does not hold it: it is not named again."""

    artifact: ArtifactId
    node: NodeId


class CopiesLetGo(JobRecord, frozen=True, kw_only=True, tag="copies_let_go"):
    """A node had no room for a visit: it lets these artifacts of the job go, which others that answer hold, too."""

    node: NodeId
    artifacts: tuple[ArtifactId, ...]


class StepMeasured(JobRecord, frozen=True, kw_only=True, tag="step_measured"):
    """A model between a kept one and one that was rolled back was measured, to see which visit made it worse; without
    measurements it cannot be."""

    visit: VisitId
    model: ArtifactId
    measurements: tuple[Measurement, ...]


class HarmTraced(JobRecord, frozen=True, kw_only=True, tag="harm_traced"):
    """Which visit made a model worse that was rolled back; None where that cannot be found out. The job goes on from
    the model before that visit, where that is as good as it has to be (`onward`)."""

    why: str
    visit: VisitId | None = None
    dataset: DataSetId | None = None
    onward: ArtifactId | None = None
    measurements: tuple[Measurement, ...] = ()
    score: float = 0.0
    best: bool = False
    met: bool = False


class SitesSetAside(JobRecord, frozen=True, kw_only=True, tag="sites_set_aside"):
    """A job that gains nothing goes on from `model` without some of its data sets, to see whether one of them spoils
    it; or (no model) all tries were in vain."""

    model: ArtifactId | None
    aside: tuple[DataSetId, ...]
    left: tuple[tuple[DataSetId, ...], ...]
    """What is set aside in the tries after this one."""
    why: str


class MakerRefuted(JobRecord, frozen=True, kw_only=True, tag="maker_refuted"):
    """A verification unit cannot use the model that this visit made, and no honest site would have handed it on."""

    visit: VisitId
    node: NodeId
    model: ArtifactId
    fault: UnfitFault
    why: str


class DoubtRefuted(JobRecord, frozen=True, kw_only=True, tag="doubt_refuted"):
    """This visit's site would not use a model that a verification unit can use."""

    visit: VisitId
    model: ArtifactId
    dataset: DataSetId


class Replanned(JobRecord, frozen=True, kw_only=True, tag="replanned"):
    """The plan changed while the job runs, because of what was measured."""

    plan: Plan
    why: str
    planned_rate: float | None = None
    """The learning rate that kept models lead back to from now on; None: as before."""


class SiteBarred(JobRecord, frozen=True, kw_only=True, tag="site_barred"):
    """A data set will not be asked again by this job."""

    dataset: DataSetId
    why: str


class RequestChanged(JobRecord, frozen=True, kw_only=True, tag="request_changed"):
    """The owner changed targets, hyper-parameters or the choice of data while the job runs."""

    request: Request
    plan: Plan | None = None
    """The plan from now on, where the job has one and the change concerns it."""


class ExperienceGained(Record, frozen=True, kw_only=True, tag="experience_gained"):
    """A run is over, and what it teaches about others outlives it. It says nothing of whose data or model it was."""

    at_ns: int
    run: PastRun


class JobPhased(JobRecord, frozen=True, kw_only=True, tag="job_phased"):
    """The job entered a phase."""

    phase: Phase
    reason: str


JOB_RECORDS = (
    JobSubmitted,
    JobAssessed,
    PromiseMade,
    PreflightDone,
    ProbeDone,
    VariantTried,
    TuningTried,
    TuningDone,
    VisitOrdered,
    VisitAccepted,
    VisitLost,
    GroupAgreed,
    GroupLost,
    GroupsDrawn,
    AllMet,
    MaskedRoundLost,
    SampleGiven,
    RecordsGiven,
    ModelJudged,
    OtherTestSet,
    UnitsCompared,
    ModelGone,
    HolderDropped,
    CopiesLetGo,
    StepMeasured,
    HarmTraced,
    SitesSetAside,
    MakerRefuted,
    DoubtRefuted,
    Replanned,
    SiteBarred,
    RequestChanged,
    RouteIssued,
    JobPhased,
)
