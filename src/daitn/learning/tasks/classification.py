"""Classification: softmax over the label vocabulary, cross-entropy; one class per record (paper, section 3.1).

Records whose label lies outside the vocabulary are left out of loss and figures. A figure of a field counts the
records of that field only; a `recall` counts those that bear the label.

At a site that holds few labels, ordinary cross-entropy teaches first of all that the others do not exist, and a long
visit forgets them. With a correction s the loss adds log((1 - s) / C + s · share) to each logit, where share is the
label's in the batch (logit adjustment, A. Menon et al., ICLR 2021, with the batch as its prior): what the mix alone
explains need not be learnt. s = 1 would leave absent labels out of the loss altogether, and they would never be told
from those that are here; so s stays below 1. Measuring never corrects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from daitn.base.errors import InputError
from daitn.descriptors.contract import Classification, DataContract
from daitn.descriptors.work import Measurement
from daitn.learning.tasks import ratios
from daitn.learning.tasks.contract import (
    Array,
    Batch,
    Outputs,
    RecordsLike,
    evaluation_batches,
    input_tensors,
    measure,
    merged_fields,
    merged_groups,
    only_output,
    split_name,
    to_tensor,
    unknown_metric,
)
from daitn.learning.tasks.intervals import Estimate, bootstrap, mean, proportion

METRICS = ("accuracy", "balanced_accuracy", "recall", "precision", "f1", "auc", "loss")
MISSING = -100
"""Label index that cross-entropy leaves out."""


class ClassificationNumerics:
    """See the module's docstring; the contract is `daitn.learning.tasks.contract.TaskNumerics`."""

    needs_records = True

    def __init__(self, task: Classification, contract: DataContract, device: torch.device) -> None:
        self._task = task
        self._contract = contract
        self._device = device
        self._labels = contract.labels()

    def prepare(self, records: RecordsLike) -> Batch:
        """Inputs and label indices on the device."""
        return Batch(inputs=input_tensors(records, self._device), labels=to_tensor(self._truth(records), self._device))

    def _truth(self, records: RecordsLike) -> NDArray[np.int64]:
        """Label indices, `MISSING` outside the vocabulary."""
        if records.labels is None:
            raise InputError(
                f"records of {records.dataset!r} carry no label", todo=f"map a column to {self._task.label!r}"
            )
        labels: Array = np.asarray(records.labels).reshape(-1).astype(np.int64)
        return np.where((labels >= 0) & (labels < len(self._labels)), labels, MISSING)

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """One call with all inputs."""
        return model(**batch.inputs)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy with the contract's label smoothing."""
        logits = self._logits(outputs)
        assert batch.labels is not None
        if batch.label_correction:
            logits = logits + self._prior(batch.labels, batch.label_correction).log()
        return functional.cross_entropy(
            logits, batch.labels, ignore_index=MISSING, label_smoothing=self._task.label_smoothing
        )

    def _prior(self, labels: Tensor, strength: float) -> Tensor:
        """Share of each label in the batch, drawn towards an even mix."""
        known = labels[labels != MISSING]
        counts = torch.bincount(known, minlength=len(self._labels)).float()
        even = 1.0 / len(self._labels)
        shares = counts / len(known) if len(known) else torch.full_like(counts, even)
        return strength * shares + (1 - strength) * even

    def _logits(self, outputs: Outputs) -> Tensor:
        logits = only_output(outputs)
        if logits.ndim != 2 or logits.shape[1] != len(self._labels):
            raise InputError(
                f"the model returned shape {tuple(logits.shape)} for {len(self._labels)} labels",
                todo="return logits of shape (batch, number of labels)",
            )
        return logits

    def evaluate(self, model: nn.Module, sets: Sequence[RecordsLike], names: Sequence[str]) -> tuple[Measurement, ...]:
        """All figures from one pass; scores are kept only if an auc is asked for."""
        keep_scores = any(split_name(name)[0] == "auc" for name in names)
        truths, guesses, losses, scores = [], [], [], []
        model.eval()
        with torch.inference_mode():
            for records in sets:
                for part in evaluation_batches(records):
                    batch = self.prepare(part)
                    assert batch.labels is not None
                    logits = self._logits(self.forward(model, batch)).float()
                    each = functional.cross_entropy(logits, batch.labels, ignore_index=MISSING, reduction="none")
                    truths.append(batch.labels.cpu().numpy())
                    guesses.append(logits.argmax(dim=1).cpu().numpy())
                    losses.append(each.cpu().numpy())
                    if keep_scores:
                        scores.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
        if not truths:
            return measure(names, self._contract, np.zeros((0, len(self._contract.field_names())), np.bool_), _nothing)
        truth, guess, loss = np.concatenate(truths), np.concatenate(guesses), np.concatenate(losses)
        score_NC = np.concatenate(scores) if scores else np.zeros((len(truth), 0))
        fields, groups = merged_fields(sets) & (truth != MISSING)[:, None], merged_groups(sets)
        labelled = truth != MISSING

        def compute(metric: str, label: str, rows: NDArray[np.int64]) -> Estimate:
            rows = rows[labelled[rows]]
            return self._figure(
                metric,
                label,
                truth[rows],
                guess[rows],
                loss[rows],
                score_NC[rows],
                None if groups is None else groups[rows],
            )

        return measure(names, self._contract, fields, compute)

    def _figure(
        self,
        metric: str,
        label: str,
        truth: NDArray[np.int64],
        guess: NDArray[np.int64],
        loss: NDArray[np.float32],
        score_NC: NDArray[np.float64],
        groups: NDArray[np.int64] | None,
    ) -> Estimate:
        if label and label not in self._labels:
            raise InputError(f"{metric}[{label}]: the contract has no such label")
        index = self._labels.index(label) if label else -1
        if metric in ("recall", "precision") and not label:
            raise InputError(f"{metric} needs a label, as in {metric}[{self._labels[0]}]")
        match metric:
            case "accuracy":
                return proportion(truth == guess, groups)
            case "recall":
                bears = truth == index
                return proportion(guess[bears] == index, None if groups is None else groups[bears])
            case "loss":
                return mean(loss.astype(np.float64), groups)
            case "balanced_accuracy":
                return bootstrap(lambda w: ratios.balanced_accuracy(truth, guess, w), len(truth), groups)
            case "f1":
                return bootstrap(lambda w: ratios.macro_f1(truth, guess, w), len(truth), groups)
            case "precision":
                chosen = int((guess == index).sum())
                return bootstrap(lambda w: ratios.precision(truth, guess, index, w), len(truth), groups, records=chosen)
            case "auc":
                cost = 1 if score_NC.shape[1] == 2 else score_NC.shape[1]
                return bootstrap(lambda w: ratios.macro_auc(truth, score_NC, w), len(truth), groups, cost=cost)
        raise unknown_metric(metric, "classification", METRICS)


def _nothing(metric: str, label: str, rows: NDArray[np.int64]) -> Estimate:
    raise AssertionError(f"no rows to measure {metric}[{label}] on, {len(rows)} given")
