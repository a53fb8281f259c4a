"""A buffer of updates: a model moved by the weighted mean of what visits changed that began from models of their own.

With y the model that is moved, x an update, b what it was trained from, r its weight and s its discount, elementwise:

    y + Σ r s (x - b) / Σ r

(FedBuff, J. Nguyen et al., AISTATS 2022, with records for weights). Only trained parameters are moved so: buffers of
normalisation, counters and frozen tensors are those of the updates' mean, since a variance that is moved by differences
may become negative. Without torch, in blocks, on mapped payloads: memory does not grow with the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import PeerError
from daitn.learning.numerics.aggregate import Update
from daitn.learning.numerics.blocks import Array, blocks, narrow, tensor_view, widen
from daitn.learning.numerics.server_step import Area
from daitn.learning.numerics.slots import is_trained


@dataclass(frozen=True, slots=True)
class Difference:
    """An update, what it was trained from, and how much of the difference is taken (0 to 1)."""

    update: Update
    base: Area
    discount: float


def move_by_differences(differences: Sequence[Difference], start: Area, mean: Area) -> None:
    """Write the trained parameters of `start`, moved by the weighted mean of `differences`, over those of `mean`.

    PeerError where a base or `start` lacks a parameter of the mean, or has it in another shape, and where the sum is
    beyond its type. Cost: one pass over all updates and bases.
    """
    total = math.fsum(one.update.weight for one in differences)
    shares = [one.update.weight / total * one.discount for one in differences]
    starts = start.places()
    bases = [one.base.places() for one in differences]
    updates = [{entry.name: entry for entry in one.update.entries} for one in differences]
    for entry in mean.entries:
        if not is_trained(entry):
            continue
        origin = _same(starts.get(entry.name), entry, start)
        ends = [
            tensor_view(one.update.payload, place[entry.name]) for one, place in zip(differences, updates, strict=True)
        ]
        begins = [_same(place.get(entry.name), entry, one.base) for one, place in zip(differences, bases, strict=True)]
        _move(entry, origin, ends, begins, shares, tensor_view(mean.payload, entry))


def _move(
    entry: TensorEntry,
    origin: Array,
    ends: Sequence[Array],
    begins: Sequence[Array],
    shares: Sequence[float],
    target: Array,
) -> None:
    for block in blocks(len(target)):
        moved = widen(origin[block], entry.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for end, begin, share in zip(ends, begins, shares, strict=True):
                moved += share * (widen(end[block], entry.dtype) - widen(begin[block], entry.dtype))
            stored = narrow(moved, entry.dtype)
        if not np.isfinite(widen(stored, entry.dtype)).all():
            raise PeerError(
                f"what visits changed leads parameter {entry.name!r} beyond its type",
                todo="lower the learning rate",
            )
        target[block] = stored


def _same(found: TensorEntry | None, entry: TensorEntry, area: Area) -> Array:
    if found is None or (found.shape, found.dtype) != (entry.shape, entry.dtype):
        there = "not there" if found is None else f"{found.dtype} {list(found.shape)}"
        raise PeerError(
            f"updates were trained from another model: parameter {entry.name!r} is {entry.dtype} {list(entry.shape)} "
            f"in them, and {there} in what they began from",
            todo="look at the visits that made them",
        )
    return tensor_view(area.payload, found)
