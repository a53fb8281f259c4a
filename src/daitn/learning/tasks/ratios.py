"""Figures of a classifier that are ratios of counts, written for weighted records so that a bootstrap can resample.

Every function takes weights (R, N) and gives figures (R,), NaN where undefined; weights of 1 give the figure itself.
Definitions are scikit-learn's: recall averaged over the classes that occur, f1 averaged over the classes that occur or
are predicted, auc as the probability that a positive scores above a negative (ties count half), for more than two
labels one against the rest, averaged over the labels that occur.

Legend: N records, R resamples, C labels, T distinct scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def _count(labels: Labels, weights_RN: Floats, classes: int) -> Floats:
    """Weight per label and resample: (R, C)."""
    resamples = len(weights_RN)
    cells = labels[None, :] + np.arange(resamples)[:, None] * classes
    counts = np.bincount(cells.reshape(-1), weights=weights_RN.reshape(-1), minlength=resamples * classes)
    return np.asarray(counts, dtype=np.float64).reshape(resamples, classes)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where bottom is 0."""
    result = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def _mean_defined(values_RC: Floats) -> Floats:
    """Mean over the defined entries of each row, NaN where there is none."""
    defined = ~np.isnan(values_RC)
    return _ratio(np.where(defined, values_RC, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))


def compact(truth: Labels, predicted: Labels) -> tuple[Labels, Labels, int]:
    """Relabel to 0 … C-1 over the labels that occur on either side, so that a large vocabulary costs nothing."""
    kinds, inverse = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    inverse = inverse.reshape(-1).astype(np.int64)
    return inverse[: len(truth)], inverse[len(truth) :], len(kinds)


def balanced_accuracy(truth: Labels, predicted: Labels, weights_RN: Floats) -> Floats:
    """Mean recall over the labels that occur."""
    truth, predicted, classes = compact(truth, predicted)
    hits = _count(truth, weights_RN * (truth == predicted), classes)
    return _mean_defined(_ratio(hits, _count(truth, weights_RN, classes)))


def macro_f1(truth: Labels, predicted: Labels, weights_RN: Floats) -> Floats:
    """Mean over labels that occur or are predicted of 2·hits / (occurrences + predictions)."""
    truth, predicted, classes = compact(truth, predicted)
    hits = _count(truth, weights_RN * (truth == predicted), classes)
    seen = _count(truth, weights_RN, classes) + _count(predicted, weights_RN, classes)
    return _mean_defined(_ratio(2 * hits, seen))


def precision(truth: Labels, predicted: Labels, label: int, weights_RN: Floats) -> Floats:
    """Share of records predicted as `label` that are."""
    chosen = (predicted == label).astype(np.float64)
    return _ratio(weights_RN @ (chosen * (truth == label)), weights_RN @ chosen)


def area(positive: NDArray[np.bool_], scores: Floats, weights_RN: Floats) -> Floats:
    """Area under the receiver operating characteristic of one score."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    weights = weights_RN[:, order]
    yes_RT = np.add.reduceat(weights * positive[order], starts, axis=1)
    no_RT = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    below_RT = np.cumsum(no_RT, axis=1) - no_RT
    return _ratio((yes_RT * (below_RT + 0.5 * no_RT)).sum(axis=1), yes_RT.sum(axis=1) * no_RT.sum(axis=1))


def macro_auc(truth: Labels, scores_NC: Floats, weights_RN: Floats) -> Floats:
    """Two labels: the area of the second; more: the mean area of each label that occurs against the rest."""
    if scores_NC.shape[1] == 2:
        return area(truth == 1, scores_NC[:, 1], weights_RN)
    areas = [area(truth == label, scores_NC[:, label], weights_RN) for label in np.unique(truth)]
    return _mean_defined(np.stack(areas, axis=1))


def r_squared(truth: Floats, predicted: Floats, weights_RN: Floats) -> Floats:
    """1 - residual sum of squares / total sum of squares."""
    total = weights_RN.sum(axis=1)
    middle = _ratio(weights_RN @ truth, total)
    spread = (weights_RN * (truth[None, :] - middle[:, None]) ** 2).sum(axis=1)
    return 1.0 - _ratio(weights_RN @ (truth - predicted) ** 2, spread)
