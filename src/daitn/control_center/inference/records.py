"""Facts of deployed models: what the journal holds, and what the deployment desk is rebuilt from."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Record
from daitn.base.ids import ArtifactId, JobId, ModelName, NodeId, OwnerId
from daitn.descriptors.serving import ModelNeeds, ServingGoal
from daitn.descriptors.versions import Canary, Retraining


class DeploymentRecord(Record, frozen=True, kw_only=True):
    """A fact of one deployed model."""

    model: ModelName
    at_ns: int


class ModelDeployed(DeploymentRecord, frozen=True, kw_only=True, tag="model_deployed"):
    """A provider gave a model to the network, and it was admitted. Another package under a known name replaces it."""

    owner: OwnerId
    artifact: ArtifactId
    goal: ServingGoal
    needs: ModelNeeds
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    canary: Canary | None = None
    """Of which model it is a new version; None: it is no such one."""
    retrain: Retraining | None = None
    """What its provider agrees to where it gets worse; None: it is told, and decides."""
    retrained: int = 0
    """Jobs that trained under it already: the version is the network's, and the agreement an older one."""


class ReplicaPlaced(DeploymentRecord, frozen=True, kw_only=True, tag="replica_placed"):
    """A host is to serve the model."""

    node: NodeId
    why: str


class ReplicaLeaving(DeploymentRecord, frozen=True, kw_only=True, tag="replica_leaving"):
    """A host is to serve the model only until others do; `ReplicaPlaced` takes that back."""

    node: NodeId
    why: str


class ReplicaTaken(DeploymentRecord, frozen=True, kw_only=True, tag="replica_taken"):
    """A host is not to serve the model any more. `failed`: it could not, and is not asked again for this package."""

    node: NodeId
    why: str
    failed: bool = False


class ModelWithdrawn(DeploymentRecord, frozen=True, kw_only=True, tag="model_withdrawn"):
    """Its provider took it back, or nobody can serve it."""

    why: str


class CanaryEnded(DeploymentRecord, frozen=True, kw_only=True, tag="canary_ended"):
    """A new version of the model took over, or was taken back."""

    artifact: ArtifactId
    took_over: bool
    why: str


class ModelCalibrated(DeploymentRecord, frozen=True, kw_only=True, tag="model_calibrated"):
    """How sure the model says it is, is read with this temperature from now on, and which of two classes it says, by
    this threshold, as judged answers have it."""

    artifact: ArtifactId
    temperature: float
    threshold: float = 0.5


class RetrainingBegun(DeploymentRecord, frozen=True, kw_only=True, tag="retraining_begun"):
    """The model got worse: the job that made it is submitted again, from the package as it is served."""

    artifact: ArtifactId
    job: JobId
    """That made it."""
    why: str


class RetrainingEnded(DeploymentRecord, frozen=True, kw_only=True, tag="retraining_ended"):
    """What came of it. `artifact`: tried as a new version from now on; None: there is nothing to try."""

    artifact: ArtifactId | None = None
    why: str
    trained: bool = False
    """The job made visits; else its unit looked, and no more."""
    checked: dict[str, float] = msgspec.field(default_factory=dict)
    """What its unit measured of the model as it is served, on fresh samples, by target name."""


DEPLOYMENT_RECORDS = (
    ModelDeployed,
    ReplicaPlaced,
    ReplicaLeaving,
    ReplicaTaken,
    ModelWithdrawn,
    CanaryEnded,
    ModelCalibrated,
    RetrainingBegun,
    RetrainingEnded,
)
