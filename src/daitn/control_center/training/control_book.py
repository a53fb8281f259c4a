"""Which control variates go with which model (SCAFFOLD): what the centre has to remember so that sites need not.

A model's shared variate is the mean of its data sets' own ones, weighted by records. So they are kept together: a run
that goes back to an older model goes back to the variates of that model, and where one of them is lost all begin anew,
which is a round of plain federated averaging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.work import AggregateWork, ControlRound, TrainOutcome, TrainWork, UpdateRef


class OwnControl(msgspec.Struct, frozen=True):
    """A data set's variate, and the records it stands for."""

    artifact: ArtifactId
    records: float


class _Pending(msgspec.Struct, frozen=True):
    """The variate that came with an update which is not averaged yet."""

    dataset: DataSetId
    own: OwnControl
    corrected: bool
    """Whether its visit was given a shared variate."""


class ControlBook:
    """See the module's docstring. Part of a job's state: changed by its records only."""

    def __init__(self) -> None:
        self._of: dict[ArtifactId, dict[DataSetId, OwnControl]] = {}
        self._pending: dict[ArtifactId, _Pending] = {}

    def of(self, model: ArtifactId) -> Mapping[DataSetId, OwnControl]:
        """The data sets' variates that the model's shared one is the mean of."""
        return self._of.get(model, {})

    def trained(self, work: TrainWork, outcome: TrainOutcome) -> None:
        """A visit's result was accepted."""
        if outcome.control is not None:
            own = OwnControl(outcome.control, float(max(1, outcome.records)))
            self._pending[outcome.model] = _Pending(work.dataset, own, work.shared_control is not None)

    def averaged(self, work: AggregateWork, model: ArtifactId, left_out: Iterable[ArtifactId]) -> None:
        """A round's models were averaged into `model`."""
        found = {one.model: self._pending.pop(one.model) for one in work.updates if one.model in self._pending}
        taken = [one for update, one in found.items() if update not in set(left_out)]
        if work.control is None or (work.state is None and any(one.corrected for one in found.values())):
            return  # the shared variate was lost within the round: nothing that is known of it belongs together
        before = self.of(work.base) if work.base is not None and work.state is not None else {}
        self._of[model] = {**before, **{one.dataset: one.own for one in taken}}

    def keep(self, models: set[ArtifactId]) -> set[ArtifactId]:
        """Forget what goes with other models (and updates); the variates still needed."""
        self._of = {model: book for model, book in self._of.items() if model in models}
        self._pending = {model: one for model, one in self._pending.items() if model in models}
        needed = {own.artifact for book in self._of.values() for own in book.values()}
        return needed | {one.own.artifact for one in self._pending.values()}

    def for_visit(
        self,
        model: ArtifactId,
        dataset: DataSetId,
        shared: ArtifactId | None,
        reachable: Callable[[ArtifactId], bool],
    ) -> tuple[ArtifactId | None, ArtifactId | None]:
        """The shared and the own variate that a visit is given; none at all where one of the model's is lost."""
        book = self.of(model)
        if shared is None or not book or not all(map(reachable, (shared, *(own.artifact for own in book.values())))):
            return None, None
        own = book.get(dataset)
        return shared, None if own is None else own.artifact

    def round_of(
        self, base: ArtifactId, state: ArtifactId | None, updates: Iterable[UpdateRef], reach: float
    ) -> ControlRound:
        """What the aggregator has to know of a round. `state`: the shared variate that its visits were given."""
        before = dict(self.of(base)) if state is not None else {}
        after = before | {one.dataset: one.own for update in updates if (one := self._pending.get(update.model))}
        return ControlRound(
            records_before=sum(own.records for own in before.values()),
            records_after=sum(own.records for own in after.values()),
            reach=reach,
        )

    def corrected(self, updates: Iterable[UpdateRef]) -> bool:
        """Whether the visits of these updates were given a shared variate."""
        return any(self._pending[update.model].corrected for update in updates if update.model in self._pending)
