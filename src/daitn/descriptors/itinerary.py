"""Itineraries: the route of a job as a list of segments, signed as a whole, of which each node is shown its own.

Paper II-A, MTRCE; the form is that of segment routing (RFC 8402): the route lies with what travels, not in the nodes.
A segment says what is to be done where; the one that a node is ordered to carry out has a visit and a fence. Segments
still to come have none, and let nobody do anything.

    TRAIN       a model meets data
    VERIFY      a unit measures it
    AGGREGATE   models, or sums, become one
    BIND        what has to be bound together first: records or a sample to the node that will use them, the members of
                a masked round by their keys

Every version is a hash tree over its segments (RFC 6962), and the centre signs the root: a node checks its own segment
against it and learns of no other, so a hospital does not see who else is on the route, and an order grows with the
logarithm of a route.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.ids import DataSetId, DomainId, JobId, NodeId, VisitId
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.work import AggregateWork, EvaluateWork, ShareWork, TrainWork, Work

SEGMENTS_MOST: Final = 16_384
"""Segments of one version: a round of the largest size and what follows it, many times over."""

PATH_MOST: Final = 14
"""Hashes that lead from a segment to the root of the longest route."""

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Action(StrEnum):
    """What a segment does; see the module's docstring."""

    TRAIN = "train"
    VERIFY = "verify"
    AGGREGATE = "aggregate"
    BIND = "bind"


class Segment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One piece of a route."""

    action: Action
    node: NodeId
    dataset: DataSetId | None = None
    visit: VisitId | None = None
    """None: still to come."""
    fence: Annotated[int, msgspec.Meta(ge=0)] = 0
    content: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """What exactly is to be done, and on whose behalf (`artifacts.itineraries.content_of`)."""


class Itinerary(msgspec.Struct, frozen=True, kw_only=True):
    """What the control centre signs of one version of a job's route."""

    domain: DomainId
    job: JobId
    version: Annotated[int, msgspec.Meta(ge=1)]
    """Grows whenever the route changes: a node takes nothing up from an older one than it has seen."""
    segments: Annotated[int, msgspec.Meta(ge=1, le=SEGMENTS_MOST)]
    root: Digest
    """Of the tree over all segments, in the order of the route."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """What travels with an order: the signed itinerary, and where in it the order's own segment is."""

    token: Annotated[str, msgspec.Meta(max_length=2048)]
    """The itinerary, signed."""
    place: Annotated[int, msgspec.Meta(ge=0, lt=SEGMENTS_MOST)]
    path: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=PATH_MOST)] = ()
    """The hashes beside the way from the segment to the root."""


def action_of(work: Work) -> Action:
    """What kind of segment a piece of work is."""
    match work:
        case TrainWork():
            return Action.TRAIN
        case EvaluateWork():
            return Action.VERIFY
        case AggregateWork() | UnmaskWork():
            return Action.AGGREGATE
        case ShareWork() | AgreeWork() | SealWork():
            return Action.BIND


def dataset_of(work: Work) -> DataSetId | None:
    """The data set that a piece of work speaks of, if it speaks of one."""
    match work:
        case EvaluateWork() | AggregateWork():
            return None
        case _:
            return work.dataset
