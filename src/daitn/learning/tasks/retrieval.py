"""Retrieval: the right answer among others; in-batch contrast (A. van den Oord et al., arXiv 1807.03748).

One model encodes either side: it is called with the query's tensors, then with the answer's *under the query's input
name* (and the query's mask name), so a model has one set of inputs. A model that returns one vector per token, such as
a bare transformer, is averaged over its mask. Vectors are compared by cosine.

Measuring: a record's answer stands among `candidates` answers of the same data set, drawn by hash: the answers of a
data set are ordered by the digest of their content and each record takes its neighbours in that ring, so every site
and every evaluation sees the same candidates, and each answer is a rival equally often. An answer that equals the
right one is no rival, here or in training; a tie counts as lost, so a model that answers everything alike scores 0 and
not 1. A record without any rival is left out, and so is one that its slice does not count: it is but a rival.

Legend: B records in a batch, N records of a data set, D length of a vector, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract, Retrieval
from daitn.descriptors.work import Measurement
from daitn.learning.tasks.contract import (
    Array,
    Batch,
    Outputs,
    RecordSlice,
    RecordsLike,
    count_records,
    counted_of,
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

METRICS = ("accuracy", "mrr", "loss")


class RetrievalNumerics:
    """See the module's docstring; the contract is `daitn.learning.tasks.contract.TaskNumerics`."""

    needs_records = True

    def __init__(self, task: Retrieval, contract: DataContract, device: torch.device) -> None:
        self._task = task
        self.by_group = task.batches == "groups"
        self._contract = contract
        self._device = device
        self._names = {
            task.answer: task.query,
            **({mask_name(contract, task.answer): mask_name(contract, task.query)} if _masked(contract, task) else {}),
        }

    def prepare(self, records: RecordsLike) -> Batch:
        """Both sides' inputs on the device."""
        missing = [name for name in (self._task.query, self._task.answer) if name not in records.inputs]
        if missing:
            raise InputError(f"records of {records.dataset!r} have no input {missing[0]!r}")
        return Batch(inputs=input_tensors(records, self._device))

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """(queries, answers), each of unit length: (B, D)."""
        queries, answers = self._sides(batch)
        return self._encode(model, queries), self._encode(model, answers)

    def _sides(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the model is called with for the queries, and for the answers."""
        queries = {name: tensor for name, tensor in batch.inputs.items() if name not in self._names}
        answers = {new: batch.inputs[old] for old, new in self._names.items()}
        shared = {name: tensor for name, tensor in queries.items() if name not in answers}
        return queries, {**shared, **answers}

    def _encode(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        outputs = model(**inputs)
        vectors = only_output(outputs, "last_hidden_state").float()
        if vectors.ndim == 3:
            mask = inputs.get(mask_name(self._contract, self._task.query))
            weights = torch.ones(vectors.shape[:2], device=vectors.device) if mask is None else mask.float()
            vectors = (vectors * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        if vectors.ndim != 2:
            raise InputError(
                f"the model returned shape {tuple(vectors.shape)}", todo="return one vector per record: (batch, length)"
            )
        return functional.normalize(vectors, dim=1)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy of each query's own answer among the batch's other answers, those equal to it left out."""
        queries, answers = outputs
        scores = queries @ answers.T / self._task.temperature
        given = batch.inputs[self._task.answer]
        same = torch.unique(given, dim=0, return_inverse=True)[1]
        equal = (same[:, None] == same[None, :]).fill_diagonal_(False)
        scores = scores.masked_fill(equal, -torch.inf)
        return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def evaluate(self, model: nn.Module, sets: Sequence[RecordsLike], names: Sequence[str]) -> tuple[Measurement, ...]:
        """Rank of the right answer for every record, data set by data set."""
        model.eval()
        ranks, losses = [], []
        for dataset in dict.fromkeys(records.dataset for records in sets):
            members = [records for records in sets if records.dataset == dataset]
            rank, loss = self._rank(model, members)
            ranks.append(rank)
            losses.append(loss)
        ordered = [
            records for name in dict.fromkeys(r.dataset for r in sets) for records in sets if records.dataset == name
        ]
        rank = np.concatenate(ranks) if ranks else np.zeros(0)
        loss = np.concatenate(losses) if losses else np.zeros(0)
        rank[~_counted(ordered)] = 0
        fields = merged_fields(ordered) if ordered else np.zeros((0, len(self._contract.field_names())), np.bool_)
        groups = merged_groups(ordered)

        def compute(metric: str, _: str, rows: NDArray[np.int64]) -> Estimate:
            rows = rows[rank[rows] > 0]
            grouped = None if groups is None else groups[rows]
            match metric:
                case "accuracy":
                    return proportion(rank[rows] == 1, grouped)
                case "mrr":
                    return mean(1.0 / rank[rows], grouped)
                case "loss":
                    return mean(loss[rows], grouped)
            raise unknown_metric(metric, "retrieval", METRICS)

        return measure(names, self._contract, fields, compute)

    def _encode_sides(self, model: nn.Module, part: RecordSlice) -> tuple[Tensor, Tensor]:
        """(queries, answers) to be measured; the query of a record that is but a rival is not encoded, and is 0."""
        queries, answers = self._sides(self.prepare(part))
        right = self._encode(model, answers)
        if part.counted is None or part.counted.all():
            return self._encode(model, queries), right
        rows = torch.from_numpy(np.flatnonzero(part.counted)).to(self._device)
        left = torch.zeros_like(right)
        if len(rows):
            left[rows] = self._encode(model, {name: tensor[rows] for name, tensor in queries.items()})
        return left, right

    def _rank(
        self, model: nn.Module, members: Sequence[RecordsLike]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rank of each record's right answer (0: no rival) and the loss among its candidates."""
        queries, answers = [], []
        with torch.inference_mode():
            for records in members:
                for part in evaluation_batches(records):
                    left, right = self._encode_sides(model, part)
                    queries.append(left.cpu())
                    answers.append(right.cpu())
            if not queries:
                return np.zeros(0), np.zeros(0)
            query_ND, answer_ND = torch.cat(queries), torch.cat(answers)
            digests = _digests(members, self._task.answer)
            rivals_NK = candidates(digests, self._task.candidates)
            scores_NK = torch.empty(rivals_NK.shape, dtype=torch.float32)
            for start in range(0, len(rivals_NK), 1024):
                rows = torch.from_numpy(rivals_NK[start : start + 1024])
                scores_NK[start : start + 1024] = torch.einsum(
                    "nd,nkd->nk", query_ND[start : start + 1024], answer_ND[rows]
                )
            right_N = (query_ND * answer_ND).sum(dim=1)
        real_NK = torch.from_numpy(digests[rivals_NK] != digests[:, None])
        lost_N = (~(scores_NK < right_N[:, None]) & real_NK).sum(dim=1)
        rank_N = torch.where(real_NK.any(dim=1), lost_N + 1, 0).double().numpy()
        all_NK = torch.cat([right_N[:, None], scores_NK.masked_fill(~real_NK, -torch.inf)], dim=1)
        loss_N = -torch.log_softmax(all_NK.double() / self._task.temperature, dim=1)[:, 0]
        return rank_N, loss_N.numpy()


def _counted(sets: Sequence[RecordsLike]) -> NDArray[np.bool_]:
    """Which records of `sets` figures count: all, unless their slice says otherwise."""
    parts = [(counted_of(records), count_records(records)) for records in sets]
    rows = [np.ones(count, dtype=np.bool_) if counted is None else counted for counted, count in parts]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.bool_)


def _masked(contract: DataContract, task: Retrieval) -> bool:
    """Whether both sides have a mask input."""
    return bool(mask_name(contract, task.query) and mask_name(contract, task.answer))


def _digests(members: Sequence[RecordsLike], name: str) -> NDArray[np.bytes_]:
    """BLAKE3 of each encoded answer, as 32 bytes: equal answers have equal digests."""
    rows: list[bytes] = []
    for records in members:
        array: Array = np.ascontiguousarray(records.inputs[name])
        rows += [blake3(array[index].tobytes()).digest() for index in range(count_records(records))]
    return np.frombuffer(b"".join(rows), dtype="V32").astype("V32") if rows else np.zeros(0, dtype="V32")


def candidates(digests: NDArray[np.bytes_], count: int) -> NDArray[np.int64]:
    """Rivals of each record, (N, K - 1): its neighbours in the ring of answers ordered by digest."""
    total = len(digests)
    width = min(count, total) - 1
    order = np.array(sorted(range(total), key=lambda index: bytes(digests[index])), dtype=np.int64)
    place = np.empty(total, dtype=np.int64)
    place[order] = np.arange(total)
    rivals: NDArray[np.int64] = order[(place[:, None] + np.arange(1, width + 1)[None, :]) % max(1, total)]
    return rivals
