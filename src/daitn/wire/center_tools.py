"""Link center–tools, control plane: training instructions out, progress and results back (paper, II-A, DA-ITN-tool CP).

Every message may be lost, doubled or late. Orders and results are repeated until acknowledged and idempotent; a result
is accepted once, by its fence.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from daitn.base import limits
from daitn.base.effects import Message
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.descriptors.grant import Holder, Lacking
from daitn.descriptors.itinerary import Passage
from daitn.descriptors.origin import Origin, Unfit
from daitn.descriptors.policy import PolicyFault
from daitn.descriptors.privacy import EpsilonBound
from daitn.descriptors.work import Outcome, SampleRef, Seconds, Work

Fence = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class InputRef(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact a visit needs, who holds it, and the grant under which it may be fetched."""

    artifact: ArtifactId
    holders: Annotated[tuple[Holder, ...], msgspec.Meta(max_length=limits.HOLDERS)]
    grant: str
    origin: Origin | None = None
    """What it has to be, where it is a model that another visit made."""
    parts_only: bool = False
    """Only its small parts (graph, contract) are needed, not its tensors."""


class PartnerRef(msgspec.Struct, frozen=True, kw_only=True):
    """A partner of a visit's group: where it is, and the grant under which tensors may be exchanged with it."""

    visit: VisitId
    holder: Holder
    grant: str


class Warrant(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf, for what, with whose signature something is done: what a site's policy is checked against."""

    owner: OwnerId
    purpose: str
    method: str
    signer: str
    epsilon: EpsilonBound | None = None
    """What the job may cost a data set at most, where it trains with noise; None: it does not."""


class VisitOrder(Message, frozen=True, kw_only=True, tag="visit_order"):
    """Control centre → terminal: do this work. Repeated until heard of.

    A terminal that will not or cannot answers `VisitRefused`; one that already works on it reports progress; one that
    is done repeats its result.
    """

    visit: VisitId
    job: JobId
    fence: Fence
    lease_s: Seconds
    """The terminal gives the work up this long after it last heard from the centre, by its own clock."""
    wall_s: Seconds
    """Longest the work may take."""
    package: ArtifactId
    """The package the owner submitted: its graph and contract are the visit's."""
    work: Work
    inputs: Annotated[tuple[InputRef, ...], msgspec.Meta(max_length=10_000)]
    warrant: Warrant
    partners: Annotated[tuple[PartnerRef, ...], msgspec.Meta(max_length=limits.GROUP_MEMBERS)] = ()
    """The other members of the work's group, in the order of their ranks."""
    route: Passage | None = None
    """The signed route that this order is a segment of. A terminal takes no order without one."""


class VisitPrepare(Message, frozen=True, kw_only=True, tag="visit_prepare"):
    """Control centre → terminal: a visit of this job is likely; fetch the package's parts, and a unit its samples, and
    warm a child. Advisory."""

    job: JobId
    package: InputRef
    warrant: Warrant
    dataset: DataSetId | None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    verify: bool = False
    samples: Annotated[tuple[SampleRef, ...], msgspec.Meta(max_length=10_000)] = ()
    """The test set that a unit is to measure on."""
    inputs: Annotated[tuple[InputRef, ...], msgspec.Meta(max_length=10_000)] = ()
    """The samples as inputs, each under a grant for this unit."""


class VisitRefused(Message, frozen=True, kw_only=True, tag="visit_refused"):
    """Terminal → control centre: the order will not be carried out, for these reasons. Final for this visit, but where
    the order came by an older version of the job's route than the terminal has seen: then one that still stands is
    sent again, by the newest."""

    visit: VisitId
    fence: Fence
    faults: tuple[PolicyFault, ...] = ()
    reason: Text = ""
    newest_route: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Where the order's route was an old one: the newest version that this terminal has seen; else 0."""


class VisitPhase(StrEnum):
    """How far a visit is."""

    FETCHING = "fetching"
    WAITING = "waiting"
    WORKING = "working"

    @property
    def step(self) -> int:
        """Position in the order in which a visit goes through them."""
        return tuple(VisitPhase).index(self)


class VisitProgress(Message, frozen=True, kw_only=True, tag="visit_progress"):
    """Terminal → control centre, about every second: still at it. Answered by `LeaseRenewed`,
    unless the lease is as good as new."""

    visit: VisitId
    fence: Fence
    phase: VisitPhase
    done: Annotated[int, msgspec.Meta(ge=0)] = 0
    of: Annotated[int, msgspec.Meta(ge=0)] = 0
    loss: float | None = None


class LeaseRenewed(Message, frozen=True, kw_only=True, tag="lease_renewed"):
    """Control centre → terminal: go on for another `lease_s` of your own clock."""

    visit: VisitId
    fence: Fence
    lease_s: Seconds


class VisitReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a terminal signs: which work, on which version of which data, made what of what."""

    visit: VisitId
    fence: Fence
    work: Work
    outcome: Outcome


class VisitResult(Message, frozen=True, kw_only=True, tag="visit_result"):
    """Terminal → control centre: done. Repeated until `ResultAccepted` or `ResultFenced`."""

    report: VisitReport
    signature: str
    """Ed25519 over the report's canonical encoding, by the key in the node's descriptor."""


class VisitFailed(Message, frozen=True, kw_only=True, tag="visit_failed"):
    """Terminal → control centre: the work could not be done. Repeated until `ResultAccepted` or `ResultFenced`."""

    visit: VisitId
    fence: Fence
    reason: Text
    blame: str
    """Who must act: one of `base.errors`' kinds, `input` (the model), `peer`, `unavailable`, `no-room` (the site; the
    reason says how much was needed and how much there is), `not-held` (who was named as a holder), `policy`, `bug`,
    `unfit` (who made the model that it was given); or `partner`: another member of the visit's group."""
    partner: NodeId | None = None
    """The member that was lost or sent what cannot be used, as this terminal saw it. A hint, not a proof."""
    lacking: Lacking | None = None
    """With `not-held`: which input could not be had, and which of its holders answered that they do not hold it."""
    unfit: Unfit | None = None
    """With `unfit`: which model it is, and what is wrong with it."""


class ResultAccepted(Message, frozen=True, kw_only=True, tag="result_accepted"):
    """Control centre → terminal: the result is in the journal; stop repeating it. Keep the artifact until released."""

    visit: VisitId
    fence: Fence


class ResultFenced(Message, frozen=True, kw_only=True, tag="result_fenced"):
    """Control centre → terminal: this visit is no longer yours (taken over, cancelled, unknown); drop it all."""

    visit: VisitId
    fence: Fence


class VisitCancel(Message, frozen=True, kw_only=True, tag="visit_cancel"):
    """Control centre → terminal: stop this visit. Unanswered; repeated as `ResultFenced` if it reports again."""

    visit: VisitId
    fence: Fence


class ReleaseArtifacts(Message, frozen=True, kw_only=True, tag="release_artifacts"):
    """Control centre → terminal: these are held elsewhere or no longer needed; they may be dropped. Advisory."""

    job: JobId
    artifacts: Annotated[tuple[ArtifactId, ...], msgspec.Meta(max_length=limits.ARTIFACTS_RELEASED)]
    job_ended: bool = False
    """The job is over: its warm children and pins can go."""


class JobsHeld(Message, frozen=True, kw_only=True, tag="jobs_held"):
    """Terminal → control centre, now and then: I keep artifacts for these jobs. Answered by `JobsEnded` where some of
    them have ended; a release that was lost is so made good."""

    jobs: Annotated[tuple[JobId, ...], msgspec.Meta(max_length=limits.JOBS_HELD)]


class JobsEnded(Message, frozen=True, kw_only=True, tag="jobs_ended"):
    """Control centre → terminal: these jobs are over, or unknown here; what is kept for them may go."""

    jobs: Annotated[tuple[JobId, ...], msgspec.Meta(max_length=limits.JOBS_HELD)]


def encode_report(report: VisitReport) -> bytes:
    """The canonical bytes of a report: what its signature is over."""
    return msgspec.msgpack.encode(report, order="deterministic")
