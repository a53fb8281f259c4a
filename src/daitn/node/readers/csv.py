"""CSV: comma, semicolon, tab or bar separated text with a header line, UTF-8, plain or gzip.

Every cell is read as text; what it means is the contract's business. Guessing types from the first rows would make the
result depend on their order.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from daitn.base.units import MIB
from daitn.describe.fit import Batch
from daitn.node.readers.columnar import need_pyarrow
from daitn.node.readers.contract import BATCH_ROWS, LINE_BYTES, LocalType, broken, check_columns

_SEPARATORS: Final = (",", ";", "\t", "|")
_SUFFIXES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_UNEVEN: Final = re.compile(r"Row #(?P<row>\d+): Expected (?P<wanted>\d+) columns, got (?P<got>\d+)")
"""What Arrow says of a row with more or fewer cells. Its handler of such rows is not used: it decodes the row's bytes
first, and where they are no UTF-8 its error cannot be caught."""

_BLOCK_BYTES: Final = 8 * MIB
"""Bytes parsed at a time; one row must fit."""


class CsvReader:
    """A CSV file. A line with more or fewer cells than the header is an error: its cells may be shifted."""

    format: ClassVar[str] = "csv"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._separator = ""
        self._names: list[str] = []

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """By suffix, or a `.txt` whose first line has a separator."""
        name = path.name.lower()
        return not path.is_dir() and (
            name.endswith(_SUFFIXES)
            or (
                name.endswith((".txt", ".txt.gz"))
                and any(mark.encode() in head.partition(b"\n")[0] for mark in _SEPARATORS)
            )
        )

    def files(self) -> list[Path]:
        """The one file."""
        return [self._path]

    def columns(self) -> dict[str, str]:
        """Names from the header line; all are text."""
        if not self._names:
            self._read_header()
        return dict.fromkeys(self._names, LocalType.TEXT)

    def _read_header(self) -> None:
        try:
            with gzip.open(self._path, "rb") if self._path.name.endswith(".gz") else self._path.open("rb") as file:
                line = file.readline(LINE_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise broken(self._path, f"the header is not UTF-8 ({error})", todo="save the file as UTF-8") from None
        except (OSError, EOFError, zlib.error) as error:
            raise broken(self._path, f"cannot be read: {error}") from None
        if not line.strip():
            raise broken(self._path, "the first line is empty", todo="write the column names there")
        self._separator = max(_SEPARATORS, key=line.count) if any(mark in line for mark in _SEPARATORS) else ","
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=self._separator), [])]
        except csv.Error as error:
            raise broken(self._path, f"the header cannot be read: {error}") from None
        check_columns(self._path, names)
        self._names = names

    def read(self) -> Iterator[Batch]:
        """Rows as text, None where a cell is empty."""
        pyarrow = need_pyarrow()
        import pyarrow.csv as arrow_csv

        names = list(self.columns())
        try:
            with arrow_csv.open_csv(
                pyarrow.input_stream(str(self._path), compression="detect"),
                read_options=arrow_csv.ReadOptions(
                    column_names=names, skip_rows=1, block_size=_BLOCK_BYTES, use_threads=False
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=True, null_values=[""]
                ),
            ) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = batch.slice(start, BATCH_ROWS)
                        yield {name: part.column(place).to_pylist() for place, name in enumerate(names)}
        except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            what = str(error)
            if (uneven := _UNEVEN.search(what)) is not None:
                what = f"row {int(uneven['row']) - 1} has {uneven['got']} cells, the header {uneven['wanted']}"
            if "empty CSV" in what.lower() or what == "Empty CSV file":
                return
            hint = "save the file as UTF-8" if "UTF8" in what or "UTF-8" in what else "correct the file there"
            raise broken(self._path, what, todo=hint) from None
