"""The fit report: what came of mapping a data set, and the tally of faults it is made from.

Counts are exact and examples are values of records, so the report stays at the site; `FitReport.without_values` is
what others may see of the faults, and `describe.statistics` what leaves of the counts.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.describe.conversion import FaultKind, as_text

EXAMPLES: Final = 5
"""Offending rows and values kept per fault: enough to find the place in a file, little enough to read."""

EXAMPLE_CHARS: Final = 60


class ColumnFault(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault in one column: how often, and the first places. Rows count from 1 in the order read."""

    column: str
    kind: FaultKind
    count: int
    rows: tuple[int, ...]
    examples: tuple[str, ...] = ()
    """The values there; local eyes only."""


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of mapping a data set; all counts are exact and stay at the site."""

    contract: str
    version: str
    rows: int
    """Rows read; `records` of them are in the table."""
    records: int
    held_out: int
    groups: int
    duplicates: int
    """Records whose content (label and identifiers left out) an earlier record had."""
    rows_with_missing: int
    rows_out_of_vocabulary: int
    dropped: dict[str, int] = {}
    """Reason → rows; a row with two reasons counts under the first."""
    faults: tuple[ColumnFault, ...] = ()
    labels: dict[str, int] = {}
    fields: dict[str, int] = {}
    straddling_groups: int = 0
    """Groups whose records do not all belong to the same fields."""
    warnings: tuple[str, ...] = ()

    def without_values(self) -> FitReport:
        """The report without any value of a record."""
        faults = tuple(msgspec.structs.replace(fault, examples=()) for fault in self.faults)
        return msgspec.structs.replace(self, faults=faults)

    def lines(self) -> list[str]:
        """The report for people, one finding a line."""
        lines = [
            f"{self.records:,} of {self.rows:,} rows fit contract {self.contract!r}: {self.groups:,} groups, "
            f"{self.held_out:,} records held out for verification, {self.duplicates:,} duplicates"
        ]
        lines += [f"dropped: {count:,} rows ({reason})" for reason, count in self.dropped.items()]
        for fault in self.faults:
            places = ", ".join(str(row) for row in fault.rows) + (", …" if fault.count > len(fault.rows) else "")
            shown = f": {', '.join(repr(value) for value in fault.examples)}" if fault.examples else ""
            lines.append(f"{fault.column}: {fault.count:,} × {fault.kind.value} (rows {places}{shown})")
        return lines + [f"warning: {text}" for text in self.warnings]


class Tally:
    """Counts faults over batches, keeping the first places of each."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, FaultKind], int] = {}
        self.places: dict[tuple[str, FaultKind], list[tuple[int, str]]] = {}
        self.present: dict[str, int] = {}
        """Usable values per column."""

    def add(self, column: str, kind: FaultKind, mask: NDArray[np.bool_], first_row: int, values: Any) -> None:
        """Take up one mask (B,) of a batch whose first record is row `first_row`; `values`: its local values."""
        count = int(np.count_nonzero(mask))
        if not count:
            return
        key = (column, kind)
        self.counts[key] = self.counts.get(key, 0) + count
        places = self.places.setdefault(key, [])
        for row in np.flatnonzero(mask)[: EXAMPLES - len(places)].tolist():
            shown = "" if kind is FaultKind.MISSING or values is None else _show(values[row])
            places.append((first_row + row, shown))

    def faults(self) -> tuple[ColumnFault, ...]:
        """All faults, in the order they were first seen."""
        return tuple(
            ColumnFault(
                column=column,
                kind=kind,
                count=count,
                rows=tuple(row for row, _ in self.places[column, kind]),
                examples=tuple(dict.fromkeys(text for _, text in self.places[column, kind] if text)),
            )
            for (column, kind), count in self.counts.items()
        )


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {'×'.join(str(length) for length in value.shape)}"
    return (as_text(value) or str(value))[:EXAMPLE_CHARS]
