"""A mapped table: one data set in the columns of a contract, on disk as plain arrays, read by memory map.

A site maps its files once (`describe.fit`); from then on training, samples and statistics read this table, whatever
format the data came in. All columns of one kind that have a fixed small size lie in one matrix (numbers, categories,
identifiers), because a batch then costs one gather instead of one per column; vectors, images and texts have files of
their own. Nothing here is a pickle: files are `.npy` read with `allow_pickle=False`, and `table.json`.

Two digests per record stand beside the columns: of its group (`groups`) and of its content (`contents`). They are not
keyed, since sites must agree on them to split alike (`describe.splits`); neither ever leaves the site.
A table is written once, in a folder named by its version, by writing beside it and renaming; so a reader sees a whole
table or none, and a visit that reads an old version is not disturbed by a new one.

Legend: N records, K columns of one kind, L length of a vector, C×H×W an image.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self
from zipfile import BadZipFile

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError, InputError
from daitn.descriptors.contract import (
    CategoryColumn,
    Column,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    TextColumn,
    VectorColumn,
)

Rows = NDArray[np.int64]

TABLE_FILE: Final = "table.json"
SECRET_BYTES: Final = 32
"""Length of a site's secret: the key of keyed BLAKE3."""

NO_ARRAY: Final = (ValueError, EOFError, SyntaxError, TokenError, BadZipFile)
"""What numpy raises for bytes that are no array: it reads a file's header as Python, and takes some for archives."""

_MATRICES: Final[dict[type, tuple[str, str]]] = {
    NumberColumn: ("numbers", "<f8"),
    CategoryColumn: ("categories", "<i4"),
    IdentifierColumn: ("identifiers", "<u8"),
}
"""Column kinds that share one (N, K) matrix: its file and its type."""


class TextArray(NamedTuple):
    """N texts as one block of UTF-8 bytes: text i is `blob[offsets[i]:offsets[i + 1]]`."""

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def text(self, row: int) -> str:
        """Text of one record."""
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        return bytes(self.blob[start:stop]).decode("utf-8", "replace")


class TableHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `table.json` says; `digests` are keyed by the site's secret, one per file."""

    format: Literal[1] = 1
    columns: tuple[Column, ...]
    group: str
    rows: int
    version: str
    digests: dict[str, str]


class Layout:
    """Where the columns of a table lie: which file, and which position in a matrix."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.position: dict[str, tuple[str, int]] = {}
        self.files: dict[str, tuple[str, tuple[int, ...]]] = {"groups": ("<u8", ()), "contents": ("<u8", ())}
        widths = {"numbers": 0, "categories": 0, "identifiers": 0}
        for index, column in enumerate(columns):
            own = f"c{index:05d}"
            match column:
                case VectorColumn(length=length):
                    self.files[own] = ("<f4", (length,))
                case ImageColumn(channels=channels, height=height, width=width):
                    self.files[own] = ("|u1", (channels, height, width))
                case TextColumn():
                    self.files[f"{own}.blob"] = ("|u1", ())
                    self.files[f"{own}.offsets"] = ("<i8", ())
                case _:
                    own = _MATRICES[type(column)][0]
                    self.position[column.name] = (own, widths[own])
                    widths[own] += 1
                    continue
            self.position[column.name] = (own, 0)
        for name, dtype in _MATRICES.values():
            if widths[name]:
                self.files[name] = (dtype, (widths[name],))


class MappedTable:
    """A data set in contract columns, read-only. Made by `TableWriter` or `MappedTable.open`; see the module."""

    def __init__(self, folder: Path, header: TableHeader, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.folder = folder
        self.header = header
        self.columns = header.columns
        self.group = header.group
        self.rows = header.rows
        self.version = header.version
        self._arrays = dict(arrays)
        self._layout = Layout(header.columns)
        self._by_name = {column.name: column for column in header.columns}

    @classmethod
    def open(cls, folder: Path) -> MappedTable:
        """Map a table written earlier: O(files), no content is read. InputError where it is damaged or absent."""
        try:
            header = msgspec.json.decode((folder / TABLE_FILE).read_bytes(), type=TableHeader)
            arrays: dict[str, NDArray[Any]] = {}
            for name, (dtype, tail) in Layout(header.columns).files.items():
                array = _load(folder / f"{name}.npy")
                rows = _expected_rows(name, header.rows)
                if array.dtype != np.dtype(dtype) or array.shape[1:] != tail or rows not in (None, len(array)):
                    raise ValueError(f"{name}.npy has type {array.dtype} and shape {array.shape}")
                arrays[name] = array
        except (OSError, *NO_ARRAY, *UNDECODABLE) as error:
            raise InputError(
                f"table {folder.name!r} cannot be read: {error}", todo="add the data set again from its source"
            ) from None
        return cls(folder, header, arrays)

    def column(self, name: str) -> Column:
        """The column of that name; InputError listing the known ones."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(list(self._by_name)[:12])
            raise InputError(f"the mapped data has no column {name!r}", todo=f"it has: {known}") from None

    def numbers(self, names: Sequence[str], rows: Rows | None = None) -> NDArray[np.float64]:
        """Number columns as float64 (N, K), NaN where missing; `rows` picks records."""
        positions = [self._place(name, NumberColumn)[1] for name in names]
        matrix = self._arrays["numbers"]
        picked = matrix if rows is None else matrix[rows]
        if positions == list(range(matrix.shape[1])):
            return np.asarray(picked)
        return np.asarray(picked[:, positions])

    def categories(
        self, name: str, rows: Rows | None = None, vocabulary: Sequence[str] | None = None
    ) -> NDArray[np.int32]:
        """A category column as int32 (N,): index in `vocabulary` (default: the column's own), -1 where missing."""
        file, position = self._place(name, CategoryColumn)
        matrix = self._arrays[file]
        codes = np.asarray(matrix[:, position] if rows is None else matrix[rows, position])
        column = self.column(name)
        if vocabulary is None or not isinstance(column, CategoryColumn) or tuple(vocabulary) == column.values:
            return codes
        index = {value: number for number, value in enumerate(vocabulary)}
        # The last entry answers for code -1, so that missing stays missing without a second pass.
        lookup = np.array([index.get(value, -1) for value in column.values] + [-1], dtype=np.int32)
        return np.asarray(lookup[codes])

    def identifiers(self, name: str) -> NDArray[np.uint64]:
        """Keyed 64-bit digests of an identifier column, (N,)."""
        file, position = self._place(name, IdentifierColumn)
        return np.asarray(self._arrays[file][:, position])

    def vectors(self, name: str) -> NDArray[np.float32]:
        """A vector column, (N, L), mapped."""
        return self._arrays[self._place(name, VectorColumn)[0]]

    def images(self, name: str) -> NDArray[np.uint8]:
        """An image column, (N, C, H, W), mapped."""
        return self._arrays[self._place(name, ImageColumn)[0]]

    def texts(self, name: str) -> TextArray:
        """A text column, mapped."""
        own = self._place(name, TextColumn)[0]
        return TextArray(self._arrays[f"{own}.blob"], self._arrays[f"{own}.offsets"])

    @property
    def groups(self) -> NDArray[np.uint64]:
        """Digest of each record's group, (N,): of its content where the contract has no group column."""
        return self._arrays["groups"]

    @property
    def contents(self) -> NDArray[np.uint64]:
        """Digest of each record's content, (N,): label and identifiers left out, so that duplicates are seen."""
        return self._arrays["contents"]

    def verify(self, site_secret: bytes) -> None:
        """Read everything and compare with the digests: O(bytes). InputError naming the first damaged file."""
        for name, expected in self.header.digests.items():
            digest = blake3(key=site_secret)
            flat = self._arrays[name].reshape(-1).view(np.uint8)
            for start in range(0, len(flat), 1 << 24):
                digest.update(flat[start : start + (1 << 24)].tobytes())
            if digest.hexdigest() != expected:
                raise InputError(f"table file {name}.npy is damaged", todo="add the data set again from its source")

    def _place(self, name: str, kind: type) -> tuple[str, int]:
        column = self.column(name)
        if not isinstance(column, kind):
            raise InputError(f"column {name!r} is a {type(column).__name__}, not a {kind.__name__}")
        return self._layout.position[name]


class _GrowingArray:
    """A `.npy` file that grows along its first axis; the header is rewritten once the length is known.

    numpy pads the header for any length of the first axis, so the rewritten one has the same size; checked.
    """

    def __init__(self, path: Path, dtype: str, tail: tuple[int, ...], key: bytes) -> None:
        self._file = path.open("w+b")
        self._dtype, self._tail = np.dtype(dtype), tail
        self._digest = blake3(key=key)
        self._rows = 0
        self._start = self._write_header()

    def _write_header(self) -> int:
        self._file.seek(0)
        shape = (self._rows, *self._tail)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, array: NDArray[Any]) -> None:
        """Add rows of shape (B, *tail)."""
        if array.shape[1:] != self._tail:
            raise BugError(f"rows of shape {array.shape[1:]} do not fit {self._tail}")
        if array.size:
            block = np.ascontiguousarray(array, dtype=self._dtype).reshape(-1).view(np.uint8).data
            self._file.write(block)
            self._digest.update(block)
        self._rows += len(array)

    def finish(self) -> str:
        """Write the length, make the file durable, and return its digest (hex)."""
        if self._write_header() != self._start:
            raise BugError("the header of a .npy file changed its size")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return str(self._digest.hexdigest())

    def close(self) -> None:
        self._file.close()


class TableWriter:
    """Writes a table batch by batch in constant memory; as a context manager it leaves nothing behind on failure."""

    def __init__(self, parent: Path, columns: tuple[Column, ...], group: str, site_secret: bytes) -> None:
        """The table will be `parent / version`. `site_secret`: 32 bytes, key of version and digests."""
        if len(site_secret) != SECRET_BYTES:
            raise BugError(f"a site secret has {SECRET_BYTES} bytes, this one {len(site_secret)}")
        self._parent, self._columns, self._group, self._secret = parent, columns, group, site_secret
        self._layout = Layout(columns)
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = parent / f".partial-{secrets.token_hex(8)}"
        self._folder.mkdir(mode=0o700)
        self._files = {
            name: _GrowingArray(self._folder / f"{name}.npy", dtype, tail, site_secret)
            for name, (dtype, tail) in self._layout.files.items()
        }
        self._rows = 0
        self._text_end = {name: 0 for name in self._files if name.endswith(".offsets")}
        for name in self._text_end:
            self._files[name].append(np.zeros(1, dtype=np.int64))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def append(
        self,
        values: Mapping[str, NDArray[Any] | TextArray],
        groups: NDArray[np.uint64],
        contents: NDArray[np.uint64],
    ) -> None:
        """Add B records: one array per column (B first), texts with offsets that start at 0."""
        stacked: dict[str, list[NDArray[Any]]] = {}
        for column in self._columns:
            own, _ = self._layout.position[column.name]
            value = values[column.name]
            if isinstance(value, TextArray):
                offsets = f"{own}.offsets"
                self._files[f"{own}.blob"].append(value.blob)
                self._files[offsets].append(value.offsets[1:] + self._text_end[offsets])
                self._text_end[offsets] += int(value.offsets[-1])
            elif own in ("numbers", "categories", "identifiers"):
                stacked.setdefault(own, []).append(value)
            else:
                self._files[own].append(value)
        for name, parts in stacked.items():
            self._files[name].append(np.stack(parts, axis=1))
        self._files["groups"].append(groups)
        self._files["contents"].append(contents)
        self._rows += len(groups)

    def finish(self) -> MappedTable:
        """Make the table durable under its version and open it; an equal table that is already there is kept."""
        digests = {name: file.finish() for name, file in self._files.items()}
        header = TableHeader(columns=self._columns, group=self._group, rows=self._rows, version="", digests=digests)
        version = str(blake3(msgspec.json.encode(header, order="deterministic"), key=self._secret).hexdigest())
        path = self._folder / TABLE_FILE
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(header, version=version)))
        sync(path)
        target = self._parent / version
        if not target.exists():
            self._folder.rename(target)
            sync(self._parent)
        return MappedTable.open(target)


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _expected_rows(name: str, rows: int) -> int | None:
    """Length of a file's first axis; None where it does not follow from the number of records (text bytes)."""
    if name.endswith(".blob"):
        return None
    return rows + 1 if name.endswith(".offsets") else rows


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=limits.NAME_CHARS * 16)  # type: ignore[no-any-return]
    except ValueError as error:
        if "empty" not in str(error):
            raise
        # An array without a single byte (all texts empty) cannot be mapped.
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        array.flags.writeable = False
        return array
