"""Tensors of mapped payloads, read and written in blocks without torch: what averaging and server steps stand on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.manifest import ITEM_BYTES, TensorEntry
from daitn.base.errors import InputError

BLOCK_ELEMENTS: Final = 1 << 15
"""Elements worked on at once: sum, scratch and one update's block (0.6 MB) stay in the second-level cache."""

Array = NDArray[Any]

_NUMPY: Final[dict[str, str]] = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip


def tensor_view(payload: memoryview, entry: TensorEntry) -> Array:
    """A tensor's elements as a flat array over the payload; bfloat16 as its bits. InputError where it ends early."""
    data = payload[entry.offset : entry.offset + entry.nbytes]
    if len(data) != entry.nbytes:
        raise InputError(f"the payload ends at {len(payload)}, inside tensor {entry.name!r}")
    return np.frombuffer(data, dtype=_NUMPY[entry.dtype], count=entry.nbytes // ITEM_BYTES[entry.dtype])


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most `BLOCK_ELEMENTS` that cover `count` elements."""
    for start in range(0, count, BLOCK_ELEMENTS):
        yield slice(start, min(start + BLOCK_ELEMENTS, count))


def widen(values: Array, dtype: str) -> NDArray[np.float64]:
    """Elements of a floating tensor as float64."""
    return (from_bfloat16(values) if dtype == "bfloat16" else values).astype(np.float64)


def narrow(values: NDArray[np.float64], dtype: str) -> Array:
    """float64 as elements of a floating tensor."""
    return to_bfloat16(values) if dtype == "bfloat16" else values.astype(_NUMPY[dtype])


def from_bfloat16(bits: Array) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
