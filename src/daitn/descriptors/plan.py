"""Plans: method, hyper-parameters and route together, with what they promise and why they were chosen."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.compression import Compression
from daitn.descriptors.outcome import Expectation
from daitn.descriptors.request import SecureAggregation
from daitn.descriptors.work import ServerStep, Training


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, for the log: what was chosen, why, and what was not."""

    what: str
    chosen: str
    why: str
    rejected: tuple[str, ...] = ()


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """One planned visit."""

    dataset: DataSetId
    compute_node: NodeId
    why: str
    length: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    """Of the visit, in visits of the plan."""


RANGES_MOST: Final = 5120
"""Ranges one validity may have: a view of a thousand candidates with five facts each."""


class FactRange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """While this fact lies within `low` and `high` (both included), and all others within theirs, a decision stands."""

    thing: Annotated[str, msgspec.Meta(max_length=128)]
    """Whose fact it is: a node."""
    fact: Annotated[str, msgspec.Meta(max_length=64)]
    low: float = float("-inf")
    high: float = float("inf")
    dataset: DataSetId | str = ""
    """For facts of a pair of data and compute: the data set."""
    loss: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Decision error, as a share of what is at stake, for each unit that the fact lies beyond its range."""

    def holds(self, value: float) -> bool:
        """Whether a value is within; NaN is not."""
        return self.low <= value <= self.high


class Pair(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A candidate that was there when a decision was made, and whether its batches had been timed."""

    dataset: DataSetId
    compute_node: NodeId
    timed: bool


class Validity(msgspec.Struct, frozen=True, kw_only=True):
    """How long a decision stands: while the same candidates are there and each fact lies within its range.

    Whoever follows the map need only compare (`topology.adapter`); whoever spreads the bytes of reporting learns from
    it which facts are near to changing something (`topology.orchestrator`).
    """

    pairs: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=RANGES_MOST)] = ()
    ranges: Annotated[tuple[FactRange, ...], msgspec.Meta(max_length=RANGES_MOST)] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the network intends to do for a job; the route beyond the next stop may change after every visit."""

    method: str
    training: Training
    verify_every: int
    """Visits (rounds, for parallel methods) between two verifications."""
    verifier: NodeId | None
    aggregator: NodeId | None
    route: tuple[Stop, ...]
    expected: Expectation
    choices: tuple[Choice, ...]
    view_version: int
    server: ServerStep | None = None
    """The step that follows the mean of a round; None: the mean is the next model."""
    secure: SecureAggregation | None = None
    """Updates are masked, so that nobody sees one; None: they are handed to the aggregator as they are."""
    compression: Compression | None = None
    """How updates are made smaller before they are handed on; None: they are handed on in full."""
    epochs: float = 0.0
    """Passes over its data set that a visit makes, within bounds (`decision.visit_length`); 0: visits are as long as
    each other."""
