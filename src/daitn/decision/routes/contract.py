"""The contract of route rules: a pure choice of the next stop from a view and what the run has seen.

Laws every member keeps, tested over all of them: the stop is a candidate of the view; equal arguments give equal stops;
with candidates there is a stop; the order of candidates in the view does not matter.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the model has been through: accepted visits in order, with the records each trained on."""

    visits: tuple[tuple[DataSetId, int], ...] = ()
    seed: int = 0

    @property
    def last(self) -> DataSetId | None:
        """Where the model was last."""
        return self.visits[-1][0] if self.visits else None


class RouteRule(Protocol):
    """Chooses the next stop."""

    @property
    def name(self) -> str:
        """Its name in requests and logs."""
        ...

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The next stop; None only if the view has no candidates. `records_per_visit`: records one visit trains on."""
        ...


def best_compute(view: TrainingView, dataset: DataSetId) -> Candidate:
    """The quickest place to train on a data set: by measured seconds per batch, else by speed; ties by node name. One
    that keeps half its promises counts as half as fast."""

    def key(candidate: Candidate) -> tuple[bool, float, float, NodeId]:
        measured = candidate.batch_s / candidate.trust if candidate.batch_s is not None else float("inf")
        return (candidate.streamed, measured, -candidate.flops * candidate.trust, candidate.compute_node)

    return min((candidate for candidate in view.candidates if candidate.dataset == dataset), key=key)


def datasets(view: TrainingView) -> tuple[DataSetId, ...]:
    """Data sets with at least one candidate, sorted by name."""
    return tuple(sorted({candidate.dataset for candidate in view.candidates}))
