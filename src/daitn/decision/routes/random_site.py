"""Random: any data set with equal chance, from the job's seed; a baseline."""

from __future__ import annotations

import random

from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView


class RandomSite:
    """See the module's docstring."""

    name = "random"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:  # noqa: ARG002
        """A data set drawn with a generator seeded by job and visit, so that a replay draws the same."""
        names = datasets(view)
        if not names:
            return None
        chosen = random.Random(f"{seen.seed}/{len(seen.visits)}").choice(names)
        return Stop(dataset=chosen, compute_node=best_compute(view, chosen).compute_node, why="drawn at random")

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:  # noqa: ARG002
        """The draw knows names only: only the quickest place for the one drawn can change."""
        return best_compute_holds(span, stop)
