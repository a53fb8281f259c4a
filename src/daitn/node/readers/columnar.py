"""Columnar: what Arrow and Parquet share: an Arrow batch as local values.

Whole numbers with gaps stay whole (a float would lose the end of a long identifier), dates become ISO text, binary
columns that hold PNG or JPEG are decoded, as many at a time as there is room for: one of some kilobytes may have as
many pixels as a reader takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from daitn.base.errors import InputError
from daitn.describe.conversion import LocalValues
from daitn.describe.fit import Batch
from daitn.node.readers.contract import BATCH_BYTES, BATCH_ROWS, LocalType, broken, check_columns
from daitn.node.readers.pictures import decode_picture


def schema_columns(path: Path, schema: Any) -> dict[str, str]:
    """Column name → `LocalType` of an Arrow schema."""
    try:
        columns = [(field.name, _local_type(field.type)) for field in schema]
    except UnicodeDecodeError:
        raise broken(path, "the name of a column is not UTF-8", todo="write the file anew") from None
    check_columns(path, [name for name, _ in columns])
    return dict(columns)


def _local_type(kind: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _local_type(kind.value_type)
    if types.is_boolean(kind):
        return LocalType.BOOLEAN
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return LocalType.NUMBER
    if types.is_string(kind) or types.is_large_string(kind):
        return LocalType.TEXT
    if types.is_temporal(kind):
        return LocalType.DATE
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        return LocalType.IMAGE if types.is_nested(inner) else LocalType.VECTOR
    if _is_picture(kind):
        return LocalType.IMAGE
    return LocalType.OTHER


def _holds_picture(kind: Any) -> bool:
    """Whether a struct is a picture as the `datasets` library writes it: its file's `bytes` beside a `path`."""
    from pyarrow import types

    return bool(types.is_struct(kind)) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def batches(tables: Iterable[Any]) -> Iterator[Batch]:
    """Arrow record batches as local values, at most `BATCH_ROWS` rows each.

    Validated in full first: Arrow trusts the offsets in a file, and reading a damaged one ended the process. Cost: one
    pass over the values, far less than making them local.
    """
    for table in tables:
        table.validate(full=True)
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield from _cut_by_pictures(table.slice(start, BATCH_ROWS))


def _cut_by_pictures(part: Any) -> Iterator[Batch]:
    """`part` as one batch, or, where it has pictures, as several of `BATCH_BYTES` and at most one row more."""
    columns = dict(zip(part.schema.names, part.columns, strict=True))
    kept = {name: column for name, column in columns.items() if not _is_picture(column.type)}
    if len(kept) == len(columns):
        yield {name: _values(column) for name, column in columns.items()}
        return
    pictures: dict[str, list[Any]] = {name: [] for name in columns if name not in kept}
    start = decoded_bytes = 0
    for row in range(part.num_rows):
        for name, decoded in pictures.items():
            decoded.append(_picture(columns[name][row].as_py()))
            decoded_bytes += getattr(decoded[-1], "nbytes", 0)
        if decoded_bytes >= BATCH_BYTES or row == part.num_rows - 1:
            rows = row + 1 - start
            yield {name: _values(kept[name].slice(start, rows)) if name in kept else pictures[name] for name in columns}
            pictures = {name: [] for name in pictures}
            start, decoded_bytes = row + 1, 0


def _is_picture(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_picture(kind.value_type)
    return _is_bytes(kind) or _holds_picture(kind)


def _picture(value: Any) -> Any:
    """A cell of a column of pictures, decoded; None where there is none."""
    data = (value["bytes"] or None) if isinstance(value, dict) else value
    return None if data is None else decode_picture(data)


def _values(array: Any) -> LocalValues:
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if types.is_decimal(kind):
        return _values(array.cast(pyarrow.float64()))
    if types.is_floating(kind) or (types.is_integer(kind) and not array.null_count):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind):
        values: list[Any] = array.cast(pyarrow.string()).to_pylist()
        return values
    if types.is_fixed_size_list(kind) and not array.null_count and not types.is_nested(kind.value_type):
        flat = array.flatten()
        if not flat.null_count:
            return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), kind.list_size)
    listed: list[Any] = array.to_pylist()
    return listed


def need_pyarrow() -> Any:
    """The module `pyarrow`; InputError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InputError("this format needs the package pyarrow", todo="install daitn[data]") from None
    return pyarrow
