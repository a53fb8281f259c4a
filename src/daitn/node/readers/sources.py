"""Which reader opens a path: known suffixes first, then the first bytes; anything else is refused with the list.

An archive or a pickle under the name of a text file is told what it is, instead of that its header is not UTF-8.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

from daitn.artifacts.tensor_file import SNIFF_BYTES, recognise
from daitn.base.errors import InputError
from daitn.node.readers.arrow import ArrowReader
from daitn.node.readers.contract import Reader
from daitn.node.readers.csv import CsvReader
from daitn.node.readers.idx import IdxReader
from daitn.node.readers.imagefolder import ImageFolderReader
from daitn.node.readers.jsonl import JsonLinesReader
from daitn.node.readers.npz import NpzReader
from daitn.node.readers.parquet import ParquetReader

FORMATS: Final[tuple[type[Reader], ...]] = (
    ParquetReader,
    ArrowReader,
    NpzReader,
    IdxReader,
    ImageFolderReader,
    JsonLinesReader,
    CsvReader,
)
"""All formats, the most telling first: those with a magic number before those that are any text."""

HEAD_BYTES: Final = SNIFF_BYTES


def open_reader(path: Path) -> Reader:
    """The reader for `path`. InputError where there is nothing, or nothing that any format knows."""
    if not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}", todo="check the path")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"folder {str(path)!r} is empty", todo="check the path")
    head = _head(path)
    _refuse_disguised(path, head)
    for format_ in FORMATS:
        if format_.recognises(path, head):
            return format_(path)
    known = ", ".join(format_.format for format_ in FORMATS)
    raise InputError(
        f"{path.name!r} is of no known format",
        todo=f"known are {known}; a folder holds IDX files, or one folder of PNG or JPEG files per label",
    )


def _refuse_disguised(path: Path, head: bytes) -> None:
    """InputError where a file is an archive or a serialised program, which only NPZ may be. Text is never taken for
    one: the marks of some are letters."""
    if NpzReader.recognises(path, head) or not (b"\0" in head or head[:1] >= b"\x80"):
        return
    if (what := recognise(head)) is not None:
        raise InputError(
            f"{path.name!r} is {what}; it was not opened",
            todo="add the file with the records itself: CSV, Parquet, JSONL, Arrow, IDX, or arrays saved as NPZ",
        )


def _head(path: Path) -> bytes:
    """The first bytes of a file, after gunzip where it is gzip; empty for a folder."""
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path, "rb") as packed:
                head = packed.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name}: cannot be read: {error}", todo="check the file and its rights") from None
    return head
