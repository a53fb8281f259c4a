"""95 % confidence intervals for figures on a finite test set, with records of one group counted as dependent.

Proportions use Wilson's score interval (E. B. Wilson, JASA 22, 1927), which keeps inside 0…1 and holds at 0 and 1.
Means use the normal interval. Ratios of counts (f1, precision, auc …) use the percentile bootstrap (B. Efron, Annals
of Statistics 7, 1979) with a fixed seed, so that the same figures give the same interval everywhere.

Where records carry a group (patient, document), they are not independent: the variance is that of the ratio estimator
over groups (W. Cochran, Sampling Techniques, 1977, 6.3), Wilson's interval is computed for the number of independent
records that would have this variance, and the bootstrap draws whole groups.

Legend: N records, G groups, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Z95: Final = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

BOOTSTRAP_SEED: Final = 20_260
MOST_RESAMPLES: Final = 1000
FEWEST_RESAMPLES: Final = 200
RESAMPLE_WORK: Final = 20_000_000
"""R × N at most, above the fewest resamples: about a second per figure on one core."""
RESAMPLE_CHUNK: Final = 2_000_000
"""R × N held in memory at once: 16 MB of weights."""

Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


class Estimate(NamedTuple):
    """A figure, its interval, and on how many records."""

    value: float
    low: float
    high: float
    records: int


NOTHING: Final = Estimate(math.nan, math.nan, math.nan, 0)
"""What is known where there are no records."""


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's interval for a share seen in `count` (possibly effective, so fractional) independent records."""
    if count <= 0:
        return 0.0, 1.0
    square = Z95 * Z95
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return 0.0 if share <= 0 else max(0.0, middle - half), 1.0 if share >= 1 else min(1.0, middle + half)


def effective_count(values: Floats, weights: Floats, groups: Groups) -> float:
    """How many independent records would give the mean of a 0/1 variable the variance it has over groups.

    Without variance (all 0 or all 1) the groups' sizes decide as if records of a group were copies: (Σn)² / Σn².
    """
    total = float(weights.sum())
    if groups is None or total <= 0:
        return total
    sizes = np.bincount(groups, weights=weights)
    sizes_used = sizes[sizes > 0]
    count = len(sizes_used)
    share = float((values * weights).sum() / total)
    floor = total * total / float((sizes_used**2).sum())
    if count < 2 or share <= 0 or share >= 1:
        return floor
    sums = np.bincount(groups, weights=values * weights)
    variance = count / (count - 1) * float(((sums - share * sizes) ** 2).sum()) / (total * total)
    if variance <= 0:
        return floor
    return min(total, share * (1 - share) / variance)


def proportion(hits: NDArray[np.bool_] | Floats, groups: Groups = None, weights: Floats | None = None) -> Estimate:
    """Share of hits with Wilson's interval. `weights`: trials behind each record (tokens), hits then being shares."""
    values = np.asarray(hits, dtype=np.float64)
    trials = np.ones(len(values)) if weights is None else weights
    total = float(trials.sum())
    if total <= 0:
        return NOTHING
    share = min(1.0, max(0.0, float((values * trials).sum() / total)))
    low, high = wilson(share, effective_count(values, trials, groups))
    return Estimate(share, low, high, int((trials > 0).sum()))


def mean(values: Floats, groups: Groups = None, weights: Floats | None = None) -> Estimate:
    """Mean with a normal interval; with weights Σwx/Σw, its variance over groups as a ratio estimator's."""
    values = np.asarray(values, dtype=np.float64)
    sizes = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = float(sizes.sum())
    if total <= 0:
        return NOTHING
    used = sizes > 0
    sums = np.where(used, values * sizes, 0.0)
    middle = float(sums.sum() / total)
    if groups is not None:
        sums = np.asarray(np.bincount(groups, weights=sums), dtype=np.float64)
        sizes = np.asarray(np.bincount(groups, weights=sizes), dtype=np.float64)
    residuals = (sums - middle * sizes)[sizes > 0]
    count = len(residuals)
    if count < 2:
        return Estimate(middle, -math.inf, math.inf, int(used.sum()))
    half = Z95 * math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total
    return Estimate(middle, middle - half, middle + half, int(used.sum()))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent figures, each counting the same; NOTHING where one of them has no records.

    The halves of the intervals are added in quadrature, below and above apart, since Wilson's are not symmetric
    (MOVER: G. Zou, A. Donner, Statistics in Medicine 27, 2008).
    """
    if not estimates or any(one.records == 0 for one in estimates):
        return NOTHING
    count = len(estimates)
    value = sum(one.value for one in estimates) / count
    below = math.sqrt(sum((one.value - one.low) ** 2 for one in estimates)) / count
    above = math.sqrt(sum((one.high - one.value) ** 2 for one in estimates)) / count
    return Estimate(value, value - below, value + above, sum(one.records for one in estimates))


def resample_weights(count: int, resamples: int, groups: Groups, rng: np.random.Generator) -> Floats:
    """How often each of `count` records was drawn, float64 (resamples, N); whole groups are drawn together."""
    units = count if groups is None else int(groups.max()) + 1
    drawn = rng.integers(0, units, size=(resamples, units))
    drawn += np.arange(resamples)[:, None] * units
    counts = np.bincount(drawn.reshape(-1), minlength=resamples * units).reshape(resamples, units)
    return (counts if groups is None else counts[:, groups]).astype(np.float64)


def bootstrap(
    statistic: Callable[[Floats], Floats],
    count: int,
    groups: Groups = None,
    *,
    cost: int = 1,
    records: int | None = None,
) -> Estimate:
    """Percentile bootstrap of `statistic`, which maps weights (R, N) to figures (R,), NaN where undefined.

    Args:
        statistic: vectorised over resamples; called once with all weights 1 for the value itself.
        count: N.
        groups: numbers of the groups, drawn as a whole.
        cost: how many passes over the records the statistic makes, to bound the work.
        records: what to report as the number of records, if not N.
    """
    if count == 0:
        return NOTHING
    value = float(statistic(np.ones((1, count)))[0])
    if math.isnan(value):
        return NOTHING
    if groups is not None:
        groups = np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)
    resamples = max(FEWEST_RESAMPLES, min(MOST_RESAMPLES, RESAMPLE_WORK // (count * cost)))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    step = max(1, RESAMPLE_CHUNK // count)
    figures = np.concatenate(
        [
            statistic(resample_weights(count, min(step, resamples - start), groups, rng))
            for start in range(0, resamples, step)
        ]
    )
    figures = figures[~np.isnan(figures)]
    low, high = (value, value) if len(figures) == 0 else np.quantile(figures, (0.025, 0.975))
    return Estimate(value, min(float(low), value), max(float(high), value), count if records is None else records)
