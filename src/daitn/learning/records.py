"""Records: the mapped columns of a data set as the named input arrays, labels and fields of one contract.

Rows are picked batch by batch from the memory-mapped table, so training never holds a data set in memory. The same
arrays travel, as tensors of role `record`, where a policy lets records or samples leave a site; then a receiver checks
names, types, shapes and ranges before anything is computed on them. Only numpy here: who trains turns them into torch.

Legend: B rows asked for, F fields, L tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import DataSetId
from daitn.describe.splits import field_matrix
from daitn.describe.table import MappedTable, Rows
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    EmbeddedInput,
    ImageInput,
    NumbersInput,
    Regression,
    TokensInput,
    VectorInput,
)
from daitn.descriptors.fitting import input_specs
from daitn.learning.tokenizer_file import encode_texts, open_tokenizer
from daitn.learning.vectors import Vectors

Arrays = dict[str, NDArray[Any]]
Tokenizers = Mapping[str, bytes]
"""BLAKE3 (hex) → bytes of a `tokenizer.json`."""


_INPUT, _LABEL, _FIELDS, _GROUP = "input/", "label", "fields", "group"


class Records(NamedTuple):
    """Records as arrays. `labels` is None where the task has none; `groups` numbers the groups within these records."""

    inputs: Arrays
    labels: NDArray[Any] | None
    fields: NDArray[np.bool_]
    groups: NDArray[np.int64]
    dataset: DataSetId

    @property
    def size(self) -> int:
        """Number of records."""
        return len(self.fields)


def encode_records(
    table: MappedTable,
    contract: DataContract,
    rows: Rows,
    dataset: DataSetId,
    tokenizers: Tokenizers | None = None,
    vectors: Vectors | None = None,
) -> Records:
    """Inputs, labels, fields and groups of some rows; cost of `encode_inputs`."""
    return Records(
        inputs=encode_inputs(table, contract, rows, tokenizers, vectors),
        labels=encode_labels(table, contract, rows),
        fields=field_matrix(table, contract, rows),
        groups=group_numbers(table, rows),
        dataset=dataset,
    )


def encode_inputs(
    table: MappedTable,
    contract: DataContract,
    rows: Rows,
    tokenizers: Tokenizers | None = None,
    vectors: Vectors | None = None,
) -> Arrays:
    """Input name → array (B, …) as `descriptors.fitting.input_specs` says.

    `vectors`: activations of a frozen base, for contracts that ask for them. InputError where those are missing, or a
    tokenizer is missing or not what its digest says. Cost: one gather per input; 100 images of
    28 × 28 out of 70,000 took 0.4 ms, 100 texts with the builtin tokenizer 0.2 ms (one busy core).
    """
    arrays: Arrays = {}
    for spec in contract.inputs:
        match spec:
            case NumbersInput():
                arrays[spec.name] = _numbers(table, spec, rows)
            case VectorInput():
                raw = table.vectors(spec.column)[rows]
                scaled = ((raw - np.float32(spec.center)) / np.float32(spec.scale)).astype(np.float32)
                arrays[spec.name] = scaled.reshape(len(rows), *(spec.shape or raw.shape[1:]))
            case CategoryInput():
                column = contract.column(spec.column)
                vocabulary = column.values if isinstance(column, CategoryColumn) else ()
                codes = table.categories(spec.column, rows, vocabulary).astype(np.int64)
                arrays[spec.name] = np.where(codes < 0, len(vocabulary), codes)
            case ImageInput():
                levels = ((np.arange(256) / 255 - spec.center) / spec.scale).astype(np.float32)
                arrays[spec.name] = levels.take(table.images(spec.column)[rows], mode="clip")
            case TokensInput():
                tokens, mask = _tokens(table, spec, rows, tokenizers or {})
                arrays[spec.name] = tokens
                if spec.mask:
                    arrays[spec.mask] = mask
            case EmbeddedInput():
                arrays[spec.name] = _gather(table, spec, rows, vectors or {})
    return arrays


def encode_labels(table: MappedTable, contract: DataContract, rows: Rows) -> NDArray[Any] | None:
    """Labels (B,): int64 index of the class, or float32 `(value - center) / scale`; None for tasks without.

    InputError where a record's label is outside the contract's vocabulary (`descriptors.fitting.fits` tells before).
    """
    match contract.task:
        case Classification(label=label):
            codes = table.categories(label, rows, contract.labels()).astype(np.int64)
            if (codes < 0).any():
                lost = int(np.count_nonzero(codes < 0))
                raise InputError(f"{lost} of {len(rows)} records have a label that contract {contract.name!r} lacks")
            return codes
        case Regression(label=label, center=center, scale=scale):
            return ((table.numbers([label], rows)[:, 0] - center) / scale).astype(np.float32)
        case _:
            return None


def group_numbers(table: MappedTable, rows: Rows) -> NDArray[np.int64]:
    """Groups of some rows as 0, 1, 2 … (B,): tells which belong together, and nothing about whose they are."""
    _, first, inverse = np.unique(table.groups[rows], return_index=True, return_inverse=True)
    # Numbered by first appearance: the order of digests would say something about the values behind them.
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def _numbers(table: MappedTable, spec: NumbersInput, rows: Rows) -> NDArray[np.float32]:
    values = table.numbers(spec.columns, rows)
    center = np.array(spec.center or (0.0,), dtype=np.float64)
    scale = np.array(spec.scale or (1.0,), dtype=np.float64)
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and counts as missing
        scaled = ((values - center) / scale).astype(np.float32)
    return np.where(np.isfinite(scaled), scaled, np.float32(spec.missing))


def _gather(table: MappedTable, spec: EmbeddedInput, rows: Rows, vectors: Vectors) -> NDArray[np.float32]:
    found = vectors.get(spec.name)
    if found is None:
        raise InputError(
            f"the activations of base {spec.base[:16]}… for input {spec.name!r} are not at hand",
            todo="a site computes them once its base is there: daitn base add DIR",
        )
    if found.shape != (table.rows, spec.width):
        raise InputError(f"the vectors of input {spec.name!r} have shape {found.shape}, not {(table.rows, spec.width)}")
    return np.asarray(found[rows], dtype=np.float32)


def _tokens(
    table: MappedTable, spec: TokensInput, rows: Rows, tokenizers: Tokenizers
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, both int64 (B, L)."""
    texts = table.texts(spec.column)
    if spec.tokenizer == "bytes":
        starts, stops = texts.offsets[rows], texts.offsets[rows + 1]
        lengths = np.minimum(stops - starts, spec.length)
        mask = np.arange(spec.length) < lengths[:, None]
        tokens = np.full(mask.shape, spec.padding, dtype=np.int64)
        tokens[mask] = texts.blob[(starts[:, None] + np.arange(spec.length))[mask]].astype(np.int64) + 1
        return tokens, mask.astype(np.int64)
    tokenizer = _load_tokenizer(spec.tokenizer, tokenizers)
    tokens = np.full((len(rows), spec.length), spec.padding, dtype=np.int64)
    mask = np.zeros(tokens.shape, dtype=np.int64)
    for place, whole in enumerate(encode_texts(tokenizer, [texts.text(row) for row in rows.tolist()])):
        ids = whole[: spec.length]
        tokens[place, : len(ids)] = ids
        mask[place, : len(ids)] = 1
    return tokens, mask


def _load_tokenizer(digest: str, tokenizers: Tokenizers) -> Any:
    data = tokenizers.get(digest)
    if data is None:
        raise InputError(f"tokenizer {digest[:16]}… is not at hand", todo="send it with the package, as a part")
    return _parse_tokenizer(digest, data)


@functools.lru_cache(maxsize=4)
def _parse_tokenizer(digest: str, data: bytes) -> Any:
    found = str(blake3(data).hexdigest())
    if found != digest:
        raise InputError(f"tokenizer {digest[:16]}… has digest {found[:16]}…: it is another or damaged")
    return open_tokenizer(data, f"tokenizer {digest[:16]}…")


def records_to_tensors(records: Records) -> Arrays:
    """Tensor name → array, all of role `record`: `input/<name>`, `label`, `fields`, `group`."""
    tensors: Arrays = {_INPUT + name: array for name, array in records.inputs.items()}
    if records.labels is not None:
        tensors[_LABEL] = records.labels
    return tensors | {_FIELDS: records.fields, _GROUP: records.groups}


def records_from_tensors(tensors: Mapping[str, NDArray[Any]], contract: DataContract, dataset: DataSetId) -> Records:
    """The records in tensors that a peer sent, checked against the contract.

    PeerError listing every fault: names, types, shapes, unequal counts, labels, tokens and categories out of range,
    numbers that are not finite. O(bytes).
    """
    expected: dict[str, tuple[str, tuple[int, ...], float | None, float | None]] = {
        _INPUT + spec.name: (spec.dtype, spec.shape, spec.low, spec.high) for spec in input_specs(contract)
    }
    match contract.task:
        case Classification():
            expected[_LABEL] = ("int64", (), 0, len(contract.labels()) - 1)
        case Regression():
            expected[_LABEL] = ("float32", (), None, None)
    expected[_FIELDS] = ("bool", (len(contract.field_names()),), None, None)
    expected[_GROUP] = ("int64", (), 0, None)
    faults = [f"tensor {name!r} is missing" for name in expected if name not in tensors]
    faults += [f"tensor {name[:80]!r} is not in the contract" for name in tensors if name not in expected]
    counts: dict[int, str] = {}
    for name, (dtype, shape, low, high) in expected.items():
        if name in tensors:
            faults += _check_tensor(name, tensors[name], dtype, shape, low, high)
            if tensors[name].ndim:
                counts.setdefault(len(tensors[name]), name)
    if len(counts) > 1:
        listed = ", ".join(f"{count} in {name!r}" for count, name in counts.items())
        faults.append(f"the number of records differs: {listed}")
    if faults:
        raise PeerError(
            f"records do not fit contract {contract.name!r}: " + "; ".join(faults), ids={"dataset": dataset}
        )
    return Records(
        inputs={spec.name: tensors[_INPUT + spec.name] for spec in input_specs(contract)},
        labels=tensors.get(_LABEL),
        fields=tensors[_FIELDS],
        groups=tensors[_GROUP],
        dataset=dataset,
    )


def _check_tensor(
    name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...], low: float | None, high: float | None
) -> list[str]:
    if array.dtype != np.dtype(dtype) or array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        return [f"tensor {name!r} has type {array.dtype} and shape {array.shape}, not {dtype} and (B, *{shape})"]
    if not array.size:
        return []
    if dtype == "float32" and not np.isfinite(array).all():
        return [f"tensor {name!r} has values that are not finite"]
    faults: list[str] = []
    if low is not None and array.min() < low:
        faults.append(f"tensor {name!r} has {array.min()}, the least is {low:g}")
    if high is not None and array.max() > high:
        faults.append(f"tensor {name!r} has {array.max()}, the most is {high:g}")
    return faults
