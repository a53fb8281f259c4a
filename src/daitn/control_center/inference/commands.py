"""What providers and the node around it tell the deployment desk."""

from __future__ import annotations

import msgspec

from daitn.base.effects import Event
from daitn.base.ids import ArtifactId, ModelName, OwnerId
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


class UndeployAsked(Event, frozen=True, kw_only=True):
    """Serve it no longer."""

    model: ModelName


class KeysListed(Event, frozen=True, kw_only=True):
    """The keys that may ask models now, all of them."""

    keys: tuple[ApiKey, ...]
