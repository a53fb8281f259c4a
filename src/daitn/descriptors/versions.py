"""A new version of a model beside the old one, training that is begun for one, and what is told of both."""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.ids import ArtifactId, JobId, ModelName

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
    better: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """How a verification unit found it better than the version that is served, on the same samples; empty: none did."""

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


class Retraining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider agrees to for the time when its model has got worse: the job that made it is submitted again in
    its name, from the model as it is served, under the request's own deadline, budget and privacy; what that delivers
    is tried as a new version."""

    times: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """Jobs that train, at most, until the provider deploys the model anew."""
    rest_hours: Hours = 1.0
    """Between the end of one, whatever came of it, and the next."""
    check_hours: Hours | None = None
    """So often the job is submitted though nobody judged: a verification unit measures the model on fresh samples, and
    only where it does not reach the goal any more is it trained. None: judged answers alone begin it."""
    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.1
    hours: Hours = 24.0
    """Of the new version, as in `CanaryWanted`."""


class RetrainingShown(msgspec.Struct, frozen=True, kw_only=True):
    """Training that the network began by itself, as the model's provider sees it."""

    agreed: Retraining
    trained: int = 0
    """Jobs so far that trained."""
    job: JobId = JobId("")
    """Under way; empty: none is, or it is not submitted yet."""
    why: str = ""
    """Of that one."""
    ended: tuple[str, ...] = ()
    """What came of earlier ones, the newest last."""
    checked: dict[str, float] = {}
    """What the unit of the last one measured of the model as it is served, by target name."""
