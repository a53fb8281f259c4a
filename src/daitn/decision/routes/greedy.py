"""Greedy: most freshening per second; the plain rule between `routed`, which hardly looks at seconds, and `planned`.

What a visit brings is how much fresher it leaves the labels than a visit that read nothing would, by the worth of the
rule `routed`, times how sure it is to bring it; what it takes is the time of its visit there, transfer included. It
sees one visit ahead only: a site that is slow and alone in what it has waits until everything else is fresh.

Legend: S data sets, L labels, V visits remembered. Cost: O((V + S) · L).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from daitn.base.ids import DataSetId
from daitn.decision.costs import visit_seconds
from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.decision.routes.errand import Errand
from daitn.decision.routes.routed import FADE, FLOOR, exposures, label_shares, sureness
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

BATCHES: Final = 10
"""Of a visit, where the errand does not say."""

CERTAIN: Final = 1e-9
"""Share of a worth by which a choice has to lead to be no tie: they are compared to so many places."""


class Greedy:
    """See the module's docstring."""

    name = "greedy"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The stop with most freshening per second; ties by name. None only without candidates."""
        names = datasets(view)
        if not names:
            return None
        places = {name: best_compute(view, name) for name in names}
        gains = _gains(places, seen, records_per_visit)
        rates = {name: gains[name] * sureness(place) / _seconds(place, seen) for name, place in places.items()}
        most = max(rates.values())
        chosen = min(names, key=lambda name: (-round(rates[name] / most, 9) if most > 0 else 0.0, name))
        others = sorted((rate for name, rate in rates.items() if name != chosen), reverse=True)
        why = f"most freshening a second: {rates[chosen]:.3g}" + (f", next best {others[0]:.3g}" if others else "")
        return Stop(dataset=chosen, compute_node=places[chosen].compute_node, why=why)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:
        """Whether the stop at its worst beats each other data set at its best, at any of its places: O((V + S) · L)."""
        if not best_compute_holds(span, stop):
            return False
        names = datasets(span.worst)
        gains = _gains({name: best_compute(span.worst, name) for name in names}, seen, records_per_visit)
        (mine,) = (worst for worst, _ in span.of(stop.dataset) if worst.compute_node == stop.compute_node)
        least = gains[stop.dataset] * sureness(mine) / _seconds(mine, seen)
        return all(
            gains[name] * sureness(best) / _seconds(best, seen) < least * (1 - 10 * CERTAIN)
            for name in names
            if name != stop.dataset
            for _, best in span.of(name)
        )


def _gains(places: Mapping[DataSetId, Candidate], seen: Seen, records_per_visit: int) -> dict[DataSetId, float]:
    """By data set, how much fresher a visit leaves labels (data sets, where nobody reveals labels) than reading
    nothing would. Labels are no facts that move, so neither are these."""
    shares = {name: label_shares(place) for name, place in places.items()}
    labels = tuple(sorted({label for share in shares.values() for label in share}))
    teaches = {name: tuple(share.get(label, 0.0) for label in labels) for name, share in shares.items()}
    by_label, by_dataset, weight = exposures(teaches, len(labels), seen, records_per_visit)
    total = FADE * weight + 1 - FADE

    def fresher(exposure: float, taught: float) -> float:
        return math.log((FADE * exposure + (1 - FADE) * taught) / total + FLOOR) - math.log(
            FADE * exposure / total + FLOOR
        )

    gains: dict[DataSetId, float] = {}
    for name in places:
        own = fresher(by_dataset[name], 1.0)
        known = [fresher(old, new) for old, new in zip(by_label, teaches[name], strict=True) if new > 0]
        gains[name] = sum(known) / len(labels) if known else own / len(places)
    return gains


def _seconds(candidate: Candidate, seen: Seen) -> float:
    """Of a visit there, coming from elsewhere unless the model is there already."""
    errand = seen.errand or Errand()
    moved = 0 if seen.last == candidate.dataset else errand.model_bytes
    return (
        visit_seconds(candidate, errand.batches_of(candidate, BATCHES), moved, errand.preflight)
        + 2 * candidate.latency_s
    )
