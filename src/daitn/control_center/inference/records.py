"""Facts of deployed models: what the journal holds, and what the deployment desk is rebuilt from."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Record
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.serving import ModelNeeds, ServingGoal


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


DEPLOYMENT_RECORDS = (ModelDeployed, ReplicaPlaced, ReplicaLeaving, ReplicaTaken, ModelWithdrawn)
