"""What visits of rounds told of their sites, for choosing the sites of the next round and how long they may take. Part
of a job's state."""

from __future__ import annotations

from typing import Final

from daitn.base.ids import DataSetId
from daitn.decision.rounds.contract import SiteReport
from daitn.decision.visit_length import relative
from daitn.descriptors.work import TrainOutcome, TrainWork

REPORTS_MOST: Final = 4096
"""Newest reports that are remembered: some hundred rounds of ten sites, four of the largest."""

DONE_LEAST: Final = 0.1
"""What a visit that was cut is taken to have done at least: one that had not begun says little of its pace."""


class RoundBook:
    """See the module's docstring. Made of accepted results and of visits that were cut, alone."""

    def __init__(self) -> None:
        self.reports: list[SiteReport] = []
        self.took_s: dict[DataSetId, float] = {}
        """Seconds from order to accepted result, of those of the round under way that have handed in."""
        self._batch_s: dict[DataSetId, float] = {}
        """The same for each batch of the newest visit."""
        self._batches: dict[DataSetId, int] = {}
        """Of the newest visit that has handed in."""
        self.cut_so_far = 0
        """Visits that were stopped because they were late."""

    def accepted(self, work: TrainWork, outcome: TrainOutcome, number: int, took_s: float) -> None:
        """A visit of round `number`, from 0, whose result came `took_s` after its order."""
        if outcome.loss_first is not None:
            told = SiteReport(
                dataset=work.dataset,
                round=number,
                loss=outcome.loss_first,
                records=outcome.records,
                seconds=outcome.seconds,
            )
            self.reports.append(told)
            del self.reports[:-REPORTS_MOST]
        self.took_s[work.dataset] = took_s
        self._batches[work.dataset] = work.training.batches
        self._batch_s[work.dataset] = took_s / work.training.batches

    def cut(self, work: TrainWork, done_frac: float, took_s: float) -> None:
        """A visit was stopped because it was late."""
        self.cut_so_far += 1
        self._batch_s[work.dataset] = took_s / max(DONE_LEAST, done_frac) / work.training.batches

    def round_begins(self) -> None:
        """None of its visits has ended yet."""
        self.took_s.clear()

    def typical_s(self, batches: int) -> list[float]:
        """What those that have handed in would have taken with a visit of `batches`, where theirs was longer or shorter
        by their records: no more than that is made of what is shorter because they are slow."""
        return [took_s / relative(self._batches[name] / batches) for name, took_s in self.took_s.items()]

    def expected_s(self, dataset: DataSetId, batches: int) -> float:
        """What a visit of so many batches is expected to take, by this data set's own record; 0: it has none."""
        return batches * self._batch_s.get(dataset, 0.0)

    def whole_s(self, batches: int) -> dict[DataSetId, float]:
        """What a visit of so many batches takes at each data set that has a record."""
        return {dataset: batches * each for dataset, each in self._batch_s.items()}
