"""Tensors of queries: bytes to arrays and back, checked against what a model takes, joined into batches and cut again.

What comes from outside is checked here once, before anything is computed with it: names, types, shapes, sizes. All
arrays share the first dimension, which counts rows (R); engines compute on many queries' rows at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base import limits
from daitn.base.errors import InputError, PeerError
from daitn.base.nearest import nearest_known
from daitn.descriptors.serving import DATATYPES, VARIES, Datatype, NamedTensor, TensorSpec

Arrays = dict[str, NDArray[Any]]
"""By name; the first dimension of each counts rows."""

_NUMPY: Final = {name: np.dtype(word).newbyteorder("<") for name, word in DATATYPES.items()}
_NAMES: Final[dict[np.dtype[Any], Datatype]] = {np.dtype(word): name for name, word in DATATYPES.items()}  # type: ignore[misc]


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy type of a datatype; InputError naming those there are."""
    try:
        return _NUMPY[datatype]
    except KeyError:
        raise InputError(f"datatype {datatype[:40]!r} is not served", todo=f"send one of {', '.join(_NUMPY)}") from None


def datatype_of(array: NDArray[Any]) -> Datatype:
    """The datatype of an array; PeerError where an answer has none that can be sent."""
    try:
        return _NAMES[array.dtype.newbyteorder("=")]
    except KeyError:
        raise PeerError(f"an output of type {array.dtype} cannot be sent") from None


def array_of(tensor: NamedTensor) -> NDArray[Any]:
    """A view of the tensor's bytes, read-only; InputError where they are not as many as its shape says."""
    dtype = dtype_of(tensor.datatype)
    count = 1
    for side in tensor.shape:
        count *= side
    if count * dtype.itemsize != len(tensor.data):
        raise InputError(
            f"tensor {tensor.name[:80]!r} of shape {list(tensor.shape)} and type {tensor.datatype} takes "
            f"{count * dtype.itemsize} bytes, {len(tensor.data)} were sent",
            todo="send row-major, little-endian values",
        )
    array = np.frombuffer(tensor.data, dtype=dtype)
    if tensor.datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise InputError(f"tensor {tensor.name[:80]!r} of type BOOL has bytes other than 0 and 1")
    return array.reshape(tensor.shape)


def tensor_of(name: str, array: NDArray[Any]) -> NamedTensor:
    """An array as it is sent; copies it."""
    datatype = datatype_of(array)
    return NamedTensor(name=name, datatype=datatype, shape=array.shape, data=array.astype(_NUMPY[datatype]).tobytes())


def arrays_of(tensors: Sequence[NamedTensor]) -> Arrays:
    """By name; InputError where a name comes twice."""
    found = {tensor.name: array_of(tensor) for tensor in tensors}
    if len(found) != len(tensors):
        raise InputError("two tensors have the same name", todo="send each input once")
    return found


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> tuple[NamedTensor, ...]:
    """All arrays, as they are sent."""
    return tuple(tensor_of(name, array) for name, array in arrays.items())


def rows_of(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> int:
    """How many rows a query has, once it was compared with what the model takes; InputError listing every fault."""
    rows = _rows_if_right(arrays, specs)
    if rows is not None:
        return rows
    faults: list[str] = []
    known = {spec.name: spec for spec in specs}
    faults += [f"no input {name[:80]!r}, {nearest_known(name, known)}" for name in arrays if name not in known]
    counts: set[int] = set()
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            faults.append(f"input {spec.name!r} is missing")
            continue
        if array.dtype != _NUMPY[spec.datatype]:
            faults.append(f"input {spec.name!r} is {datatype_of(array)}, the model takes {spec.datatype}")
        fits = len(array.shape) == len(spec.shape) and all(
            wanted in (VARIES, side) for wanted, side in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            faults.append(f"input {spec.name!r} has the shape {list(array.shape)}, the model takes {list(spec.shape)}")
        elif array.shape:
            counts.add(array.shape[0])
    if not faults and len(counts) != 1:
        faults.append(f"the inputs have {', '.join(map(str, sorted(counts))) or 'no'} rows; all must have as many")
    if faults:
        raise InputError("the query does not fit the model: " + "; ".join(faults), todo="ask for the model's metadata")
    rows = counts.pop()
    if not 1 <= rows <= limits.QUERY_ROWS:
        raise InputError(f"the query has {rows} rows, 1 to {limits.QUERY_ROWS} are taken", todo="split it by rows")
    return rows


def _rows_if_right(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> int | None:
    """The rows of a query in which nothing is wrong, which is nearly every one; None: look again, and say what is."""
    if len(arrays) != len(specs):
        return None
    rows = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None or array.dtype != _NUMPY[spec.datatype]:
            return None
        shape = array.shape
        if len(shape) != len(spec.shape) or not shape or (rows is not None and shape[0] != rows):
            return None
        for wanted, side in zip(spec.shape, shape, strict=True):
            if wanted not in (VARIES, side):
                return None
        rows = shape[0]
    return rows if rows is not None and 1 <= rows <= limits.QUERY_ROWS else None


def shape_key(arrays: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What two queries must share to be computed together: all sides but the rows."""
    return tuple(sorted((name, array.shape[1:]) for name, array in arrays.items()))


def join_rows(queries: Sequence[Arrays]) -> Arrays:
    """One batch of queries that share their `shape_key`, rows in their order."""
    if len(queries) == 1:
        return queries[0]
    return {name: np.concatenate([query[name] for query in queries]) for name in queries[0]}


def cut_rows(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """A batch's outputs as each query's own; PeerError where an output has not as many rows as went in."""
    total = sum(rows)
    for name, array in outputs.items():
        if not array.shape or array.shape[0] != total:
            raise PeerError(f"output {name[:80]!r} has the shape {list(array.shape)} for {total} rows")
    cut: list[Arrays] = []
    first = 0
    for count in rows:
        cut.append({name: array[first : first + count] for name, array in outputs.items()})
        first += count
    return cut
