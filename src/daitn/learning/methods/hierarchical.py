"""Hierarchical averaging (L. Liu et al., ICC 2020, with one round below for each above): several aggregators make the
averages of their shares of a round, and one of them the average of these.

What comes of a round is what federated averaging makes of it, up to rounding; what changes is who has to fetch what
(`decision.rounds.grouping`). With one aggregator, or few updates, it is federated averaging. A share whose aggregator
is lost goes into the last average as it is.
"""

from __future__ import annotations

import msgspec

from daitn.learning.methods.contract import (
    Aggregate,
    AggregateShares,
    Choosers,
    Preferences,
    Run,
    Step,
    Train,
    Verify,
)


class Hierarchical(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "hierarchical"
    prefers: Preferences = Preferences()
    parallel: bool = True
    steady: bool = False
    aggregates: bool = True
    buffered: bool = False
    in_shares: bool = True
    exchanges: bool = False
    rounds: str = "all"

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """All sites at once, the averages of shares at once, their average, then a verification when due."""
        if run.under_way:
            return ()
        if run.round_begun and run.updates:
            halfway = any(update.members > 1 for update in run.updates)
            return (Aggregate(updates=run.updates) if halfway else AggregateShares(updates=run.updates),)
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        return tuple(Train(model=run.head, stop=stop) for stop in choosers.all_stops())
