"""Keep or roll back: whether a measured model replaces the best one so far (paper: MPVU steers and protects)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from daitn.descriptors.request import Target
from daitn.descriptors.work import Measurement

TOLERANCE: Final = 0.15
"""A model may be this much worse in its mean shortfall and still be kept: sequential training sways between visits,
and rolling every sway back would hold it where it is (measured over six seeds: with 0.05 four of six runs on digits
missed their goal, with 0.15 none). A visit that breaks or poisons a model costs far more than that."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a measured model."""

    keep: bool
    best: bool
    """At least as good as any before, or the first to reach all targets (a near miss may have the larger margins)."""
    met: bool
    """All targets reached, by point estimate."""
    score: float
    why: str


def measurement_of(target: Target, measurements: Sequence[Measurement]) -> Measurement | None:
    """The figure a target speaks of."""
    return next((one for one in measurements if one.name == target.name), None)


def meets(targets: Sequence[Target], measurements: Sequence[Measurement]) -> bool:
    """Whether every target was measured and reached, by point estimate."""
    return all((found := measurement_of(t, measurements)) is not None and t.met_by(found.value) for t in targets)


def score(targets: Sequence[Target], measurements: Sequence[Measurement]) -> float:
    """How good a model is for these targets: minus the mean shortfall, plus a thousandth of the mean margin, so that
    among models that reach all targets the better is told apart. Unmeasured or NaN counts as a shortfall of 1."""
    shortfall, margin = 0.0, 0.0
    for target in targets:
        found = measurement_of(target, measurements)
        if found is None or math.isnan(found.value):
            shortfall += 1.0
            continue
        shortfall += target.shortfall(found.value)
        difference = found.value - target.value if target.sense == ">=" else target.value - found.value
        margin += math.tanh(difference / target.scale)
    return -shortfall / len(targets) + 1e-3 * margin / len(targets)


def is_broken(measurements: Sequence[Measurement]) -> bool:
    """Whether a model cannot be measured, or measures as no number."""
    return not measurements or any(not math.isfinite(one.value) for one in measurements if one.records > 0)


def find_culprit(
    targets: Sequence[Target], before: Sequence[Measurement], after: Sequence[Sequence[Measurement] | None]
) -> int | None:
    """Which of the models made one after another from the one measured `before` is to blame for the last, which is
    worse by more than the tolerance; None while one that has to be measured first (None in `after`) was not.

    The first that is broken or worse than the one before it by more than the tolerance; where each is worse by less,
    the one that is worse by most.
    """
    old = score(targets, before)
    falls: list[float] = []
    for place, one in enumerate(after):
        if one is None:
            return None
        new = score(targets, one)
        if is_broken(one) or old - new > TOLERANCE:
            return place
        falls.append(old - new)
        old = new
    return max(range(len(falls)), key=falls.__getitem__)


def judge_model(
    targets: Sequence[Target], before: Sequence[Measurement], best_score: float, after: Sequence[Measurement]
) -> Judgement:
    """Keep the new model unless it is worse than the last kept one (`before`) by more than the tolerance."""
    new, old = score(targets, after), score(targets, before)
    broken = any(math.isnan(one.value) or math.isinf(one.value) for one in after if one.records > 0)
    met = not broken and meets(targets, after)
    keep = not broken and (met or new >= old - TOLERANCE)
    if broken:
        why = "a measurement is not a number"
    elif met:
        why = "all targets are reached"
    elif keep:
        why = f"score {new:+.3f}, was {old:+.3f}"
    else:
        why = f"score fell from {old:+.3f} to {new:+.3f}, more than the tolerance of {TOLERANCE}"
    return Judgement(keep=keep, best=keep and (met or new >= best_score), met=met, score=new, why=why)
