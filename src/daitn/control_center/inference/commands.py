"""What providers and the node around it tell the deployment desk."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Effect, Event
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.request import Request
from daitn.descriptors.serving import ApiKey, ModelNeeds, ServingGoal
from daitn.descriptors.versions import Retraining


class DeployAsked(Event, frozen=True, kw_only=True):
    """Serve this package under that name; it was judged admissible a moment ago."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    goal: ServingGoal
    needs: ModelNeeds
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    """What verification units measured of it, by target name."""
    retrain: Retraining | None = None
    """What its provider agrees to where it gets worse."""


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
    better: str = ""
    """How a verification unit found it better, as in `Canary`."""


class SubmitAgain(Effect, frozen=True, kw_only=True):
    """Submit this request in the owner's name, once for its key; where that cannot be, `RetrainingAnswered`."""

    model: ModelName
    owner: OwnerId
    request: Request
    key: str


class TryVersion(Effect, frozen=True, kw_only=True):
    """Try what a job delivered as a new version of the model (`CanaryAsked`); then `RetrainingAnswered`."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    share: float
    hours: float
    better: str
    key: str
    told: str
    """Of the job."""


class RetrainingAnswered(Event, frozen=True, kw_only=True):
    """What came of `SubmitAgain`, where it could not be done, or of `TryVersion`."""

    model: ModelName
    key: str
    artifact: ArtifactId | None
    """Tried as a new version; None: it is not."""
    why: str


class UndeployAsked(Event, frozen=True, kw_only=True):
    """Serve it no longer."""

    model: ModelName


class KeysListed(Event, frozen=True, kw_only=True):
    """The keys that may ask models now, all of them."""

    keys: tuple[ApiKey, ...]
