"""A learning curve at the verification unit: what training on little of the test set does to the rest of it.

Paper II-A: T-FAM judges whether a goal can be reached. How a model learns is best seen from how it learns, and the unit
holds the only records that may be looked at before a visit. The groups of its samples are parted into two folds; the
model is trained on a part of one, with the plan's hyper-parameters, and measured on the other, then the other way
round. That gives figures at a quarter and a half of the sample besides the untrained ones, all on the same records, so
that differences are not noise of other records. What is learnt is thrown away; nothing but figures leaves.

All data sets are trained on together: a few dozen records of one site with one label after another would show how
little they are, not what all sites' records can teach. Retrieval is the exception: its batches are each other's wrong
answers, so they come from one data set, as they will, and the data sets take turns. And it measures one half among the
answers of both: in half the ring twice as many rivals are about the same thing, which is what training learns first to
tell apart, so that the trial would promise too much.

It fits the seconds it is given: a step and a measurement are timed first, and what does not fit is left out
(`learning.numerics.trial_extent`).

What it does not do: extrapolate (`decision.attainability`), or go on until a model gets there.

Legend: N records of a data set.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import nn

from daitn.base.ids import DataSetId
from daitn.descriptors.work import CurvePoint, Measurement, Training
from daitn.learning.numerics.evaluate import evaluate, keep_state, restore_state
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, NotFiniteError, Seeds, train
from daitn.learning.numerics.trial_extent import STEPS_LEAST, TURN_STEPS, fit_to_seconds
from daitn.learning.tasks.contract import RecordSlice, RecordsLike, TaskNumerics, count_records, groups_of, take_rows
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

RECORDS_LEAST: Final = 24
"""Records of a fold below which it says nothing."""


class _Fold(NamedTuple):
    """One way round: rows to learn from, and rows to measure on, for each data set."""

    learn: list[RecordSlice]
    test: list[RecordSlice]


class _Trial(NamedTuple):
    """What stays the same in all trainings of a trial. `ends`: by `time.perf_counter`."""

    model: nn.Module
    task: TaskNumerics
    names: Sequence[str]
    training: Training
    kept: dict[str, torch.Tensor]
    ends: float
    should_stop: Callable[[], bool]

    def over(self, spare_s: float = 0.0) -> bool:
        """Whether to stop now, or would be in `spare_s`."""
        return time.perf_counter() + spare_s > self.ends or self.should_stop()


class _Learnt(NamedTuple):
    """One way round: records learnt from, steps made, and figures on the other fold."""

    records: int
    steps: int
    measurements: tuple[Measurement, ...]


def learning_curve(
    model: nn.Module,
    task: TaskNumerics,
    sets: Sequence[RecordsLike],
    names: Sequence[str],
    training: Training,
    *,
    seconds: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[CurvePoint, ...]:
    """Figures `names` after training on none, about a quarter and about a half of the records of `sets`.

    Empty where there are too few records, where records come from an environment, or where training diverged or not
    even the least trial fits `seconds`. Where time is short: one way round, fewer steps, without the quarter, in this
    order. The model's state is put back. Cost: `seconds` at most, and one step or measurement.
    """
    if isinstance(task, ReinforcementNumerics):
        return ()
    halves = [fold_rows(records) for records in sets]
    if min(sum(len(half[side]) for half in halves) for side in (0, 1)) < RECORDS_LEAST:
        return ()
    folds = [_fold(sets, halves, side) for side in (0, 1)]
    if isinstance(task, RetrievalNumerics):
        folds = [fold._replace(test=among_all(sets, halves, 1 - side)) for side, fold in enumerate(folds)]
    was_training = model.training
    trial = _Trial(model, task, names, training, keep_state(model), time.perf_counter() + seconds, should_stop)
    try:
        points = _points(trial, folds)
    finally:
        restore_state(model, trial.kept)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return tuple(sorted(points, key=lambda point: point.records)) if len(points) > 1 else ()


def _points(trial: _Trial, folds: Sequence[_Fold]) -> list[CurvePoint]:
    """The untrained point, then one for each share, the whole fold first, as far as time goes."""
    if trial.over():
        return []
    began = time.perf_counter()
    untrained = [evaluate(trial.model, trial.task, folds[0].test, trial.names)]
    measure_s = time.perf_counter() - began
    step_s = _step_seconds(trial, folds[0])
    if step_s is None or trial.over():
        return []
    extent = fit_to_seconds(trial.ends - time.perf_counter(), step_s, measure_s)
    if extent is None:
        return []
    untrained += [evaluate(trial.model, trial.task, fold.test, trial.names) for fold in folds[1 : extent.ways]]
    ways = extent.ways
    points: list[CurvePoint] = []
    for share in extent.shares:
        learnt: list[_Learnt] = []
        for fold in folds[:ways]:
            first = not points and not learnt
            one = _learn(trial, fold, share, extent.steps, STEPS_LEAST if first else extent.steps, measure_s)
            if one is None:
                break
            learnt.append(one)
        if not points:
            ways = len(learnt)  # what has one way round only, because time was up, is compared with that way round
        if not learnt or len(learnt) < ways:
            break
        points.append(
            CurvePoint(
                records=sum(one.records for one in learnt) // ways,
                steps=learnt[0].steps,
                measurements=tuple(map(pooled, zip(*(one.measurements for one in learnt), strict=True))),
            )
        )
        if learnt[0].steps < extent.steps:
            break
    if not points:
        return []
    figures = tuple(map(pooled, zip(*untrained[:ways], strict=True)))
    return [CurvePoint(records=0, measurements=figures), *points]


def _step_seconds(trial: _Trial, fold: _Fold) -> float | None:
    """Seconds of a training step, the first one, which warms up, left out; None where training diverged or time was
    up. Where data sets take turns, a step with the largest, whose batches are the fullest."""
    parts = [max(_parts(trial, fold.learn), key=count_records)]
    try:
        if _train(trial, parts, 1) < 1:
            return None
        began = time.perf_counter()
        if _train(trial, parts, TURN_STEPS) < TURN_STEPS:
            return None
        return (time.perf_counter() - began) / TURN_STEPS
    finally:
        restore_state(trial.model, trial.kept)


def _learn(trial: _Trial, fold: _Fold, share: float, steps: int, least: int, measure_s: float) -> _Learnt | None:
    """One way round with this share of the learning fold; None where training diverged, or time was up before `least`
    steps and a measurement."""
    if trial.over():
        return None
    restore_state(trial.model, trial.kept)
    parts = [take_rows(part, slice(0, round(share * count_records(part)))) for part in fold.learn]
    parts = [part for part in parts if count_records(part)]
    made = _train(trial, _parts(trial, parts), steps, measure_s)
    if made < least:
        return None
    measurements = evaluate(trial.model, trial.task, fold.test, trial.names)
    return _Learnt(sum(count_records(part) for part in parts), made, measurements)


def _parts(trial: _Trial, parts: Sequence[RecordSlice]) -> Sequence[RecordSlice]:
    """What takes turns in training: the data sets of retrieval, else all records as one."""
    return parts if isinstance(trial.task, RetrievalNumerics) else [together(parts)]


def _train(trial: _Trial, parts: Sequence[RecordSlice], steps: int, spare_s: float = 0.0) -> int:
    """One short run over `parts`, ended `spare_s` before time is up: steps made, 0 where it diverged or is not wanted
    any more."""
    turn = TURN_STEPS if len(parts) > 1 else steps
    state, made = ModelState(), 0
    for number, start in enumerate(range(0, steps, turn)):
        part = parts[number % len(parts)]
        size = min(trial.training.batch_size, count_records(part))
        batches = min(turn, steps - start)
        try:
            result = train(
                trial.model,
                trial.task,
                MemorySlice(DataSetId(part.dataset), part),
                msgspec.structs.replace(trial.training, batch_size=size, batches=batches),
                state,
                seeds=Seeds(job=0, visit=number),
                should_stop=lambda: trial.over(spare_s),
            )
        except NotFiniteError:
            return 0
        state, made = result.state, made + result.batches
        if result.stopped:
            break
    return 0 if trial.should_stop() else made


def together(parts: Sequence[RecordSlice]) -> RecordSlice:
    """All parts as one."""
    labels = [part.labels for part in parts if part.labels is not None]
    return RecordSlice(
        inputs={name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        labels=np.concatenate(labels) if labels else None,
        fields=np.concatenate([part.fields for part in parts]),
        dataset="sample",
    )


def fold_rows(records: RecordsLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the two folds: by a hash of the group, so that no group is in both; rows without groups by turns."""
    groups = groups_of(records)
    if groups is None:
        rows = np.arange(count_records(records))
        return rows[::2], rows[1::2]
    names, inverse = np.unique(groups, return_inverse=True)
    sides = np.array([blake3(str(name).encode()).digest()[0] & 1 for name in names], dtype=np.int64)
    side_of = sides[inverse.reshape(-1)]
    return np.flatnonzero(side_of == 0), np.flatnonzero(side_of == 1)


def _fold(
    sets: Sequence[RecordsLike], halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], side: int
) -> _Fold:
    return _Fold(
        learn=[take_rows(records, half[side]) for records, half in zip(sets, halves, strict=True)],
        test=[take_rows(records, half[1 - side]) for records, half in zip(sets, halves, strict=True)],
    )


def among_all(
    sets: Sequence[RecordsLike], halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], side: int
) -> list[RecordSlice]:
    """All records of each set, of which only this half counts; the other half are rivals."""
    found: list[RecordSlice] = []
    for records, half in zip(sets, halves, strict=True):
        counted = np.zeros(count_records(records), dtype=np.bool_)
        counted[half[side]] = True
        found.append(dataclasses.replace(take_rows(records, slice(None)), counted=counted))
    return found


def pooled(found: Sequence[Measurement]) -> Measurement:
    """One figure of both ways round, weighted by records; its interval is that of the mean of two halves."""
    known = [one for one in found if one.records and one.value == one.value]
    total = sum(one.records for one in known)
    if not total:
        return found[0]

    def mean(values: Sequence[float]) -> float:
        return sum(value * one.records for value, one in zip(values, known, strict=True)) / total

    value = mean([one.value for one in known])
    shrink = len(known) ** -0.5
    return Measurement(
        name=found[0].name,
        value=value,
        low=value - shrink * (value - mean([one.low for one in known])),
        high=value + shrink * (mean([one.high for one in known]) - value),
        records=total,
    )
