"""Averaging of models: the weighted mean, tensor by tensor, from mapped payloads into a mapped payload.

Federated averaging (B. McMahan et al., AISTATS 2017) needs no torch and, done in blocks, no memory: whatever the size
and the number of the updates, one block of each type is held. The order of the updates changes the result only by
rounding: float64 and float32 are summed in float64, float16 and bfloat16 in float32, and rounded once.

Rules by kind of tensor: `frozen`, `random` and `record` tensors are the first update's; counters (integers of shape ():
`num_batches_tracked`, the optimizer's `steps`) become the maximum; other integers the mean, rounded to even; booleans
the weighted majority, ties true. Optimizer slots are averaged where every update has them, and left out otherwise, as
a missing slot means a fresh optimizer. An update with a value that is not finite is refused by name: one broken site
must not spoil the others' work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from daitn.artifacts.layout import Layout, plan_layout
from daitn.artifacts.manifest import Cursor, TensorEntry, TravellingState
from daitn.base.errors import InputError, PeerError
from daitn.learning.numerics.blocks import (
    BLOCK_ELEMENTS,
    Array,
    blocks,
    from_bfloat16,
    tensor_view,
    to_bfloat16,
)


class UpdateRefusedError(PeerError):
    """An update cannot take part. `update` is its name, `tensor` the first tensor at fault."""

    def __init__(self, update: str, tensor: str, what: str) -> None:
        self.update, self.tensor = update, tensor
        super().__init__(f"update {update[:16]} is refused: {what}", todo="average the others, and look at that visit")


@dataclass(frozen=True, slots=True)
class Update:
    """One model to be averaged: its name for messages, weight, tensors, payload (bytes, mapped), travelling state."""

    name: str
    weight: float
    entries: Sequence[TensorEntry]
    payload: memoryview
    state: TravellingState = field(default_factory=TravellingState)


def plan_average(updates: Sequence[Update]) -> Layout:
    """Layout of the mean of `updates`: the first one's tensors, without optimizer slots that some update lacks.

    UpdateRefusedError where an update has other tensors than the first; InputError where there are none.
    """
    if not updates:
        raise InputError("there is nothing to average")
    expected = {entry.name: _kind(entry) for entry in updates[0].entries if entry.role != "optimizer"}
    slots = {entry.name: _kind(entry) for entry in updates[0].entries if entry.role == "optimizer"}
    for update in updates:
        if not (math.isfinite(update.weight) and update.weight > 0):
            raise UpdateRefusedError(update.name, "", f"its weight is {update.weight}")
        found = {entry.name: _kind(entry) for entry in update.entries if entry.role != "optimizer"}
        for name in expected.keys() | found.keys():
            if found.get(name) != expected.get(name):
                raise UpdateRefusedError(
                    update.name, name, f"tensor {name!r} is {found.get(name)}, the first update's {expected.get(name)}"
                )
        own = {entry.name: _kind(entry) for entry in update.entries if entry.role == "optimizer"}
        slots = {name: kind for name, kind in slots.items() if own.get(name) == kind}
    return plan_layout([e for e in updates[0].entries if e.role != "optimizer" or e.name in slots])


def most_alike(updates: Sequence[Update]) -> list[Update]:
    """The updates that have the same tensors as most others have: one of another shape is alone with it, wherever it
    stands. Of equally many, those with the first."""
    kinds = [frozenset((e.name, _kind(e)) for e in update.entries if e.role != "optimizer") for update in updates]
    chosen = max(kinds, key=kinds.count)
    return [update for update, kind in zip(updates, kinds, strict=True) if kind == chosen]


def average(updates: Sequence[Update], layout: Layout, output: memoryview) -> None:
    """Write the weighted mean of `updates` into `output`, laid out by `plan_average`.

    UpdateRefusedError naming update and tensor where a value is not finite. Cost: one pass over all payloads.
    """
    places = [{entry.name: entry for entry in update.entries} for update in updates]
    weights = [update.weight / math.fsum(update.weight for update in updates) for update in updates]
    for entry in layout.entries:
        views = [tensor_view(update.payload, place[entry.name]) for update, place in zip(updates, places, strict=True)]
        target = tensor_view(output, entry)
        if entry.role in ("frozen", "random", "record"):
            target[...] = views[0]
        elif entry.dtype in ("float64", "float32", "float16", "bfloat16"):
            _average_floats(entry, views, weights, target, updates)
        elif entry.shape == () and entry.dtype != "bool":
            target[...] = max(int(view[0]) for view in views)
        elif entry.dtype == "bool":
            share = sum(weight * view.astype(np.float32) for weight, view in zip(weights, views, strict=True))
            target[...] = share >= 0.5
        else:
            _average_integers(views, weights, target)


def average_sound(updates: Sequence[Update], layout: Layout, output: memoryview) -> list[Update]:
    """As `average`, of those updates that can be averaged, which are returned. UpdateRefusedError where none can."""
    left = list(updates)
    while True:
        try:
            average(left, layout, output)
        except UpdateRefusedError as error:
            refused, tensor = error.update, error.tensor
        else:
            return left
        # Outside the handler: an error that is under way keeps views of the output, which then cannot be closed.
        left = [update for update in left if update.name != refused]
        if not left:
            raise UpdateRefusedError(refused, tensor, "no update is left to average")


def merge_states(states: Sequence[TravellingState]) -> TravellingState:
    """What the mean remembers: the most steps and records of any update, each data set's cursor that is furthest.

    Updates of one round start from one model, so their counters share a beginning and must not be summed.
    """
    cursors: dict[str, Cursor] = {}
    for state in states:
        for cursor in state.cursors:
            known = cursors.get(cursor.dataset)
            if known is None or (cursor.epoch, cursor.position) > (known.epoch, known.position):
                cursors[cursor.dataset] = cursor
    optimizers = {state.optimizer for state in states}
    return msgspec.structs.replace(
        states[0],
        optimizer=states[0].optimizer if len(optimizers) == 1 else "",
        steps=max(state.steps for state in states),
        records=max(state.records for state in states),
        cursors=tuple(cursors.values()),
    )


def _kind(entry: TensorEntry) -> str:
    return f"{entry.role} {entry.dtype} {list(entry.shape)}"


def _average_floats(
    entry: TensorEntry, views: Sequence[Array], weights: Sequence[float], target: Array, updates: Sequence[Update]
) -> None:
    wide = np.dtype(np.float64 if entry.dtype in ("float64", "float32") else np.float32)
    size = min(BLOCK_ELEMENTS, len(target))
    sums, scratch = np.empty(size, dtype=wide), np.empty(size, dtype=wide)
    for block in blocks(len(target)):
        total, part = sums[: block.stop - block.start], scratch[: block.stop - block.start]
        total.fill(0)
        with np.errstate(invalid="ignore", over="ignore"):
            for view, weight in zip(views, weights, strict=True):
                if entry.dtype == "float64":
                    # There is no wider type to round from, so differences to the first keep equal values equal.
                    np.subtract(view[block], views[0][block], out=part)
                    part *= weight
                else:
                    values = from_bfloat16(view[block]) if entry.dtype == "bfloat16" else view[block]
                    np.multiply(values, weight, out=part, dtype=wide)
                total += part
            if entry.dtype == "float64":
                total += views[0][block]
        # One look at the sum instead of one at each update: what is not finite stays so.
        if not np.isfinite(total).all():
            raise _find_fault(entry, views, updates)
        target[block] = to_bfloat16(total) if entry.dtype == "bfloat16" else total


def _find_fault(entry: TensorEntry, views: Sequence[Array], updates: Sequence[Update]) -> PeerError:
    """Which update made a mean that is not finite."""
    for view, update in zip(views, updates, strict=True):
        for block in blocks(len(view)):
            values = from_bfloat16(view[block]) if entry.dtype == "bfloat16" else view[block]
            if not np.isfinite(values).all():
                return UpdateRefusedError(
                    update.name, entry.name, f"tensor {entry.name!r} has values that are not finite"
                )
    return PeerError(f"the mean of tensor {entry.name!r} is beyond its type", todo="look at its values at each site")


def _average_integers(views: Sequence[Array], weights: Sequence[float], target: Array) -> None:
    """Mean of the differences to the first, so that equal values stay exact at any size."""
    for block in blocks(len(target)):
        first = views[0][block].astype(np.int64)
        total = np.zeros(len(first), dtype=np.float64)
        for view, weight in zip(views, weights, strict=True):
            total += weight * (view[block].astype(np.int64) - first).astype(np.float64)
        target[block] = first + np.rint(total).astype(np.int64)
