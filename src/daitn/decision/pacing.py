"""Pacing (HPO during a run): a run on a plateau goes on in smaller steps before it counts as stalled.

Paper II-A: verification steers training. Steps of one size carry a model to where they only sway around what smaller
ones would reach. `decision.hyperparameters` halves the rate after a model got worse and gives it back after one was
kept; this is for models that are neither: measured again and again, kept, and no better. Halfway to a stall
(`decision.stalling`), and again at three quarters of the way, the planned rate is halved, down to an eighth of the one
first planned. What brings a gain goes on at that rate, for what went too fast before would do so again.

What it does not do: raise a rate beyond what was planned. A search before the run (`decision.tuning`) finds out whether
larger ones are better, and costs no site a visit.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from daitn.decision.stalling import LOOKS_LEAST, RUN_FRAC, Standing
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Hyperparameters

MARKS: Final = (0.5, 0.75)
"""Shares of the way to a stall at which the rate is halved: each leaves a quarter of it to see whether that helps."""
FACTOR: Final = 0.5
LEAST_FRAC: Final = 1 / 8
"""Of the rate first planned: below it a visit changes less than a measurement tells."""


def after_plateau(
    plan: Plan, pinned: Hyperparameters, first_rate: float, planned_rate: float, standing: Standing
) -> tuple[Plan, str] | None:
    """The plan to go on with where models were kept for long and none was a gain; None: as it is.

    `first_rate`: the rate first planned, `planned_rate`: what it is now, unless roll backs have lowered it further;
    then it is to recover first.
    """
    rate = plan.training.learning_rate
    needed = max(LOOKS_LEAST, math.ceil(RUN_FRAC * standing.looks))
    if pinned.learning_rate is not None or rate < planned_rate or rate * FACTOR < first_rate * LEAST_FRAC:
        return None
    if standing.looks_since not in {math.ceil(share * needed) for share in MARKS}:
        return None
    training = msgspec.structs.replace(plan.training, learning_rate=rate * FACTOR)
    why = f"{standing.looks_since} measured models in a row brought no gain: learning rate {training.learning_rate:g}"
    return msgspec.structs.replace(plan, training=training), why
