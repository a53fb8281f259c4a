"""Parquet: one file, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from daitn.describe.fit import Batch
from daitn.node.readers.columnar import batches, need_pyarrow, schema_columns
from daitn.node.readers.contract import BATCH_ROWS, broken


class ParquetReader:
    """A Parquet file."""

    format: ClassVar[str] = "parquet"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """By its magic number."""
        return head[:4] == b"PAR1" or (path.suffix.lower() in (".parquet", ".pq") and not path.is_dir())

    def files(self) -> list[Path]:
        """The one file."""
        return [self._path]

    def columns(self) -> dict[str, str]:
        """From the file's schema."""
        pyarrow = need_pyarrow()
        import pyarrow.parquet as parquet

        try:
            return schema_columns(self._path, parquet.read_schema(str(self._path)))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise broken(self._path, f"is not a whole Parquet file: {error}") from None

    def read(self) -> Iterator[Batch]:
        """Rows as arrays where the column allows, else as Python values."""
        pyarrow = need_pyarrow()
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(str(self._path), memory_map=True) as file:
                yield from batches(file.iter_batches(batch_size=BATCH_ROWS, use_threads=False))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise broken(self._path, f"cannot be read: {error}") from None
