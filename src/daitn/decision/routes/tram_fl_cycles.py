"""Tram-FL's rule, version 2 (journal version): the training of a cycle is allocated, then sites are visited in order.

A cycle is as many visits' worth of training as there are data sets. Its whole units are given to the data sets so that
the variance of the label counts it reads is least; the cycle then goes from the largest allocation to the smallest, but
begins where the one before ended, so that the model need not move for it. A stop carries its length (`Stop.length`).
Label shares come from private histograms. Without labels every site has the same part.

The article allocates single batches; here a cycle has `UNITS` units, or two for each of many sites, so that an
allocation is found within a millisecond, and a unit is at least one batch. Where a site comes or goes the allocation is
made anew, and what of the cycle was visited already counts.

Legend: S data sets, L labels, U units. Cost: O(U · S · L) once for each set of sites, then O(visits of a cycle).
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from daitn.base.ids import DataSetId
from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.decision.routes.tram_fl import label_shares_of
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView

UNITS: Final = 64
"""Units of training in a cycle."""

EXCHANGES: Final = 64
"""Units moved from one site to another at most, after each was given where it helped most at its time."""


class TramFlCycles:
    """See the module's docstring."""

    name = "tram-fl-2"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:  # noqa: ARG002
        """The next data set of the cycle, with its length. None only without candidates."""
        names = datasets(view)
        if not names:
            return None
        shares = tuple(tuple(sorted(label_shares_of(view, name).items())) for name in names)
        parts = dict(zip(names, allocate(shares), strict=True))
        order = sorted((name for name in names if parts[name] > 0), key=lambda name: (-parts[name], name))
        done = _of_this_cycle(seen, parts)
        begins = seen.last if seen.last in order else None
        if len(done) == len(order) or not done:
            done, chosen = [], begins or order[0]
        else:
            chosen = next(name for name in order if name not in done)
        units, length = sum(parts.values()), parts[chosen] * len(names) / sum(parts.values())
        why = f"{parts[chosen]} of the {units} units of a cycle, visit {len(done) + 1} of {len(order)} in it"
        return Stop(dataset=chosen, compute_node=best_compute(view, chosen).compute_node, why=why, length=length)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:  # noqa: ARG002
        """Labels are no facts that move: only the quickest place for the next data set can change."""
        return best_compute_holds(span, stop)


def _of_this_cycle(seen: Seen, parts: dict[DataSetId, int]) -> list[DataSetId]:
    """Data sets visited since the cycle began: the newest visits that are all of different data sets. A cycle begins
    where the one before ended, so the same one twice in a row parts them."""
    done: list[DataSetId] = []
    for name, _ in reversed(seen.visits):
        if name in done:
            break
        if parts.get(name, 0) > 0:
            done.append(name)
    return done


@functools.lru_cache(maxsize=32)
def allocate(shares: tuple[tuple[tuple[str, float], ...], ...]) -> tuple[int, ...]:
    """Units of a cycle for each data set, so that the variance of what is read of each label is least. `shares`: of the
    labels of each data set. Kept, since it is the same for every visit while sites stay."""
    sites = len(shares)
    units = max(UNITS, 2 * sites)
    labels = sorted({label for one in shares for label, _ in one})
    if not labels:
        return tuple(units // sites + (place < units % sites) for place in range(sites))
    mix = np.array([[dict(one).get(label, 0.0) for label in labels] for one in shares])  # (S, L)
    usable = mix.sum(1) > 0
    given = np.zeros(sites, np.int64)
    read = np.zeros(len(labels))
    for _ in range(units):
        spread = (read + mix).var(1)
        place = int(np.argmin(np.where(usable, np.round(spread, 12), np.inf)))
        given[place] += 1
        read += mix[place]
    for _ in range(EXCHANGES):
        spread = (read - mix[:, None] + mix[None]).var(2)  # (S, S): one unit from the first to the second
        spread[given == 0] = np.inf
        spread[:, ~usable] = np.inf
        worst = np.unravel_index(int(np.argmin(np.round(spread, 12))), spread.shape)
        if not spread[worst] < read.var() - 1e-9:
            break
        given[worst[0]] -= 1
        given[worst[1]] += 1
        read += mix[worst[1]] - mix[worst[0]]
    return tuple(int(one) for one in given)
