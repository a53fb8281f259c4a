"""The column map: how a site's own columns become the columns of a contract. Written by the site, never sent.

A contract column without an entry is taken from the local column of the same name. Otherwise an entry names the local
`column` (or several `columns`, for a vector), says which local value means which value of the vocabulary, and converts
units by `value * multiply + add`. `constant` stands for all records, for what the whole data set has in common (a
hospital that is all cardiology); the empty constant says that the site does not have the column at all.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from daitn.base.errors import InputError
from daitn.descriptors.contract import (
    CategoryColumn,
    Column,
    DataContract,
    ImageColumn,
    NumberColumn,
    VectorColumn,
)

MISSING_WORDS: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?")
"""What stands for a missing number, category or identifier in text files, unless the map says otherwise."""


class ColumnSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one contract column comes from. Exactly one of `column`, `columns` and `constant` is given."""

    column: str = ""
    columns: tuple[str, ...] = ()
    """Number columns that make a vector, in this order; `pixel_*` stands for all that match, in file order."""
    constant: str | None = None
    values: dict[str, str] = {}
    """Local value → value of the vocabulary."""
    multiply: float = 1.0
    add: float = 0.0


class ColumnMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contract column → local source. See the module's docstring."""

    columns: dict[str, ColumnSource] = {}
    missing: tuple[str, ...] = MISSING_WORDS


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x' or 'y'?`, or the first known names where none is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if not close:
        folded = {candidate.casefold(): candidate for candidate in names}
        close = [folded[key] for key in difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(repr(candidate) for candidate in close)}?"
    return f"known are: {', '.join(names[:12]) or 'none'}{' …' if len(names) > 12 else ''}"


def resolve(contract: DataContract, column_map: ColumnMap, local: Mapping[str, str]) -> dict[str, ColumnSource]:
    """The source of each contract column, patterns expanded; InputError listing every fault of the map.

    `local`: the data's own columns and their types, as a reader gives them.
    """
    faults: list[str] = []
    known = {column.name for column in contract.columns}
    for name in column_map.columns:
        if name not in known:
            faults.append(f"the map speaks of {name!r}, which the contract does not have ({nearest(name, known)})")
    sources: dict[str, ColumnSource] = {}
    for column in contract.columns:
        source = column_map.columns.get(column.name, ColumnSource(column=column.name))
        given = [bool(source.column), bool(source.columns), source.constant is not None]
        if sum(given) != 1:
            faults.append(f"column {column.name!r}: give exactly one of column, columns and constant")
            continue
        if source.columns:
            source = msgspec.structs.replace(source, columns=_expand(source.columns, local, column, faults))
        elif source.column and source.column not in local:
            faults.append(
                f"column {column.name!r}: the data has no column {source.column!r} ({nearest(source.column, local)})"
            )
        faults += _check_conversion(column, source)
        sources[column.name] = source
    if faults:
        raise InputError(
            f"the columns do not fit contract {contract.name!r}: " + "; ".join(faults),
            todo="name the local columns in the column map",
        )
    return sources


def _expand(patterns: tuple[str, ...], local: Mapping[str, str], column: Column, faults: list[str]) -> tuple[str, ...]:
    names: list[str] = []
    for pattern in patterns:
        matches = [name for name in local if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
        if not matches or matches[0] not in local:
            faults.append(f"column {column.name!r}: the data has no column {pattern!r} ({nearest(pattern, local)})")
        names += matches
    if not isinstance(column, VectorColumn):
        faults.append(f"column {column.name!r}: only a vector is made of several columns")
    elif len(names) != column.length:
        faults.append(f"column {column.name!r}: {len(names)} columns for a vector of length {column.length}")
    return tuple(names)


def _check_conversion(column: Column, source: ColumnSource) -> list[str]:
    faults: list[str] = []
    if (source.multiply, source.add) != (1.0, 0.0):
        if not isinstance(column, NumberColumn | VectorColumn):
            faults.append(f"column {column.name!r}: only numbers are converted by multiply and add")
        if not (math.isfinite(source.multiply) and math.isfinite(source.add)) or source.multiply == 0:
            faults.append(f"column {column.name!r}: multiply and add must be finite, multiply not 0")
    if source.values:
        if not isinstance(column, CategoryColumn):
            faults.append(f"column {column.name!r}: only the values of a category are mapped")
        else:
            unknown = [value for value in source.values.values() if value not in column.values]
            hints = "; ".join(f"{value!r}: {nearest(value, column.values)}" for value in unknown[:3])
            if unknown:
                faults.append(f"column {column.name!r}: values outside the vocabulary are mapped to ({hints})")
    if source.constant and isinstance(column, VectorColumn | ImageColumn):
        faults.append(f"column {column.name!r}: a constant cannot stand for a vector or an image")
    return faults
