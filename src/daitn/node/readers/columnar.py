"""Columnar: what Arrow and Parquet share: an Arrow batch as local values.

Whole numbers with gaps stay whole (a float would lose the end of a long identifier), dates become ISO text, binary
columns that hold PNG or JPEG are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from daitn.base.errors import InputError
from daitn.describe.conversion import LocalValues
from daitn.describe.fit import Batch
from daitn.node.readers.contract import BATCH_ROWS, LocalType, broken, check_columns
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
    if types.is_binary(kind) or types.is_large_binary(kind) or _holds_picture(kind):
        return LocalType.IMAGE
    return LocalType.OTHER


def _holds_picture(kind: Any) -> bool:
    """Whether a struct is a picture as the `datasets` library writes it: its file's `bytes` beside a `path`."""
    from pyarrow import types

    return bool(types.is_struct(kind)) and "bytes" in {field.name for field in kind}


def batches(tables: Iterable[Any]) -> Iterator[Batch]:
    """Arrow record batches as local values, at most `BATCH_ROWS` rows each.

    Validated in full first: Arrow trusts the offsets in a file, and reading a damaged one ended the process. Cost: one
    pass over the values, far less than making them local.
    """
    for table in tables:
        table.validate(full=True)
        for start in range(0, table.num_rows, BATCH_ROWS):
            part = table.slice(start, BATCH_ROWS)
            yield {name: _values(part.column(place)) for place, name in enumerate(part.schema.names)}


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
    if types.is_binary(kind) or types.is_large_binary(kind):
        return [None if value is None else decode_picture(value) for value in listed]
    if _holds_picture(kind):
        return [None if value is None or not value["bytes"] else decode_picture(value["bytes"]) for value in listed]
    return listed


def need_pyarrow() -> Any:
    """The module `pyarrow`; InputError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InputError("this format needs the package pyarrow", todo="install daitn[data]") from None
    return pyarrow
