"""The answer to a SELECT on the map."""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.descriptors.questions import Shown

ROWS_MOST: Final = 10_000
"""Rows of an answer; the rest is left out, and the answer says so."""


class SqlColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One column of an answer, with DuckDB's type."""

    name: str
    type: str


class SqlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of an answer; `more`: there were others beyond `ROWS_MOST`."""

    version: int
    made_at_unix_s: float
    columns: tuple[SqlColumn, ...]
    rows: tuple[tuple[Shown, ...], ...]
    more: bool = False
