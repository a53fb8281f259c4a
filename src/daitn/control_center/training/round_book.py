"""What visits of rounds told of their sites, for choosing the sites of the next round. Part of a job's state."""

from __future__ import annotations

from typing import Final

from daitn.decision.rounds.contract import SiteReport
from daitn.descriptors.work import TrainOutcome, TrainWork

REPORTS_MOST: Final = 4096
"""Newest reports that are remembered: some hundred rounds of ten sites, four of the largest."""


class RoundBook:
    """See the module's docstring. Made of accepted results alone."""

    def __init__(self) -> None:
        self.reports: list[SiteReport] = []

    def accepted(self, work: TrainWork, outcome: TrainOutcome, number: int) -> None:
        """A visit of round `number`, from 0."""
        told = SiteReport(
            dataset=work.dataset,
            round=number,
            loss=outcome.loss_first,
            records=outcome.records,
            seconds=outcome.seconds,
        )
        self.reports.append(told)
        del self.reports[:-REPORTS_MOST]
