"""Measuring a model, and the preflight: does it load, run, and learn one batch at all.

A model that cannot overfit a single batch has a fault that no amount of data mends (wrong loss, everything frozen,
output not connected to the input), and finding out costs seconds instead of visits (A. Karpathy, "A recipe for training
neural networks", 2019). The preflight works on the model given and puts its weights back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.descriptors.splitting import CutCost
from daitn.descriptors.trials import PREFLIGHT_RECORDS
from daitn.descriptors.work import Measurement, Training
from daitn.learning.graphs.profile import profile_cuts
from daitn.learning.graphs.rebuild import RebuiltModule
from daitn.learning.numerics.device import synchronise
from daitn.learning.numerics.optimizers import make_optimizer
from daitn.learning.numerics.private import check_records_apart
from daitn.learning.tasks.contract import Batch, RecordsLike, TaskNumerics, count_records, take_rows
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

PREFLIGHT_STEPS: Final = 60
"""Steps per learning rate; a small net on 32 records halves its loss within 20."""
PREFLIGHT_RATES: Final = (1e-3, 1e-2, 1e-1)
"""Adam's learning rates that are tried, careful ones first; pretrained models need the first, tiny ones the last."""
PREFLIGHT_S: Final = 60.0
"""The preflight ends after this long, whatever it found: at 20 s a step it has then made three."""
LEARNT_FRAC: Final = 0.5
"""The batch counts as learnt when the loss has fallen to this share of what it was …"""
LEARNT_LOSS: Final = 0.05
"""… or below this, for a model that has nothing left to learn on it."""


class Preflight(NamedTuple):
    """Whether one batch could be learnt, seconds for one training step, steps made, loss before and at its best."""

    overfits: bool
    batch_seconds: float
    steps: int
    loss_before: float
    loss_best: float


def evaluate(
    model: nn.Module, task: TaskNumerics, sets: Sequence[RecordsLike], names: Sequence[str]
) -> tuple[Measurement, ...]:
    """Measure `names` on all sets together, in evaluation mode and without gradients; the model is not changed.

    A model with a weight that is not a finite number measures as NaN throughout: its largest of all NaN outputs would
    be the first label, which for the data at hand may be right often enough to be kept. InputError for an unknown
    metric, label or field.
    """
    was_training = model.training
    try:
        measured = task.evaluate(model, sets, names)
    finally:
        model.train(was_training)
    if has_sound_weights(model):
        return measured
    nan = float("nan")
    return tuple(msgspec.structs.replace(one, value=nan, low=nan, high=nan) for one in measured)


def has_sound_weights(model: nn.Module) -> bool:
    """Whether every weight is finite and no buffer holds NaN; masks of minus infinity are as they should be."""
    weights = all(bool(torch.isfinite(one).all()) for one in model.parameters() if one.is_floating_point())
    return weights and not any(bool(torch.isnan(one).any()) for one in model.buffers() if one.is_floating_point())


def preflight(
    model: nn.Module,
    task: TaskNumerics,
    sets: Sequence[RecordsLike],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Preflight:
    """Take one batch and see whether `model` can learn it, within bounded steps and seconds. Weights are put back."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise InputError("the model has no trainable parameter", todo="freeze less, or submit it for evaluation only")
    device = next(iter(parameters.values())).device
    kept = keep_state(model)
    batch = _one_batch(model, task, sets)
    was_training = model.training
    deadline = time.perf_counter() + PREFLIGHT_S
    seconds: list[float] = []
    before, best = float("nan"), float("inf")
    try:
        model.train()
        for rate in PREFLIGHT_RATES:
            restore_state(model, kept)
            training = Training(batch_size=PREFLIGHT_RECORDS, batches=1, learning_rate=rate, optimizer="adam")
            optimizer = make_optimizer(training, parameters, {})
            for _ in range(PREFLIGHT_STEPS):
                began = time.perf_counter()
                if should_stop() or began > deadline:
                    return Preflight(_learnt(before, best), _typical(seconds), len(seconds), before, best)
                model.zero_grad(set_to_none=True)
                loss = task.loss(task.forward(model, batch), batch)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                synchronise(device)
                seconds.append(time.perf_counter() - began)
                value = float(loss.detach())
                before = value if before != before else before
                best = min(best, value)
                if _learnt(before, best):
                    return Preflight(True, _typical(seconds), len(seconds), before, best)
                if value != value:
                    break
        return Preflight(False, _typical(seconds), len(seconds), before, best)
    finally:
        model.zero_grad(set_to_none=True)
        restore_state(model, kept)
        model.train(was_training)


def check_private(model: nn.Module, task: TaskNumerics, sets: Sequence[RecordsLike]) -> None:
    """InputError where the model cannot be trained with private steps, seen from two records of the test set."""
    for records in sets:
        if count := count_records(records):
            check_records_apart(model, task, take_rows(records, np.array([0, count - 1])))
            return
    raise InputError("the test set has no records", todo="ask data owners for samples before the preflight")


def find_cuts(model: nn.Module, task: TaskNumerics, sets: Sequence[RecordsLike]) -> tuple[CutCost, ...]:
    """Where the model could be cut for split learning, and what that costs for a batch of the test set; empty where it
    cannot be: no graph, a batch that passes the model twice or comes of an environment, no place to cut at."""
    if not isinstance(model, RebuiltModule) or isinstance(task, (ReinforcementNumerics, RetrievalNumerics)):
        return ()
    batch = _one_batch(model, task, sets)
    was_training = model.training
    try:
        model.train()
        return profile_cuts(model, batch.inputs, min(PREFLIGHT_RECORDS, sum(count_records(one) for one in sets)))
    finally:
        model.train(was_training)


def _learnt(before: float, best: float) -> bool:
    """Losses below 0 (policy gradient) have no floor, so there a clear fall is enough."""
    if before <= 0:
        return best < before - 0.01
    return best <= max(LEARNT_FRAC * before, LEARNT_LOSS)


def _typical(seconds: list[float]) -> float:
    """Median, without the first step, which pays for warming up."""
    return median(seconds[1:] or seconds or [0.0])


def _one_batch(model: nn.Module, task: TaskNumerics, sets: Sequence[RecordsLike]) -> Batch:
    if isinstance(task, ReinforcementNumerics):
        model.eval()
        return task.rollout(model, PREFLIGHT_RECORDS, np.random.default_rng(0))
    for records in sets:
        if count := count_records(records):
            rows = np.linspace(0, count - 1, min(count, PREFLIGHT_RECORDS)).astype(np.int64)
            return task.prepare(take_rows(records, rows))
    raise InputError("the test set has no records", todo="ask data owners for samples before the preflight")


def _state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes. Frozen parameters are not in it: they may be views of a file mapped for reading."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def keep_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all trained parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in _state(model).items()}


def restore_state(model: nn.Module, kept: dict[str, Tensor]) -> None:
    """Put back what `keep_state` kept. What has not changed is not written: it may be a view of a read-only file."""
    with torch.no_grad():
        for name, tensor in _state(model).items():
            if not torch.equal(tensor, kept[name]):
                tensor.copy_(kept[name])
