"""Clearing: a run that gains nothing is tried without some of its data sets, to see whether one of them spoils it.

A visit that makes a model worse is found by comparing it with the model before (`decision.keeping.find_culprit`).
That says nothing of a model that has learnt nothing yet: who spoils it from the first visit on leaves it no worse
than it was, and what others teach it afterwards is lost again, or never takes. Nor of harm that the next visits make
good within the tolerance. What both have in common is that the run gains nothing, although its data sets are visited
again and again. Then the run itself is the test: from the model that the last gain came from, which therefore can
still learn, without half of the suspects, and without the other half. If it gains without some, these stay aside; the
harm of one that comes back later shows, because now there is something to lose.

After group testing (Dorfman, 1943), with halves that are halved again. What it does not do: tell a harmful data set
from one that is merely of no use alone, which is why nothing is barred; find several that spoil it in every part
tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from daitn.base.ids import DataSetId
from daitn.decision.stalling import Standing

FIRST_LOOKS: Final = 4
"""Measured models without any gain since the beginning before suspects are set aside; the first visits teach most."""

TRY_LOOKS: Final = 4
"""Measured models that each part gets to show a gain: as many as the whole had."""

TRIES_MOST: Final = 8
"""Parts tried where nothing was ever gained: halves, quarters, and some eighths; of two data sets, each."""

STALLED_TRIES_MOST: Final = 2
"""Parts tried where a run that had gained stalls, as most end: the two halves, eight measurements at most."""

SERIES_MOST: Final = 4
"""Times in a job that parts are tried, so that one that gains a little each time ends all the same."""


def never_gains(standing: Standing, *, gained: bool) -> bool:
    """Whether a run has not gained since its beginning, for long enough to ask why."""
    return not gained and standing.looks_since >= FIRST_LOOKS


def tries(suspects: Sequence[DataSetId], *, others: bool, most: int) -> tuple[tuple[DataSetId, ...], ...]:
    """Which of the suspects to set aside, one try after the other, `most` at most.

    `suspects`: most trusted first, so that the part with the more trusted ones is tried first; `others`: whether there
    are data sets beside them, so that all suspects may be aside at once. None where that leaves nobody.
    """
    found: list[tuple[DataSetId, ...]] = [tuple(suspects)] if others and suspects else []
    parts = [tuple(suspects)]
    while parts and len(found) < most:
        halves = [half for part in parts if len(part) > 1 for half in _halves(part)]
        found += [tuple(one for one in suspects if one not in half) for half in halves]
        parts = halves
    return tuple(found[:most])


def _halves(part: tuple[DataSetId, ...]) -> tuple[tuple[DataSetId, ...], tuple[DataSetId, ...]]:
    middle = (len(part) + 1) // 2
    return part[:middle], part[middle:]
