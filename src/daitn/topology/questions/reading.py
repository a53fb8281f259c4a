"""Reading measures off the columns at one moment: values, ages, deviations, through references, for some rows or all.

R rows asked for. A reference that is not known, or whose thing is gone, gives unknown values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.base.nearest import nearest_known
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Fact, Form, Kind
from daitn.descriptors.question_check import referred_by, resolve
from daitn.descriptors.questions import Measure
from daitn.topology.columns import FactTable, Rows
from daitn.topology.fact_book import FactBook
from daitn.topology.group_columns import filled

Read = NDArray[Any]


class Reading:
    """A book of facts at one moment; `now_ns` is Unix time, as `generated_ns` is."""

    def __init__(self, book: FactBook, now_ns: int) -> None:
        self.book = book
        self.now_ns = now_ns

    def values(self, kind: Kind, path: str, rows: Rows = None) -> Read:
        """Values of a fact as the column keeps them: (R,), or all rows of the kind."""
        steps, end, _, fact = resolve(kind, path)
        at, missing = self.follow(kind, steps, rows)
        column = self.book[end].column(fact.name)
        if at is None:
            return column
        if missing is None:
            return np.asarray(column[at])
        if not len(column):
            return filled(fact, len(at))
        return np.where(missing, filled(fact, 1), column[at])

    def numbers(self, kind: Kind, measure: Measure, rows: Rows = None) -> Read:
        """A measure as numbers; NaN where not known: (R,)."""
        steps, end, group, fact = resolve(kind, measure.fact)
        if measure.of in ("value", "since"):
            values = self.values(kind, measure.fact, rows)
            if measure.of == "since":
                return np.asarray(self.now_ns / NS_PER_S - values)
            return np.where(values == UNKNOWN_CODE, np.nan, values) if fact.form is Form.FLAG else values
        at, missing = self.follow(kind, steps, rows)
        table = self.book[end]
        told: Read
        if measure.of == "age":
            told = table.age_s(group.name, self.now_ns, at, fact=fact.name)
        else:
            told = table.deviation(fact.name, self.now_ns, at)
        return told if missing is None else np.where(missing, np.inf, told)

    def deviations(self, kind: Kind, path: str, rows: Rows = None) -> Read:
        """Deviations of a fact, widened by age; infinite where not known: (R,)."""
        return self.numbers(kind, Measure(fact=path, of="deviation"), rows)

    def known(self, kind: Kind, path: str, rows: Rows = None) -> NDArray[np.bool_]:
        """Where a fact is known: (R,)."""
        _, _, _, fact = resolve(kind, path)
        return known_in(fact, self.values(kind, path, rows))

    def stale(self, kind: Kind, path: str, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Where a fact was not confirmed since the map restarted; what nobody ever said is not stale: (R,)."""
        steps, end, group, fact = resolve(kind, path)
        table = self.book[end]
        at, missing = self.follow(kind, steps, rows)
        columns = table.group(group.name)
        if columns is None or at is None:
            return np.zeros(len(rows), np.bool_)
        received = columns.received_ns[at]
        stale = (received > 0) & (received < table.stale_before_ns)
        if columns.part is not None:  # what the newest report left out was confirmed when all was told last
            left_out = columns.left_out(fact.name)[at]
            stale |= left_out & (columns.generated(fact.name)[at] < table.stale_before_ns)
        return stale if missing is None else stale & ~missing

    def follow(self, kind: Kind, steps: tuple[str, ...], rows: Rows = None) -> tuple[Rows, NDArray[np.bool_] | None]:
        """Rows at the end of some references, and which of them lead nowhere (those rows are 0); None: none at all."""
        missing: NDArray[np.bool_] | None = None
        for step in steps:
            column = self.book[kind].column(step)
            at = column if rows is None else column[rows]
            lost = at < 0
            if missing is not None:
                lost |= missing
            missing = lost
            rows = np.where(lost, 0, at).astype(np.intp)
            kind = referred_by(kind, step)
        return rows, missing

    def row_of(self, kind: Kind, thing: str) -> int:
        """The row of a thing by its id, or of a terminal by its name. InputError naming the nearest known ones."""
        table = self.book[kind]
        if (row := table.row_of(thing)) is not None:
            return row
        if kind is Kind.TERMINAL and (code := self.book.words.find(thing)) >= 0:
            named = np.flatnonzero((table.column("name") == code) & table.alive())
            if len(named) == 1:
                return int(named[0])
            if len(named) > 1:
                some = ", ".join(table.id_of(int(row)) for row in named[:3])
                raise InputError(f"{len(named)} terminals are called {thing[:80]!r}", todo=f"give an id, as {some}")
        raise InputError(f"the map has no {kind.value} {thing[:80]!r}", todo=_nearest_thing(table, thing))


def known_in(fact: Fact, values: Read) -> NDArray[np.bool_]:
    """Where values of a fact are known."""
    if fact.form in (Form.FLAG, Form.CHOICE):
        return np.asarray(values != UNKNOWN_CODE)
    if fact.form in (Form.WORD, Form.REFERENCE):
        return np.asarray(values >= 0)
    return ~np.isnan(values)


NAMES_SEARCHED = 20_000
"""Ids looked through for near ones; of a map with more, an error says only how ids look."""


def _nearest_thing(table: FactTable, thing: str) -> str:
    names = [name for name in table.ids() if name]
    if len(names) > NAMES_SEARCHED:
        return f"ids are like {', '.join(names[:3])}"
    return nearest_known(thing, names) if names else "the map has none yet"
