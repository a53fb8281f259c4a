"""How a served model does while it is asked: what gateways count of its queries, and of answers that were judged.

*Feedback* is what a client knows later: which answer would have been right. A gateway makes counts of it at once and
keeps no row. Besides how many were right it adds up how surprising the right answers were (negative log likelihood) at
each of `TEMPERATURES`: from these sums the temperature that fits best can be told without any answer. Of a model of two
classes it counts which class was right by the share that the second one was given, in the parts that `THRESHOLDS` make:
from these counts follows from which share on the second class is better told.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId, ModelName, NodeId

TEMPERATURES: Final = tuple(2.0 ** (step / 4) for step in range(-8, 13))
"""By which scores are divided before they become shares: from a quarter to eight, in steps of a fifth."""

THRESHOLDS: Final = tuple(step / 20 for step in range(1, 20))
"""Shares of the second of two classes from which that one may be told: from 0.05 to 0.95; 0.5 is how scores say it."""

FIELDS_MOST: Final = 16
"""Fields of one model that feedback is counted of at one gateway; what names more is counted without a field."""

PAIRS_MOST: Final = 64
"""Pairs of hosts of one model whose answers a gateway has compared; of further pairs nothing is counted."""

FieldName = Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS)]
HostId = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Surprise = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class FieldOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Judged answers of one model in one field; empty: of no named one."""

    field: FieldName = ""
    rows: Count = 0
    right: Count = 0
    surprise: Annotated[tuple[Surprise, ...], msgspec.Meta(max_length=len(TEMPERATURES))] = ()
    """Summed over rows, by `TEMPERATURES`."""
    shared: Annotated[tuple[Count, ...], msgspec.Meta(max_length=2 * (len(THRESHOLDS) + 1))] = ()
    """Of a model of two classes: rows by the part of `THRESHOLDS` that the second one's share is in, first those where
    the first class was right, then the others. Empty: more classes."""


class HostsCompared(msgspec.Struct, frozen=True, kw_only=True):
    """How often two hosts that were asked the same query answered alike, and how often not."""

    hosts: tuple[HostId, HostId]
    same: Count = 0
    differing: Count = 0


class ModelOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of queries of one model at one gateway, since that gateway's process began."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    artifact: Annotated[ArtifactId, msgspec.Meta(max_length=64)]
    answered: Count = 0
    lost: Count = 0
    """Work was begun, and no host that was tried gave an answer."""
    judged: Annotated[tuple[FieldOutcomes, ...], msgspec.Meta(max_length=FIELDS_MOST + 1)] = ()
    compared: Annotated[tuple[HostsCompared, ...], msgspec.Meta(max_length=PAIRS_MOST)] = ()


class LiveField(msgspec.Struct, frozen=True, kw_only=True):
    """A model's accuracy in one field as it is now, with the interval it lies in with 95 of 100."""

    field: str
    rows: float
    """That count: older ones fade."""
    accuracy: float
    low: float
    high: float
    measured: float | None = None
    """By a verification unit, before it was deployed."""
    fell: bool = False
    """It is lower than it was measured, beyond chance."""


class LiveShown(msgspec.Struct, frozen=True, kw_only=True):
    """How a model does, as its provider sees it."""

    answered: int = 0
    lost: int = 0
    fields: tuple[LiveField, ...] = ()
    temperature: float = 1.0
    """That fits the judged answers best; 1: it says how sure it is as it should."""
    threshold: float = 0.5
    """Share of the second of two classes from which telling that one is right more often, beyond chance."""
