"""Effects and events between the terminal cores and the world that does the work: fetching, training, measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daitn.base.effects import Effect, Event
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, VisitId
from daitn.descriptors.grant import Lacking
from daitn.descriptors.origin import Unfit
from daitn.descriptors.policy import Policy
from daitn.descriptors.work import Outcome
from daitn.wire.center_tools import VisitOrder, VisitPrepare

JOBS_PINNED_S: Final = 30.0
"""How often a terminal names the jobs it keeps artifacts for: one small message, and what a lost release wastes is
room for half a minute."""


class FetchInputs(Effect, frozen=True, kw_only=True):
    """Bring all inputs of the order here, verified; then `InputsArrived`, or `InputsFailed`."""

    order: VisitOrder


class BeginWork(Effect, frozen=True, kw_only=True):
    """Do the order's work in a sandbox; `WorkProgressed` from time to time, then `WorkFinished` or `WorkFailed`.

    What the work makes is in the store before `WorkFinished` is reported.
    """

    order: VisitOrder


class AbandonVisit(Effect, frozen=True, kw_only=True):
    """Stop fetching and working for a visit and drop what it made; no event follows."""

    visit: VisitId


class WarmChild(Effect, frozen=True, kw_only=True):
    """Get ready for a visit that may come: fetch the package's parts, start a child. No event follows."""

    prepare: VisitPrepare


class DropArtifacts(Effect, frozen=True, kw_only=True):
    """Unpin artifacts of a job; with `job_ended` also end its warm children. No event follows."""

    job: JobId
    artifacts: tuple[ArtifactId, ...]
    job_ended: bool


class JobsPinned(Event, frozen=True, kw_only=True):
    """The store keeps artifacts for these jobs now. Told again every `JOBS_PINNED_S`, while there are any."""

    jobs: tuple[JobId, ...]


class InputsArrived(Event, frozen=True, kw_only=True):
    """Everything the visit needs is here."""

    visit: VisitId
    fetched_bytes: int
    seconds: float


class InputsFailed(Event, frozen=True, kw_only=True):
    """An input could not be had: `blame` is an error kind of `base.errors`; `lacking`: whose fault it is, where named
    holders answered that they do not hold it."""

    visit: VisitId
    what: str
    blame: str
    lacking: Lacking | None = None
    unfit: Unfit | None = None
    """What is wrong with a model that arrived, where `blame` is `unfit`."""


class WorkProgressed(Event, frozen=True, kw_only=True):
    """The work goes on."""

    visit: VisitId
    done: int
    of: int
    loss: float | None = None


class WorkFinished(Event, frozen=True, kw_only=True):
    """The work is done."""

    visit: VisitId
    outcome: Outcome


class WorkFailed(Event, frozen=True, kw_only=True):
    """The work cannot be done."""

    visit: VisitId
    what: str
    blame: str
    partner: NodeId | None = None
    """The member of the visit's group because of which, where `blame` is `partner`."""
    unfit: Unfit | None = None
    """What is wrong with a model that arrived, where `blame` is `unfit`."""


class PoliciesChanged(Event, frozen=True, kw_only=True):
    """The data owner added, changed or withdrew data sets: these are all there are now."""

    policies: Mapping[DataSetId, Policy]
