"""When a synchronous round goes on without those that are late, and what is asked of who was late before.

A round lasts as long as its slowest site, so one slow site makes all of them wait (a *straggler*). Nobody is asked for
a time to wait: the bound is taken from what the members of the round were seen to take, each from its order to its
accepted result,

    bound = median + DEVIATIONS · max(1.4826 · MAD, SPREAD_FRAC · median, SPREAD_S)

where MAD, the median absolute deviation, is not moved by a few that are far off, and 1.4826 makes it the standard
deviation of a normal law. A quorum must have handed in first: a round that lost half of its sites to haste would teach
what few know. A site that is known to be slower than the bound is asked for a shorter visit instead, so that its
records are learnt from all the same (FedProx's partial work, T. Li et al., MLSys 2020), and for longer ones again as
it gets faster.

Pure. Cost: O(members · log members).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import msgspec

from daitn.base.ids import DataSetId
from daitn.descriptors.plan import Stop

QUORUM_FRAC: Final = 2 / 3
"""Share of a round's members that must have handed in before others are cut: as with masked rounds, where more than two
thirds have to be left."""
DEVIATIONS: Final = 3.0
"""A site within three deviations is one of many; beyond it something holds it up."""
NORMAL: Final = 1.4826
SPREAD_FRAC: Final = 0.2
"""Members that are alike to the millisecond are still not cut for being half as long again as the median."""
SPREAD_S: Final = 0.5
"""Least deviation: a message, a fetch or a new child may take this much of any visit."""
PACE: Final = 0.8
"""Share of the bound that a shortened visit is to fill."""
LENGTH_LEAST: Final = 0.1
"""Shortest visit, in visits of the plan: below it, moving the model takes longer than what it learns."""


def quorum(members: int) -> int:
    """How many of a round's members must have handed in before the others are cut."""
    return math.ceil(QUORUM_FRAC * members)


def bound_s(took_s: Sequence[float]) -> float:
    """Seconds that a round's visits may take; infinite where nothing is known of any member."""
    if not took_s:
        return math.inf
    middle = median(took_s)
    spread = NORMAL * median(abs(one - middle) for one in took_s)
    return middle + DEVIATIONS * max(spread, SPREAD_FRAC * middle, SPREAD_S)


def paced(stops: Sequence[Stop], whole_s: Mapping[DataSetId, float]) -> tuple[Stop, ...]:
    """The stops of a round, with shorter visits where a whole one would take longer than the bound.

    `whole_s`: what a visit of the plan's length takes at each data set, as far as that is known.
    """
    known = [whole_s[stop.dataset] for stop in stops if stop.dataset in whole_s]
    if len(known) < quorum(len(stops)):
        return tuple(stops)
    most_s = bound_s(known)
    return tuple(_shortened(stop, whole_s.get(stop.dataset, 0.0), most_s) for stop in stops)


def _shortened(stop: Stop, whole_s: float, most_s: float) -> Stop:
    if whole_s <= most_s:
        return stop
    length = max(LENGTH_LEAST, PACE * most_s / whole_s)
    why = f"{stop.why}: {length:.0%} of a visit, a whole one takes it {whole_s:.1f} s and the round has {most_s:.1f} s"
    return msgspec.structs.replace(stop, length=stop.length * length, why=why)
