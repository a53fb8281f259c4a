"""Arrow: IPC files (Feather version 2) and IPC streams, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from daitn.describe.fit import Batch
from daitn.node.readers.columnar import batches, need_pyarrow, schema_columns
from daitn.node.readers.contract import broken

_SUFFIXES: Final = (".arrow", ".feather", ".ipc", ".arrows")


class ArrowReader:
    """An Arrow IPC file or stream."""

    format: ClassVar[str] = "arrow"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """By the file format's magic number, or by suffix (a stream has none)."""
        return head[:6] == b"ARROW1" or (path.suffix.lower() in _SUFFIXES and not path.is_dir())

    def files(self) -> list[Path]:
        """The one file."""
        return [self._path]

    def columns(self) -> dict[str, str]:
        """From the schema."""
        pyarrow = need_pyarrow()
        try:
            with pyarrow.memory_map(str(self._path)) as source:
                return schema_columns(self._path, self._open(pyarrow, source).schema)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise broken(self._path, f"is not a whole Arrow file: {error}") from None

    def read(self) -> Iterator[Batch]:
        """Rows as arrays where the column allows, else as Python values."""
        pyarrow = need_pyarrow()
        try:
            with pyarrow.memory_map(str(self._path)) as source:
                reader = self._open(pyarrow, source)
                if hasattr(reader, "num_record_batches"):
                    yield from batches(reader.get_batch(place) for place in range(reader.num_record_batches))
                else:
                    yield from batches(reader)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise broken(self._path, f"cannot be read: {error}") from None

    def _open(self, pyarrow: Any, source: Any) -> Any:
        with self._path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        return pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
