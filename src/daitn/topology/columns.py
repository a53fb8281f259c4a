"""`FactTable`: all things of one kind, a row each, in numpy columns: what the map (G-KRRM) keeps of what changes fast.

Paper II-A, DRRT layer; the facts are those of `descriptors.facts`. A thing's id is known by its row while it is on the
map; rows of things that left are used again. Columns are allocated in powers of two, a group's only when it is first
reported. Reports come in batches and are checked and applied by vector operations (`take`), single facts by `note`.

Reading: `column(name)[row]`, with `alive()` telling which rows are things. A number that is not known is NaN, a flag or
choice `UNKNOWN_CODE`, a word or reference -1. Every group has who said it (`source`), `sequence`, `generated_ns` and
`received_ns` (0: never); every number has a deviation. `age_s` and `deviation` say how far to believe it *now*.

R rows allocated, H of them ever used (`high`), B records in a batch. No I/O, no clock, not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError, PeerError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Fact, Form, Group, Kind
from daitn.descriptors.facts import BY_KIND, fact_named, group_named
from daitn.descriptors.uncertainty import DEVIATIONS, NOT_KNOWN, encode_deviation
from daitn.topology.group_columns import NO_SOURCE, Column, GroupColumns, filled
from daitn.topology.words import Words

ROWS_FIRST: Final = 64
"""Rows allocated at first."""

ROWS_MOST: Final = 1 << 24
"""Rows of one table: 16 million things."""

Rows = NDArray[np.intp] | None
"""Rows to read; None for all."""

Value = float | bool | str | None
"""A fact as people and descriptions give it: words and choices as text, None for not known; a reference as its row."""


class FactTable:
    """See the module's docstring."""

    def __init__(self, kind: Kind, words: Words) -> None:
        self.kind = kind
        self.words = words
        self.version = 0
        """Grows with every change."""
        self.roster_version = 0
        """Grows when things come or leave."""
        self.stale_before_ns = 0
        """What was received before this moment was not confirmed since the map was restarted: it is stale."""
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._alive = np.zeros(ROWS_FIRST, np.bool_)
        self._owner = np.full(ROWS_FIRST, NO_SOURCE, np.int32)
        self._groups: dict[str, GroupColumns] = {}

    # --- things -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Things in the table."""
        return len(self._rows)

    @property
    def high(self) -> int:
        """Rows ever used, H: the length of every column that is read."""
        return len(self._ids)

    @property
    def capacity(self) -> int:
        """Rows allocated, R."""
        return len(self._alive)

    def add(self, thing: str, owner: int) -> int:
        """The row of a thing, new or known; `owner` is the source that speaks for it. PeerError if it is another's."""
        row = self._rows.get(thing)
        if row is not None:
            if self._owner[row] != owner:
                raise PeerError(f"{self.kind.value} {thing[:80]} is spoken for by another node")
            return row
        if self._free:
            row = self._free.pop()
            self._ids[row] = thing
        else:
            row = len(self._ids)
            if row >= ROWS_MOST:
                raise PeerError(f"the map holds {ROWS_MOST} rows of {self.kind.value} and takes no more")
            self._reserve(row + 1)
            self._ids.append(thing)
        self._rows[thing] = row
        self._alive[row] = True
        self._owner[row] = owner
        self.version += 1
        self.roster_version += 1
        return row

    def add_many(self, things: Sequence[str], owner: int) -> NDArray[np.int32]:
        """Rows of many things, as `add`: O(B)."""
        return np.fromiter((self.add(thing, owner) for thing in things), np.int32, len(things))

    def remove(self, rows: Iterable[int]) -> None:
        """Take things off: their rows are empty and free."""
        gone = [row for row in dict.fromkeys(rows) if 0 <= row < self.high and self._alive[row]]
        for row in gone:
            del self._rows[self._ids[row]]
            self._ids[row] = ""
        for columns in self._groups.values():
            columns.changes += bool(gone)
        self._alive[gone] = False
        self._owner[gone] = NO_SOURCE
        for columns in self._groups.values():
            columns.clear(np.asarray(gone, np.intp))
        self._free += gone
        self.version += bool(gone)
        self.roster_version += bool(gone)

    def restore(self, ids: list[str], owners: NDArray[np.int32]) -> None:
        """Take over rows that were kept, into a table that has none: empty ids are free rows. O(H)."""
        self._reserve(len(ids))
        self._ids = ids
        self._rows = {thing: row for row, thing in enumerate(ids) if thing}
        self._free = [row for row, thing in enumerate(ids) if not thing]
        self._alive[: len(ids)] = [bool(thing) for thing in ids]
        self._owner[: len(ids)] = owners
        self.version += 1

    def row_of(self, thing: str) -> int | None:
        """The row of a thing; None if it is not on the map."""
        return self._rows.get(thing)

    def id_of(self, row: int) -> str:
        """The thing of a row; empty for a free row."""
        return self._ids[row]

    def ids(self) -> list[str]:
        """All ids by row, empty for free rows; H long. The table's own list: read only."""
        return self._ids

    def alive(self) -> NDArray[np.bool_]:
        """Which rows are things: (H,), a view."""
        return self._alive[: self.high]

    def owners(self) -> NDArray[np.int32]:
        """Which source speaks for each row: (H,), a view."""
        return self._owner[: self.high]

    # --- reading ----------------------------------------------------------------------------------------------------

    def column(self, fact: str) -> Column:
        """Values of a fact by row: (H,), a read-only view. InputError naming the nearest known facts."""
        group, found = fact_named(self.kind, fact)
        columns = self._groups.get(group.name)
        view = columns.values[fact][: self.high] if columns is not None else filled(found, self.high)
        view = view.view()
        view.setflags(write=False)
        return view

    def group(self, name: str) -> GroupColumns | None:
        """The columns of a group (R long); None while nobody has reported it."""
        return self._groups.get(name)

    def changes(self, group: str) -> int:
        """Grows whenever a value of the group changes; a report that only confirms what is known need not."""
        columns = self._groups.get(group)
        return 0 if columns is None else columns.changes

    def age_s(self, group: str, now_ns: int, rows: Rows = None, *, fact: str | None = None) -> NDArray[np.float64]:
        """Age of information of a group by row, in seconds since it was generated; infinite where never heard.

        `rows`: of these only, (len(rows),). `fact`: of this one, which the newest report of the group may have left
        out; None: of the newest report.
        """
        columns = self._groups.get(group_named(group).name)
        if columns is None:
            return np.full(self.high if rows is None else len(rows), np.inf)
        generated = self._picked(columns.generated(fact), rows)
        return np.where(generated > 0, np.maximum(0, now_ns - generated) / NS_PER_S, np.inf)

    def stale(self, group: str) -> NDArray[np.bool_]:
        """Rows of which this group was not confirmed since the map restarted (never heard included): (H,)."""
        columns = self._groups.get(group_named(group).name)
        if columns is None:
            return np.ones(self.high, np.bool_)
        received = columns.received_ns[: self.high]
        return np.asarray((received < self.stale_before_ns) | (received == 0))

    def deviation(self, fact: str, now_ns: int | None = None, rows: Rows = None) -> NDArray[np.float32]:
        """Standard deviation of a number by row, in its unit: (H,), or of `rows` only: (len(rows),).

        With `now_ns`, widened by age: beyond the group's `age_most_s` the value is taken to wander like a random walk
        that has moved by its own size after as long again (variance grows linearly). Infinite where not known.
        """
        group, _ = fact_named(self.kind, fact)
        columns = self._groups.get(group.name)
        if columns is None:
            return np.full(self.high if rows is None else len(rows), np.inf, np.float32)
        told = DEVIATIONS[self._picked(columns.deviations[fact], rows)]
        if now_ns is None:
            return told
        excess = np.maximum(0.0, self.age_s(group.name, now_ns, rows, fact=fact) / group.age_most_s - 1.0)
        with np.errstate(invalid="ignore"):
            wandered = np.abs(self._picked(columns.values[fact], rows)) * np.sqrt(excess)
            return np.where(np.isinf(told), told, np.hypot(told, wandered)).astype(np.float32)

    def _picked(self, column: Column, rows: Rows) -> Column:
        return column[: self.high] if rows is None else column[rows]

    def value(self, row: int, fact: str) -> Value:
        """One fact as people read it: words and choices as text, None where not known."""
        group, found = fact_named(self.kind, fact)
        columns = self._groups.get(group.name)
        return None if columns is None else self.shown(found, columns.values[fact][row])

    def shown(self, fact: Fact, kept: float) -> Value:
        """A kept value as people read it."""
        match fact.form:
            case Form.WORD:
                return self.words.text(int(kept)) if kept >= 0 else None
            case Form.REFERENCE:
                return int(kept) if kept >= 0 else None
            case Form.CHOICE:
                return fact.choices[int(kept)] if kept != UNKNOWN_CODE else None
            case Form.FLAG:
                return bool(kept) if kept != UNKNOWN_CODE else None
            case _:
                return float(kept) if kept == kept else None

    # --- single facts -----------------------------------------------------------------------------------------------

    def note(
        self,
        row: int,
        group: str,
        values: Mapping[str, Value],
        *,
        source: int,
        generated_ns: int,
        received_ns: int,
        sequence: int | None = None,
        deviations: Mapping[str, float] | None = None,
    ) -> None:
        """Set facts of one thing: what the map's own side knows or has checked. Facts not named stay as they are.

        `sequence`: None where it is none of the source's own reports. `deviations`: by name, 0 (exact) where not given.
        InputError for a fact that the group does not have, BugError for a value that cannot be kept.
        """
        columns = self.ensure(group)
        for name, value in values.items():
            place, fact = fact_named(self.kind, name)
            if place is not columns.group:
                raise BugError(f"fact {name} is of group {place.name}, not {group}")
            kept = self._kept(fact, value)
            columns.changes += int(columns.values[name][row] != kept)
            columns.values[name][row] = kept
            if fact.numeric:
                told = (deviations or {}).get(name, 0.0)
                columns.deviations[name][row] = NOT_KNOWN if value is None else encode_deviation(told)
        columns.source[row] = source
        if sequence is not None:
            columns.sequence[row] = sequence
        if columns.part is not None:
            columns.part[row] = 0
        columns.generated_ns[row] = generated_ns
        columns.received_ns[row] = received_ns
        self.version += 1

    def _kept(self, fact: Fact, value: Value) -> float:
        match fact.form:
            case Form.WORD:
                return -1 if value is None else self.words.code(str(value))
            case Form.REFERENCE:
                return -1 if value is None else int(value)
            case Form.CHOICE:
                if value is not None and value not in fact.choices:
                    raise BugError(f"{fact.name} is one of {', '.join(fact.choices)}, not {value!r}")
                return UNKNOWN_CODE if value is None else fact.choices.index(str(value))
            case Form.FLAG:
                return UNKNOWN_CODE if value is None else int(bool(value))
            case _:
                kept = float("nan") if value is None else float(value)
                if value is not None and not fact.least <= kept <= fact.most:
                    raise BugError(f"{fact.name} is {kept:g}, not within {fact.least:g} to {fact.most:g}")
                return kept

    # --- room -------------------------------------------------------------------------------------------------------

    def ensure(self, group: str) -> GroupColumns:
        """The columns of a group, made if there are none yet. BugError for a group of another kind."""
        columns = self._groups.get(group)
        if columns is None:
            known = group_named(group)
            if known.kind is not self.kind:
                raise BugError(f"group {group} is of {known.kind.value}, not {self.kind.value}")
            columns = self._groups[group] = GroupColumns(known, self.capacity)
        return columns

    def groups(self) -> tuple[Group, ...]:
        """Groups that somebody has reported, in the registry's order."""
        return tuple(group for group in BY_KIND[self.kind] if group.name in self._groups)

    @property
    def nbytes(self) -> int:
        """Memory of all columns, allocated but unused rows included; ids are Python's and not counted."""
        own = self._alive.nbytes + self._owner.nbytes
        return own + sum(columns.nbytes for columns in self._groups.values())

    def _reserve(self, rows: int) -> None:
        if rows <= self.capacity:
            return
        wanted = 1 << (rows - 1).bit_length()
        self._alive = np.concatenate([self._alive, np.zeros(wanted - len(self._alive), np.bool_)])
        self._owner = np.concatenate([self._owner, np.full(wanted - len(self._owner), NO_SOURCE, np.int32)])
        for columns in self._groups.values():
            columns.grow(wanted)
