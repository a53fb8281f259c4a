"""JSON Lines: one object per line, UTF-8, plain or gzip. Lists of numbers are vectors, lists of such lists images."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.describe.fit import Batch
from daitn.node.readers.contract import BATCH_BYTES, BATCH_ROWS, LINE_BYTES, LocalType, broken, check_columns

_SUFFIXES: Final = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_LOOK_ROWS: Final = 1000
"""Rows looked at to know the columns; a name that first appears later is an error, not silently lost."""


class JsonLinesReader:
    """A JSON Lines file. A name that a line leaves out is absent there."""

    format: ClassVar[str] = "jsonl"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, str] = {}

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """By suffix, or a `.json` or `.txt` whose first character opens an object."""
        name = path.name.lower()
        loose = name.endswith((".json", ".txt", ".json.gz", ".txt.gz"))
        return not path.is_dir() and (name.endswith(_SUFFIXES) or (loose and head.lstrip()[:1] == b"{"))

    def files(self) -> list[Path]:
        """The one file."""
        return [self._path]

    def columns(self) -> dict[str, str]:
        """All names in the first thousand lines."""
        if not self._columns:
            for number, _, row in self._rows():
                for name, value in row.items():
                    if self._columns.get(name, LocalType.OTHER) is LocalType.OTHER:
                        self._columns[name] = _type_of(value)
                if number >= _LOOK_ROWS:
                    break
            check_columns(self._path, list(self._columns))
        return dict(self._columns)

    def read(self) -> Iterator[Batch]:
        """Rows as Python values."""
        names = list(self.columns())
        known = frozenset(names)
        gathered: list[dict[str, Any]] = []
        gathered_bytes = 0
        for number, line_bytes, row in self._rows():
            if not known.issuperset(row):
                new = next(name for name in row if name not in known)
                raise broken(
                    self._path,
                    f"line {number}: {new[:80]!r} is in none of the first {_LOOK_ROWS} lines",
                    todo="write it there, null where there is no value",
                )
            gathered.append(row)
            gathered_bytes += line_bytes
            if len(gathered) == BATCH_ROWS or gathered_bytes >= BATCH_BYTES:
                yield {name: [row.get(name) for row in gathered] for name in names}
                gathered, gathered_bytes = [], 0
        if gathered:
            yield {name: [row.get(name) for row in gathered] for name in names}

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Number, bytes and value of each line."""
        decoder = msgspec.json.Decoder(dict[str, Any])
        try:
            with gzip.open(self._path, "rb") if self._path.name.endswith(".gz") else self._path.open("rb") as file:
                number = 0
                while line := file.readline(LINE_BYTES):
                    number += 1
                    if len(line) == LINE_BYTES:
                        raise broken(self._path, f"line {number} is longer than {LINE_BYTES} bytes")
                    line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if line.strip():
                        yield number, len(line), decoder.decode(line)
        except UNDECODABLE as error:
            raise broken(self._path, f"line {number}: {error}", todo="each line is one JSON object") from None
        except (OSError, EOFError, zlib.error) as error:
            raise broken(self._path, f"cannot be read: {error}") from None


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return LocalType.BOOLEAN
        case int() | float():
            return LocalType.NUMBER
        case str():
            return LocalType.TEXT
        case [[*_], *_]:
            return LocalType.IMAGE
        case [*_]:
            return LocalType.VECTOR
        case _:
            return LocalType.OTHER
