"""Cyclic: every data set once, by name, then again from the first; the naive baseline."""

from __future__ import annotations

from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView


class Cyclic:
    """See the module's docstring."""

    name = "cyclic"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:  # noqa: ARG002
        """The data set after the last one in name order, O(candidates)."""
        names = datasets(view)
        if not names:
            return None
        last = seen.last
        chosen = next((name for name in names if last is None or name > last), names[0])
        why = f"next in the cycle of {len(names)}" + (f" after {last}" if last else "")
        return Stop(dataset=chosen, compute_node=best_compute(view, chosen).compute_node, why=why)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:  # noqa: ARG002
        """Data sets follow by name: only the quickest place for the next one can change."""
        return best_compute_holds(span, stop)
