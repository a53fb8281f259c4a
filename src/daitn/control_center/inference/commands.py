"""What providers and the node around it tell the deployment desk."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Event
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.serving import ApiKey, ModelNeeds, ServingGoal


class DeployAsked(Event, frozen=True, kw_only=True):
    """Serve this package under that name; it was judged admissible a moment ago."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    goal: ServingGoal
    needs: ModelNeeds
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    """What verification units measured of it, by target name."""


class StagePlanned(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a model: what it demands (`needs.stage` says which it is), and the host that it was cut for."""

    needs: ModelNeeds
    node: NodeId
    why: str


class DeployStagesAsked(Event, frozen=True, kw_only=True):
    """Serve this package under that name in stages, each at a host of its own; the cut was found a moment ago."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    goal: ServingGoal
    stages: tuple[StagePlanned, ...]
    quality: dict[str, float] = msgspec.field(default_factory=dict)


class CanaryAsked(Event, frozen=True, kw_only=True):
    """Try this package as a new version of the model, with a share of its queries; it was judged admissible a moment
    ago, beside the version that is served."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    goal: ServingGoal
    needs: ModelNeeds
    share: float
    hours: float
    quality: dict[str, float] = msgspec.field(default_factory=dict)


class UndeployAsked(Event, frozen=True, kw_only=True):
    """Serve it no longer."""

    model: ModelName


class KeysListed(Event, frozen=True, kw_only=True):
    """The keys that may ask models now, all of them."""

    keys: tuple[ApiKey, ...]
