"""The law by which bytes are spread over facts: where a byte saves the most decision error.

Paper V-A, data overhead and synchronisation. Each fact is told when it has moved by a threshold δ. What that costs: a
fact that wanders by σ² per second takes δ²/σ² in the mean to leave ±δ, so c·σ²/δ² bytes per second (Åström &
Bernhardsson: Comparison of Riemann and Lebesgue sampling for first order stochastic systems, CDC 2002); no less than
its jumps, which are told one by one however fine the threshold is. What it loses: while it is not told, its error lies
within ±δ with a triangular density. A decision stands as long as the error is below the margin m (the distance to the
edge of the range that the decision came with), and costs s for each unit beyond it, so the expected loss is

    s · ∫ (e − m)₊ (δ − e) / δ² de = s · (δ − m)³ / (3 δ²)  for δ > m, else nothing

summed over the margins of recent decisions. Least loss under a budget is a resource allocation: with a level λ, each
fact takes the threshold with the least loss + λ · bytes, so that the last byte of each saves the same error; the level
at which the budget is used up is found by bisection (water-filling; Everett 1963 for why this is best for the bytes it
takes, convex or not). Thresholds come in steps (`descriptors.reporting`), so each fact chooses from a row.

Thresholds at the source under a budget go back to Olston, Jiang & Widom (Adaptive filters for continuous queries over
distributed data streams, SIGMOD 2003), margins of decisions to Babcock & Olston (Distributed top-k monitoring, SIGMOD
2003). We differ: the two are one law here, where margins weigh what a byte is worth instead of being constraints, so
that it also says what to give up when the budget does not reach.

Where the model is wrong, the law still orders facts rightly; the budget itself is kept by the token bucket at each
source (`describe.reporting`), whatever the model says.

Legend: F facts (each of one group of one thing), K thresholds to choose from, M margins of each.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError

LEAST_LEVEL: Final = -12.0
MOST_LEVEL: Final = 8.0
"""Logarithms of the level, with the largest loss and the most bytes as units: bisected in between, 35 times."""

Floats = NDArray[np.float64]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What the law gives."""

    chosen_F: NDArray[np.intp]
    """Which of its thresholds each fact takes."""
    bytes_per_s: float
    """What that is expected to cost: at most the budget, unless all are at their cheapest."""
    loss: float
    """The decision error that remains."""
    level: float
    """Decision error that one more byte per second would save."""


def expected_loss(moves_FK: Floats, margins_FM: Floats, slopes_FM: Floats) -> Floats:
    """Decision error of each threshold, the sum over a fact's margins: (F, K). O(F · K · M).

    `margins_FM`: distances to the edges of ranges, not negative, infinite where there is none; `slopes_FM`: what each
    unit beyond costs.
    """
    moves = moves_FK[:, :, None]
    beyond = np.maximum(0.0, moves - margins_FM[:, None, :])
    return np.asarray((slopes_FM[:, None, :] * beyond**3 / (3.0 * moves**2)).sum(axis=2))


def expected_bytes(moves_FK: Floats, wander_F: Floats, jumps_F: Floats, bytes_F: Floats, gap_least_s: float) -> Floats:
    """Bytes per second of each threshold: (F, K). `wander_F`: squared units per second; `jumps_F`: what a fact moves at
    once; `bytes_F`: of one telling; none is told more often than every `gap_least_s`."""
    passed = np.maximum(moves_FK, jumps_F[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        per_s = np.where(wander_F[:, None] > 0, wander_F[:, None] / passed**2, 0.0)
    return np.asarray(bytes_F[:, None] * np.minimum(per_s, 1.0 / gap_least_s))


def spread_budget(loss_FK: Floats, bytes_FK: Floats, budget_bytes_per_s: float) -> Spread:
    """The thresholds that lose least for a budget. BugError where a value is negative or not a number.

    O(F · K) for each of 35 bisections, vectorised.
    """
    for name, array in (("loss", loss_FK), ("bytes", bytes_FK)):
        if np.any(np.isnan(array)) or np.any(array < 0):
            raise BugError(f"the {name} of thresholds must be numbers and not negative")
    rows = np.arange(len(loss_FK))
    if not len(rows):
        return Spread(chosen_F=np.empty(0, np.intp), bytes_per_s=0.0, loss=0.0, level=0.0)
    most_loss, most_bytes = float(loss_FK.max()) or 1.0, float(bytes_FK.max()) or 1.0
    scaled_loss, scaled_bytes = loss_FK / most_loss, bytes_FK / most_bytes

    def at(log_level: float) -> NDArray[np.intp]:
        return np.asarray(np.argmin(scaled_loss + 10.0**log_level * scaled_bytes, axis=1))

    def cost(chosen: NDArray[np.intp]) -> float:
        return float(bytes_FK[rows, chosen].sum())

    low, high = LEAST_LEVEL, MOST_LEVEL
    if cost(at(low)) <= budget_bytes_per_s:
        high = low
    elif cost(at(high)) > budget_bytes_per_s:
        low = high
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) > budget_bytes_per_s else (low, middle)
    chosen = at(high)
    return Spread(
        chosen_F=chosen,
        bytes_per_s=cost(chosen),
        loss=float(loss_FK[rows, chosen].sum()),
        level=10.0**high * most_loss / most_bytes,
    )
