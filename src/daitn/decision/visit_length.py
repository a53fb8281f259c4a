"""How long a visit is at a site: local iterations in proportion to its records, within bounds (HPO).

Paper II-A: the Hyper-Parameter Optimizer sets "number of epochs, batch size, and other training parameters". With as
many batches everywhere a small site's records are read many times a visit and a large one's in part. So a visit makes
passes over its data set (H. B. McMahan et al., AISTATS 2017: E epochs of n_k records at client k), no fewer batches
than half and no more than twice those of a typical site: a round waits for its longest visit, and a copy that travels
forgets in a long one what it learnt elsewhere.

All visits are as long as each other where something counts on it: control variates (SCAFFOLD's stand for equally many
steps of all), groups in lock step, private training (noise is set for so many steps), environments; and where the owner
pins the batches of a visit.

What it does not do: know how fast sites are. One that is late is asked for less (`decision.rounds.stragglers`).
"""

from __future__ import annotations

from typing import Final

from daitn.base.ids import DataSetId
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Training
from daitn.learning.methods.contract import Method

SHORTER_MOST: Final = 0.5
LONGER_MOST: Final = 2.0
"""Shortest and longest visit, in visits of a typical site."""
VISIT_BATCHES_LEAST: Final = 16
"""See `decision.hyperparameters`; at 2 to 5 ms a step of a small model this is still less than a hop with its check."""
VISIT_BATCHES_MOST: Final = 200


def epochs_of(
    method: Method, pinned: Hyperparameters, training: Training, typical: float, usual: float, *, alike: bool = False
) -> float:
    """Passes over its data set that a visit makes; 0: visits are as long as each other.

    `typical`: records of a typical site, for which `training.batches` is meant. `usual`: passes by the rules; a search
    that found other batches says itself how many those are. `alike`: visits have to be (privacy, environments).
    """
    if alike or method.prefers.control_variates or method.exchanges:
        return 0.0
    if pinned.epochs_per_visit is not None:
        return pinned.epochs_per_visit
    if pinned.batches_per_visit is not None or typical <= 0:
        return 0.0
    return usual if usual > 0 else training.batches * training.batch_size / typical


def batches_at(batches: int, batch_size: int, epochs: float, records: float) -> int:
    """Batches of a visit at a site of so many records; `batches` at a typical one."""
    if not epochs:
        return batches
    low = max(round(SHORTER_MOST * batches), min(batches, VISIT_BATCHES_LEAST), 1)
    high = max(batches, min(round(LONGER_MOST * batches), VISIT_BATCHES_MOST))
    return min(high, max(low, round(epochs * records / batch_size)))


def relative(length: float) -> float:
    """A length in visits of a typical site, within what the records of a site can make of it."""
    return min(LONGER_MOST, max(SHORTER_MOST, length))


def planned_batches(plan: Plan, records: float) -> int:
    """The same for a plan."""
    return batches_at(plan.training.batches, plan.training.batch_size, plan.epochs, records)


def lengths(plan: Plan, view: TrainingView) -> dict[DataSetId, int]:
    """The same for each data set of a view."""
    return {one.dataset: planned_batches(plan, one.records) for one in view.candidates}
