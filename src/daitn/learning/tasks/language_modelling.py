"""Language modelling: the next token of one input; positions that hold padding are left out of loss and figures.

The model gives logits (B, length, V); those at position t are held against the token at t + 1. What counts as a token
says the input's mask where the contract has one, else every id that is not the padding id. Tokens of one record depend
on each other, so intervals treat a record (or its group) as one draw.

Legend: B records, L length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract, LanguageModelling, TokensInput
from daitn.descriptors.work import Measurement
from daitn.learning.tasks.contract import (
    Batch,
    Outputs,
    RecordsLike,
    evaluation_batches,
    input_tensors,
    mask_name,
    measure,
    merged_fields,
    merged_groups,
    only_output,
    unknown_metric,
)
from daitn.learning.tasks.intervals import Estimate, mean, proportion

METRICS = ("accuracy", "perplexity", "loss")
EVALUATION_RECORDS = 32
"""Records of one forward pass: logits of 32 × 512 tokens over 30,000 words are 2 GB in float32."""
IGNORED = -100


class LanguageModellingNumerics:
    """See the module's docstring; the contract is `daitn.learning.tasks.contract.TaskNumerics`."""

    needs_records = True

    def __init__(self, task: LanguageModelling, contract: DataContract, device: torch.device) -> None:
        self._contract = contract
        self._device = device
        self._input = task.input
        self._mask = mask_name(contract, task.input)
        self._padding = next(
            (spec.padding for spec in contract.inputs if isinstance(spec, TokensInput) and spec.name == task.input), 0
        )

    def prepare(self, records: RecordsLike) -> Batch:
        """Inputs, and as labels the token each position shall foretell, `IGNORED` where there is none: (B, L - 1)."""
        inputs = input_tensors(records, self._device)
        if self._input not in inputs:
            raise InputError(f"records of {records.dataset!r} have no input {self._input!r}")
        tokens = inputs[self._input].long()
        real = inputs[self._mask] != 0 if self._mask in inputs else tokens != self._padding
        labels = torch.where(real[:, 1:] & real[:, :-1], tokens[:, 1:], IGNORED)
        return Batch(inputs=inputs, labels=labels)

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """One call with all inputs."""
        return model(**batch.inputs)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy per token; 0 with gradient where a batch holds padding only."""
        assert batch.labels is not None
        logits = self._logits(outputs, batch.labels)
        total = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / (batch.labels != IGNORED).sum().clamp(min=1)

    def _logits(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Logits that foretell `labels`: (B, L - 1, V)."""
        logits = only_output(outputs)
        if logits.ndim != 3 or logits.shape[:2] != (labels.shape[0], labels.shape[1] + 1):
            raise InputError(
                f"the model returned shape {tuple(logits.shape)} for {labels.shape[0]} texts of {labels.shape[1] + 1}",
                todo="return logits of shape (batch, length, vocabulary)",
            )
        return logits[:, :-1]

    def evaluate(self, model: nn.Module, sets: Sequence[RecordsLike], names: Sequence[str]) -> tuple[Measurement, ...]:
        """All figures from one pass; a record weighs as many tokens as it foretells."""
        sums, hits, tokens = [], [], []
        model.eval()
        with torch.inference_mode():
            for records in sets:
                for part in evaluation_batches(records, EVALUATION_RECORDS):
                    batch = self.prepare(part)
                    assert batch.labels is not None
                    logits = self._logits(self.forward(model, batch), batch.labels).float()
                    each = functional.cross_entropy(
                        logits.transpose(1, 2), batch.labels, ignore_index=IGNORED, reduction="none"
                    )
                    sums.append(each.double().sum(dim=1).cpu().numpy())
                    hits.append((logits.argmax(dim=2) == batch.labels).sum(dim=1).double().cpu().numpy())
                    tokens.append((batch.labels != IGNORED).sum(dim=1).double().cpu().numpy())
        count_fields = len(self._contract.field_names())
        fields = merged_fields(sets) if sums else np.zeros((0, count_fields), np.bool_)
        groups = merged_groups(sets)
        total = np.concatenate(sums) if sums else np.zeros(0)
        right = np.concatenate(hits) if hits else np.zeros(0)
        size = np.concatenate(tokens) if tokens else np.zeros(0)

        def compute(metric: str, _: str, rows: NDArray[np.int64]) -> Estimate:
            weights = size[rows]
            grouped = np.arange(len(rows)) if groups is None else groups[rows]
            if metric == "accuracy":
                return proportion(right[rows] / np.maximum(weights, 1), grouped, weights)
            per_token = mean(total[rows] / np.maximum(weights, 1), grouped, weights)
            if metric == "loss":
                return per_token
            if metric == "perplexity":
                return Estimate(_exp(per_token.value), _exp(per_token.low), _exp(per_token.high), per_token.records)
            raise unknown_metric(metric, "language modelling", METRICS)

        return measure(names, self._contract, fields, compute)


def _exp(value: float) -> float:
    """e^value, infinite where it does not fit."""
    return math.exp(value) if math.isnan(value) or value < 700 else math.inf
