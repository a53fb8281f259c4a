"""Gossip: every site has a model of its own, and averages it with those of one or two others after each visit.

S. Boyd et al. (2006) for the averages; X. Lian et al. (NeurIPS 2017) for descent between them, which is as quick as
with averages of all once models have mixed. No site has to reach all others, and none is an aggregator: a mean is made
at one of the two or three sites that it is of. Who meets whom is drawn (`decision.rounds.gossip`).

A unit measures one model, so after `verify_every` rounds all meet: means of two go into means of two, along a tree,
each weighted by the records that are in it, until one model is the mean of all. That one is verified, and all go on
from it.

A round is the visits of all sites and then the averages of its groups. Who is lost in a round keeps what it had; a mean
that is lost is made again at another of its sites; a model that only a lost site held is not in the mean of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daitn.base.ids import DataSetId
from daitn.descriptors.work import UpdateRef
from daitn.learning.methods.contract import (
    AverageAmong,
    Choosers,
    Meet,
    Preferences,
    Run,
    Step,
    Train,
    TrainAmong,
    Verify,
)


class Gossip(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "gossip"
    prefers: Preferences = Preferences()
    parallel: bool = True
    steady: bool = False
    aggregates: bool = True
    buffered: bool = False
    in_shares: bool = False
    exchanges: bool = False
    gossips: bool = True
    rounds: str = "all"

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """Averages of the round's groups; when all shall meet, means of means; a verification when there is one of all;
        else a round of visits, each site's from its own model."""
        if run.under_way:
            return ()
        mixing = run.mixing
        if len(mixing.pieces) > 1:
            pairs = [mixing.pieces[place : place + 2] for place in range(0, len(mixing.pieces), 2)]
            last = len(mixing.pieces) == 2
            return tuple(AverageAmong(updates=pair, last=last) for pair in pairs if len(pair) > 1)
        if run.head != run.verified:
            return (Verify(model=run.head),)
        groups = [_handed_in(group, mixing.trained) for group in mixing.groups]
        if averages := tuple(AverageAmong(updates=updates) for updates in groups if len(updates) > 1):
            return averages
        if mixing.rounds >= run.verify_every:
            return (Meet(),)
        stops = choosers.all_stops()
        if not stops:
            return ()
        drawn = choosers.groups(tuple(stop.dataset for stop in stops))
        visits = (Train(model=mixing.own.get(stop.dataset, run.head), stop=stop) for stop in stops)
        return (TrainAmong(visits=tuple(visits), groups=drawn),)


def _handed_in(group: tuple[DataSetId, ...], trained: Mapping[DataSetId, UpdateRef]) -> tuple[UpdateRef, ...]:
    return tuple(trained[name] for name in group if name in trained)
