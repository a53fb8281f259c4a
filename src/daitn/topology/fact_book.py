"""`FactBook`: the tables of all kinds, which share one vocabulary: the columns of the map (G-KRRM) as one thing.

Things refer to things of other kinds by row (`Form.REFERENCE`); a thing that leaves takes those that refer to it along.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from daitn.descriptors.fact_kinds import Form, Kind
from daitn.descriptors.facts import facts_of
from daitn.topology.columns import FactTable
from daitn.topology.words import Words


class FactBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.words = Words()
        self.tables: dict[Kind, FactTable] = {kind: FactTable(kind, self.words) for kind in Kind}

    def __getitem__(self, kind: Kind) -> FactTable:
        return self.tables[kind]

    @property
    def version(self) -> int:
        """Grows with every change of any table."""
        return sum(table.version for table in self.tables.values())

    def remove(self, kind: Kind, rows: Iterable[int]) -> None:
        """Take things off the map, and all that refers to them: O(rows of the kinds that refer to this one)."""
        gone = [row for row in rows if 0 <= row < self[kind].high]
        if not gone:
            return
        for other in Kind:
            for fact in facts_of(other):
                if fact.form is Form.REFERENCE and fact.refers_to is kind:
                    referring = np.isin(self[other].column(fact.name), gone) & self[other].alive()
                    self.remove(other, np.flatnonzero(referring).tolist())
        self[kind].remove(gone)

    def restarted(self, now_ns: int) -> None:
        """All that was received before now is stale until it is confirmed."""
        for table in self.tables.values():
            table.stale_before_ns = now_ns

    @property
    def nbytes(self) -> int:
        """Memory of all columns; ids and words are Python's and not counted."""
        return sum(table.nbytes for table in self.tables.values())
