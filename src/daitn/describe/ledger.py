"""The privacy ledger: how much of a data set's differential-privacy budget is spent, and whether more may be.

A pure state machine: it has no clock and no disk. `spend` decides and returns the record of the decision; whoever runs
the ledger makes that record durable before anything is measured, and after a crash gives all records back to `apply`.
A crash between the two costs budget and reveals nothing, never the other way round.

The budget holds in *every* window of one period, not per calendar month: by sequential composition (Dwork, Roth,
Algorithmic Foundations of Differential Privacy, theorem 3.16) what was spent in the window adds up. Removing a data set
does not forget what it spent. Two data sets of the same people are two ledgers: who has both must share a budget.

Private training is booked beside published statistics and has a budget of its own, since a job costs as much as many
releases; what a data set has told in all is the sum of both. Visits of one job are accounted together
(`describe.accountant`), and each is booked with what it added.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from daitn.base.effects import Record
from daitn.base.errors import BugError
from daitn.base.ids import JobId
from daitn.describe.accountant import Mechanism, epsilon_of

_ROUNDING: Final = 1e-9
"""Sums of epsilons are compared up to this, so that ten tenths make one."""

LEAST: Final = 1e-12
"""Booked for a visit that adds less than a float can tell."""


class TrainedWith(msgspec.Struct, frozen=True, kw_only=True):
    """The private training that a charge was for."""

    job: JobId
    mechanism: Mechanism
    delta: Annotated[float, msgspec.Meta(gt=0, le=0.001)]


class EpsilonSpent(Record, frozen=True, kw_only=True, tag="epsilon_spent"):
    """A release was allowed: `epsilon` of `dataset`'s budget is gone for one period from `at_ns` on."""

    dataset: str
    release: str
    """Which release, or which visit of a training, it paid for; for the audit."""
    epsilon: Annotated[float, msgspec.Meta(gt=0)]
    at_ns: int
    training: TrainedWith | None = None
    """None: published statistics."""


class BudgetRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A release was refused: it would exceed the budget of the period."""

    dataset: str
    required: float
    available: float
    retry_at_ns: int | None
    """When enough will have aged out of the window; None: never, the release costs more than the whole budget."""


class PrivacyLedger:
    """Spent budget per data set. One method per fact; see the module."""

    def __init__(self) -> None:
        self._spent: dict[str, list[EpsilonSpent]] = {}

    def spend(
        self, dataset: str, epsilon: float, now_ns: int, *, release: str, budget: float, period_ns: int
    ) -> EpsilonSpent | BudgetRefusal:
        """Take `epsilon` of `budget` per `period_ns`, or say when it may be asked for again. O(records of `dataset`).

        The record returned is already applied; the caller makes it durable before measuring.
        """
        return self._spend(dataset, epsilon, now_ns, release, budget, period_ns, None)

    def _spend(
        self,
        dataset: str,
        epsilon: float,
        now_ns: int,
        release: str,
        budget: float,
        period_ns: int,
        training: TrainedWith | None,
    ) -> EpsilonSpent | BudgetRefusal:
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise BugError(f"a release of {dataset} spends {epsilon}")
        for_training = training is not None
        available = budget - self.spent(dataset, now_ns, period_ns, training=for_training)
        if epsilon <= available + _ROUNDING:
            record = EpsilonSpent(dataset=dataset, release=release, epsilon=epsilon, at_ns=now_ns, training=training)
            self.apply(record)
            return record
        return BudgetRefusal(
            dataset=dataset,
            required=epsilon,
            available=max(0.0, available),
            retry_at_ns=self._retry_at(dataset, epsilon, now_ns, budget, period_ns, for_training),
        )

    def spend_on_training(
        self, dataset: str, trained: TrainedWith, now_ns: int, *, visit: str, budget: float, period_ns: int
    ) -> EpsilonSpent | BudgetRefusal:
        """As `spend`, for one visit: what it adds to what its job cost before, at the job's delta. `budget` may be
        infinite. O(records of `dataset`)."""
        before = self.spent_by_job(dataset, trained.job, trained.delta)
        added = max(LEAST, self.spent_by_job(dataset, trained.job, trained.delta, trained.mechanism) - before)
        return self._spend(dataset, added, now_ns, visit, budget, period_ns, trained)

    def spent_by_job(self, dataset: str, job: JobId, delta: float, more: Mechanism | None = None) -> float:
        """ε at `delta` of all visits of a job to `dataset`, whenever they were, and of one more if given."""
        of_job = [one.training for one in self._spent.get(dataset, ()) if one.training and one.training.job == job]
        return epsilon_of([*(one.mechanism for one in of_job), *([more] if more is not None else [])], delta)

    def spent(self, dataset: str, now_ns: int, period_ns: int, *, training: bool = False) -> float:
        """What `dataset` spent in the period up to `now_ns`, on statistics or on `training`. A clock set back frees
        nothing: later records count."""
        return math.fsum(record.epsilon for record in self._in_window(dataset, now_ns, period_ns, training))

    def apply(self, record: Record) -> None:
        """Take up one fact; BugError for a record of another kind."""
        if not isinstance(record, EpsilonSpent):
            raise BugError(f"a privacy ledger cannot take up a {type(record).__name__}")
        self._spent.setdefault(record.dataset, []).append(record)

    def records(self) -> tuple[EpsilonSpent, ...]:
        """All facts, oldest first: the ledger can be rebuilt from them, and audited."""
        every = [record for records in self._spent.values() for record in records]
        return tuple(sorted(every, key=lambda record: record.at_ns))

    def check_invariants(self) -> None:
        """BugError where a record is filed under another data set or spends nothing."""
        for dataset, records in self._spent.items():
            for record in records:
                if record.dataset != dataset or not (record.epsilon > 0 and math.isfinite(record.epsilon)):
                    raise BugError(f"privacy ledger of {dataset} holds {record}")

    def _in_window(self, dataset: str, now_ns: int, period_ns: int, training: bool) -> list[EpsilonSpent]:
        records = [one for one in self._spent.get(dataset, ()) if (one.training is not None) == training]
        return [record for record in records if record.at_ns > now_ns - period_ns]

    def _retry_at(
        self, dataset: str, epsilon: float, now_ns: int, budget: float, period_ns: int, training: bool
    ) -> int | None:
        if epsilon > budget + _ROUNDING:
            return None
        waiting = sorted(self._in_window(dataset, now_ns, period_ns, training), key=lambda record: record.at_ns)
        for place, record in enumerate(waiting):
            left = math.fsum(later.epsilon for later in waiting[place + 1 :])
            if epsilon <= budget - left + _ROUNDING:
                return record.at_ns + period_ns
        raise BugError(f"the window of {dataset} never empties")
