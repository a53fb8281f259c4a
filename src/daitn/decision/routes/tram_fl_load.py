"""Load-aware Tram-FL: of the stops that keep labels about even, the quickest (H. Kainuma and T. Nishio, 2025).

The article minimises the time of computing and moving, by predicted loads, under a bound on the variance of the label
counts after the visit. Here loads are what the network knows of them: measured seconds per batch, rates, round trips,
and the share of the next minutes for which a place can be counted on, by which the time of a visit there is divided.
The bound is the least variance that any visit would leave plus that of `BALANCE` visits at one label. Two things
differ: a visit reads a site's records as they are mixed, not a part of each label, and no round is left out. Without
labels, the data sets read least for their size count as even.

Legend: S data sets, L labels. Cost: O(visits + S · L).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daitn.base.ids import DataSetId
from daitn.decision.costs import visit_seconds
from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.decision.routes.errand import Errand
from daitn.decision.routes.tram_fl import reads_for_size, variances_after
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

BALANCE: Final = 1.0
"""How uneven label counts may become, in visits that read one label alone. Less gives the rule no choice, more lets
quick sites be read until the others are forgotten."""

PASSES: Final = 1.0
"""The same without labels: passes over a data set more than over the least read one."""

BATCHES: Final = 10
"""Of a visit, where the errand does not say."""


class TramFlLoad:
    """See the module's docstring."""

    name = "tram-fl-load"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The quickest of the even stops; ties by name. None only without candidates."""
        even = _even(view, seen, records_per_visit)
        if not even:
            return None
        places = {name: best_compute(view, name) for name in even}
        seconds = {name: _seconds(place, seen) for name, place in places.items()}
        chosen = min(even, key=lambda name: (round(seconds[name], 9), name))
        why = f"quickest of {len(even)} that keep labels even: {seconds[chosen]:.3g} s"
        return Stop(dataset=chosen, compute_node=places[chosen].compute_node, why=why)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:
        """Whether the stop at its worst is quicker than each other even one at its best, at any of its places."""
        if not best_compute_holds(span, stop):
            return False
        even = _even(span.worst, seen, records_per_visit)
        mine = [_seconds(worst, seen) for worst, _ in span.of(stop.dataset) if worst.compute_node == stop.compute_node]
        return stop.dataset in even and all(
            _seconds(best, seen) > mine[0] + 2e-9 for name in even if name != stop.dataset for _, best in span.of(name)
        )


def _even(view: TrainingView, seen: Seen, records_per_visit: int) -> tuple[DataSetId, ...]:
    """Data sets whose next visit keeps the counts within the bound. Labels are no facts that move."""
    names = datasets(view)
    if not names:
        return ()
    spreads: Mapping[DataSetId, float]
    spreads, labels = variances_after(view, seen, records_per_visit)
    if labels:
        bound = min(spreads.values()) + (BALANCE * records_per_visit) ** 2 * (labels - 1) / labels**2
    else:
        spreads = reads_for_size(view, seen)
        bound = min(spreads.values()) + PASSES
    return tuple(name for name in names if spreads[name] <= bound + 1e-9)


def _seconds(candidate: Candidate, seen: Seen) -> float:
    """Expected of a visit there: what it takes, over the share of the time for which it can be counted on."""
    errand = seen.errand or Errand()
    moved = 0 if seen.last == candidate.dataset else errand.model_bytes
    taken = (
        visit_seconds(candidate, errand.batches_of(candidate, BATCHES), moved, errand.preflight)
        + 2 * candidate.latency_s
    )
    sure = min(1.0, max(0.0, candidate.trust)) * min(1.0, max(0.0, candidate.availability))
    return taken / max(0.01, sure)
