"""What judged answers say of a model: its accuracy, whether it fell, which temperature and threshold would fit (II-B).

Pure. Intervals are Wilson's (1927), which hold for few rows and shares near one. Whether accuracy *fell* is asked again
and again as rows come; so the interval widens with the number of looks, of which there is one each time that the rows
have grown by half: the chance that a model which did not fall is ever said to have is `CHANCE` at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from daitn.descriptors.live import TEMPERATURES, THRESHOLDS

CHANCE: Final = 0.01
"""That a model is said to have fallen, or to be worse than another, and is not: over all looks together."""

ROWS_LEAST: Final = 30
"""Judged rows before anything is said."""

GROWTH: Final = 1.5
"""Between two looks."""

GAIN_LEAST: Final = 0.01
"""Nats a row that another temperature must gain: less is not worth changing what callers see."""

DECIDED: Final = 0.5
"""The threshold that scores themselves have: the class with the larger share is told."""

_NORMAL: Final = NormalDist()


class Interval(NamedTuple):
    """A share and where it lies."""

    value: float
    low: float
    high: float


def wilson(rows: float, right: float, chance: float = 0.05) -> Interval:
    """The share of `right` among `rows`, in an interval that misses it with `chance`; anything where there are none."""
    if rows <= 0:
        return Interval(0.5, 0.0, 1.0)
    share = min(1.0, max(0.0, right / rows))
    z = _NORMAL.inv_cdf(1 - chance / 2)
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def chance_of_look(rows: float) -> float:
    """What one look may err by, after so many rows: looks are one for each growth by `GROWTH`, and all of them together
    err by `CHANCE`."""
    look = max(1, 1 + math.floor(math.log(max(rows, ROWS_LEAST) / ROWS_LEAST, GROWTH) + 1e-9))
    return CHANCE / (look * (look + 1))


def fell(rows: float, right: float, measured: float | None) -> bool:
    """Whether accuracy is below what was measured, beyond chance."""
    return measured is not None and rows >= ROWS_LEAST and wilson(rows, right, chance_of_look(rows)).high < measured


def fitting_temperature(rows: float, surprise: Sequence[float], now: float = 1.0) -> float:
    """The temperature of `TEMPERATURES` at which right answers surprise least; `now`, one of them too, where that gains
    too little over it, or too few rows were judged."""
    if rows < ROWS_LEAST or len(surprise) != len(TEMPERATURES):
        return now
    best = min(range(len(TEMPERATURES)), key=lambda place: surprise[place])
    gain = (surprise[TEMPERATURES.index(now)] - surprise[best]) / rows
    return TEMPERATURES[best] if gain >= GAIN_LEAST else now


def fitting_threshold(shared: Sequence[float], now: float = DECIDED) -> float:
    """The share of `THRESHOLDS` from which the second of two classes is right most often to tell; `now`, one of them
    too, where no other is better beyond chance.

    `shared`: rows as `descriptors.live.FieldOutcomes` counts them. Two thresholds differ in rows between them alone,
    so these are judged (the sign test, as McNemar's of 1947); the chance of a look is parted among all thresholds.
    """
    parts = len(THRESHOLDS) + 1
    if len(shared) != 2 * parts or sum(shared) < ROWS_LEAST:
        return now
    first, second = shared[:parts], shared[parts:]
    at = THRESHOLDS.index(now) + 1

    def differing(place: int) -> tuple[float, float]:
        """Rows between `now` and a threshold, and how many of them that one tells rightly."""
        between = slice(min(at, place), max(at, place))
        gained = first[between] if place > at else second[between]
        return sum(first[between]) + sum(second[between]), sum(gained)

    found = {place: differing(place) for place in range(1, parts) if place != at}
    best = max(found, key=lambda place: (2 * found[place][1] - found[place][0], -abs(place - at)))
    rows, better = found[best]
    if rows < 1 or wilson(rows, better, chance_of_look(sum(shared)) / len(found)).low <= DECIDED:
        return now
    return THRESHOLDS[best - 1]
