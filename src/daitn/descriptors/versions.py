"""A new version of a model beside the old one, and what is told of it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.ids import ArtifactId, ModelName

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Hours = Annotated[float, msgspec.Meta(gt=0, le=24 * 30)]


class CanaryWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's wish to have a package tried beside the version that is served."""

    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.1
    """Of the model's queries, those that ask the new version first."""
    hours: Hours = 24.0
    """What cannot be told by then is decided for the old version."""


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed package that is a new version of a model."""

    model: ModelName
    """The model, as queries ask it."""
    share: Share
    hours: Hours = 24.0
    took_over: bool = False
    """It is the model now, and answers until that is served under its own name."""

    @property
    def name(self) -> ModelName:
        """By which it is placed, and gateways ask it."""
        return ModelName(f"{self.model}.next")


class CanaryShown(msgspec.Struct, frozen=True, kw_only=True):
    """A new version as its provider sees it."""

    artifact: ArtifactId
    share: float
    serving: int = 0
    """Hosts that answer for it."""
    rows: float = 0.0
    right: float = 0.0
    old_rows: float = 0.0
    old_right: float = 0.0
    """Judged rows of both since it began, and those that were right."""
    answered: float = 0.0
    lost: float = 0.0
