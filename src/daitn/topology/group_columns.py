"""The columns of one group of facts: values, deviations, and who said it when, for every row of a table.

Arrays are indexed by row (R rows allocated, a power of two). A group that nobody reports has no arrays at all.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Fact, Form, Group
from daitn.descriptors.uncertainty import NOT_KNOWN
from daitn.topology.words import NO_WORD

Column = NDArray[Any]

NO_ROW: Final = -1
NO_SOURCE: Final = -1

_DTYPES: Final[dict[Form, tuple[str, float]]] = {
    Form.NUMBER: ("f4", np.nan),
    Form.EXACT: ("f8", np.nan),
    Form.FLAG: ("u1", UNKNOWN_CODE),
    Form.CHOICE: ("u1", UNKNOWN_CODE),
    Form.WORD: ("i4", NO_WORD),
    Form.REFERENCE: ("i4", NO_ROW),
}
"""Type of a column by form, and what stands where nothing is known."""

_STAMPS: Final[dict[str, tuple[str, float]]] = {
    "source": ("i4", NO_SOURCE),
    "sequence": ("u4", 0),
    "generated_ns": ("i8", 0),
    "received_ns": ("i8", 0),
}


class GroupColumns:
    """See the module's docstring; `values` by fact's name, `deviations` by number's name (codes of `uncertainty`)."""

    def __init__(self, group: Group, rows: int) -> None:
        self.group = group
        self.changes = 0
        """Grows when values change."""
        self.values: dict[str, Column] = {fact.name: filled(fact, rows) for fact in group.facts}
        self.deviations: dict[str, NDArray[np.uint8]] = {
            fact.name: np.full(rows, NOT_KNOWN, np.uint8) for fact in group.numeric
        }
        self.source: NDArray[np.int32]
        self.sequence: NDArray[np.uint32]
        self.generated_ns: NDArray[np.int64]
        self.received_ns: NDArray[np.int64]
        for name, (dtype, nothing) in _STAMPS.items():
            setattr(self, name, np.full(rows, nothing, dtype))
        self.part: NDArray[np.uint16] | None = None
        """Which facts the newest report told, as bits by place; 0: all. None: no report ever told some only."""
        self.whole_ns: NDArray[np.int64] | None = None
        """When what the newest report left out was generated."""

    def parts(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """`part` and `whole_ns`, made where they are not there yet."""
        if self.part is None or self.whole_ns is None:
            self.part = np.zeros(len(self.generated_ns), np.uint16)
            self.whole_ns = np.zeros(len(self.generated_ns), np.int64)
        return self.part, self.whole_ns

    def generated(self, fact: str | None) -> NDArray[np.int64]:
        """When a fact was generated, by row: that of the newest report, or of the one that last told all."""
        if self.whole_ns is None or fact is None:
            return self.generated_ns
        return np.where(self.left_out(fact), self.whole_ns, self.generated_ns)

    def left_out(self, fact: str) -> NDArray[np.bool_]:
        """Where the newest report left this fact out, by row."""
        if self.part is None:
            return np.zeros(len(self.generated_ns), np.bool_)
        place = next(place for place, one in enumerate(self.group.facts) if one.name == fact)
        return np.asarray((self.part > 0) & (self.part >> np.uint16(place) & np.uint16(1) == 0))

    def grow(self, rows: int) -> None:
        """Make room for `rows` rows."""
        for fact in self.group.facts:
            self.values[fact.name] = _grown(self.values[fact.name], rows, _DTYPES[fact.form][1])
        for name, codes in self.deviations.items():
            self.deviations[name] = _grown(codes, rows, NOT_KNOWN)
        for name, (_, nothing) in _STAMPS.items():
            setattr(self, name, _grown(getattr(self, name), rows, nothing))
        if self.part is not None and self.whole_ns is not None:
            self.part, self.whole_ns = _grown(self.part, rows, 0), _grown(self.whole_ns, rows, 0)

    def clear(self, rows: NDArray[np.intp] | int) -> None:
        """Forget what is known of these rows."""
        for fact in self.group.facts:
            self.values[fact.name][rows] = _DTYPES[fact.form][1]
        for codes in self.deviations.values():
            codes[rows] = NOT_KNOWN
        for name, (_, nothing) in _STAMPS.items():
            getattr(self, name)[rows] = nothing
        if self.part is not None:
            self.part[rows] = 0

    def arrays(self) -> dict[str, Column]:
        """All arrays by a name of their own: what a snapshot keeps."""
        named: dict[str, Column] = {f"value:{name}": column for name, column in self.values.items()}
        named |= {f"deviation:{name}": codes for name, codes in self.deviations.items()}
        if self.part is not None and self.whole_ns is not None:
            named |= {"stamp:part": self.part, "stamp:whole_ns": self.whole_ns}
        return named | {f"stamp:{name}": getattr(self, name) for name in _STAMPS}

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(column.nbytes for column in self.arrays().values())


def filled(fact: Fact, rows: int) -> Column:
    """A column of `rows` rows in which nothing is known."""
    dtype, nothing = _DTYPES[fact.form]
    return np.full(rows, nothing, dtype)


def _grown(column: Column, rows: int, nothing: float) -> Column:
    longer = np.empty(rows, column.dtype)
    longer[: len(column)] = column
    longer[len(column) :] = nothing
    return longer
