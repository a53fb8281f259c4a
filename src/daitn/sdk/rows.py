"""Rows: the columns of any file, or columns given as values, as the inputs of one model, batch by batch.

The same conversions as at a site (`describe.conversion`, `learning.records`), so that a model sees at prediction what
it saw in training. Only columns that inputs are made of are needed. A number, category or text that is missing counts
as it did in training; a row without its image or vector keeps its place and gets a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.describe.column_map import ColumnMap, ColumnSource, resolve
from daitn.describe.conversion import (
    Converted,
    LocalValues,
    as_text,
    convert_categories,
    convert_images,
    convert_numbers,
    convert_texts,
    convert_vectors,
    join_numbers,
)
from daitn.describe.fit import Batch
from daitn.describe.table import Layout, MappedTable, TableHeader, TextArray
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    Column,
    DataContract,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    NumbersInput,
    Regression,
    TextColumn,
    VectorColumn,
)
from daitn.learning.records import Records, Tokenizers, encode_inputs
from daitn.node.readers.contract import LocalType
from daitn.node.readers.sources import open_reader
from daitn.sdk.examples import model_inputs

_INDISPENSABLE: Final = (ImageColumn, VectorColumn)
"""Columns without which a row has no input; missing numbers, categories and texts have a value of their own."""


def open_columns(data: Path | Mapping[str, LocalValues]) -> tuple[dict[str, str], Iterator[Batch]]:
    """Column name → `LocalType`, and the rows in batches; `data` is a file, a folder, or columns of one length."""
    if isinstance(data, Path):
        reader = open_reader(data)
        return reader.columns(), reader.read()
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1 or not lengths:
        raise InputError(f"columns differ in their number of rows: {lengths}", todo="give columns of one length")
    return dict.fromkeys(data, LocalType.OTHER.value), iter([dict(data)])


class RowEncoder:
    """Rows of one source for one contract. `local`: the source's columns; InputError where they cannot serve."""

    def __init__(
        self, contract: DataContract, local: Mapping[str, str], column_map: ColumnMap, tokenizers: Tokenizers
    ) -> None:
        wanted = {spec.name for spec in model_inputs(contract)}
        kept = tuple(spec for spec in contract.inputs if spec.name in wanted)
        self._contract = contract
        self._only_inputs = msgspec.structs.replace(contract, inputs=kept)
        self._tokenizers = tokenizers
        self._words = frozenset(column_map.missing)
        used = _columns_of_inputs(contract)
        self._columns = tuple(column for column in contract.columns if column.name in used)
        self._label = _label_of(contract)
        entries = {name: source for name, source in column_map.columns.items() if name in used}
        narrowed = msgspec.structs.replace(contract, columns=self._columns, fields=(), group="")
        self._sources = resolve(narrowed, ColumnMap(columns=entries, missing=column_map.missing), local)
        said = column_map.columns.get(self._label, ColumnSource(column=self._label))
        self._truth = said if said.column in local else None

    def encode(self, batch: Batch) -> tuple[MappedTable, list[str], list[str]]:
        """The rows as a table in memory, the reason per row why it has no input ("" if it has), its label if known."""
        count = len(next(iter(batch.values())))
        faults = [""] * count
        converted: dict[str, Converted] = {}
        for column in self._columns:
            one = converted[column.name] = self._convert(column, batch, count)
            if isinstance(column, _INDISPENSABLE):
                for row in np.flatnonzero(one.absent).tolist():
                    kinds = [kind.value for kind, mask in one.faults.items() if mask[row]]
                    faults[row] = faults[row] or f"{column.name}: {', '.join(kinds) or 'missing'}"
        return self._table(converted, count), faults, self._truths(batch, count)

    def inputs(self, table: MappedTable, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The model's inputs of some rows of such a table, (B, …) each."""
        return encode_inputs(table, self._only_inputs, rows, self._tokenizers)

    def records(self, arrays: dict[str, NDArray[Any]], count: int) -> Records:
        """Inputs as records without labels, as tasks take them."""
        fields = np.zeros((count, len(self._contract.field_names())), dtype=np.bool_)
        return Records(arrays, None, fields, np.arange(count), DataSetId("rows"))

    def _convert(self, column: Column, batch: Batch, count: int) -> Converted:
        source = self._sources[column.name]
        if source.columns and isinstance(column, VectorColumn):
            return join_numbers([batch[name] for name in source.columns], source, self._words)
        values: LocalValues = batch[source.column] if source.constant is None else [source.constant or None] * count
        match column:
            case NumberColumn():
                return convert_numbers(values, column, source, self._words)
            case CategoryColumn():
                return convert_categories(values, column, source, self._words)
            case TextColumn():
                return convert_texts(values)
            case VectorColumn():
                return convert_vectors(values, column, source)
            case ImageColumn():
                return convert_images(values, column)
            case IdentifierColumn():
                raise InputError(f"identifier column {column.name!r} cannot be an input")

    def _table(self, converted: Mapping[str, Converted], count: int) -> MappedTable:
        """A table of these columns that was never on disk."""
        layout = Layout(self._columns)
        stacked: dict[str, list[NDArray[Any]]] = {}
        digests = np.zeros(count, dtype=np.uint64)
        arrays: dict[str, NDArray[Any]] = {"groups": digests, "contents": digests}
        for column in self._columns:
            own, _ = layout.position[column.name]
            values = converted[column.name].values
            if isinstance(values, TextArray):
                arrays[f"{own}.blob"], arrays[f"{own}.offsets"] = values.blob, values.offsets
            elif own in ("numbers", "categories", "identifiers"):
                stacked.setdefault(own, []).append(values)
            else:
                arrays[own] = values
        arrays |= {name: np.stack(parts, axis=1) for name, parts in stacked.items()}
        header = TableHeader(columns=self._columns, group="", rows=count, version="", digests={})
        return MappedTable(Path(), header, arrays)

    def _truths(self, batch: Batch, count: int) -> list[str]:
        if self._truth is None:
            return [""] * count
        texts = [as_text(value) or "" for value in batch[self._truth.column]]
        return [self._truth.values.get(text, text).strip() for text in texts]


def _columns_of_inputs(contract: DataContract) -> set[str]:
    wanted = {spec.name for spec in model_inputs(contract)}
    used: set[str] = set()
    for spec in contract.inputs:
        names: Sequence[str] = spec.columns if isinstance(spec, NumbersInput) else (spec.column,)
        if spec.name in wanted:
            used.update(names)
    return used


def _label_of(contract: DataContract) -> str:
    match contract.task:
        case Classification(label=label) | Regression(label=label):
            return label
        case _:
            return ""
