"""Making an image of the map in steps of a millisecond, while the map goes on taking reports.

A copy of a million things takes a second; in between nobody would be answered. So it is made in steps: whole rows of a
group at a time, so that what a row says fits together, while other rows may be of a moment earlier or later. That does
no harm, because the image is read together with all entries that came since it was begun (`map_entries`): records that
a later row has already are refused by their sequence, those that an earlier row lacks are taken, and both end where the
map is. (A fuzzy checkpoint: J. Gray and A. Reuter, Transaction Processing, 1993, section 11.4.) What this does not hold
for is which row means which thing: where things or rosters change meanwhile, the image is torn, and made again.

Legend: H rows of a table. Cost: O(bytes of the map) in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from daitn.descriptors.facts import REGISTRY_VERSION
from daitn.topology.columns import FactTable
from daitn.topology.group_columns import Column
from daitn.topology.intake import FactIntake
from daitn.topology.map_image import Arrays, ImageHead, TableHead

STEP_BYTES: Final = 1 << 20
"""Copied in one step, into memory that is touched for the first time: half a millisecond."""

STEP_NAMES: Final = 1 << 15
"""Ids or words copied in one step: a quarter of a millisecond."""


class ImageMaking:
    """See the module's docstring. `taken_ns`: the moment at which entries begin that belong to the image."""

    def __init__(self, intake: FactIntake, taken_ns: int) -> None:
        self._intake = intake
        self._taken_ns = taken_ns
        self._arrays: Arrays = {}
        self._tables: list[TableHead] = []
        self._words: list[str] = []
        self._sources = intake.sources.nodes()
        for name in ("incarnation", "sequence", "dropped"):
            self._arrays[f"source/{name}"] = getattr(intake.sources, name)[: len(self._sources)].copy()
        self._begun = self._mark()
        self._steps = self._copy()

    def step(self) -> bool:
        """Copy a little more; False once all is copied, or the image is torn."""
        return not self.torn and next(self._steps, None) is not None

    @property
    def torn(self) -> bool:
        """Whether rows mean other things than when it was begun."""
        return self._mark() != self._begun

    def image(self) -> tuple[ImageHead, Arrays] | None:
        """The image, once all is copied; None where it is torn."""
        if self.torn:
            return None
        head = ImageHead(
            registry=REGISTRY_VERSION,
            taken_ns=self._taken_ns,
            words=tuple(self._words),
            nodes=self._sources,
            tables=tuple(self._tables),
        )
        return head, self._arrays

    def _mark(self) -> tuple[int, ...]:
        tables = [table.roster_version for table in self._intake.book.tables.values()]
        return (*tables, *(roster.changes for roster in self._intake.rosters.values()))

    def _copy(self) -> Iterator[bool]:
        for table in self._intake.book.tables.values():
            yield from self._copy_table(table)
        for kind, roster in self._intake.rosters.items():
            copied = 0
            for index in range(len(self._sources)):
                if len(rows := roster.rows_of(index)):
                    self._arrays[f"roster/{kind.value}/{index}"] = rows.copy()
                    copied += rows.nbytes + 1024  # a step of Python costs as much as a kilobyte
                if copied > STEP_BYTES:
                    copied = 0
                    yield True
        words = self._intake.book.words  # last, because rows copied late may have words that were new then
        while len(self._words) < len(words):
            self._words += words.texts(len(self._words), len(self._words) + STEP_NAMES)
            yield True

    def _copy_table(self, table: FactTable) -> Iterator[bool]:
        kind, high = table.kind.value, table.high
        groups = tuple(group.name for group in table.groups())
        ids: list[str] = []
        while len(ids) < high:
            ids += table.ids()[len(ids) : min(high, len(ids) + STEP_NAMES)]
            yield True
        self._tables.append(TableHead(kind=kind, ids=tuple(ids), groups=groups))
        self._arrays[f"{kind}/owner"] = table.owners().copy()
        for name in groups:
            columns = table.ensure(name)
            copies: dict[str, Column] = {
                part: np.empty(high, column.dtype) for part, column in columns.arrays().items()
            }
            self._arrays |= {f"{kind}/{name}/{part}": copy for part, copy in copies.items()}
            rows = max(1, STEP_BYTES // max(1, sum(copy.itemsize for copy in copies.values())))
            for first in range(0, high, rows):
                arrays = columns.arrays()  # there may be more of them than when it was begun
                for part, copy in copies.items():
                    copy[first : first + rows] = arrays[part][first : min(high, first + rows)]
                yield True


def make_image(intake: FactIntake, taken_ns: int) -> tuple[ImageHead, Arrays]:
    """An image made at once, of this moment."""
    making = ImageMaking(intake, taken_ns)
    while making.step():
        pass
    image = making.image()
    assert image is not None, "nothing changes within a moment"
    return image
