"""Uncertainty of a value in one byte: its standard deviation on a logarithmic scale, three steps an octave.

A deviation is itself known to a few tens of percent at best, and there is one for every number of a million terminals.
Code 0: exact. 1 to 254: 2^((code - 1) / 3 - 20), that is 1e-6 to 2e19 in the value's own unit, at most 12 % off.
255: nothing is known of it, the value included. Anything above the scale counts as its largest step.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT: Final = 0
NOT_KNOWN: Final = 255
STEPS_PER_OCTAVE: Final = 3
FIRST_OCTAVE: Final = -20

DEVIATIONS: Final[NDArray[np.float32]] = np.concatenate(
    [[0.0], 2.0 ** (np.arange(254) / STEPS_PER_OCTAVE + FIRST_OCTAVE), [math.inf]]
).astype(np.float32)
"""Standard deviation by code; infinite where nothing is known."""
DEVIATIONS.setflags(write=False)


def encode_deviations(deviations: ArrayLike) -> NDArray[np.uint8]:
    """Codes of standard deviations, shape kept: O(n). NaN, infinity: not known; below half of the first step: exact."""
    asked = np.asarray(deviations, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint((np.log2(asked) - FIRST_OCTAVE) * STEPS_PER_OCTAVE) + 1
    steps = np.where(asked < 2.0 ** (FIRST_OCTAVE - 1), EXACT, np.clip(steps, 1, 254))
    return np.where(np.isfinite(asked), steps, NOT_KNOWN).astype(np.uint8)


def encode_deviation(deviation: float) -> int:
    """The code of one standard deviation."""
    if not math.isfinite(deviation):
        return NOT_KNOWN
    if deviation < 2.0 ** (FIRST_OCTAVE - 1):
        return EXACT
    return min(254, max(1, round((math.log2(deviation) - FIRST_OCTAVE) * STEPS_PER_OCTAVE) + 1))
