"""Buffered asynchronous averaging (FedBuff, J. Nguyen et al., AISTATS 2022): nobody waits for anybody.

Each site trains from the head of the moment and hands in when it is done; when a buffer of updates is full, the
aggregator moves the head by their weighted mean, where an update counts the less the more heads there have been since
the one that it began from (`control_center.training.buffer_book`). A slow site so costs the others nothing, and its
records count all the same.

Where we differ: the paper draws each site anew from millions; here the sites are few and known, so each trains once
from a head and then waits for the next, which comes when half of the sites (`BUFFER_FRAC`, at most `BUFFER_MOST`) have
handed in. A verification that is due comes before any further training, as with every method: sites that are at work go
on meanwhile.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from daitn.learning.methods.contract import Aggregate, Choosers, Preferences, Run, Step, Train, Verify

BUFFER_FRAC: Final = 0.5
"""Share of the sites whose updates fill the buffer: the quicker half moves the head, the slower half comes in later."""
BUFFER_MOST: Final = 10
"""The paper's buffer, which it found best for most tasks."""


def buffer_size(sites: int) -> int:
    """Updates that fill the buffer."""
    return max(1, min(BUFFER_MOST, math.ceil(BUFFER_FRAC * sites)))


class FedBuff(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "fedbuff"
    prefers: Preferences = Preferences()
    parallel: bool = True
    steady: bool = False
    aggregates: bool = True
    buffered: bool = True
    in_shares: bool = False
    gossips: bool = False
    exchanges: bool = False
    rounds: str = "all"

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """An average when the buffer is full or nobody is left to fill it, a verification when due, else work for every
        site that has none and has not trained from this head."""
        if run.under_way > len(run.training):
            return ()
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        stops = choosers.all_stops()
        idle = tuple(one for one in stops if one.dataset not in run.training | run.handed_in)
        full = len(run.updates) >= buffer_size(len({one.dataset for one in stops} | run.training))
        if run.updates and (full or not (idle or run.training)):
            return (Aggregate(updates=run.updates),)
        return tuple(Train(model=run.head, stop=stop) for stop in idle)
