"""Gaussian-process regression: a value for each row of numbers, with how uncertain it is, from rows seen before.

C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1. Rows come in
groups (the points of one run's curve) whose values deviate together, and groups are of kinds, each of which may follow
a line of its own, so the covariance of two rows is

    (linear² + [same kind] · kind²) · (1 + x·x'/D) + bend² · exp(−|x − x'|² / 2 reach²)
    + [same group] · group² + [same row] · noise²

on D numbers scaled to deviation 1. What is predicted is a row of a new group: near what was seen its spread is that of
groups and noise, far from it that of the whole prior, which is the point: it says how little it knows.

The settings are given, not fitted: few groups fit them badly, and what is learnt from a hundred must not be worse than
what is learnt from ten.

Legend: N rows seen, D numbers of one, M rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALE_LEAST: Final = 1e-3
"""Least deviation believed of a number: one that was the same in all rows tells nothing, and divides nothing by 0."""
VARIANCE_LEAST: Final = 1e-4


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Standard deviations of the parts of the covariance, in the unit of the values; `reach` in scaled numbers."""

    linear: float
    bend: float
    reach: float
    kind: float
    group: float
    noise: float


class GaussianProcess:
    """Fitted to rows `x_ND` with values `y_N`, a group and a kind each. Cost: N³ to fit, N·D + N² for each row asked
    for."""

    def __init__(
        self, x_ND: Floats, y_N: Floats, groups: Sequence[int], kinds: Sequence[str], settings: Settings
    ) -> None:
        self._settings = settings
        self._center_D = x_ND.mean(axis=0)
        self._scale_D = np.maximum(SCALE_LEAST, x_ND.std(axis=0))
        self._x_ND = (x_ND - self._center_D) / self._scale_D
        self._mean = float(y_N.mean())
        self._kind_N = np.array(kinds)
        group_N = np.asarray(groups)
        covariance_NN = self._covariance(self._x_ND, self._kind_N[:, None] == self._kind_N[None, :])
        covariance_NN += settings.group**2 * (group_N[:, None] == group_N[None, :])
        covariance_NN[np.diag_indices_from(covariance_NN)] += settings.noise**2
        self._inverse_NN: Floats = np.linalg.solve(np.linalg.cholesky(covariance_NN), np.eye(len(y_N)))
        self._weights_N: Floats = self._inverse_NN.T @ (self._inverse_NN @ (y_N - self._mean))

    def predict(self, x_MD: Floats, kind: str) -> tuple[Floats, Floats]:
        """Mean and standard deviation (M,) of the value of each row, of a group of this kind not seen before."""
        x_MD = (x_MD - self._center_D) / self._scale_D
        cross_MN = self._covariance(x_MD, (self._kind_N == kind)[None, :])
        known_NM = self._inverse_NN @ cross_MN.T
        settings = self._settings
        lines_M = 1 + (x_MD**2).mean(axis=1)
        prior_M = settings.bend**2 + (settings.linear**2 + settings.kind**2) * lines_M
        variance_M = prior_M - (known_NM**2).sum(axis=0) + settings.group**2 + settings.noise**2
        return self._mean + cross_MN @ self._weights_N, np.sqrt(np.maximum(VARIANCE_LEAST, variance_M))

    def _covariance(self, a_MD: Floats, alike_MN: NDArray[np.bool_]) -> Floats:
        """Between rows and those seen, of different groups (M, N); `alike_MN`: whether they are of one kind."""
        settings, b_ND = self._settings, self._x_ND
        products_MN: Floats = a_MD @ b_ND.T
        squares_MN = (a_MD**2).sum(axis=1)[:, None] + (b_ND**2).sum(axis=1)[None, :] - 2 * products_MN
        near_MN: Floats = np.exp(-np.maximum(0.0, squares_MN) / (2 * settings.reach**2))
        lines_MN = (settings.linear**2 + settings.kind**2 * alike_MN) * (1 + products_MN / a_MD.shape[1])
        found_MN: Floats = lines_MN + settings.bend**2 * near_MN
        return found_MN
