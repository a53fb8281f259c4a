"""The models between the last kept one and the head, visit by visit: what is searched when the head turns out worse.

Part of a job's state, so made of records alone. Only of methods in which one visit follows another: where several sites
make a model together, no order of theirs tells them apart.
"""

from __future__ import annotations

from typing import NamedTuple

from daitn.base.ids import ArtifactId, DataSetId, VisitId
from daitn.descriptors.work import Measurement


class Step(NamedTuple):
    """One visit and the model it made."""

    visit: VisitId
    dataset: DataSetId
    records: int
    model: ArtifactId


class Trail:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        """Visits since a model was last kept, oldest first."""
        self.searched: list[Step] = []
        """Visits of which one made a model that was rolled back, while it is not known which; else none."""
        self.looked: dict[ArtifactId, tuple[Measurement, ...]] = {}
        """What the models of those visits were measured at; nothing for one that cannot be measured."""
        self.cramped = False
        """A site had no room for a visit while models are kept here that go when the head is measured."""

    @property
    def ambiguous(self) -> bool:
        """Whether several visits share the blame for the head."""
        return len(self.steps) > 1

    def advanced(self, step: Step) -> None:
        """A visit made the new head."""
        self.steps.append(step)

    def judged(self, model: ArtifactId, measurements: tuple[Measurement, ...], *, keep: bool, known: bool) -> None:
        """The head was kept or rolled back; `known`: because of one visit that is known."""
        if not keep and not known and self.ambiguous and self.steps[-1].model == model:
            self.searched, self.looked = self.steps, {model: measurements}
        self.steps, self.cramped = [], False

    def measured(self, model: ArtifactId, measurements: tuple[Measurement, ...]) -> None:
        """A model of the search was looked at."""
        self.looked[model] = measurements

    def next_look(self) -> Step | None:
        """The first visit of the search whose model was not looked at."""
        return next((step for step in self.searched if step.model not in self.looked), None)

    def traced(self, onward: ArtifactId | None) -> list[tuple[DataSetId, int]]:
        """The search is over: data set and records of each visit up to the one that made `onward`."""
        models = [step.model for step in self.searched]
        upto = self.searched[: models.index(onward) + 1] if onward in models else []
        self.clear()
        return [(step.dataset, step.records) for step in upto]

    def clear(self) -> None:
        """The head is an older model again, or the search is over."""
        self.steps, self.searched, self.looked, self.cramped = [], [], {}, False

    def models(self) -> set[ArtifactId]:
        """What has to stay where it is."""
        return {step.model for step in (*self.steps, *self.searched)}
