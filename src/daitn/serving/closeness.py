"""Whether two answers to one query are alike: of hosts of the same package, perhaps with other engines. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.descriptors.serving import NamedTensor
from daitn.serving.tensors import arrays_of

CLOSE: Final = 1e-3
"""Of the largest entry: engines and processors that add in another order differ by less."""

CLOSE_HALF: Final = 2e-2
"""The same for numbers of two bytes, which have three digits."""


def answers_alike(one: Sequence[NamedTensor], other: Sequence[NamedTensor]) -> bool:
    """Whether the outputs have the same names, types and shapes, and entries that are equal, or close where they are
    floating-point numbers. An answer that does not decode is like no other."""
    try:
        left, right = arrays_of(one), arrays_of(other)
    except InputError:
        return False
    return left.keys() == right.keys() and all(_alike(left[name], right[name]) for name in left)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    close = CLOSE_HALF if one.dtype.itemsize < 4 else CLOSE
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.abs(right[np.isfinite(right)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.isclose(left, right, rtol=close, atol=close * largest, equal_nan=True).all())
