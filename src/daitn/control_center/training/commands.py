"""Events and effects between the training centre and its world: owners' commands, and fetching the finished model."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Effect, Event
from daitn.base.ids import ArtifactId, JobId, NodeId, OwnerId
from daitn.control_center.training.records import JobSubmitted
from daitn.decision.facts import PackageFacts
from daitn.descriptors.grant import Lacking
from daitn.descriptors.request import Request
from daitn.wire.center_tools import InputRef


class SubmissionReceived(Event, frozen=True, kw_only=True):
    """An owner submitted a request that is consistent with its package, which is in the centre's store."""

    job: JobId
    owner: OwnerId
    request: Request
    package: PackageFacts
    key: str
    variants: dict[ArtifactId, PackageFacts] = msgspec.field(default_factory=dict)

    def as_record(self, at_ns: int) -> JobSubmitted:
        """What the journal keeps of it."""
        return JobSubmitted(
            job=self.job,
            at_ns=at_ns,
            owner=self.owner,
            request=self.request,
            package=self.package,
            key=self.key,
            variants=self.variants,
        )


class PauseAsked(Event, frozen=True, kw_only=True):
    """The owner wants no further visits for now."""

    job: JobId


class ResumeAsked(Event, frozen=True, kw_only=True):
    """The owner wants a paused job to go on."""

    job: JobId


class CancelAsked(Event, frozen=True, kw_only=True):
    """The owner wants the job to end."""

    job: JobId
    reason: str = "cancelled by its owner"


class ChangeAsked(Event, frozen=True, kw_only=True):
    """The owner changes the request of a running job; already checked against the contract."""

    job: JobId
    request: Request


class NodeExpelled(Event, frozen=True, kw_only=True):
    """An operator has burned a node's slot."""

    node: NodeId
    reason: str


class RetireSlot(Effect, frozen=True, kw_only=True):
    """The node has left: its slot is never given out again."""

    node: NodeId


class ModelFetched(Event, frozen=True, kw_only=True):
    """The finished model is in the centre's store."""

    job: JobId
    artifact: ArtifactId


class ModelNotFetched(Event, frozen=True, kw_only=True):
    """No holder gave the finished model this time."""

    job: JobId
    artifact: ArtifactId
    what: str
    lacking: Lacking | None = None
    """Who of them answered that they do not hold it."""


class FetchModel(Effect, frozen=True, kw_only=True):
    """Bring the finished model into the centre's store; then `ModelFetched` or `ModelNotFetched`."""

    job: JobId
    model: InputRef


class JobChanged(Effect, frozen=True, kw_only=True):
    """Something about this job changed that its watchers want to see."""

    job: JobId
