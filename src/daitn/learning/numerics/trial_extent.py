"""How much of a trial fits the seconds it may take: ways round, shares of the sample, and steps of each training.

Seconds for one step and for one measurement are measured on the spot, so a slow model or a busy machine makes a shorter
trial and not none. Given up in this order: the other way round (its figures only narrow the interval), the point at a
quarter, and last steps. A small encoder from nothing on the text of nine institutes was predicted alike with and
without the quarter, within 3 points, but with 60 steps 30 points lower on one field than with 240. Every training of a
trial has the same number of steps: with more for one share, the gain of steps would pass for one of records.
"""

from __future__ import annotations

from typing import Final, NamedTuple

STEPS_MOST: Final = 240
"""Steps of each training: about eight visits of a small model, after which most runs here had met their goals."""
STEPS_ENOUGH: Final = 120
"""With fewer than this, half of the most, a form that takes less time is tried; a verdict says that time was short."""
STEPS_LEAST: Final = 60
"""Steps below which nothing is said rather than something that is far too low."""
TURN_STEPS: Final = 4
"""Steps of one turn, where data sets take turns; a training has whole turns."""
PLANNED_FRAC: Final = 0.7
"""Share of the seconds that is planned with: the rest is for a machine that gets busier meanwhile. The least form, of
one training, is planned with all of them, since that training can be cut short."""

TICK_S: Final = 1e-7
"""Seconds a step takes at least, whatever a coarse clock says."""


class Extent(NamedTuple):
    """A trial: how many ways round, which shares of the learning fold (the whole first), and steps of each training."""

    ways: int
    shares: tuple[float, ...]
    steps: int


_WHOLE_AND_HALF: Final = (1.0, 0.5)
_WHOLE: Final = (1.0,)


def fit_to_seconds(left_s: float, step_s: float, measure_s: float) -> Extent | None:
    """The fullest trial that fits; None where not even the least does.

    `left_s`: seconds left after the untrained model was measured one way round; `step_s`: one training step;
    `measure_s`: one measurement of one way round.
    """
    forms: tuple[tuple[int, tuple[float, ...], float, int], ...] = (
        (2, _WHOLE_AND_HALF, PLANNED_FRAC, STEPS_ENOUGH),
        (1, _WHOLE_AND_HALF, PLANNED_FRAC, STEPS_ENOUGH),
        (1, _WHOLE, 1.0, STEPS_LEAST),
    )
    for ways, shares, planned_frac, least in forms:
        steps = _steps(planned_frac * left_s, step_s, measure_s, ways, shares)
        if steps >= least:
            return Extent(ways, shares, steps)
    return None


def _steps(planned_s: float, step_s: float, measure_s: float, ways: int, shares: tuple[float, ...]) -> int:
    """Steps of each training of this form, whole turns; 0 where its measurements alone take too long."""
    trainings = ways * len(shares)
    measurements = trainings + ways - 1  # untrained, the other way round
    free_s = planned_s - measurements * measure_s
    steps = min(float(STEPS_MOST), max(0.0, free_s) / (trainings * max(TICK_S, step_s)))
    return int(steps // TURN_STEPS) * TURN_STEPS
