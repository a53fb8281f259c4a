"""What each site's sample teaches of every field, tried at the verification unit.

Paper II-A: views say which data serves which part of a request, before any site was visited. Descriptions tell that
roughly, under a privacy budget; the unit holds something better: samples that sites agreed to give it, each known by
its data set. The model learns a little from one site's sample alone and is measured, field by field, on the samples of
all; then it is put back, and the next sample's turn has come. What a few dozen steps on a hundred records add is
little, but it is little in the same places as what a visit adds.

No privacy budget is spent: nothing is published but figures of the model, and the samples were given for measuring it,
under each site's policy (`sample_frac`, decision 0011). Groups that a model has learnt from are never measured on.

A sample's groups are parted into two folds, so that its own field is measured too; where time is short one way round
has to do, and then fewer steps. Too many teach the sample by heart: on nine institutes' texts 16 and 30 steps told the
order of real gains alike.

What it does not do: say how much a visit adds (`learning.numerics.curve` is for that).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from daitn.base.ids import DataSetId
from daitn.descriptors.work import Measurement, TaughtBy, Training
from daitn.learning.numerics.curve import fold_rows
from daitn.learning.numerics.evaluate import evaluate, keep_state, restore_state
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

STEPS_MOST: Final = 30
"""Steps of each training; see the module's docstring."""

STEPS_LEAST: Final = 8
"""Fewer say nothing."""

RECORDS_LEAST: Final = 8
"""Records of a fold below which its data set is left out."""

TRANSFER_FRAC: Final = 0.5
"""Of the seconds of the trial for the learning curve: what this one may take after it."""

PLANNED_FRAC: Final = 0.7
"""Share of the seconds that is planned with; the rest is for a machine that gets busier meanwhile."""


def transfer_trial(
    model: nn.Module,
    task: TaskNumerics,
    sets: Sequence[RecordsLike],
    names: Sequence[str],
    training: Training,
    *,
    seconds: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TaughtBy, ...]:
    """For each data set what a short training on its sample alone adds to the figures `names` (`metric@field`).

    Empty where there is one data set only, no field, records come from an environment, or the least trial does not fit
    `seconds`; a data set whose sample is too small, or on which training diverged, is left out. The model's state is
    put back. Cost: `seconds` at most, and one training.
    """
    if isinstance(task, ReinforcementNumerics) or not names:
        return ()
    folds = [(place, fold_rows(records)) for place, records in enumerate(sets)]
    folds = [(place, both) for place, both in folds if min(map(len, both)) >= RECORDS_LEAST]
    if len(folds) < 2:
        return ()
    ends = time.perf_counter() + seconds
    kept, was_training = keep_state(model), model.training
    found: dict[int, list[dict[str, float]]] = {place: [] for place, _ in folds}
    steps, ways = STEPS_MOST, 2
    try:
        for way in (0, 1):
            for number, (place, both) in enumerate(folds):
                if should_stop() or way >= ways:
                    break
                began = time.perf_counter()
                learn = take_rows(sets[place], both[way])
                tests = _tests(task, sets, place, both[1 - way], learn)
                gained = _gain(model, task, learn, tests, names, training, steps, kept)
                if gained is not None:
                    found[place].append(gained)
                if way == 0 and number == 0:
                    took_s = time.perf_counter() - began
                    planned = _plan(PLANNED_FRAC * (ends - time.perf_counter()), took_s, len(folds))
                    if planned is None:
                        return ()
                    steps, ways = planned
                elif time.perf_counter() > ends:
                    ways = 0
    finally:
        restore_state(model, kept)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    told = {place: gains for place, gains in found.items() if gains}
    if len(told) < len(folds) and ways == 0:
        return ()  # time was up before each had its turn: those that had not would seem to teach nothing
    return tuple(
        TaughtBy(
            dataset=DataSetId(sets[place].dataset),
            steps=steps,
            records=count_records(sets[place]),
            gains=_mean(gains),
        )
        for place, gains in told.items()
    )


def _plan(left_s: float, took_s: float, sets: int) -> tuple[int, int] | None:
    """Steps and ways round that fit, by what the first training of `STEPS_MOST` steps took."""
    if (2 * sets - 1) * took_s <= left_s:
        return STEPS_MOST, 2
    if (sets - 1) * took_s <= left_s:
        return STEPS_MOST, 1
    steps = int(STEPS_MOST * left_s / max(1e-9, (sets - 1) * took_s))
    return (steps, 1) if steps >= STEPS_LEAST else None


def _tests(
    task: TaskNumerics, sets: Sequence[RecordsLike], place: int, own: NDArray[np.int64], learn: RecordSlice
) -> list[RecordSlice]:
    """What is measured on: of the sample itself the other fold, of the others all; never a group that was learnt."""
    seen = np.unique(learn.groups) if learn.groups is not None else None
    found: list[RecordSlice] = []
    for number, records in enumerate(sets):
        counted = np.zeros(count_records(records), np.bool_)
        counted[own if number == place else slice(None)] = True
        groups = groups_of(records)
        if number != place and seen is not None and groups is not None:
            counted &= ~np.isin(groups, seen)
        if isinstance(task, RetrievalNumerics):  # all are rivals, whatever counts
            found.append(dataclasses.replace(take_rows(records, slice(None)), counted=counted))
        elif counted.any():
            found.append(take_rows(records, np.flatnonzero(counted)))
    return found


def _gain(
    model: nn.Module,
    task: TaskNumerics,
    learn: RecordSlice,
    tests: Sequence[RecordSlice],
    names: Sequence[str],
    training: Training,
    steps: int,
    kept: dict[str, torch.Tensor],
) -> dict[str, float] | None:
    """By name, what a training on `learn` adds; figures that are not known before and after are left out. None where it
    diverged."""
    restore_state(model, kept)
    before = evaluate(model, task, tests, names)
    size = min(training.batch_size, count_records(learn))
    try:
        train(
            model,
            task,
            MemorySlice(DataSetId(learn.dataset), learn),
            msgspec.structs.replace(training, batch_size=size, batches=steps),
            ModelState(),
            seeds=Seeds(job=0, visit=0),
        )
    except NotFiniteError:
        return None
    after = evaluate(model, task, tests, names)
    return {
        one.name: other.value - one.value
        for one, other in zip(before, after, strict=True)
        if _known(one) and _known(other)
    }


def _known(one: Measurement) -> bool:
    return one.records > 0 and one.value == one.value


def _mean(gains: Sequence[dict[str, float]]) -> dict[str, float]:
    """By field, over both ways round and over metrics of one field."""
    by_field: dict[str, list[float]] = {}
    for one in gains:
        for name, value in one.items():
            by_field.setdefault(name.partition("@")[2], []).append(value)
    return {field: float(np.mean(values)) for field, values in by_field.items()}
