"""Training records of a visit: rows of a mapped table, encoded when asked for, or records that arrived as tensors.

Encoding a text costs a hundred times what a step of a small model does, so what was encoded once is kept as long as the
whole data set fits into a bounded cache; beyond that, records are encoded anew each time and memory stays constant.

Legend: N records, B records asked for.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.ids import DataSetId
from daitn.base.units import MIB
from daitn.describe.splits import training_rows
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import DataContract
from daitn.learning.records import Tokenizers, encode_inputs, encode_labels
from daitn.learning.tasks.contract import RecordSlice, RecordsLike, count_records, groups_of, take_rows
from daitn.learning.vectors import Vectors

CACHE_BYTES: Final = 256 * MIB
"""Encoded records kept at most: 80,000 images of 28 × 28, or 260,000 texts of 128 tokens."""

Rows = NDArray[np.int64]


class MemorySlice:
    """Records that are already arrays, such as those streamed from a data node without compute."""

    def __init__(self, dataset: DataSetId, records: RecordsLike) -> None:
        self._records = records
        self.dataset = dataset
        self.groups = groups_of(records)

    def __len__(self) -> int:
        return count_records(self._records)

    def take(self, rows: Rows) -> RecordSlice:
        """The records at these positions."""
        return take_rows(self._records, rows)


class TableSource:
    """The training rows of a mapped table; fields and groups are left out, since training does not look at them."""

    def __init__(
        self,
        table: MappedTable,
        contract: DataContract,
        dataset: DataSetId,
        tokenizers: Tokenizers,
        vectors: Vectors | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.dataset = dataset
        self._table, self._contract, self._tokenizers = table, contract, tokenizers
        self._vectors = vectors
        self._rows: Rows = training_rows(table, contract).astype(np.int64)
        self.groups = np.asarray(table.groups)[self._rows]
        self._cache: dict[str, NDArray[Any]] = {}
        self._labels: NDArray[Any] | None = None
        self._known: NDArray[np.bool_] | None = None
        if len(self._rows):
            self._make_cache(cache_bytes)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Rows) -> RecordSlice:
        """The records at these positions among the training rows."""
        if self._known is None:
            return self._slice(*self._encode(self._rows[rows]))
        missing = np.unique(rows[~self._known[rows]])
        if len(missing):
            inputs, labels = self._encode(self._rows[missing])
            for name, array in inputs.items():
                self._cache[name][missing] = array
            if self._labels is not None and labels is not None:
                self._labels[missing] = labels
            self._known[missing] = True
        picked = {name: array[rows] for name, array in self._cache.items()}
        return self._slice(picked, None if self._labels is None else self._labels[rows])

    def _make_cache(self, limit: int) -> None:
        inputs, labels = self._encode(self._rows[:1])
        size = sum(array.nbytes for array in inputs.values()) + (0 if labels is None else labels.nbytes)
        if size * len(self._rows) > limit:
            return
        for name, array in inputs.items():
            self._cache[name] = np.empty((len(self._rows), *array.shape[1:]), dtype=array.dtype)
        if labels is not None:
            self._labels = np.empty(len(self._rows), dtype=labels.dtype)
        self._known = np.zeros(len(self._rows), dtype=np.bool_)

    def _encode(self, rows: Rows) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
        inputs = encode_inputs(self._table, self._contract, rows, self._tokenizers, self._vectors)
        return inputs, encode_labels(self._table, self._contract, rows)

    def _slice(self, inputs: dict[str, NDArray[Any]], labels: NDArray[Any] | None) -> RecordSlice:
        count = len(next(iter(inputs.values()))) if inputs else 0
        return RecordSlice(inputs, labels, np.zeros((count, 0), dtype=np.bool_), self.dataset)
