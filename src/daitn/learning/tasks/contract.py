"""What every task family promises: batches, a loss, and measurements with intervals.

One file per family stands beside this one; `daitn.learning.tasks.numerics_for` chooses. A family knows nothing of
optimizers, cursors or processes: `daitn.learning.numerics` drives it. Records arrive as numpy arrays (site or test
set), batches are torch tensors on the device of the model.

Legend: N records, B records in a batch, F fields, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import DataContract, TokensInput
from daitn.descriptors.request import parse_target
from daitn.descriptors.work import Measurement
from daitn.learning.tasks.intervals import NOTHING, Estimate, mean_of

EVALUATION_BATCH: Final = 256
"""Records of one forward pass when measuring: large enough to fill two cores, small enough for images of 1 MB."""

Array = NDArray[Any]
Outputs = Any
"""What a model returns: a tensor, a mapping of names to tensors, or an object with such attributes."""


class RecordsLike(Protocol):
    """Records as numpy arrays: `inputs[name]` (N, …), `labels` (N,) or None, `fields` bool (N, F)."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Encoded model inputs by name."""
        ...

    @property
    def labels(self) -> Array | None:
        """Label index (classification), scaled value (regression), or None."""
        ...

    @property
    def fields(self) -> Array:
        """Which record belongs to which field, in the order of `DataContract.field_names`."""
        ...

    @property
    def dataset(self) -> str:
        """The data set these records are from."""
        ...


class RecordSource(Protocol):
    """Training records that are encoded when asked for, so that memory does not grow with the data set."""

    @property
    def dataset(self) -> DataSetId:
        """The data set, as the travelling cursor names it."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.int64]) -> RecordsLike:
        """The records at these positions, in this order."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of B records on one device. `labels` is what the family made of them, already scaled."""

    inputs: Mapping[str, Tensor]
    labels: Tensor | None = None
    weights: Tensor | None = None
    """Per record, where a family weights its loss (advantages in reinforcement)."""
    label_correction: float = 0.0
    """`Training.label_correction`, for families that have labels to correct for."""


class TaskNumerics(Protocol):
    """One task family, bound to one contract and device."""

    needs_records: bool
    """False where batches come from an environment rather than from records."""

    def prepare(self, records: RecordsLike) -> Batch:
        """Records as one batch on the device."""
        ...

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Call the model as this family does; once for most, once per side for retrieval."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar with gradient."""
        ...

    def evaluate(self, model: nn.Module, sets: Sequence[RecordsLike], names: Sequence[str]) -> tuple[Measurement, ...]:
        """Measure `names` (`metric[label]@field`) over all sets together; NaN where a field has no records."""
        ...


def only_output(outputs: Outputs, name: str = "logits") -> Tensor:
    """The tensor that carries the answer: `name`, else the first floating one; InputError if there is none."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        found = outputs.get(name)
        candidates: Sequence[Any] = tuple(outputs.values())
    elif isinstance(outputs, (tuple, list)):
        found, candidates = None, outputs
    else:
        found, candidates = getattr(outputs, name, None), ()
    if isinstance(found, Tensor):
        return found
    for value in candidates:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise InputError(
        f"the model returned {type(outputs).__name__} without a floating tensor",
        todo=f"let forward return a tensor, or a dict with the entry {name!r}",
    )


def to_tensor(array: Array, device: torch.device) -> Tensor:
    """An array as a tensor on `device`; copied only where it is read-only or not contiguous."""
    array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = array.copy()
    tensor: Tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


def input_tensors(records: RecordsLike, device: torch.device) -> dict[str, Tensor]:
    """All inputs of `records` on the device."""
    return {name: to_tensor(array, device) for name, array in records.inputs.items()}


def count_records(records: RecordsLike) -> int:
    """N: the length of the first input, or of the labels where there is no input."""
    for array in records.inputs.values():
        return int(array.shape[0])
    return 0 if records.labels is None else int(records.labels.shape[0])


@dataclass(frozen=True, slots=True)
class RecordSlice:
    """Some rows of records held in memory."""

    inputs: Mapping[str, Array]
    labels: Array | None
    fields: Array
    dataset: str
    groups: Array | None = None
    counted: Array | None = None
    """Retrieval: which rows figures count (bool); the others are but their rivals. None: all."""


def take_rows(records: RecordsLike, rows: slice | NDArray[np.int64]) -> RecordSlice:
    """Rows of `records`: a view for a slice, a copy for an index array."""
    groups, counted = groups_of(records), counted_of(records)
    return RecordSlice(
        inputs={name: array[rows] for name, array in records.inputs.items()},
        labels=None if records.labels is None else records.labels[rows],
        fields=records.fields[rows],
        dataset=records.dataset,
        groups=None if groups is None else groups[rows],
        counted=None if counted is None else counted[rows],
    )


def join_records(first: RecordsLike, second: RecordsLike) -> RecordSlice:
    """Records of two sources of one contract, one after the other, as a batch to train on."""
    inputs = {name: np.concatenate([array, second.inputs[name]]) for name, array in first.inputs.items()}
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    fields = np.concatenate([first.fields, second.fields])
    return RecordSlice(inputs=inputs, labels=labels, fields=fields, dataset=first.dataset)


def groups_of(records: RecordsLike | RecordSource) -> Array | None:
    """Group of each record (patient, document) where the records carry it; None: each is its own group."""
    groups = getattr(records, "groups", None)
    return groups if isinstance(groups, np.ndarray) and groups.ndim == 1 else None


def counted_of(records: RecordsLike) -> Array | None:
    """Which records figures count, where the records say so; None: all."""
    return getattr(records, "counted", None)


def merged_groups(sets: Sequence[RecordsLike]) -> NDArray[np.int64] | None:
    """Groups over several sets as numbers 0 … G-1, never shared between sets; None if no set has any."""
    if all(groups_of(records) is None for records in sets):
        return None
    parts: list[NDArray[np.int64]] = []
    base = 0
    for records in sets:
        groups = groups_of(records)
        count = count_records(records)
        numbers = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        parts.append(numbers.astype(np.int64) + base)
        base += int(numbers.max(initial=-1)) + 1
    return np.concatenate(parts)


def merged_fields(sets: Sequence[RecordsLike]) -> NDArray[np.bool_]:
    """Field membership over all sets: bool (N, F)."""
    return np.concatenate([np.asarray(records.fields, dtype=np.bool_) for records in sets])


def evaluation_batches(records: RecordsLike, size: int = EVALUATION_BATCH) -> Iterator[RecordSlice]:
    """`records` cut into consecutive slices of at most `size`."""
    for start in range(0, count_records(records), size):
        yield take_rows(records, slice(start, start + size))


def split_name(name: str) -> tuple[str, str, str]:
    """`recall[malignant]@low` as (metric, label, field); InputError with the grammar where it does not fit."""
    target = parse_target(f"{name} >= 0")
    return target.metric, target.label, target.field


def measure(
    names: Sequence[str],
    contract: DataContract,
    fields_NF: NDArray[np.bool_],
    compute: Callable[[str, str, NDArray[np.int64]], Estimate],
) -> tuple[Measurement, ...]:
    """Each name over the rows of its field: `compute(metric, label, rows)`. InputError for an unknown field."""
    known, asked = contract.field_names(), contract.target_fields()
    measurements = []

    def within(metric: str, label: str, field: str) -> Estimate:
        mask = fields_NF[:, known.index(field)] if field else np.ones(len(fields_NF), dtype=np.bool_)
        rows = np.flatnonzero(mask)
        return compute(metric, label, rows) if len(rows) else NOTHING

    for name in names:
        metric, label, field = split_name(name)
        if field and field not in asked:
            raise InputError(f"{name}: no field {field!r}, the contract has {', '.join(asked[:20]) or 'none'}")
        if not field or field in known:
            estimate = within(metric, label, field)
        else:
            estimate = mean_of([within(metric, label, part) for part in contract.parts_of_field(field)])
        measurements.append(
            Measurement(
                name=name,
                value=float(estimate.value),
                low=float(estimate.low),
                high=float(estimate.high),
                records=int(estimate.records),
            )
        )
    return tuple(measurements)


def unknown_metric(metric: str, family: str, known: Sequence[str]) -> InputError:
    """The error for a metric that a family does not have."""
    return InputError(f"{family} has no metric {metric!r}", todo=f"it has: {', '.join(known)}")


def mask_name(contract: DataContract, name: str) -> str:
    """The mask input that goes with a token input; empty if there is none."""
    for spec in contract.inputs:
        if isinstance(spec, TokensInput) and spec.name == name:
            return spec.mask
    return ""
