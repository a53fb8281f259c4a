"""Distances on the map: estimated from network positions, or measured on links.

The round trip between two terminals is estimated as the distance of their network coordinates plus both heights (Dabek
et al., Vivaldi, SIGCOMM 2004). T targets, A things asked about.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_check import terminal_path
from daitn.topology.columns import Rows
from daitn.topology.questions.reading import Reading

PAIRS_AT_ONCE: Final = 4_000_000
"""Pairs of terminals whose distance is taken at once: 100 MB."""

Numbers = NDArray[np.float64]


def positions(reading: Reading, terminals: NDArray[np.intp]) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Three coordinates and height of terminals, in seconds; NaN where not known: four times (A,)."""
    table = reading.book[Kind.TERMINAL]
    names = ("position_x_s", "position_y_s", "position_z_s", "position_height_s")
    x, y, z, height = (np.asarray(table.column(name)[terminals], np.float64) for name in names)
    return x, y, z, height


def terminals_of(reading: Reading, kind: Kind, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The terminal of each thing, and where there is none (0 stands there): (A,), (A,)."""
    at, missing = reading.follow(kind, terminal_path(kind), rows)
    assert at is not None
    return at, np.zeros(len(at), np.bool_) if missing is None else missing


def distances_to(reading: Reading, kind: Kind, rows: NDArray[np.intp], target: int, by: str) -> Numbers:
    """Round trip in seconds from the terminal of each thing to a terminal; NaN where not known: (A,)."""
    at, missing = terminals_of(reading, kind, rows)
    if by == "round_trip":
        links = reading.book[Kind.LINK]
        from_there = np.flatnonzero((links.column("from_terminal") == target) & links.alive())
        measured = np.full(reading.book[Kind.TERMINAL].high, np.nan)
        # Of several links between the same two, the best one counts.
        trips = np.asarray(links.column("link_round_trip_s")[from_there], np.float64)
        order = np.argsort(-np.nan_to_num(trips, nan=np.inf), kind="stable")
        measured[links.column("to_terminal")[from_there][order]] = trips[order]
        measured[target] = 0.0
        return np.where(missing, np.nan, measured[at])
    x, y, z, height = positions(reading, np.asarray([target], np.intp))
    own_x, own_y, own_z, own_height = positions(reading, at)
    apart = np.hypot(np.hypot(own_x - x, own_y - y), own_z - z) + own_height + height
    return np.where(missing, np.nan, np.where(at == target, 0.0, apart))


def near_any(reading: Reading, kind: Kind, rows: Rows, targets: NDArray[np.intp], most_s: float) -> NDArray[np.bool_]:
    """Which things have one of the targets within a round trip: (A,).

    Targets are kept in square cells of the first two coordinates, as wide as the round trip, so that only those of nine
    cells are compared; things that have found one are not looked at again. Cost: O(A + pairs in neighbouring cells).
    """
    asked = np.arange(reading.book[kind].high, dtype=np.intp) if rows is None else rows
    at, missing = terminals_of(reading, kind, asked)
    found = np.zeros(len(asked), np.bool_)
    if not len(targets):
        return found
    is_target = np.zeros(reading.book[Kind.TERMINAL].high, np.bool_)
    is_target[targets] = True
    found |= is_target[at] & ~missing
    x, y, z, height = positions(reading, targets)
    placed = ~np.isnan(x + y + z + height) & (height <= most_s)
    x, y, z, height = x[placed], y[placed], z[placed], height[placed]
    own_x, own_y, own_z, own_height = positions(reading, at)
    known = ~np.isnan(own_x + own_y + own_z + own_height)
    open_rows = np.flatnonzero(~found & ~missing & known & (own_height <= most_s))
    if not len(x) or not len(open_rows):
        return found
    size = max(most_s, 1e-6)
    cells = _cell(x, y, size)
    order = np.lexsort((height, cells))  # the lowest of a cell first: most likely near enough
    x, y, z, height, cells = x[order], y[order], z[order], height[order], cells[order]
    for step_x in (0, -1, 1):
        for step_y in (0, -1, 1):
            cell = _cell(own_x[open_rows] + step_x * size, own_y[open_rows] + step_y * size, size)
            first = np.searchsorted(cells, cell, "left")
            number = np.searchsorted(cells, cell, "right") - first
            own = (own_x[open_rows], own_y[open_rows], own_z[open_rows], most_s - own_height[open_rows])
            hit = _any_near(own, (x, y, z, height), first, number)
            found[open_rows[hit]] = True
            open_rows = open_rows[~hit]
    return found


def _cell(x: Numbers, y: Numbers, size: float) -> NDArray[np.int64]:
    return (np.floor(x / size).astype(np.int64) << 32) + np.floor(y / size).astype(np.int64)


def _any_near(
    own: tuple[Numbers, Numbers, Numbers, Numbers],
    targets: tuple[Numbers, Numbers, Numbers, Numbers],
    first: NDArray[np.int64],
    number: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether one of the targets `first` to `first + number` is near: a round of targets at a time, doubling."""
    hit = np.zeros(len(first), np.bool_)
    begun, width = 0, 1
    waiting = np.flatnonzero(number > 0)
    while len(waiting):
        width = max(1, min(width, PAIRS_AT_ONCE // len(waiting)))
        offsets = begun + np.arange(width)
        index = first[waiting, None] + np.minimum(offsets, number[waiting, None] - 1)
        x, y, z, reach = (one[waiting, None] for one in own)
        flat = np.hypot(targets[0][index] - x, targets[1][index] - y)
        near = (np.hypot(flat, targets[2][index] - z) + targets[3][index] <= reach).any(axis=1)
        hit[waiting[near]] = True
        begun += width
        waiting = waiting[~near & (number[waiting] > begun)]
        width *= 4
    return hit
