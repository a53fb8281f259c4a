"""Everyone: all sites in each round, or as many as a round may have, beginning with others each time."""

from __future__ import annotations

from daitn.decision.rounds.contract import Rounds
from daitn.decision.routes.contract import best_compute, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView


class Everyone:
    """See the module's docstring. Cost: O(candidates)."""

    name = "all"

    def choose(self, view: TrainingView, rounds: Rounds, most: int) -> tuple[Stop, ...]:
        """All, or the next `most` by name."""
        names = datasets(view)
        first = (rounds.round * most + rounds.lost) % len(names) if len(names) > most else 0
        turned = (names[first:] + names[:first])[:most]
        why = f"round {rounds.round + 1}"
        return tuple(Stop(dataset=name, compute_node=best_compute(view, name).compute_node, why=why) for name in turned)
