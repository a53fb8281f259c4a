"""Whether a new version of a model takes the old one's place: by judged answers and by faults (II-B). Pure.

Both versions are asked at the same time, each by its share of queries, so what the world does falls on both. A new
version is *taken back* where it is worse beyond chance: less often right, or more often lost. It *takes over* where it
is not worse by `MARGIN` or more, as far as judged answers tell, and no worse in faults. Looks follow the rows of the
new version (`live_accuracy.chance_of_look`), so that looking often does not find what is not there. Where its time is
over and neither can be told, it takes over if a verification unit found it better on the same samples, and is taken
back if none did: a version that nobody judged is no better for having been there.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final, NamedTuple

from daitn.decision.live_accuracy import ROWS_LEAST, chance_of_look, wilson

MARGIN: Final = 0.03
"""Of accuracy that a new version may seem to lack and still take over: what cannot be told apart in any useful time."""

QUERIES_LEAST: Final = 30
"""Of the new version, before faults are compared."""

FAULTS_MARGIN: Final = 0.01
"""Of queries lost more often that a new version is forgiven."""


class Seen(NamedTuple):
    """What was seen of one version since both were there."""

    rows: float
    right: float
    answered: float
    lost: float


class CanaryVerdict(StrEnum):
    """What becomes of a new version."""

    WAIT = "wait"
    TAKE_OVER = "take-over"
    TAKE_BACK = "take-back"


class CanaryJudged(NamedTuple):
    """The verdict and its reason, with the figures."""

    verdict: CanaryVerdict
    why: str


def judge_canary(old: Seen, new: Seen, *, over: bool, better: str = "") -> CanaryJudged:
    """What becomes of a new version. `over`: its time is; `better`: how a verification unit found it so, if one did."""
    asked = new.answered + new.lost
    if asked >= QUERIES_LEAST:
        worse = _difference(new.lost, asked, old.lost, old.answered + old.lost, chance_of_look(asked))
        if worse[0] > FAULTS_MARGIN:
            return CanaryJudged(
                CanaryVerdict.TAKE_BACK,
                f"{new.lost:.0f} of {asked:.0f} queries were lost; of the old version {old.lost:.0f} of "
                f"{old.answered + old.lost:.0f}",
            )
    if min(new.rows, old.rows) >= ROWS_LEAST:
        low, high = _difference(new.right, new.rows, old.right, old.rows, chance_of_look(min(new.rows, old.rows)))
        told = (
            f"right in {new.right / new.rows:.1%} of {new.rows:.0f} judged rows, the old version in "
            f"{old.right / old.rows:.1%} of {old.rows:.0f}"
        )
        if high < 0:
            return CanaryJudged(CanaryVerdict.TAKE_BACK, told)
        if low > -MARGIN:
            return CanaryJudged(CanaryVerdict.TAKE_OVER, told)
        if over:
            return CanaryJudged(CanaryVerdict.TAKE_BACK, f"its time is over, and it cannot be told: {told}")
    if over and better and new.answered:
        told = f"its time is over, {min(new.rows, old.rows):.0f} rows of both were judged, too few to tell"
        return CanaryJudged(CanaryVerdict.TAKE_OVER, f"{told}; {better}")
    if over:
        told = f"its time is over, and {new.rows:.0f} rows of it and {old.rows:.0f} of the old version were judged"
        return CanaryJudged(CanaryVerdict.TAKE_BACK, f"{told}; {ROWS_LEAST} of each are needed")
    return CanaryJudged(CanaryVerdict.WAIT, "")


def _difference(one: float, of: float, other: float, others: float, chance: float) -> tuple[float, float]:
    """Where the difference of two shares lies, but for `chance`: by R. Newcombe (1998), from Wilson's intervals."""
    mine, its = wilson(of, one, chance), wilson(others, other, chance)
    if of <= 0 or others <= 0:
        return -1.0, 1.0
    difference = mine.value - its.value
    low = difference - math.sqrt((mine.value - mine.low) ** 2 + (its.high - its.value) ** 2)
    high = difference + math.sqrt((mine.high - mine.value) ** 2 + (its.value - its.low) ** 2)
    return low, high
