"""The contract of round rules: which sites of a view train in one round of a parallel method.

Paper II-A, MTRCE, for methods without a path. Pure, from the view and what sites have reported so far; laws, tested
over all members: each stop is a candidate of the view, no data set comes twice, at most as many as were asked for and,
with candidates, at least one; equal arguments give equal stops in any order of candidates.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from daitn.base.ids import DataSetId
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView


class SiteReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one site's accepted visit told. `loss`: of the model as it arrived there."""

    dataset: DataSetId
    round: int
    loss: float
    records: int
    seconds: float


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has been through: reports in order, the number of the round to come, from 0, and how many visits were
    lost or cut so far: where not all sites are asked, the next try goes to others, who may come to an end."""

    reports: tuple[SiteReport, ...] = ()
    round: int = 0
    lost: int = 0
    seed: int = 0


class RoundRule(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str:
        """Its name in methods and logs."""
        ...

    def choose(self, view: TrainingView, rounds: Rounds, most: int) -> tuple[Stop, ...]:
        """The stops of the next round, `most` at most."""
        ...
