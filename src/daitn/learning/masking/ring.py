"""Updates as whole numbers that wrap around at 2^32: hidden by adding a key stream, added up, and read back.

Numbers of 32 bits, because a masked update is then as large as one in float32. A unit is `FixedPoint.units`: at a norm
of 100 and a hundred sites 5e-6 of a site's own change, rounded once for each site, and less in their mean. Types that
are finer (float64) lose what is below that. Whole-number tensors and booleans take part as numbers, and are rounded
back, so that counters that all sites moved alike come out exact.

A stream is AES-256-CTR over zeros (3 GB/s measured), one key for one stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from daitn.artifacts.manifest import ITEM_BYTES, TensorEntry
from daitn.base.errors import InputError, PeerError
from daitn.descriptors.masked import FixedPoint
from daitn.learning.numerics.blocks import Array, blocks, narrow, tensor_view, widen
from daitn.learning.numerics.server_step import Area

Ring = NDArray[np.uint32]

STREAM_ELEMENTS: Final = 1 << 16
"""Elements of a key stream made at once: 256 kB, which stays in the cache with what it is added to."""

MASKED: Final = "masked"
"""The one tensor of a masked update, and of a masked sum: int32, shape (elements)."""

_FLOATS: Final = ("float64", "float32", "float16", "bfloat16")


def is_masked(entry: TensorEntry) -> bool:
    """Whether a tensor of a model is part of its update: what training changes, and does not travel as a slot."""
    return entry.role in ("parameter", "buffer")


def count_elements(entries: Iterable[TensorEntry]) -> int:
    """Elements of an update of a model with these tensors."""
    return sum(entry.nbytes // ITEM_BYTES[entry.dtype] for entry in entries if is_masked(entry))


def add_stream(target: Ring, key: bytes, sign: int) -> None:
    """Add the stream of `key` to `target`, or take it away (`sign` -1), in place."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(4 * min(STREAM_ELEMENTS, len(target)))
    for start in range(0, len(target), STREAM_ELEMENTS):
        block = target[start : start + STREAM_ELEMENTS]
        drawn = np.frombuffer(stream.update(zeros[: 4 * len(block)]), dtype="<u4")
        if sign > 0:
            np.add(block, drawn, out=block)
        else:
            np.subtract(block, drawn, out=block)


def write_update(base: Area, trained: Area, share: float, fixed: FixedPoint, target: Ring) -> float:
    """Write `share` (0 to 1) of the change from `base` to `trained` into `target`; the norm of its floating numbers,
    before they were made as short as `fixed.norm_most`. InputError where tensors differ, or a number is not finite.

    Two passes over both models, in blocks.
    """
    squares = sum(float(np.dot(change, change)) for _, change, floating in _changes(base, trained) if floating)
    norm = math.sqrt(squares) if squares >= 0 else math.nan
    if not math.isfinite(norm):
        raise InputError("the update has numbers that are not finite", todo="train with smaller steps")
    factor = share * fixed.units * min(1.0, fixed.norm_most / norm if norm else 1.0)
    most = ((1 << 31) - 1) // fixed.members
    for place, change, floating in _changes(base, trained):
        numbers = np.rint(change * factor) if floating else np.clip(change, -most, most)
        target[place] = numbers.astype(np.int64).astype(np.uint32)
    return norm


def add_update(total: Ring, update: Ring) -> None:
    """Add a masked update to a sum, in place, in blocks. PeerError where it is of another length."""
    if len(total) != len(update):
        raise PeerError(f"a masked update has {len(update)} numbers, the others {len(total)}")
    for block in blocks(len(total)):
        np.add(total[block], update[block], out=total[block])


def write_mean(base: Area, total: Ring, weight: float, members: int, fixed: FixedPoint, mean: Area) -> None:
    """Write the model that `base` becomes by the mean change, from a sum without masks. `weight`: the sum of shares;
    `members`: how many updates are in it.

    Frozen tensors are the base's. InputError where the sum is not of such a model.
    """
    if len(total) != count_elements(base.entries):
        raise InputError(f"the sum has {len(total)} numbers, the model {count_elements(base.entries)}")
    targets, offset = mean.places(), 0
    for entry in base.entries:
        if entry.name not in targets:
            continue
        before, after = tensor_view(base.payload, entry), tensor_view(mean.payload, targets[entry.name])
        if not is_masked(entry):
            after[...] = before
            continue
        units = fixed.units * weight if entry.dtype in _FLOATS else float(members)
        for block in blocks(len(before)):
            change = total[offset + block.start : offset + block.stop].view(np.int32) / units
            after[block] = _as_type(_numbers(before[block], entry.dtype) + change, entry.dtype)
        offset += len(before)


def _changes(base: Area, trained: Area) -> Iterator[tuple[slice, NDArray[np.float64], bool]]:
    """Blocks of the change, with their places in the update, and whether they are of floating numbers."""
    after, offset = trained.places(), 0
    for entry in base.entries:
        if not is_masked(entry):
            continue
        found = after.get(entry.name)
        if found is None or (found.dtype, found.shape) != (entry.dtype, entry.shape):
            raise InputError(f"tensor {entry.name!r} of the trained model is not that of the model it began from")
        before, now = tensor_view(base.payload, entry), tensor_view(trained.payload, found)
        for block in blocks(len(before)):
            change = _numbers(now[block], entry.dtype) - _numbers(before[block], entry.dtype)
            yield slice(offset + block.start, offset + block.stop), change, entry.dtype in _FLOATS
        offset += len(before)


def _numbers(values: Array, dtype: str) -> NDArray[np.float64]:
    return widen(values, dtype) if dtype in _FLOATS else values.astype(np.float64)


def _as_type(values: NDArray[np.float64], dtype: str) -> Array:
    if dtype in _FLOATS:
        return narrow(values, dtype)
    return values >= 0.5 if dtype == "bool" else np.rint(values).astype(np.int64)


def ring_of(payload: memoryview, entries: Sequence[TensorEntry]) -> Ring:
    """The numbers of a masked artifact, over its payload. PeerError where it is none."""
    if len(entries) != 1 or entries[0].name != MASKED or entries[0].dtype != "int32" or len(entries[0].shape) != 1:
        raise PeerError("this is no masked update", todo="look at the site that sent it")
    return tensor_view(payload, entries[0]).view(np.uint32)
