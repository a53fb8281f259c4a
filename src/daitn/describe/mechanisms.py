"""The one mechanism that all private descriptions go through: integers with discrete Laplace noise, by OpenDP.

Sums are made of fixed-point integers before any noise (`describe.family`), so that the sensitivity is an exact number
and no rounding of floats can break it (Mironov, On Significance of the Least Significant Bits, CCS 2012). What is made
of the noisy integers afterwards is post-processing and free. Ghosh, Roughgarden, Sundararajan, Universally
Utility-Maximizing Privacy Mechanisms, 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from daitn.base.errors import BugError, InputError

Noise = Callable[[Sequence[int], int, float], list[int]]
"""`(integers, L1 sensitivity, epsilon) → noisy integers`."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """How one item of a release was protected. `sensitivity` is L1, for one group or record more or less."""

    epsilon: float
    sensitivity: int
    noise_std: float


def make_share(sensitivity: int, epsilon: float) -> Share:
    """What noise of this sensitivity and cost is."""
    return Share(epsilon=epsilon, sensitivity=sensitivity, noise_std=laplace_std(sensitivity / epsilon))


def opendp_laplace(counts: Sequence[int], sensitivity: int, epsilon: float) -> list[int]:
    """Integers with discrete Laplace noise of scale `sensitivity / epsilon`, by OpenDP (its own secure random source).

    BugError where OpenDP's own privacy map says that it costs more than `epsilon`.
    """
    load_opendp()
    from opendp.domains import atom_domain, vector_domain
    from opendp.measurements import make_laplace
    from opendp.metrics import l1_distance

    measurement: Any = make_laplace(
        vector_domain(atom_domain(T="i64")), l1_distance(T="i64"), scale=sensitivity / epsilon
    )
    cost = float(measurement.map(sensitivity))
    if cost > epsilon * (1 + 1e-6):
        raise BugError(f"a release meant to cost {epsilon} costs {cost}")
    return [int(value) for value in measurement(list(counts))]


def load_opendp() -> None:
    """Make the modules of OpenDP ready; InputError where it is not installed: to be known before any budget is spent.

    Not `opendp.prelude`, which loads scikit-learn where that lies beside it: 2 s and 100 MB for each site.
    """
    try:
        from opendp.mod import enable_features
    except ImportError:
        raise InputError("private statistics need the package opendp", todo="install daitn[data]") from None
    enable_features("contrib")


def laplace_std(scale: float) -> float:
    """Standard deviation of discrete Laplace noise: P(x) ∝ exp(-|x| / scale)."""
    return math.sqrt(2) * math.exp(-0.5 / scale) / -math.expm1(-1 / scale)
