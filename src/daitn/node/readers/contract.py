"""The contract of readers: what every format gives, and under which limits.

A reader opens one file or folder read-only, says which columns it has and of which local type, and gives the rows in
batches: a dict of column name → array or list, all of one length, always with the same names, in the order of the
source. A value that is absent is None (NaN in an array of floats); one that is there but cannot be decoded is
`Unreadable`. Images are uint8 arrays of shape (H, W) or (H, W, 3). `read` may be called again and gives the same.

A source that is broken as a whole (cut short, columns of different length, not the format it claims) is an InputError
that names the place: row, line or file. Nothing is extracted, nothing is unpickled, no path leaves the source's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, Protocol

from daitn.base.errors import InputError
from daitn.base.units import GIB, MIB
from daitn.describe.fit import Batch

BATCH_ROWS: Final = 4096
"""Rows of a batch: 4096 images of 28 × 28 are 3 MB; conversion costs per batch are then below 1 %."""

BATCH_BYTES: Final = 256 * MIB
"""Bytes after which a batch of long lines or of pictures ends before its rows are full: a few small files that unpack
to as much as they may must not take all memory."""

IMAGE_PIXELS: Final = 64 * MIB
"""Largest picture that is decoded (8192 × 8192, as a contract allows at most): a small file can claim any size."""

IMAGE_FILE_BYTES: Final = 256 * MIB
"""Largest file of one picture: 8192 × 8192 pixels of 3 bytes and some."""

LINE_BYTES: Final = 16 * MIB
"""Longest line of a text file: a record with a long document; beyond it the file is not made of lines."""

ARCHIVE_BYTES: Final = 64 * GIB
"""Most bytes a compressed archive may unpack to."""

COLUMNS: Final = 100_000
"""Most columns of a source, as in a contract."""


class LocalType(StrEnum):
    """What a source knows of a column; only shown to people, conversion looks at the values."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    DATE = "date"
    VECTOR = "vector"
    IMAGE = "image"
    OTHER = "other"


class Reader(Protocol):
    """One source of one format. See the module."""

    format: ClassVar[str]
    """Its name for people: `csv`, `parquet`, …"""

    def __init__(self, path: Path) -> None: ...

    @classmethod
    def recognises(cls, path: Path, head: bytes, /) -> bool:
        """Whether `path` is of this format, by suffix or by its first bytes (empty for a folder)."""
        ...

    def files(self) -> list[Path]:
        """Every file that is read: what must not change while its table is in use."""
        ...

    def columns(self) -> dict[str, str]:
        """Column name → `LocalType`, in the order of the source. InputError where the source is broken."""
        ...

    def read(self) -> Iterator[Batch]:
        """All rows, in batches of at most `BATCH_ROWS`."""
        ...


def broken(path: Path, what: str, todo: str = "") -> InputError:
    """The error for a source that cannot be read. `todo`: what to do about it, where there is something better than to
    correct the file."""
    return InputError(f"{path.name}: {what}", todo=todo or "correct the file or fetch it again, then add it")


def check_columns(path: Path, names: list[str]) -> None:
    """InputError where names are missing, twice, or too many."""
    if len(names) > COLUMNS:
        raise broken(path, f"{len(names)} columns, the limit is {COLUMNS}")
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name:
            raise broken(path, f"column {place} has no name", todo="give every column a name in the first line")
        if name in seen:
            raise broken(path, f"two columns are called {name!r}", todo="rename one of them")
        seen.add(name)
