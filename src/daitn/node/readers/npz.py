"""NPZ: numpy arrays with one row per record, by name. Arrays of Python objects (pickles) are refused.

One dimension is a number or text column, two a vector, three or four an image per record.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daitn.describe.fit import Batch
from daitn.describe.table import NO_ARRAY
from daitn.node.readers.contract import ARCHIVE_BYTES, BATCH_ROWS, LocalType, broken, check_columns


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
                size = sum(member.file_size for member in archive.infolist())
            if size > ARCHIVE_BYTES:
                raise broken(self._path, f"unpacks to {size} bytes, the limit is {ARCHIVE_BYTES}")
            with np.load(self._path, allow_pickle=False) as archive_arrays:
                arrays = {name: archive_arrays[name] for name in archive_arrays.files}
        except (OSError, *NO_ARRAY, zlib.error, NotImplementedError, RuntimeError) as error:
            hint = "save texts as numpy strings, not objects" if "pickle" in str(error).lower() else ""
            raise broken(self._path, f"cannot be read: {error}", todo=hint) from None
        if not arrays:
            raise broken(self._path, "holds no arrays")
        check_columns(self._path, list(arrays))
        lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
        if len(set(lengths.values())) > 1 or None in lengths.values():
            listed = ", ".join(f"{name}: {length or 'a single value'}" for name, length in list(lengths.items())[:8])
            raise broken(self._path, f"arrays differ in their number of rows ({listed})")
        self._arrays = arrays
        return arrays


def _local_type(array: NDArray[Any]) -> str:
    if array.ndim >= 3:
        return LocalType.IMAGE
    if array.ndim == 2:
        return LocalType.VECTOR
    return {"b": LocalType.BOOLEAN, "U": LocalType.TEXT, "S": LocalType.TEXT, "M": LocalType.DATE}.get(
        array.dtype.kind, LocalType.NUMBER if array.dtype.kind in "iuf" else LocalType.OTHER
    )
