"""The search for tours, compiled: what `decision.planning.tours` describes.

Stops on the tour stand in `_Board.tour`, their places in `_Board.place`; sizes, lengths and gains are passed along,
since compiled tuples cannot be changed.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.decision.planning.compiling import compiled

GROW: Final = 0.4
"""Share of iterations that grow and drop."""

WARM: Final = 0.8
COLD: Final = 0.02
"""Annealing: gain lost, in mean gains, that is taken with probability 1/e, at the start and at the end."""

SHORTER: Final = 0.3
"""What saving one mean edge counts beside a mean gain: a shorter tour has room for the next stop."""

STARTS: Final = 3
"""Searches, one after another, that share the iterations: a tour that begins in the wrong cluster stays there."""

FAR: Final = 1e17
"""A budget beyond every cost."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]


class _Board(NamedTuple):
    """What the compiled functions share. `place[stop]`: where it stands on the tour, -1 outside."""

    cost: Floats
    gain: Floats
    near: Indices
    tour: Indices
    place: Indices
    extra: Floats
    """Cheapest insertion of each stop outside, and in `after` behind which stop that is."""
    after: Indices
    spare: Indices


@compiled
def _cheapest(board: Any, size: int, stop: int) -> None:
    """Look up the cheapest insertion of a stop: beside its neighbours on the tour, or anywhere if none is on it."""
    cost, near, tour, place = board.cost, board.near, board.tour, board.place
    least, where = np.inf, -1
    for k in range(near.shape[1]):
        at = near[stop, k]
        q = place[at]
        if q < 0:
            continue
        behind = tour[q + 1 if q + 1 < size else 0]
        extra = cost[at, stop] + cost[stop, behind] - cost[at, behind]
        if extra < least:
            least, where = extra, at
        before = tour[q - 1 if q > 0 else size - 1]
        extra = cost[before, stop] + cost[stop, at] - cost[before, at]
        if extra < least:
            least, where = extra, before
    if where < 0:
        for q in range(size):
            at, behind = tour[q], tour[q + 1 if q + 1 < size else 0]
            extra = cost[at, stop] + cost[stop, behind] - cost[at, behind]
            if extra < least:
                least, where = extra, at
    board.extra[stop], board.after[stop] = least, where


@compiled
def _insert(
    board: Any, size: int, length: float, gained: float, budget: float, allowed: Any, power: float, noise: float,
    little: float,
) -> tuple[int, float, float]:  # fmt: skip
    """Take in stops by gain per cost (to a power, with noise) while the budget lasts."""
    cost, gain, tour, place, extra = board.cost, board.gain, board.tour, board.place, board.extra
    stops = len(gain)
    for stop in range(stops):
        if place[stop] < 0 and allowed[stop]:
            _cheapest(board, size, stop)
    while True:
        best, chosen = -1.0, -1
        for stop in range(stops):
            if place[stop] < 0 and allowed[stop] and extra[stop] <= budget - length + 1e-9:
                worth = gain[stop] / (max(extra[stop], 0.0) + little) ** power * (1.0 - noise * np.random.random())
                if worth > best:
                    best, chosen = worth, stop
        if chosen < 0:
            return size, length, gained
        at = board.after[chosen]
        q = place[at]
        behind = tour[q + 1 if q + 1 < size else 0]
        for j in range(size, q + 1, -1):
            tour[j] = tour[j - 1]
            place[tour[j]] = j
        tour[q + 1], place[chosen] = chosen, q + 1
        size += 1
        length += extra[chosen]
        gained += gain[chosen]
        for stop in range(stops):
            if place[stop] < 0 and allowed[stop]:
                if board.after[stop] == at:
                    _cheapest(board, size, stop)
                first = cost[at, stop] + cost[stop, chosen] - cost[at, chosen]
                if first < extra[stop]:
                    extra[stop], board.after[stop] = first, at
                second = cost[chosen, stop] + cost[stop, behind] - cost[chosen, behind]
                if second < extra[stop]:
                    extra[stop], board.after[stop] = second, chosen


@compiled
def _turn(tour: Any, place: Any, first: int, last: int) -> None:
    """Reverse tour[first..last]."""
    while first < last:
        one, other = tour[first], tour[last]
        tour[first], tour[last] = other, one
        place[other], place[one] = first, last
        first += 1
        last -= 1


@compiled
def _shorten(board: Any, size: int, length: float) -> tuple[float, bool]:
    """2-opt and Or-opt over neighbours until nothing is gained; whether anything was."""
    cost, near, tour, place = board.cost, board.near, board.tour, board.place
    many, few = min(near.shape[1], 10), min(near.shape[1], 8)
    gained = False
    for _ in range(20):
        better = False
        if size < 5:
            break
        for q in range(size):
            here = tour[q]
            behind, before = tour[q + 1 if q + 1 < size else 0], tour[q - 1 if q > 0 else size - 1]
            out, back = cost[here, behind], cost[before, here]
            moved = False
            for k in range(many):
                other = near[here, k]
                if cost[here, other] >= out:
                    break
                r = place[other]
                if r < 0:
                    continue
                beyond = tour[r + 1 if r + 1 < size else 0]
                change = cost[here, other] + cost[behind, beyond] - out - cost[other, beyond]
                if change < -1e-9:
                    if r < q:
                        _turn(tour, place, r + 1, q)
                    else:
                        _turn(tour, place, q + 1, r)
                    length += change
                    moved = True
                    break
            if not moved:
                for k in range(many):
                    other = near[here, k]
                    if cost[here, other] >= back:
                        break
                    r = place[other]
                    if r < 0:
                        continue
                    beyond = tour[r - 1 if r > 0 else size - 1]
                    change = cost[here, other] + cost[before, beyond] - back - cost[beyond, other]
                    if change < -1e-9:
                        if r < q:
                            _turn(tour, place, r, q - 1)
                        else:
                            _turn(tour, place, q, r - 1)
                        length += change
                        moved = True
                        break
            for width in range(1, 4):
                if moved or size < width + 3:
                    break
                end, nextto = tour[(q + width - 1) % size], tour[(q + width) % size]
                saved = cost[before, here] + cost[end, nextto] - cost[before, nextto]
                if saved <= 1e-9:
                    continue
                for k in range(few):
                    other = near[here, k]
                    if cost[here, other] >= saved:
                        break
                    r = place[other]
                    if r < 0 or (r - q) % size < width:
                        continue
                    beyond, prior = tour[r + 1 if r + 1 < size else 0], tour[r - 1 if r > 0 else size - 1]
                    ahead = np.inf
                    if other != before:
                        ahead = cost[other, here] + cost[end, beyond] - cost[other, beyond] - saved
                    turned = np.inf
                    if other != nextto:
                        turned = cost[other, here] + cost[end, prior] - cost[prior, other] - saved
                    if min(ahead, turned) < -1e-9:
                        _move(board, size, q, width, other, ahead <= turned)
                        length += min(ahead, turned)
                        moved = True
                        break
            better = better or moved
        gained = gained or better
        if not better:
            break
    return length, gained


@compiled
def _move(board: Any, size: int, q: int, width: int, other: int, ahead: bool) -> None:
    """Put the string of `width` stops from place q behind `other`, or turned round before it."""
    tour, place, spare = board.tour, board.place, board.spare
    w = 0
    for j in range(size):
        if (j - q) % size < width:
            continue
        stop = tour[j]
        if stop != other:
            spare[w] = stop
            w += 1
        elif ahead:
            spare[w] = stop
            w += 1
            for s in range(width):
                spare[w] = tour[(q + s) % size]
                w += 1
        else:
            for s in range(width - 1, -1, -1):
                spare[w] = tour[(q + s) % size]
                w += 1
            spare[w] = stop
            w += 1
    for j in range(size):
        tour[j] = spare[j]
        place[spare[j]] = j


@compiled
def _drop(
    board: Any, size: int, length: float, gained: float, budget: float, start: int, longest: int, noise: float
) -> tuple[int, float, float]:
    """Drop strings of at most `longest` stops, least gain for each cost saved that is needed first, until the budget
    holds."""
    cost, gain, tour, place, spare = board.cost, board.gain, board.tour, board.place, board.spare
    turn = place[start]
    if turn != 0:
        for j in range(size):
            spare[j] = tour[(turn + j) % size]
        for j in range(size):
            tour[j] = spare[j]
            place[spare[j]] = j
    while length > budget + 1e-9 and size > 1:
        need = length - budget
        best, first, width, saved, lost = np.inf, -1, 0, 0.0, 0.0
        for i in range(1, size):
            before, inner, gone = tour[i - 1], cost[tour[i - 1], tour[i]], 0.0
            for j in range(i, min(size, i + longest)):
                gone += gain[tour[j]]
                behind = tour[j + 1] if j + 1 < size else tour[0]
                inner += cost[tour[j], behind]
                save = inner - cost[before, behind]
                if save > 1e-9:
                    price = gone / min(save, need) * (1.0 + noise * np.random.random())
                    if price < best:
                        best, first, width, saved, lost = price, i, j - i + 1, save, gone
                if save >= need:
                    break
        if first < 0:
            # Nothing saves anything, as can be without a triangle inequality: back to the start.
            for j in range(1, size):
                gained -= gain[tour[j]]
                place[tour[j]] = -1
            return 1, 0.0, gained
        for j in range(first, first + width):
            place[tour[j]] = -1
        for j in range(first + width, size):
            tour[j - width] = tour[j]
            place[tour[j - width]] = j - width
        size -= width
        length -= saved
        gained -= lost
    return size, length, gained


@compiled
def _length(cost: Any, tour: Any, size: int) -> float:
    total = 0.0
    for q in range(size):
        total += cost[tour[q], tour[q + 1 if q + 1 < size else 0]]
    return total


@compiled
def _ruin(board: Any, size: int, gained: float, start: int, marked: Any) -> tuple[int, float, float]:
    """Take strings around a random stop off the tour."""
    tour, place, near = board.tour, board.place, board.near
    wanted = 1 + int(np.random.random() * min(30.0, 0.3 * size + 2))
    seed, removed = np.random.randint(len(board.gain)), 0
    for k in range(-1, near.shape[1]):
        if removed >= wanted:
            break
        stop = seed if k < 0 else near[seed, k]
        if place[stop] < 0 or stop == start:
            continue
        width = 1 + np.random.randint(max(1, min(10, wanted - removed)))
        first = place[stop] - np.random.randint(width)
        for j in range(width):
            gone = tour[(first + j) % size]
            if gone != start and not marked[gone]:
                marked[gone] = True
                removed += 1
    w = 0
    for q in range(size):
        stop = tour[q]
        if marked[stop]:
            marked[stop], place[stop] = False, -1
            gained -= board.gain[stop]
        else:
            tour[w], place[stop] = stop, w
            w += 1
    return w, _length(board.cost, tour, w), gained


@compiled
def _grow(
    board: Any, size: int, length: float, gained: float, budget: float, start: int, marked: Any, little: float
) -> tuple[int, float, float]:
    """Take in stops around one that is outside, whatever it costs, then drop until the budget holds."""
    near, place = board.near, board.place
    stops = len(board.gain)
    outside = np.random.randint(stops)
    while place[outside] >= 0:
        outside = np.random.randint(stops)
    wanted = 1 + int(np.random.random() ** 2 * min(25.0, 0.25 * stops))
    marked[outside], count = True, 1
    for k in range(near.shape[1]):
        if count < wanted and place[near[outside, k]] < 0:
            marked[near[outside, k]] = True
            count += 1
    size, length, gained = _insert(board, size, length, gained, FAR, marked, 1.0, 0.2, little)
    marked[outside] = False
    for k in range(near.shape[1]):
        marked[near[outside, k]] = False
    length, _ = _shorten(board, size, length)
    drawn = np.random.random()
    longest = 1 if drawn < 0.4 else (8 if drawn < 0.76 else size)
    return _drop(board, size, length, gained, budget, start, longest, 0.4)


@compiled
def search(
    cost: Any, gain: Any, start: int, budget: float, near: Any, iterations: int, seed: int,
) -> tuple[Any, float, float]:  # fmt: skip
    """The search of the module's docstring: tour, gain, cost."""
    stops = len(gain)
    np.random.seed(seed)
    board = _Board(
        cost, gain, near, np.empty(stops, np.int32), np.full(stops, -1, np.int32), np.empty(stops),
        np.empty(stops, np.int32), np.empty(stops, np.int32),
    )  # fmt: skip
    tour, place = board.tour, board.place
    best, kept = np.empty(stops, np.int32), np.empty(stops, np.int32)
    marked, every = np.zeros(stops, np.bool_), np.ones(stops, np.bool_)
    edge = 0.0
    for stop in range(stops):
        edge += cost[stop, near[stop, 0]]
    edge = max(1e-9, edge / stops)
    usual, little = max(1e-9, gain.mean()), 0.02 * edge
    kept_size, kept_length, kept_gain = 1, 0.0, gain[start]
    best[0], best_size, best_length, best_gain = start, 1, 0.0, gain[start]
    size, length, gained, each = 1, 0.0, 0.0, max(1, iterations // STARTS)
    for iteration in range(max(1, iterations)):
        if iteration % each == 0 and iteration // each < STARTS:
            # A search begins: the first and the third from a tour over everything, the second from the start alone.
            place[:] = -1
            tour[0], place[start] = start, 0
            size, length, gained = 1, 0.0, gain[start]
            if iteration // each != 1:
                noise = 0.0 if iteration == 0 else 0.5
                size, length, gained = _insert(board, size, length, gained, FAR, every, 1.0, noise, little)
                length, _ = _shorten(board, size, length)
                size, length, gained = _drop(board, size, length, gained, budget, start, stops, noise)
                length, _ = _shorten(board, size, length)
            size, length, gained = _insert(board, size, length, gained, budget, every, 1.0, 0.0, little)
            kept[:size], kept_size, kept_length, kept_gain = tour[:size], size, length, gained
            if gained > best_gain or iteration == 0:
                best[:size], best_size, best_length, best_gain = tour[:size], size, length, gained
            if iterations == 0:
                break
        heat = WARM * (COLD / WARM) ** (iteration % each / each)
        if size < stops and np.random.random() < GROW:
            size, length, gained = _grow(board, size, length, gained, budget, start, marked, little)
        else:
            size, length, gained = _ruin(board, size, gained, start, marked)
        power = 0.6 + 0.8 * np.random.random()
        size, length, gained = _insert(board, size, length, gained, budget, every, power, 0.25, little)
        length, shortened = _shorten(board, size, length)
        if shortened:
            size, length, gained = _insert(board, size, length, gained, budget, every, power, 0.25, little)
        change = (gained - kept_gain) / usual + SHORTER * (kept_length - length) / edge
        if change >= 0 or change > heat * math.log(np.random.random() + 1e-300):
            kept[:size], kept_size, kept_length, kept_gain = tour[:size], size, length, gained
            if gained > best_gain + 1e-9 or (gained > best_gain - 1e-9 and length < best_length - 1e-9):
                best[:size], best_size, best_length, best_gain = tour[:size], size, length, gained
        else:
            for j in range(size):
                place[tour[j]] = -1
            size, length, gained = kept_size, kept_length, kept_gain
            for j in range(size):
                tour[j] = kept[j]
                place[kept[j]] = j
    return best[:best_size].copy(), best_gain, _length(cost, best, best_size)
