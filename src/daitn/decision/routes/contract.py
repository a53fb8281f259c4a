"""The contract of route rules: a pure choice of the next stop from a view and what the run has seen.

Laws every member keeps, tested over all of them: the stop is a candidate of the view; equal arguments give equal stops;
with candidates there is a stop; the order of candidates in the view does not matter. Where `holds` says that a stop
stands over a span of facts, it is the stop of every view within that span.

A rule that takes longer than a turn may names another one to go by meanwhile (`RouteRule.meanwhile`); a core asks it
through a problem (`decision.planned_routes`) and never calls its `next_stop` itself.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.decision.routes.errand import Errand
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

VISIT_BATCHES: Final = 100.0
"""What a wait for a slot is spread over: so many batches a visit has about."""

USUAL_BATCH_S: Final = 0.1
"""Of a batch, where none was timed: a wait of ten seconds makes a site half as fast."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the model has been through: accepted visits in order, with the records each trained on."""

    visits: tuple[tuple[DataSetId, int], ...] = ()
    seed: int = 0
    errand: Errand | None = None
    """What the route is to bring and what it may cost, for rules that plan it; None: as much as can be, at any cost."""

    @property
    def last(self) -> DataSetId | None:
        """Where the model was last."""
        return self.visits[-1][0] if self.visits else None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """All views whose candidates are these, each fact between its worst and its best: `worst` has the least trust,
    availability and speed, the longest batches and waits, `best` the opposite. Equal in everything else."""

    worst: TrainingView
    best: TrainingView

    def of(self, dataset: DataSetId) -> tuple[tuple[Candidate, Candidate], ...]:
        """Places to train on a data set, each at its worst and at its best."""
        pairs = zip(self.worst.candidates, self.best.candidates, strict=True)
        return tuple(pair for pair in pairs if pair[0].dataset == dataset)


class RouteRule(Protocol):
    """Chooses the next stop."""

    @property
    def name(self) -> str:
        """Its name in requests and logs."""
        ...

    @property
    def meanwhile(self) -> str:
        """The rule to go by until this one has its plan; empty where it answers within a turn."""
        ...

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The next stop; None only if the view has no candidates. `records_per_visit`: records one visit trains on."""
        ...

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:
        """Whether `stop` is certainly the next one for every view in the span. False where that cannot be told."""
        ...


def best_compute(view: TrainingView, dataset: DataSetId) -> Candidate:
    """The quickest place to train on a data set: by measured seconds per batch, else by speed, and by how long a visit
    would wait there for a slot; ties by node name. One that keeps half its promises counts as half as fast."""

    return min((candidate for candidate in view.candidates if candidate.dataset == dataset), key=_quickness)


def best_computes(view: TrainingView) -> dict[DataSetId, Candidate]:
    """`best_compute` of every data set, by name: O(candidates) for all of them."""
    best: dict[DataSetId, Candidate] = {}
    for candidate in view.candidates:
        before = best.get(candidate.dataset)
        if before is None or _quickness(candidate) < _quickness(before):
            best[candidate.dataset] = candidate
    return dict(sorted(best.items()))


def best_compute_holds(span: Span, stop: Stop) -> bool:
    """Whether the stop's node stays the quickest place for its data set: at its worst before all others at their best.
    O(candidates)."""
    places = span.of(stop.dataset)
    mine = [_quickness(worst) for worst, _ in places if worst.compute_node == stop.compute_node]
    others = [_quickness(best) for _, best in places if best.compute_node != stop.compute_node]
    return bool(mine) and all(mine[0] < other for other in others)


def _quickness(candidate: Candidate) -> tuple[bool, float, float, NodeId]:
    """Smaller is quicker. Falls with trust and speed, grows with the time of a batch and with the wait for a slot."""
    waits_s, measured = candidate.wait_s / VISIT_BATCHES, float("inf")
    if candidate.batch_s is not None:
        measured = (candidate.batch_s + waits_s) / candidate.trust
    speed = candidate.flops * candidate.trust / (1.0 + waits_s / USUAL_BATCH_S)
    return (candidate.streamed, measured, -speed, candidate.compute_node)


def datasets(view: TrainingView) -> tuple[DataSetId, ...]:
    """Data sets with at least one candidate, sorted by name."""
    return tuple(sorted({candidate.dataset for candidate in view.candidates}))
