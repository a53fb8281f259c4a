"""Stalling: whether a run has got as far as it will, so that going on to the deadline would only keep sites busy.

Paper III: a model returns when its goal is reached or cannot be. A run has stalled when many measured models in a row
brought no gain beyond noise, although every data set was visited again and again meanwhile, and the plan is as first
made, so that there is no lowered rate to return to and no data set to come back. Learning curves flatten: what took
ten visits before takes twenty later. So nothing is gained *for half of the run* before it counts, however long that is.

A gain is measured against the last one, not against the model before, so that many small steps add up to one.

What it does not do: lower the rate by itself, or say why. An owner who has reasons to go on says so in the request
(`Request.until_deadline`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from daitn.base.ids import DataSetId
from daitn.decision.attainability import Z95
from daitn.decision.keeping import measurement_of
from daitn.descriptors.request import Hyperparameters, Target
from daitn.descriptors.work import Measurement, Training

LOOKS_LEAST: Final = 12
"""Measured models in a row without a gain: with fewer, a sway of sequential training looks like the end of it."""
PASSES_LEAST: Final = 3
"""Visits of every data set since the last gain."""
RUN_FRAC: Final = 0.5
"""Share of all models measured so far that must have come since the last gain."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands. `looks`: measured models in all; `looks_since`: since the last gain; `visits_since`: accepted
    training visits of each data set since then."""

    looks: int
    looks_since: int
    visits_since: Mapping[DataSetId, int]

    @property
    def long_without(self) -> bool:
        """Whether enough models in a row were no gain: the first thing to ask, since it needs no view."""
        return self.looks_since >= max(LOOKS_LEAST, math.ceil(RUN_FRAC * self.looks))


def noise(targets: Sequence[Target], measurements: Sequence[Measurement]) -> float:
    """Standard error of a score (`decision.keeping.score`): of the mean shortfall of the targets that are not met.

    As if targets were measured on different records and models, too; in truth models are compared on the same ones, so
    less than this may be a gain already, and a rule that waits for more waits long enough.
    """
    found = [(target, measurement_of(target, measurements)) for target in targets]
    errors = [
        (one.high - one.low) / (2 * Z95 * target.scale)
        for target, one in found
        if one is not None and not target.met_by(one.value)
    ]
    return math.sqrt(sum(error**2 for error in errors if math.isfinite(error))) / len(targets)


def stalled(
    standing: Standing, datasets: Sequence[DataSetId], training: Training, pinned: Hyperparameters, planned_rate: float
) -> str:
    """Why a run has stalled; empty while it has not. `datasets`: those that can be visited now; `training`: as the next
    visit would have it; `planned_rate`: the
    learning rate first planned."""
    if not standing.long_without:
        return ""
    if pinned.learning_rate is None and training.learning_rate < planned_rate:
        return ""
    passes = min((standing.visits_since.get(name, 0) for name in datasets), default=0)
    if passes < PASSES_LEAST:
        return ""
    return (
        f"{standing.looks_since} measured models in a row, over at least {passes} visits of each of {len(datasets)} "
        "data sets, brought no gain beyond noise: more of the same does not help here"
    )
