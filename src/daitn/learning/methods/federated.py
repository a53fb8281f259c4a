"""Federated averaging (McMahan et al., AISTATS 2017): all sites train from one model, an aggregator averages.

Synchronous: a round ends when every site has answered or was given up (its lease ran out). Weights are the sites'
training records. The aggregator is a terminal; the control centre sees no tensor.
"""

from __future__ import annotations

import msgspec

from daitn.learning.methods.contract import Aggregate, Choosers, Run, Step, Train, Verify


class FederatedAveraging(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "fedavg"
    parallel: bool = True
    steady: bool = False
    aggregates: bool = True
    exchanges: bool = False

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """All sites of a round at once, then one average, then a verification when due."""
        if run.under_way:
            return ()
        if run.round_begun and run.updates:
            return (Aggregate(updates=run.updates),)
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        return tuple(Train(model=run.head, stop=stop) for stop in choosers.all_stops())
