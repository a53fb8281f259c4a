"""Which records come next: permutations of a data set, walked by a cursor that travels with the model.

A model that returns to a site goes on where it stopped, so that over an epoch every record is seen once, whatever the
length of the visits (sampling with replacement would leave 37 % of the records unseen in each epoch). The permutation
of an epoch follows from (seed, data set, epoch) alone: only two numbers travel. The seed must be the same for all
visits of a job. A batch that reaches the end of an epoch goes on in the next; a data set smaller than a batch is walked
several times within it, and no record is taken twice before every other was taken once more.

Legend: N records, B records in a batch.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.artifacts.manifest import Cursor
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId

Rows = NDArray[np.int64]


def permutation(seed: int, dataset: str, epoch: int, count: int) -> Rows:
    """The order of `count` records in one epoch: O(N), about 10 ns a record."""
    digest = blake3(f"{seed}\x00{epoch}\x00{dataset}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.permutation(count)


def grouped(order: Rows, groups: NDArray[np.uint64]) -> Rows:
    """An order with the records of each group one after another; groups and their records stay in the order's order."""
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    return order[np.argsort(first[inverse], kind="stable")]


class Sampler:
    """Batches of row numbers. The cursor says how far it is; `position` counts records of the current epoch."""

    def __init__(
        self,
        dataset: DataSetId,
        count: int,
        batch_size: int,
        seed: int,
        cursor: Cursor | None = None,
        groups: NDArray[np.uint64] | None = None,
    ) -> None:
        """`cursor`: where an earlier visit stopped; beyond the end (the data set has shrunk) means a new epoch.
        `groups`: of each record, where the records of a group shall come in one batch, as far as they fit.

        InputError where there are no records.
        """
        if count < 1:
            raise InputError(
                f"data set {dataset!r} has no training records", todo="choose another, or look at its mapping report"
            )
        self._dataset, self._count, self._batch, self._seed = dataset, count, batch_size, seed
        self._epoch = 0 if cursor is None else cursor.epoch
        self._position = 0 if cursor is None else cursor.position
        if self._position >= count:
            self._epoch, self._position = self._epoch + 1, 0
        self._groups = groups
        self._order: Rows | None = None

    def next_rows(self) -> Rows:
        """The next B row numbers."""
        if self._order is not None and self._position + self._batch < self._count:
            start, self._position = self._position, self._position + self._batch
            return self._order[start : self._position]
        parts: list[Rows] = []
        missing = self._batch
        while missing:
            if self._order is None:
                self._order = permutation(self._seed, self._dataset, self._epoch, self._count)
                if self._groups is not None:
                    self._order = grouped(self._order, self._groups)
            part = self._order[self._position : self._position + missing]
            parts.append(part)
            missing -= len(part)
            self._position += len(part)
            if self._position == self._count:
                self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def cursor(self) -> Cursor:
        """Where to go on."""
        return Cursor(dataset=self._dataset, epoch=self._epoch, position=self._position)
