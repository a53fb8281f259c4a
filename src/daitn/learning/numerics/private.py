"""Private steps: each record's gradient is clipped, and Gaussian noise hides whether a group was there (DP-SGD).

M. Abadi et al., Deep Learning with Differential Privacy, 2016, with the group as what is protected: every step takes
each group of the data set with one chance (Poisson sampling), of each group taken one record by chance, clips that
record's gradient to a norm, adds up, and adds noise. The sum is divided by the batch size of the plan, which does not
depend on the data. So a group more or less moves the sum by one clip at most, and what is told depends on nothing that
bears no noise: how many groups there are never enters.

Gradients of single records come of `torch.func`: one backward pass for a chunk of records. A record whose gradient is
not finite counts as none. Noise and sampling come from the system's entropy, never from the visit's seed, which others
know; the generator is a counter-based one (Philox), and numbers are floats: what their rounding may tell (I. Mironov
2012) is not hidden.

Legend: B records of a chunk, P parameters.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from daitn.base.errors import InputError
from daitn.descriptors.privacy import PrivateSteps
from daitn.learning.tasks.contract import Batch, RecordSource, TaskNumerics, groups_of
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

CHUNK_NUMBERS: Final = 1 << 26
"""Numbers of all gradients of one chunk: 256 MB, and as much again while they are clipped."""

CHUNK_RECORDS: Final = 64
"""Records of a chunk at most: with more, small models gain no more."""

ALIKE: Final = 1e-4
"""By how much outputs of one record may differ, beside their size, with other records in its batch: rounding alone."""

_TODO: Final = "replace batch normalisation by group or layer normalisation, or train without privacy"


class PrivateGradients:
    """Gradients of private steps for one visit. `fill` makes one; see the module."""

    def __init__(
        self,
        model: nn.Module,
        task: TaskNumerics,
        source: RecordSource,
        private: PrivateSteps,
        batch_size: int,
        parameters: Mapping[str, nn.Parameter],
        entropy: int | None = None,
    ) -> None:
        """`batch_size`: what sums are divided by. `entropy`: for tests of the arithmetic alone."""
        self._task, self._source, self._private, self._batch_size = task, source, private, batch_size
        self._parameters = list(parameters.values())
        self._gradients = _RecordGradients(model, task, self._parameters)
        numbers = sum(one.numel() for one in self._parameters)
        self._chunk = max(1, min(CHUNK_RECORDS, CHUNK_NUMBERS // max(1, numbers)))
        self._draw = np.random.Generator(np.random.Philox(key=secrets.randbits(128) if entropy is None else entropy))
        groups = groups_of(source)
        members = np.arange(len(source)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        self._order = np.argsort(members, kind="stable").astype(np.int64)
        self._sizes = np.bincount(members) if len(members) else np.zeros(0, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def rows(self) -> NDArray[np.int64]:
        """The records of the next step: one of each group that is in it; often none where data is small."""
        taken = np.flatnonzero(self._draw.random(len(self._sizes)) < self._private.sampling_rate)
        within = np.floor(self._draw.random(len(taken)) * self._sizes[taken]).astype(np.int64)
        rows: NDArray[np.int64] = self._order[self._starts[taken] + within]
        return rows

    def fill(self) -> None:
        """Put a step's noisy gradient into the parameters. O(records · P) time, O(chunk · P) memory."""
        rows = self.rows()
        sums = [torch.zeros_like(one) for one in self._parameters]
        for start in range(0, len(rows), self._chunk):
            batch = self._task.prepare(self._source.take(rows[start : start + self._chunk]))
            each = self._gradients.of(batch)
            _add_clipped(sums, each, self._private.clip)
        std = self._private.noise_multiplier * self._private.clip
        for parameter, total in zip(self._parameters, sums, strict=True):
            noise = self._draw.standard_normal(tuple(parameter.shape)) * std
            total += torch.from_numpy(np.asarray(noise)).to(total)
            parameter.grad = total / self._batch_size


class _RecordGradients:
    """Gradients of single records by `torch.func`."""

    def __init__(self, model: nn.Module, task: TaskNumerics, parameters: list[nn.Parameter]) -> None:
        self._loss = _Loss(model, task)
        names = {id(one): name for name, one in self._loss.named_parameters()}
        self._now = {names[id(one)]: one for one in parameters}
        # Copies: what a forward pass writes into buffers bears no noise, and is not handed on.
        self._buffers = {name: one.detach().clone() for name, one in self._loss.named_buffers()}

    def of(self, batch: Batch) -> list[Tensor]:
        """(B, …) for each parameter, in their order. InputError where records have no gradients of their own."""
        tensors = dict(batch.inputs) if batch.labels is None else {**batch.inputs, _LABELS: batch.labels}

        def loss(now: Mapping[str, Tensor], record: Mapping[str, Tensor]) -> Tensor:
            value: Tensor = functional_call(self._loss, ({**now, **self._buffers},), (record,))
            return value

        now = {name: one.detach() for name, one in self._now.items()}
        try:
            found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0), randomness="different")(now, tensors)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(
                f"privacy: records have no gradients of their own in this model: {reason}", todo=_TODO
            ) from None
        return [found[name] for name in self._now]


_LABELS: Final = " labels"
"""Beside the inputs of a record; no input is called so."""


class _Loss(nn.Module):
    """The loss of one record, as a module, so that its parameters can be given to it."""

    def __init__(self, model: nn.Module, task: TaskNumerics) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, record: Mapping[str, Tensor]) -> Tensor:
        """A batch of one."""
        one = {name: tensor.unsqueeze(0) for name, tensor in record.items()}
        labels = one.pop(_LABELS, None)
        batch = Batch(inputs=one, labels=labels)
        return self._task.loss(self._task.forward(self.model, batch), batch)


def _add_clipped(sums: list[Tensor], each: list[Tensor], clip: float) -> None:
    """Add the records' gradients, none longer than `clip` over all parameters together."""
    squares = torch.stack([one.reshape(len(one), -1).double().square().sum(dim=1) for one in each]).sum(dim=0)
    norms_B = squares.sqrt()
    factors_B = (clip / norms_B.clamp(min=clip)).nan_to_num(nan=0.0)
    sound_B = torch.isfinite(norms_B)
    for total, one in zip(sums, each, strict=True):
        shape = (len(one), *([1] * (one.ndim - 1)))
        counted = torch.where(sound_B.reshape(shape), one, torch.zeros_like(one))
        total += (counted * factors_B.to(one.dtype).reshape(shape)).sum(dim=0)


def check_records_apart(
    model: nn.Module, task: TaskNumerics, records: Any, parameters: Mapping[str, nn.Parameter] | None = None
) -> None:
    """InputError where records have no gradients of their own: seen from two records, before anything is trained.

    `records`: as a task takes them, two at least. The model and its buffers are as before.
    """
    if isinstance(task, (RetrievalNumerics, ReinforcementNumerics)):
        raise InputError("privacy: the records of this task have no gradients of their own", todo="train without it")
    if parameters is None:
        parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    was_training = model.training
    kept = [one.detach().clone() for one in model.buffers()]
    model.train()
    try:
        batch = task.prepare(records)
        first = _outputs(model, task, batch, [0, 1])
        again = _outputs(model, task, batch, [0, 0])
        changed = any(not torch.equal(one, old) for one, old in zip(model.buffers(), kept, strict=True))
        if changed or not all(_alike(one, other) for one, other in zip(first, again, strict=True)):
            what = "its buffers change with them" if changed else "what it says of one depends on the others"
            raise InputError(f"privacy: records of a batch are not apart in this model, {what}", todo=_TODO)
        _RecordGradients(model, task, list(parameters.values())).of(batch)
    finally:
        for one, old in zip(model.buffers(), kept, strict=True):
            if not torch.equal(one, old):
                one.copy_(old)
        model.train(was_training)


def _outputs(model: nn.Module, task: TaskNumerics, batch: Batch, rows: list[int]) -> list[Tensor]:
    """What the model says of the first of these records; random layers draw the same each time."""
    picked = Batch(inputs={name: one[rows] for name, one in batch.inputs.items()})
    kept = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = task.forward(model, picked)
    finally:
        torch.set_rng_state(kept)
    many = (
        outputs.values()
        if isinstance(outputs, Mapping)
        else outputs
        if isinstance(outputs, (tuple, list))
        else [outputs]
    )
    return [
        one[0] for one in many if isinstance(one, Tensor) and one.is_floating_point() and one.ndim and len(one) == 2
    ]


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=ALIKE, atol=ALIKE, equal_nan=True))
