"""Prediction: rows of a file through a package's model, read and encoded exactly as sites do for training.

The label, group and fields of the contract need not be in the file; where the label is, it is given beside the
prediction. Every row gets one answer in its place: one that cannot be encoded (a broken image, a vector of another
length) gets the reason instead. Rows go through in batches, so that memory does not grow with the file.

Legend: B rows of a batch, C labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.layout import digest_of
from daitn.artifacts.package import read_package
from daitn.base.errors import InputError, UnavailableError
from daitn.describe.column_map import ColumnMap
from daitn.describe.conversion import LocalValues
from daitn.describe.fit import Batch
from daitn.descriptors.contract import (
    Classification,
    DataContract,
    LanguageModelling,
    Regression,
    Reinforcement,
    Retrieval,
)
from daitn.sdk.packaging import contract_of, load_module
from daitn.sdk.rows import RowEncoder, open_columns

if TYPE_CHECKING:
    import torch

PREDICT_ROWS: Final = 256
"""Rows of one forward pass, as in verification."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one row, counted from 1. Which of the fields are set depends on the task."""

    row: int
    label: str = ""
    """Classification: the most probable label; reinforcement: the number of the action."""
    probability: float | None = None
    """Of that label."""
    value: float | None = None
    """Regression: the value in the label's unit; language modelling: mean loss of the row's tokens."""
    vector: tuple[float, ...] = ()
    """Retrieval: the row's vector, of unit length."""
    truth: str = ""
    """The label in the file, where there is one."""
    fault: str = ""
    """Why there is no answer."""


def predict(
    package_dir: Path, data: Path | Mapping[str, LocalValues], column_map: ColumnMap | None = None
) -> Iterator[Prediction]:
    """Predictions for every row of `data`, a file or columns by name. `column_map`: how its columns become the model's.

    InputError where package, columns or task cannot serve. The model runs on the CPU.
    """
    package = read_package(package_dir)
    contract = contract_of(package)
    tokenizer = bytes(package.parts.get("tokenizer", b""))
    tokenizers = {digest_of(tokenizer): tokenizer} if tokenizer else {}
    local, batches = open_columns(data)
    encoder = RowEncoder(contract, local, column_map or ColumnMap(), tokenizers)
    return _answers(contract, load_module(package), encoder, batches)


def _answers(
    contract: DataContract, module: torch.nn.Module, encoder: RowEncoder, batches: Iterable[Batch]
) -> Iterator[Prediction]:
    first = 1
    for batch in batches:
        count = len(next(iter(batch.values()), ()))
        for start in range(0, count, PREDICT_ROWS):
            part = {name: values[start : start + PREDICT_ROWS] for name, values in batch.items()}
            yield from _predict_part(contract, module, encoder, part, first + start)
        first += count


def _predict_part(
    contract: DataContract, module: torch.nn.Module, encoder: RowEncoder, part: Batch, first: int
) -> Iterator[Prediction]:
    import torch

    table, faults, truths = encoder.encode(part)
    rows = np.array([row for row in range(len(faults)) if not faults[row]], dtype=np.int64)
    answers: list[Prediction] = []
    if len(rows):
        arrays = encoder.inputs(table, rows)
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()})
            answers = _read_outputs(contract, outputs, encoder, arrays)
    by_row = dict(zip(rows.tolist(), answers, strict=True))
    for row, fault in enumerate(faults):
        answer = by_row.get(row) or Prediction(row=0, fault=fault)
        yield msgspec.structs.replace(answer, row=first + row, truth=truths[row])


def _read_outputs(
    contract: DataContract, outputs: Any, encoder: RowEncoder, arrays: dict[str, NDArray[Any]]
) -> list[Prediction]:
    """One answer per row, `row` not set yet."""
    import torch

    from daitn.learning.tasks.contract import mask_name, only_output

    match contract.task:
        case Classification():
            labels = contract.labels()
            chances = torch.softmax(only_output(outputs).double(), dim=1)
            if chances.ndim != 2 or chances.shape[1] != len(labels):
                raise InputError(f"the model returned {tuple(chances.shape)} for {len(labels)} labels")
            best = chances.max(dim=1)
            return [
                Prediction(row=0, label=labels[index], probability=round(value, 6))
                for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        case Regression(center=center, scale=scale):
            values = only_output(outputs).double().reshape(-1) * scale + center
            return [Prediction(row=0, value=value) for value in values.tolist()]
        case LanguageModelling():
            return [Prediction(row=0, value=value) for value in _token_losses(contract, outputs, encoder, arrays)]
        case Retrieval(query=query):
            vectors = only_output(outputs, "last_hidden_state").double()
            if vectors.ndim == 3:
                mask = arrays.get(mask_name(contract, query), np.ones(vectors.shape[:2]))
                weights = torch.from_numpy(np.asarray(mask, dtype=np.float64))[:, :, None]
                vectors = (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            unit = torch.nn.functional.normalize(vectors, dim=1)
            return [Prediction(row=0, vector=tuple(vector)) for vector in unit.tolist()]
        case Reinforcement():
            actions = only_output(outputs).argmax(dim=1)
            return [Prediction(row=0, label=str(action)) for action in actions.tolist()]


def _token_losses(
    contract: DataContract, outputs: Any, encoder: RowEncoder, arrays: dict[str, NDArray[Any]]
) -> list[float]:
    """Mean loss of each row's tokens, as training and verification define it."""
    from daitn.learning.tasks import numerics_for
    from daitn.learning.tasks.contract import only_output

    numerics = numerics_for(contract.task, contract)
    logits = only_output(outputs)
    losses: list[float] = []
    for row in range(len(logits)):
        own = encoder.records({name: array[row : row + 1] for name, array in arrays.items()}, 1)
        losses.append(float(numerics.loss({"logits": logits[row : row + 1]}, numerics.prepare(own))))
    return losses


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Many predictions in a few numbers. `right` counts those that agree with the label in the file, where it is."""

    rows: int
    faults: int
    labels: dict[str, int]
    with_truth: int
    right: int


def summarise(predictions: Iterable[Prediction]) -> Summary:
    """Counts over predictions. O(rows)."""
    labels: dict[str, int] = {}
    rows = faults = with_truth = right = 0
    for one in predictions:
        rows += 1
        faults += bool(one.fault)
        if one.label:
            labels[one.label] = labels.get(one.label, 0) + 1
            with_truth += bool(one.truth)
            right += bool(one.truth) and one.truth == one.label
    return Summary(rows=rows, faults=faults, labels=labels, with_truth=with_truth, right=right)


def write_predictions(predictions: Iterable[Prediction], path: Path) -> None:
    """Write predictions as CSV or, for `.jsonl`, one JSON object a line. InputError for another suffix."""
    if path.suffix not in (".csv", ".jsonl"):
        raise InputError(f"{path.name} is neither .csv nor .jsonl", todo="name the file accordingly")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                file.writelines(msgspec.json.encode(one).decode("utf-8") + "\n" for one in predictions)
                return
            writer = csv.writer(file)
            writer.writerow(("row", "label", "probability", "value", "truth", "fault", "vector"))
            for one in predictions:
                vector = " ".join(map(str, one.vector))
                writer.writerow((one.row, one.label, one.probability, one.value, one.truth, one.fault, vector))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from None
