"""NPZ: numpy arrays with one row per record, by name. Arrays of Python objects (pickles) are refused.

One dimension is a number or text column, two a vector, three or four an image per record.

An array's header and an archive's directory may claim any size, and numpy takes the room for an array before it reads
one. So both are compared with the bytes that are there before anything is unpacked.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from daitn.describe.fit import Batch
from daitn.describe.table import NO_ARRAY
from daitn.node.measures import memory_free_bytes
from daitn.node.readers.contract import ARCHIVE_BYTES, BATCH_ROWS, LocalType, broken, check_columns

DEFLATE_MOST: Final = 1032
"""Times that deflate can unpack to what it was, at the very most (a run of one byte)."""
HEADER_SLACK: Final = 64
"""Bytes beyond that: a stream of nothing is not nothing."""


class NpzReader:
    """An `.npz` archive; each array is unpacked in memory when it is read, never onto the disk."""

    format: ClassVar[str] = "npz"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, NDArray[Any]] = {}

    @classmethod
    def recognises(cls, path: Path, _head: bytes) -> bool:
        """By suffix: a zip file may be anything."""
        return path.suffix.lower() == ".npz" and not path.is_dir()

    def files(self) -> list[Path]:
        """The one file."""
        return [self._path]

    def columns(self) -> dict[str, str]:
        """Names and kinds of the arrays."""
        return {name: _local_type(array) for name, array in self._load().items()}

    def read(self) -> Iterator[Batch]:
        """Rows as slices of the arrays; texts as lists."""
        arrays = self._load()
        count = len(next(iter(arrays.values())))
        for start in range(0, count, BATCH_ROWS):
            parts = {name: array[start : start + BATCH_ROWS] for name, array in arrays.items()}
            yield {name: part.tolist() if part.dtype.kind in "US" else part for name, part in parts.items()}

    def _load(self) -> dict[str, NDArray[Any]]:
        if self._arrays:
            return self._arrays
        try:
            with zipfile.ZipFile(self._path) as archive:
                _check_sizes(self._path, archive)
                for member in archive.infolist():
                    _check_header(self._path, archive, member)
            with np.load(self._path, allow_pickle=False) as archive_arrays:
                arrays = {name: archive_arrays[name] for name in archive_arrays.files}
        except (OSError, *NO_ARRAY, zlib.error, NotImplementedError, RuntimeError) as error:
            hint = "save texts as numpy strings, not objects" if "pickle" in str(error).lower() else ""
            raise broken(self._path, f"cannot be read: {error}", todo=hint) from None
        except MemoryError:
            raise broken(self._path, "takes more memory than there is here", todo="split it into files") from None
        if not arrays:
            raise broken(self._path, "holds no arrays")
        check_columns(self._path, list(arrays))
        lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
        if len(set(lengths.values())) > 1 or None in lengths.values():
            listed = ", ".join(f"{name}: {length or 'a single value'}" for name, length in list(lengths.items())[:8])
            raise broken(self._path, f"arrays differ in their number of rows ({listed})")
        self._arrays = arrays
        return arrays


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """InputError where the directory claims more than the file can hold, or than is unpacked at all."""
    members = archive.infolist()
    size, packed, there = sum(one.file_size for one in members), sum(one.compress_size for one in members), path.stat()
    if size > ARCHIVE_BYTES:
        raise broken(path, f"unpacks to {size} bytes, the limit is {ARCHIVE_BYTES}", todo="split it into files")
    if size > (free := memory_free_bytes()):
        raise broken(path, f"unpacks to {size} bytes, {free} bytes of memory are free", todo="split it into files")
    if packed > there.st_size:
        raise broken(path, f"claims {packed} packed bytes and has {there.st_size}", todo="save it again with numpy")
    for one in members:
        most = one.compress_size
        if one.compress_type == zipfile.ZIP_DEFLATED:
            most = DEFLATE_MOST * one.compress_size + HEADER_SLACK
        elif one.compress_type != zipfile.ZIP_STORED:
            raise broken(path, f"{one.filename!r} is packed by no method of numpy's", todo="save it again with numpy")
        if one.file_size > most:
            what = f"{one.filename!r} claims {one.file_size} bytes, {one.compress_size} packed ones cannot hold them"
            raise broken(path, what, todo="save it again with numpy")


def _check_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """InputError unless a member is an array, and as large as its bytes. Pickles are left to numpy, which says so."""
    with archive.open(member) as file:
        if file.read(npy.MAGIC_LEN)[: len(npy.MAGIC_PREFIX)] != npy.MAGIC_PREFIX:
            raise broken(path, f"{member.filename!r} is no numpy array", todo="save it again with numpy")
        file.seek(0)
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        there = member.file_size - file.tell()
    if dtype.hasobject:
        return
    claimed = math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or claimed != there:
        what = f"array {member.filename!r} of {'×'.join(map(str, shape))} {dtype} takes {claimed} bytes"
        raise broken(path, f"{what}, there are {there}", todo="save it again with numpy")


def _local_type(array: NDArray[Any]) -> str:
    if array.ndim >= 3:
        return LocalType.IMAGE
    if array.ndim == 2:
        return LocalType.VECTOR
    return {"b": LocalType.BOOLEAN, "U": LocalType.TEXT, "S": LocalType.TEXT, "M": LocalType.DATE}.get(
        array.dtype.kind, LocalType.NUMBER if array.dtype.kind in "iuf" else LocalType.OTHER
    )
