"""What a job knows of its buffered updates: which heads they were trained from, how old these are by now, and which
data sets have nothing to add to the present one. Part of a job's state, made from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.work import UpdateRef


class BufferBook:
    """See the module's docstring. `first`: the submitted model, which is the first head."""

    def __init__(self, first: ArtifactId) -> None:
        self._line: list[ArtifactId] = [first]
        """The heads that the present one came of, oldest first."""
        self.handed_in: set[DataSetId] = set()
        """Data sets that have trained from the present head: the same visit again would make the same model."""
        self._averaging = 0
        """How many of the updates, from the first, are in the average that was ordered last."""

    def is_known(self, model: ArtifactId) -> bool:
        """Whether a model is a head that the present one came of: what was trained from another is worth nothing."""
        return model in self._line

    def trained(self, model: ArtifactId, dataset: DataSetId) -> None:
        """A visit that began from this head has handed in."""
        if model == self._line[-1]:
            self.handed_in.add(dataset)

    def averaging(self, updates: int) -> None:
        """So many updates are being averaged."""
        self._averaging = updates

    def advanced(self, model: ArtifactId) -> int:
        """There is a new head; how many updates, from the first, are in it."""
        self._line.append(model)
        self.handed_in.clear()
        used, self._averaging = self._averaging, 0
        return used

    def went_back(self, model: ArtifactId) -> None:
        """An older model is the head again: those after it never were."""
        self._line = self._line[: self._line.index(model) + 1] if model in self._line else [model]
        self.handed_in.clear()
        self._averaging = 0

    def keep(self, models: Iterable[ArtifactId]) -> None:
        """Only these models may still be spoken of, the head among them."""
        needed = set(models)
        oldest = next((place for place, one in enumerate(self._line) if one in needed), len(self._line) - 1)
        del self._line[:oldest]

    def weighed(self, updates: Iterable[UpdateRef]) -> tuple[UpdateRef, ...]:
        """The updates with what their age leaves of them: 1 / √(1 + heads since the one they began from), as in FedBuff
        (J. Nguyen et al., AISTATS 2022)."""
        newest = len(self._line) - 1
        return tuple(
            msgspec.structs.replace(one, discount=1.0 / math.sqrt(1.0 + newest - self._line.index(one.base)))
            for one in updates
            if one.base is not None and one.base in self._line
        )
