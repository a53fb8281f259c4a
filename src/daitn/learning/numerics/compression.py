"""Compressed updates: what a visit changed, in 8 bits a number, all numbers or the largest only, with error feedback.

Of each trained tensor, in windows of `WINDOW` numbers, the `keep` of them that are largest are handed on (top-k), as
whole numbers from -127 to 127 with a scale for every `BLOCK` of them. What this leaves out, whole numbers or roundings,
is the *residual*: it stays at the site and is added to what the next visit changes (F. Seide et al., Interspeech 2014;
for top-k S. Stich et al., NeurIPS 2018), so that nothing is lost but time:

    sent + residual after = change + residual before

Frozen tensors are not part of an update: of a model with an adapter only the adapter is sent. Buffers, counters and
whole numbers are sent as they are, since a variance that is rounded may become negative.

A compressed update is an artifact of its own; whoever averages reads it with the model that the visit began from
(`restore_model`) and has a trained model again. Ranks are within a window, not within a whole model: the choice is a
little worse, but places take two bytes instead of four and memory does not grow with the model.

Legend: N numbers of a window, K of them kept, S = ⌈K / BLOCK⌉ scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import ITEM_BYTES, TensorEntry
from daitn.base.errors import InputError
from daitn.descriptors.compression import BLOCK, WINDOW, Compression
from daitn.learning.numerics.aggregate import UpdateRefusedError
from daitn.learning.numerics.blocks import Array, narrow, tensor_view, widen
from daitn.learning.numerics.server_step import Area
from daitn.learning.numerics.slots import is_trained

CODES: Final = "update/codes"
"""int8, shape (ΣK)."""
SCALES: Final = "update/scales"
"""float32, shape (ΣS)."""
PLACES: Final = "update/places"
"""int16, shape (ΣK), read as unsigned: where in its window a number stands, rising; only where not all are kept."""
RESIDUAL: Final = "residual"
"""float32, shape (ΣN): what a site has not handed on yet."""
MOST: Final = 127


class _Window(NamedTuple):
    """A window of a tensor, and where it lies in the update: numbers, kept numbers, scales."""

    entry: TensorEntry
    part: slice
    numbers: slice
    kept: slice
    scales: slice


def plan_update(entries: Sequence[TensorEntry], compression: Compression) -> Layout:
    """Layout of the compressed update of a model of these tensors."""
    windows = list(_windows(entries, compression))
    kept, scales = (windows[-1].kept.stop, windows[-1].scales.stop) if windows else (0, 0)
    specs = [
        TensorSpec(name=CODES, dtype="int8", shape=(kept,)),
        TensorSpec(name=SCALES, dtype="float32", shape=(scales,)),
        *(
            TensorSpec(name=_whole_name(place), dtype=entry.dtype, shape=entry.shape, role="buffer")
            for place, entry in _wholes(entries)
        ),
    ]
    if compression.keep < 1.0:
        specs.append(TensorSpec(name=PLACES, dtype="int16", shape=(kept,)))
    return plan_layout(specs)


def plan_residual(entries: Iterable[TensorEntry]) -> Layout:
    """Layout of what stays at the site."""
    shape = (trained_numbers(entries),)
    return plan_layout([TensorSpec(name=RESIDUAL, dtype="float32", shape=shape, role="optimizer")])


def trained_numbers(entries: Iterable[TensorEntry]) -> int:
    """Numbers of a model's tensors that training changes."""
    return sum(entry.nbytes // ITEM_BYTES[entry.dtype] for entry in entries if is_trained(entry))


def plan_restored(entries: Iterable[TensorEntry]) -> Layout:
    """Layout of the model that an update is read to: its base's tensors without what optimizers remember."""
    return plan_layout([entry for entry in entries if entry.role != "optimizer"])


def write_update(
    base: Area, trained: Area, before: Area | None, compression: Compression, sent: Area, left: Area
) -> None:
    """Write what changed from `base` to `trained` and the residual `before` into `sent`, and what that leaves out into
    `left`.

    `sent`, `left`: laid out by `plan_update` and `plan_residual`. InputError where tensors differ, or a change is not
    finite. One pass over all, O(N) a window.
    """
    after, target = trained.places(), sent.places()
    codes, scales = _view(sent, target[CODES]), _view(sent, target[SCALES])
    places = _view(sent, target[PLACES]).view(np.uint16) if PLACES in target else None
    residual = _view(left, left.places()[RESIDUAL])
    earlier = _view(before, before.places()[RESIDUAL]) if before is not None else None
    for window in _windows(base.entries, compression):
        change_N = _numbers(trained, _same(after.get(window.entry.name), window.entry), window.part)
        change_N -= _numbers(base, window.entry, window.part)
        if earlier is not None:
            change_N += earlier[window.numbers]
        if not np.isfinite(change_N).all() or np.abs(change_N).max(initial=0.0) > np.finfo(np.float32).max:
            raise InputError(f"what changed in {window.entry.name!r} is not finite", todo="train with smaller steps")
        count = window.kept.stop - window.kept.start
        chosen_K = None
        if places is not None:
            chosen_K = np.sort(np.argpartition(np.abs(change_N), len(change_N) - count)[len(change_N) - count :])
            places[window.kept] = chosen_K
        kept_K = change_N if chosen_K is None else change_N[chosen_K]
        codes[window.kept], scales[window.scales] = _code(kept_K)
        said_K = _decode(codes[window.kept], scales[window.scales])
        if chosen_K is None:
            change_N -= said_K
        else:
            change_N[chosen_K] -= said_K
        residual[window.numbers] = change_N
    for place, entry in _wholes(base.entries):
        _view(sent, target[_whole_name(place)])[...] = _view(trained, _same(after.get(entry.name), entry))


def restore_model(name: str, base: Area, sent: Area, compression: Compression, model: Area) -> None:
    """Write the model that `base` becomes by an update into `model`, laid out by `plan_restored`.

    UpdateRefusedError, with the update's `name`, where it is not one of this model compressed so, or has scales or
    places that cannot be. One pass over base and model.
    """
    if tuple(sent.entries) != plan_update(base.entries, compression).entries:
        raise UpdateRefusedError(name, "", f"it is no update of this model, compressed as {compression}")
    source, target = sent.places(), model.places()
    codes, scales = _view(sent, source[CODES]), _view(sent, source[SCALES])
    places = _view(sent, source[PLACES]).view(np.uint16) if PLACES in source else None
    if not np.isfinite(scales).all():
        raise UpdateRefusedError(name, SCALES, "it has scales that are not finite")
    for window in _windows(base.entries, compression):
        value_N = _numbers(base, window.entry, window.part)
        said_K = _decode(codes[window.kept], scales[window.scales])
        if places is None:
            value_N += said_K
        else:
            chosen_K = places[window.kept].astype(np.int64)
            if chosen_K[-1] >= len(value_N) or (np.diff(chosen_K) <= 0).any():
                raise UpdateRefusedError(name, PLACES, f"it has places in {window.entry.name!r} that cannot be")
            value_N[chosen_K] += said_K
        with np.errstate(over="ignore"):
            _view(model, target[window.entry.name])[window.part] = narrow(value_N, window.entry.dtype)
    whole = {entry.name: _whole_name(place) for place, entry in _wholes(base.entries)}
    for entry in base.entries:
        if entry.name in target and not is_trained(entry):
            known = _view(sent, source[whole[entry.name]]) if entry.name in whole else _view(base, entry)
            _view(model, target[entry.name])[...] = known


def _windows(entries: Iterable[TensorEntry], compression: Compression) -> Iterator[_Window]:
    numbers = kept = scales = 0
    for entry in entries:
        count = entry.nbytes // ITEM_BYTES[entry.dtype] if is_trained(entry) else 0
        for start in range(0, count, WINDOW):
            size = min(WINDOW, count - start)
            taken = compression.kept_of(size)
            blocks = -(-taken // BLOCK)
            yield _Window(
                entry,
                slice(start, start + size),
                slice(numbers, numbers + size),
                slice(kept, kept + taken),
                slice(scales, scales + blocks),
            )
            numbers, kept, scales = numbers + size, kept + taken, scales + blocks


def _wholes(entries: Iterable[TensorEntry]) -> list[tuple[int, TensorEntry]]:
    """Tensors that are sent as they are, with their number."""
    return list(enumerate(one for one in entries if one.role in ("parameter", "buffer") and not is_trained(one)))


def _whole_name(place: int) -> str:
    return f"whole/{place}"


def _code(kept_K: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes and scales of numbers, in blocks. A scale is at least what float32 can say without losing digits; a block
    below that stays in the residual."""
    starts = np.arange(0, len(kept_K), BLOCK)
    scales_S = (np.maximum.reduceat(np.abs(kept_K), starts) / MOST).astype(np.float32)
    scales_S[scales_S < np.finfo(np.float32).tiny] = 0
    wide_K = np.repeat(scales_S.astype(np.float64), BLOCK)[: len(kept_K)]
    codes_K = np.divide(kept_K, wide_K, out=np.zeros_like(kept_K), where=wide_K > 0)
    return np.clip(np.rint(codes_K), -MOST, MOST).astype(np.int8), scales_S


def _decode(codes_K: Array, scales_S: Array) -> NDArray[np.float64]:
    return codes_K.astype(np.float64) * np.repeat(scales_S.astype(np.float64), BLOCK)[: len(codes_K)]


def _numbers(area: Area, entry: TensorEntry, part: slice) -> NDArray[np.float64]:
    return widen(_view(area, entry)[part], entry.dtype)


def _view(area: Area, entry: TensorEntry) -> Array:
    return tensor_view(area.payload, entry)


def _same(found: TensorEntry | None, entry: TensorEntry) -> TensorEntry:
    if found is None or (found.dtype, found.shape) != (entry.dtype, entry.shape):
        raise InputError(f"tensor {entry.name!r} of the trained model is not that of the model it began from")
    return found
