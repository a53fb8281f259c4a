"""Synchronous data-parallel training (P. Goyal et al. 2017): a small group trains one model in lock step.

After each batch the members exchange gradients and all take the record-weighted mean (`learning.numerics.lockstep`), so
that they end with the same model, bit for bit; no aggregator is needed. A round is one group of visits that are ordered
together. If one of them is lost, so is the round. Where only one site is there it trains alone, which is the same
method with one member.
"""

from __future__ import annotations

import msgspec

from daitn.learning.methods.contract import Choosers, Preferences, Run, Step, Train, TrainGroup, Verify


class DataParallel(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "data-parallel"
    parallel: bool = True
    steady: bool = False
    aggregates: bool = False
    buffered: bool = False
    in_shares: bool = False
    gossips: bool = False
    exchanges: bool = True
    rounds: str = "all"
    prefers: Preferences = Preferences()

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """One group at a time: verify when due, else train at as many sites as a group may have."""
        if run.under_way:
            return ()
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        stops = choosers.group_stops()
        if len(stops) > 1:
            return (TrainGroup(model=run.head, stops=stops),)
        return tuple(Train(model=run.head, stop=stop) for stop in stops)
