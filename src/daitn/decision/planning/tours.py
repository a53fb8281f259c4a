"""Tours (MTRCE, budget form where each stop gives its gain once): the most gain within a budget, back where it began.

Paper II-A; the orienteering problem (B. Golden et al. 1987). The search is ours, put together from known parts:

- start from a tour over all stops, shortened, from which strings of least gain per cost saved are dropped until the
  budget holds (as EA4OP drops single stops, G. Kobeaga et al. 2018);
- then many times either *ruin and recreate* (strings around a random stop are removed, J. Christiaens and G. Vanden
  Berghe 2020, and stops inserted by gain per cost with a little noise), or *grow and drop*: stops around one that is
  outside are taken in beyond the budget, and strings dropped again. The second is what crosses a gap between clusters,
  which no single insertion pays for;
- 2-opt and Or-opt over each stop's nearest neighbours after each change; simulated annealing on gain, then cost.

N stops, T stops on the tour, K neighbours. An iteration costs O(N·K + T·K) on average; memory O(N·K) besides the costs.
Equal arguments, seed included, give equal tours. Costs must be symmetric; where they break the triangle inequality the
tour holds the budget all the same.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from daitn.base.errors import InputError
from daitn.decision.planning.tour_search import Floats, Indices, search

NEIGHBOURS: Final = 25
"""K: more cost time and gained nothing on instances of 48 to 400 stops."""


class Tour(NamedTuple):
    """Stops in order, the start first; their gain; and the cost of the closed tour."""

    stops: tuple[int, ...]
    gain: float
    cost: float


def plan_tour(cost: Floats, gain: Floats, start: int, budget: float, *, iterations: int, seed: int = 0) -> Tour:
    """The best tour found. `cost`: (N, N), symmetric, of moving between stops; `gain`: (N,), of being there once.

    A cost of a stop itself is half added to each move from and to it. InputError where shapes or values do not fit.
    """
    stops = len(gain)
    if cost.shape != (stops, stops) or not 0 <= start < stops:
        raise InputError(f"costs are {list(cost.shape)} for {stops} stops that begin at {start}")
    if not (np.isfinite(cost).all() and np.isfinite(gain).all() and math.isfinite(budget)):
        raise InputError("a cost, a gain or the budget is not finite")
    if cost.min(initial=0.0) < 0 or gain.min(initial=0.0) < 0 or budget < 0:
        raise InputError("a cost, a gain or the budget is negative")
    if not np.array_equal(cost, cost.T):
        raise InputError("costs there and back differ", todo="give the mean of both")
    if iterations < 0:
        raise InputError(f"{iterations} iterations")
    if stops == 1:
        return Tour((start,), float(gain[start]), 0.0)
    near = nearest(cost, min(stops - 1, NEIGHBOURS))
    found, best, length = search(
        np.ascontiguousarray(cost, np.float64), np.ascontiguousarray(gain, np.float64), start, float(budget), near,
        iterations, seed,
    )  # fmt: skip
    return Tour(tuple(int(stop) for stop in found), float(best), float(length))


def nearest(cost: Floats, count: int) -> Indices:
    """The `count` nearest other stops of each, nearest first: (N, K)."""
    apart = cost.astype(np.float64, copy=True)
    np.fill_diagonal(apart, np.inf)
    some = np.argpartition(apart, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(apart, some, 1), axis=1, kind="stable")
    return np.ascontiguousarray(np.take_along_axis(some, order, 1), np.int32)
