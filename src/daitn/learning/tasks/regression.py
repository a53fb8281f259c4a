"""Regression: a real number per record, mean squared error in scaled units, figures in the label's own unit.

Records bring the label as `(label - center) / scale`, which is what training works on; every figure, `loss` included,
is given in the label's unit (its square for mse and loss), because an owner's target is written in that unit. Records
without a label are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract, Regression
from daitn.descriptors.work import Measurement
from daitn.learning.tasks import ratios
from daitn.learning.tasks.contract import (
    Batch,
    Outputs,
    RecordsLike,
    evaluation_batches,
    input_tensors,
    measure,
    merged_fields,
    merged_groups,
    only_output,
    to_tensor,
    unknown_metric,
)
from daitn.learning.tasks.intervals import Estimate, bootstrap, mean

METRICS = ("mse", "mae", "r2", "loss")


class RegressionNumerics:
    """See the module's docstring; the contract is `daitn.learning.tasks.contract.TaskNumerics`."""

    needs_records = True

    def __init__(self, task: Regression, contract: DataContract, device: torch.device) -> None:
        if task.scale == 0:
            raise InputError(f"regression of {task.label!r} has a scale of 0", todo="give the label's spread")
        self._task = task
        self._contract = contract
        self._device = device

    def prepare(self, records: RecordsLike) -> Batch:
        """Inputs, and labels in scaled units (NaN where missing), float32."""
        return Batch(inputs=input_tensors(records, self._device), labels=to_tensor(self._scaled(records), self._device))

    def _scaled(self, records: RecordsLike) -> NDArray[np.float32]:
        if records.labels is None:
            raise InputError(
                f"records of {records.dataset!r} carry no label", todo=f"map a column to {self._task.label!r}"
            )
        return np.asarray(records.labels, dtype=np.float32).reshape(-1)

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """One call with all inputs."""
        return model(**batch.inputs)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean squared error in scaled units over the records that have a label."""
        assert batch.labels is not None
        guess = _flat(outputs, len(batch.labels))
        known = ~torch.isnan(batch.labels)
        difference = torch.where(known, guess - torch.nan_to_num(batch.labels), 0.0)
        return difference.square().sum() / known.sum().clamp(min=1)

    def evaluate(self, model: nn.Module, sets: Sequence[RecordsLike], names: Sequence[str]) -> tuple[Measurement, ...]:
        """All figures from one pass."""
        truths, guesses = [], []
        model.eval()
        with torch.inference_mode():
            for records in sets:
                for part in evaluation_batches(records):
                    outputs = self.forward(model, self.prepare(part))
                    truths.append(self._scaled(part).astype(np.float64))
                    guesses.append(_flat(outputs, len(truths[-1])).double().cpu().numpy())
        count_fields = len(self._contract.field_names())
        truth, guess = (
            np.concatenate(parts) * self._task.scale + self._task.center if parts else np.zeros(0)
            for parts in (truths, guesses)
        )
        fields = merged_fields(sets) if truths else np.zeros((0, count_fields), np.bool_)
        groups = merged_groups(sets)
        known = ~np.isnan(truth)

        def compute(metric: str, _: str, rows: NDArray[np.int64]) -> Estimate:
            rows = rows[known[rows]]
            grouped = None if groups is None else groups[rows]
            error = guess[rows] - truth[rows]
            match metric:
                case "mse" | "loss":
                    return mean(error**2, grouped)
                case "mae":
                    return mean(np.abs(error), grouped)
                case "r2":
                    return bootstrap(lambda w: ratios.r_squared(truth[rows], guess[rows], w), len(rows), grouped)
            raise unknown_metric(metric, "regression", METRICS)

        return measure(names, self._contract, fields, compute)


def _flat(outputs: Outputs, count: int) -> Tensor:
    """The model's answer as shape (B,); InputError where it has another size."""
    guess = only_output(outputs)
    if guess.numel() != count or guess.shape[0] != count:
        raise InputError(
            f"the model returned shape {tuple(guess.shape)} for {count} records",
            todo="return shape (batch,) or (batch, 1)",
        )
    return guess.reshape(count).float()
