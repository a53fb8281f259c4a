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

What it does not do: extrapolate (`decision.attainability`), or go on until a model gets there: steps and seconds are
bounded.

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
from daitn.learning.tasks.contract import RecordSlice, RecordsLike, TaskNumerics, count_records, groups_of, take_rows
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

CURVE_S: Final = 30.0
"""No training for the curve begins after this long; an admission that takes minutes is worth no more than a visit."""
CURVE_STEPS: Final = 240
"""Steps of each training: about eight visits of a small model, after which most runs here had met their goals."""
TURN_STEPS: Final = 4
"""Steps of one turn, where data sets take turns."""
RECORDS_LEAST: Final = 24
"""Records of a fold below which it says nothing."""


class _Fold(NamedTuple):
    """One way round: rows to learn from, and rows to measure on, for each data set."""

    learn: list[RecordSlice]
    test: list[RecordSlice]


def learning_curve(
    model: nn.Module,
    task: TaskNumerics,
    sets: Sequence[RecordsLike],
    names: Sequence[str],
    training: Training,
    *,
    seconds: float = CURVE_S,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[CurvePoint, ...]:
    """Figures `names` after training on none, about a quarter and about a half of the records of `sets`.

    Empty where there are too few records, where records come from an environment, or where even the half took longer
    than `seconds` or diverged. The model's state is put back.
    """
    if isinstance(task, ReinforcementNumerics):
        return ()
    halves = [_halves(records) for records in sets]
    if min(sum(len(half[side]) for half in halves) for side in (0, 1)) < RECORDS_LEAST:
        return ()
    folds = [_fold(sets, halves, side) for side in (0, 1)]
    if isinstance(task, RetrievalNumerics):
        folds = [fold._replace(test=_among_all(sets, halves, 1 - side)) for side, fold in enumerate(folds)]
    kept = keep_state(model)
    was_training = model.training
    ends = time.perf_counter() + seconds
    points: list[CurvePoint] = []
    try:
        for share in (0.0, 1.0, 0.5):
            point = _point(model, task, folds, names, training, share, kept, ends, should_stop)
            if point is None:
                break
            points.append(point)
    finally:
        restore_state(model, kept)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return tuple(sorted(points, key=lambda point: point.records)) if len(points) > 1 else ()


def _point(
    model: nn.Module,
    task: TaskNumerics,
    folds: Sequence[_Fold],
    names: Sequence[str],
    training: Training,
    share: float,
    kept: dict[str, torch.Tensor],
    ends: float,
    should_stop: Callable[[], bool],
) -> CurvePoint | None:
    """Both ways round with this share of the learning fold; None where time was up or training diverged."""
    found: list[tuple[Measurement, ...]] = []
    records = 0
    for fold in folds:
        if time.perf_counter() > ends or should_stop():
            return None
        restore_state(model, kept)
        parts = [take_rows(part, slice(0, round(share * count_records(part)))) for part in fold.learn]
        parts = [part for part in parts if count_records(part)]
        if parts and not _train(model, task, parts, training, ends, should_stop):
            return None
        records += sum(count_records(part) for part in parts)
        found.append(evaluate(model, task, fold.test, names))
    return CurvePoint(records=records // len(folds), measurements=tuple(map(_pooled, zip(*found, strict=True))))


def _train(
    model: nn.Module,
    task: TaskNumerics,
    parts: Sequence[RecordSlice],
    training: Training,
    ends: float,
    should_stop: Callable[[], bool],
) -> bool:
    """One short run over `parts`; False where it diverged or was stopped before its end."""
    steps = CURVE_STEPS
    if isinstance(task, RetrievalNumerics):
        steps = TURN_STEPS
    else:
        parts = [_together(parts)]
    visit = msgspec.structs.replace(training, batches=steps)
    state = ModelState()
    for number in range(CURVE_STEPS // steps):
        part = parts[number % len(parts)]
        size = min(training.batch_size, count_records(part))
        try:
            result = train(
                model,
                task,
                MemorySlice(DataSetId(part.dataset), part),
                msgspec.structs.replace(visit, batch_size=size),
                state,
                seeds=Seeds(job=0, visit=number),
                should_stop=lambda: should_stop() or time.perf_counter() > ends,
            )
        except NotFiniteError:
            return False
        state = result.state
        if result.stopped:
            return False
    return True


def _together(parts: Sequence[RecordSlice]) -> RecordSlice:
    """All parts as one."""
    labels = [part.labels for part in parts if part.labels is not None]
    return RecordSlice(
        inputs={name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        labels=np.concatenate(labels) if labels else None,
        fields=np.concatenate([part.fields for part in parts]),
        dataset="sample",
    )


def _halves(records: RecordsLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _among_all(
    sets: Sequence[RecordsLike], halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], side: int
) -> list[RecordSlice]:
    """All records of each set, of which only this half counts; the other half are rivals."""
    found: list[RecordSlice] = []
    for records, half in zip(sets, halves, strict=True):
        counted = np.zeros(count_records(records), dtype=np.bool_)
        counted[half[side]] = True
        found.append(dataclasses.replace(take_rows(records, slice(None)), counted=counted))
    return found


def _pooled(found: Sequence[Measurement]) -> Measurement:
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
