"""How answers become one: means, votes, weights, and how sure an answer is. Pure.

Legend: B branches, R rows, C entries of a row (classes, or any numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError

Floats = NDArray[np.float64]

ODDS_MOST: Final = 0.999
"""Accuracy beyond which nothing is believed: an infinite weight would silence everybody else."""

SUM_TOLERANCE: Final = 1e-3

SHARE_LEAST: Final = 1e-30
"""Of which a logarithm is taken where a share is none."""


def odds_weights(accuracies: Sequence[float | None]) -> Floats:
    """(B,) weights that sum to one, by the odds of being right; of which nothing was measured, as the least of the
    others. The best weights for independent voters of these accuracies (Nitzan and Paroush 1982)."""
    known = [one for one in accuracies if one is not None]
    least = min(known, default=0.5)
    weights = []
    for accuracy in accuracies:
        value = min(ODDS_MOST, max(1 - ODDS_MOST, least if accuracy is None else accuracy))
        weights.append(max(0.0, math.log(value / (1 - value))))
    total = sum(weights)
    return np.array(weights) / total if total > 0 else np.full(len(weights), 1 / len(weights))


def join_mean(answers: Sequence[NDArray[Any]], weights: Floats) -> NDArray[Any]:
    """The weighted mean of arrays of one shape, in their type. InputError where shapes differ."""
    _check_shapes(answers)
    mean = sum(weight * answer.astype(np.float64) for weight, answer in zip(weights, answers, strict=True))
    kind = answers[0].dtype if answers[0].dtype.kind == "f" else np.dtype(np.float32)
    joined: NDArray[Any] = np.asarray(mean).astype(kind)
    return joined


def join_votes(answers: Sequence[NDArray[Any]], weights: Floats) -> NDArray[np.float32]:
    """(R, C) shares of the votes: each branch gives its weight to a row's largest entry. InputError where shapes
    differ, or are not (R, C)."""
    _check_shapes(answers)
    if answers[0].ndim != 2:
        raise InputError(f"votes need an output of rows and entries, it has the shape {list(answers[0].shape)}")
    shares = np.zeros(answers[0].shape, np.float64)
    rows = np.arange(answers[0].shape[0])
    for weight, answer in zip(weights, answers, strict=True):
        shares[rows, answer.argmax(axis=1)] += weight
    found: NDArray[np.float32] = (shares / weights.sum()).astype(np.float32)
    return found


def sureness(answer: NDArray[Any], temperature: float = 1.0, threshold: float = 0.5) -> Floats:
    """(R,) how sure each row is: its largest share; softmax first where rows do not sum to one. `temperature` and
    `threshold`: as `calibrated`. InputError for an output that has not entries for each row."""
    sure: Floats = calibrated(answer, temperature, threshold).max(axis=1)
    return sure


def calibrated(answer: NDArray[Any], temperature: float = 1.0, threshold: float = 0.5) -> Floats:
    """(R, C) shares as judged answers have them: scores divided by `temperature`; of two classes the second has the
    larger share exactly where it had `threshold` or more. InputError as `shares_of`."""
    shares = shares_of(answer)
    if temperature == 1.0 and (threshold == 0.5 or shares.shape[1] != 2):
        return shares
    scores = np.log(np.maximum(shares, SHARE_LEAST))
    if shares.shape[1] == 2:
        scores[:, 1] -= math.log(threshold / (1 - threshold))
    return shares_of(scores / temperature)


def shares_of(answer: NDArray[Any]) -> Floats:
    """(R, C) shares of each row: as they are where rows sum to one, else by softmax. InputError as `sureness`."""
    if answer.ndim != 2 or answer.shape[1] < 2 or answer.dtype.kind not in "f":
        raise InputError(f"how sure an answer is, is told by shares of each row; it has the shape {list(answer.shape)}")
    values: Floats = answer.astype(np.float64)
    if (values < 0).any() or (np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
    return values


def _check_shapes(answers: Sequence[NDArray[Any]]) -> None:
    shapes = {answer.shape for answer in answers}
    if len(shapes) != 1:
        raise InputError(f"answers of shapes {', '.join(map(str, sorted(shapes)))} cannot be joined")
