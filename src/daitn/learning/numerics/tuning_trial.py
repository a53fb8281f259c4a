"""Hyper-parameters compared by short runs on the samples of a verification unit.

Paper II-A (HPO). Each is a run in little: the data sets' samples take the place of sites, a model goes from one to the
next (or the average of all goes on, or all are one), with the very training that a site would do, and is measured on
records that it did not learn from. Groups are parted into two folds, each to learn from while the other measures.

Samples are small, so a visit reads a record more often than at its site. That makes long visits and large rates look a
little worse than they are, for all alike; what is compared is how they do beside one another. A visit costs its batches
and `Trying.hop` more, larger batches cost more, and all runs cost the same: what needs longer visits makes fewer.

A model that goes from sample to sample sways, so it is measured after each of the last visits.

Private steps (`Trying.private`) are made as at a site: records' gradients cut, noise on their sum. A sample that is
smaller than a batch has as much noise on its mean gradient as a whole batch would.

Where an aggregator steps on from a round's mean (FedAdam, FedYogi, DiLoCo), so is done here, by the same numbers.

What it does not do: choose (`decision.tuning`), or keep what SCAFFOLD's sites keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from daitn.base.ids import DataSetId
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.server_step import ServerStep
from daitn.descriptors.trials import Measurement, Training, TriedOut, Trying
from daitn.learning.numerics.curve import among_all, fold_rows, pooled, together
from daitn.learning.numerics.evaluate import evaluate, keep_state, restore_state
from daitn.learning.numerics.server_step import first_slots, stepped
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, NotFiniteError, Seeds, train
from daitn.learning.tasks.contract import (
    RecordSlice,
    RecordsLike,
    TaskNumerics,
    count_records,
    groups_of,
    take_rows,
)
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

RECORDS_LEAST: Final = 24
"""Records of a fold below which it says nothing."""
PART_LEAST: Final = 4
"""Records of one data set's fold below which it is left out of the learning: no batch of it would be worth a visit."""
LOOKS: Final = 3
"""Last visits (rounds) after which the model is measured."""


class _Fold(NamedTuple):
    learn: list[RecordSlice]
    test: list[RecordSlice]


class _OverError(Exception):
    """Time is up."""


class _DivergedError(Exception):
    """The server's step leads beyond all numbers."""


def tuning_trial(
    model: nn.Module,
    task: TaskNumerics,
    sets: Sequence[RecordsLike],
    trying: Trying,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TriedOut, ...]:
    """What each of `trying.trainings` comes to, in their order; those that there was no time for are left out.

    Empty where records come from an environment, or there are too few. Of one with which training diverged there are
    no figures. The model's state is put back. Cost: `trying.seconds` at most, and one batch or measurement.
    """
    if isinstance(task, ReinforcementNumerics):
        return ()
    halves = [fold_rows(records) for records in sets]
    if min(sum(len(half[side]) for half in halves) for side in (0, 1)) < RECORDS_LEAST:
        return ()
    folds: list[_Fold] = []
    for side in (0, 1):
        learn = [take_rows(one, half[side]) for one, half in zip(sets, halves, strict=True)]
        learn = [one for one in learn if count_records(one) >= PART_LEAST]
        if trying.order == "mixed" and not isinstance(task, RetrievalNumerics):
            learn = [together(learn)] if learn else []
        test = [take_rows(one, half[1 - side]) for one, half in zip(sets, halves, strict=True)]
        if isinstance(task, RetrievalNumerics):
            test = among_all(sets, halves, 1 - side)
        if not learn:
            return ()
        folds.append(_Fold(learn, test))
    ends = time.perf_counter() + trying.seconds
    kept, was_training = keep_state(model), model.training
    found: list[TriedOut] = []

    def over() -> bool:
        return time.perf_counter() > ends or should_stop()

    try:
        for place, training in enumerate(trying.trainings):
            began = time.perf_counter()
            visits = trying.visits(training)
            try:
                private = trying.private[place] if trying.private else None
                ways = [_run(model, task, fold, trying, training, private, visits, kept, over) for fold in folds]
            except _OverError:
                break
            measured = [way for way in ways if way is not None]
            figures = tuple(map(pooled, zip(*measured, strict=True))) if len(measured) == len(ways) else ()
            took_s = time.perf_counter() - began
            found.append(TriedOut(place=place, measurements=figures, visits=visits, seconds=took_s))
    finally:
        restore_state(model, kept)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return tuple(found)


class _Server:
    """What an aggregator does after each round, and remembers of those before."""

    def __init__(self, step: ServerStep, model: nn.Module) -> None:
        self._step = step
        self._slots = {
            name: first_slots(step, parameter.numel())
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def step(self, base: Mapping[str, torch.Tensor], mean: dict[str, torch.Tensor]) -> None:
        """Turn the mean into the next model, in place."""
        for name, slots in self._slots.items():
            start = base[name].double().reshape(-1).cpu().numpy()
            found = stepped(self._step, start, mean[name].reshape(-1).cpu().numpy(), slots)
            if not np.isfinite(found).all():
                raise _DivergedError
            mean[name] = torch.from_numpy(found).reshape(base[name].shape).to(mean[name].device)


def _run(
    model: nn.Module,
    task: TaskNumerics,
    fold: _Fold,
    trying: Trying,
    training: Training,
    private: PrivateSteps | None,
    visits: int,
    kept: dict[str, torch.Tensor],
    over: Callable[[], bool],
) -> tuple[Measurement, ...] | None:
    """The figures after one short run; None where training diverged. _OverError where time is up."""
    restore_state(model, kept)
    turns = max(1, round(visits / len(fold.learn))) if trying.order == "rounds" else visits
    looks: list[tuple[Measurement, ...]] = []
    state = ModelState()
    server = None if trying.server is None else _Server(trying.server, model)
    for turn in range(turns):
        try:
            if trying.order == "rounds":
                _round(model, task, fold.learn, training, private, turn, over, server)
            else:
                state = _visit(model, task, fold.learn[turn % len(fold.learn)], training, private, state, turn, over)
        except (NotFiniteError, _DivergedError):
            return None
        if turn >= turns - LOOKS:
            looks.append(evaluate(model, task, fold.test, trying.names))
    return tuple(map(_mean, zip(*looks, strict=True)))


def _visit(
    model: nn.Module,
    task: TaskNumerics,
    part: RecordSlice,
    training: Training,
    private: PrivateSteps | None,
    state: ModelState,
    turn: int,
    over: Callable[[], bool],
) -> ModelState:
    size = min(training.batch_size, count_records(part))
    result = train(
        model,
        task,
        MemorySlice(DataSetId(part.dataset), part),
        msgspec.structs.replace(training, batch_size=size),
        state,
        seeds=Seeds(job=0, visit=turn),
        should_stop=over,
        private=None if private is None else _at_sample(private, part, training.batch_size, size),
    )
    if result.stopped:
        raise _OverError
    return result.state


def _at_sample(private: PrivateSteps, part: RecordSlice, planned: int, size: int) -> PrivateSteps:
    """A step takes about `size` of the sample's groups, and its mean gradient bears the noise that `planned` make."""
    groups = groups_of(part)
    count = count_records(part) if groups is None else len(np.unique(groups))
    return msgspec.structs.replace(
        private,
        noise_multiplier=private.noise_multiplier * size / planned,
        sampling_rate=min(1.0, size / count),
    )


def _round(
    model: nn.Module,
    task: TaskNumerics,
    parts: Sequence[RecordSlice],
    training: Training,
    private: PrivateSteps | None,
    turn: int,
    over: Callable[[], bool],
    server: _Server | None,
) -> None:
    """All parts train from one model; the mean of theirs, weighted by records, is the next one, or where the server's
    step leads from it. _DivergedError where that is beyond all numbers."""
    base = keep_state(model)
    mean = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in base.items()}
    total = sum(count_records(part) for part in parts)
    for number, part in enumerate(parts):
        restore_state(model, base)
        _visit(model, task, part, training, private, ModelState(), turn * len(parts) + number, over)
        for name, tensor in keep_state(model).items():
            mean[name] += tensor.double() * (count_records(part) / total)
    if server is not None:
        server.step(base, mean)
    restore_state(model, {name: _like(tensor, base[name]) for name, tensor in mean.items()})


def _like(mean: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return mean.to(before.dtype) if before.is_floating_point() else mean.round().to(before.dtype)


def _mean(looks: Sequence[Measurement]) -> Measurement:
    """The mean of looks at the same records, with the interval of one."""
    last = looks[-1]
    value = sum(one.value for one in looks) / len(looks)
    return msgspec.structs.replace(
        last, value=value, low=value - (last.value - last.low), high=value + (last.high - last.value)
    )
