"""Rosters: which row each number of each source means, so that a report names a thing in four bytes.

A source numbers the things of one kind that it speaks for from 0. One flat array holds the rows of all sources, a block
for each; a block that grows too small is copied to the end with twice the room. Looking up is one addition, one
comparison and one gather for a whole batch of any mixture of sources.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import PeerError
from daitn.topology.group_columns import NO_ROW

THINGS_MOST: Final = 1 << 18
"""Largest number + 1 in a roster: a quarter of a million things of one kind for one node, 100 MB of columns."""


class Roster:
    """The rosters of all sources for one kind; see the module's docstring."""

    def __init__(self) -> None:
        self.changes = 0
        """Grows when a number means another row."""
        self._rows = np.full(64, NO_ROW, np.int32)
        self._used = 0
        self._offset = np.zeros(64, np.int64)
        self._length = np.zeros(64, np.int64)

    def place(self, source: int, first: int, rows: NDArray[np.int32]) -> None:
        """Numbers `first`, `first` + 1 … of a source mean these rows. PeerError beyond `THINGS_MOST`."""
        end = first + len(rows)
        if first < 0 or end > THINGS_MOST:
            raise PeerError(f"a roster has numbers from 0 to {THINGS_MOST - 1}, not {end - 1}")
        while source >= len(self._offset):
            self._offset = np.concatenate([self._offset, np.zeros_like(self._offset)])
            self._length = np.concatenate([self._length, np.zeros_like(self._length)])
        if end > self._length[source]:
            self._widen(source, end)
        start = self._offset[source] + first
        self._rows[start : start + len(rows)] = rows
        self.changes += 1

    def resolve(self, source: NDArray[np.int32], numbers: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Rows of numbers, -1 where a source has no such number: (B,)."""
        known = (source >= 0) & (source < len(self._offset))
        at = np.where(known, source, 0)
        fits = known & (numbers < self._length[at])
        place = np.where(fits, self._offset[at] + numbers, 0)
        return np.where(fits, self._rows[place], NO_ROW).astype(np.int32, copy=False)

    def rows_of(self, source: int) -> NDArray[np.int32]:
        """The rows of one source's numbers, -1 where a number is not in use."""
        if source >= len(self._offset):
            return self._rows[:0]
        start = self._offset[source]
        return self._rows[start : start + self._length[source]]

    def forget(self, source: int, rows: NDArray[np.int32]) -> None:
        """These rows of a source are no things any more: O(its roster)."""
        held = self.rows_of(source)
        held[np.isin(held, rows)] = NO_ROW
        self.changes += 1

    def clear(self, source: int) -> None:
        """A source numbers its things anew."""
        self.rows_of(source)[:] = NO_ROW
        self.changes += 1

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._rows.nbytes + self._offset.nbytes + self._length.nbytes

    def _widen(self, source: int, end: int) -> None:
        old, length = int(self._offset[source]), int(self._length[source])
        room = max(4, 1 << (end - 1).bit_length())
        if length and old + length == self._used:  # the last block grows where it is
            start = old
        else:
            start = self._used
        if start + room > len(self._rows):
            longer = np.full(1 << (start + room - 1).bit_length(), NO_ROW, np.int32)
            longer[: self._used] = self._rows[: self._used]
            self._rows = longer
        if start != old:
            self._rows[start : start + length] = self._rows[old : old + length]
            self._rows[old : old + length] = NO_ROW
        self._offset[source], self._length[source] = start, room
        self._used = start + room
