"""Models in stages (paper II-B, split inference): where a graph may be cut for serving, and what one stage of it is.

A cut lies between two nodes of a graph's list, where one result crosses: the *activation*. A stage is what lies between
two cuts; it is asked as a model is, with the activation before it as input and the one behind it as output. Sides of an
activation are numbers, or names of the graph's dimensions; the first is the rows.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.base.names import check_name
from daitn.descriptors.splitting import GraphPlace

STAGES_MOST: Final = 7
"""Stages of one model: each more is another way through the network for every query."""

PLACES_MOST: Final = 32
"""Places that a provider tells of; a graph with more has them spread evenly."""

Side = (
    Annotated[int, msgspec.Meta(ge=0, le=2**31)] | Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
)  # a size, or the name of a dimension


class Activation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What crosses a cut: the one result that what is behind it needs of what is before."""

    place: GraphPlace
    """The first node behind the cut."""
    node: GraphPlace
    """Whose result crosses."""
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    sides: Annotated[tuple[Side, ...], msgspec.Meta(min_length=1, max_length=8)]

    @property
    def name(self) -> str:
        """As tensors of queries call it."""
        return f"activation_{self.place}"


class CutPlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place where a graph may be cut, and what lies before it."""

    activation: Activation
    before_frac: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of the computing."""
    before_bytes: Annotated[int, msgspec.Meta(ge=0, le=limits.ARTIFACT_BYTES)]
    """Of the tensors that are used there."""
    row_bytes: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    """Of the activation, for one row."""


class GraphProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a graph may be cut for serving; places rise."""

    row_flops: Annotated[float, msgspec.Meta(ge=0, le=1e18)]
    """Floating-point operations of one row, all nodes together."""
    weight_bytes: Annotated[int, msgspec.Meta(ge=0, le=limits.ARTIFACT_BYTES)]
    places: Annotated[tuple[CutPlace, ...], msgspec.Meta(max_length=PLACES_MOST)] = ()


class SplitAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's wish to have a model served in stages."""

    profile: GraphProfile
    stages: Annotated[int, msgspec.Meta(ge=0, le=STAGES_MOST)] = 0
    """How many; 0: as few as fit."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a model."""

    model: ModelName
    """The whole, as queries ask it."""
    number: Annotated[int, msgspec.Meta(ge=1, le=STAGES_MOST)]
    of: Annotated[int, msgspec.Meta(ge=1, le=STAGES_MOST)]
    begin: Activation | None = None
    """None: the model's beginning."""
    end: Activation | None = None
    """None: the model's end."""

    @property
    def name(self) -> ModelName:
        """By which this stage is placed and asked: it names its cuts, so another cut is another model."""
        begin = "begin" if self.begin is None else str(self.begin.place)
        end = "end" if self.end is None else str(self.end.place)
        return ModelName(f"{self.model}.{begin}-{end}")


def check_profile(profile: GraphProfile) -> GraphProfile:
    """The profile, if it holds together; InputError with every fault."""
    faults: list[str] = []
    at, frac, weight = 0, 0.0, 0
    for one in profile.places:
        activation = one.activation
        if not at < activation.place:
            faults.append(f"place {activation.place} does not come after {at}")
        if activation.node >= activation.place:
            faults.append(f"place {activation.place}: node {activation.node}, which crosses, is not before it")
        if one.before_frac < frac or one.before_bytes < weight:
            faults.append(f"place {activation.place}: less lies before it than before place {at}")
        at, frac, weight = activation.place, one.before_frac, one.before_bytes
    if faults:
        raise InputError(
            "the places for cuts are not consistent: " + "; ".join(faults[:5]), todo="have them found again"
        )
    return profile


def check_stages(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, if their names can be names of models; InputError otherwise."""
    for stage in stages:
        try:
            check_name("model", stage.name)
        except InputError:
            raise InputError(
                f"model {stage.model} cannot be served in stages: {stage.name!r} would be too long a name for one",
                todo="choose a shorter name",
            ) from None
    return stages
