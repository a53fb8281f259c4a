"""Routed: our own rule for one copy of a model, which keeps every label fresh (paper, MTRCE).

A model learns a label from the records of it that it reads, and forgets it while it reads others. So the rule keeps for
each label an *exposure*: the share of recent reading that went to it, where reading counts less the longer ago it was,
`FADE` of its worth after each further visit of the usual length. What a state is worth is the mean logarithm of the
exposures: a label that is nearly forgotten weighs much, one that is fresh nearly nothing. The next stop is the one that
leaves the highest worth. (Tram-FL's variance of all counts so far knows neither: what was read long ago counts like
yesterday's, and a label read twice too much weighs as much as one never read.)

Where labels do not decide, data sets do, by the same worth of their own exposures at a small weight: else one site with
every label would keep the model for ever, and what the others know would never be learnt. The weight grows as a visit
reads more of a site than half its records, since what it read already teaches little the next time. Where nobody
reveals labels, data sets decide alone.

What a real network adds: a visit to a site trusted or available by half is expected to teach half. A place that takes
longer than the usual one has to bring more, `SECOND_COST` of worth for each time the median. Against labels that cost
counts less the longer ago the place was visited, so that a slow one is visited seldom and never left out for good, as
what nobody else holds would never be learnt. Against data sets it always counts in full, where labels are known: one
that holds what all hold can be left out. A stop where the model is already is a transfer less, and wins ties. Label
counts are private, hence noisy: below `NOISE_FRAC` of a data set they are not counted on.

Legend: S data sets, L labels, V visits remembered. Cost: O((V + S) · L).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Final

from daitn.base.ids import DataSetId
from daitn.decision.routes.contract import Seen, Span, best_compute_holds, best_computes, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

FADE: Final = 0.9
"""Worth of reading after one more visit of the usual length. On images of digits .7 to .9 were alike and .5 worse; on
30 numbers at five small sites, 20 seeds, runs took 13 visits in the mean at .8 (a quarter of them 20 to 38), 7.5 at .9
and at .95."""
FLOOR: Final = 0.01
"""Added to each share: a label out of sight for 20 visits counts as forgotten, and not as infinitely bad."""
DATASET_WEIGHT: Final = 0.02
"""Worth of data sets against that of labels while a visit reads little of a site: they decide only where labels hardly
do. At 0.2 runs took longer."""
DATASET_WEIGHT_MOST: Final = 0.5
"""The same where a visit reads sites through."""
READ_FRAC: Final = 0.5
"""Share of a typical site that a visit reads, from which on the weight grows with it."""
NOISE_FRAC: Final = 0.005
"""Share of a data set below which a label's count is taken for noise."""
SECOND_COST: Final = 0.05
"""Worth that a visit must bring more for each median of seconds per batch beyond the median, if the place was just
visited. A label that nobody else holds is never worth more than a tenth with ten labels, so that a cost that stays kept
the model from a place five times slower for good."""
CERTAIN: Final = 2e-9
"""Lead of worth from which on a choice is no tie: worths are compared to nine places."""
REMEMBERED: Final = 60
"""Visits looked back: what is older counts less than a millionth."""


class Routed:
    """See the module's docstring."""

    name = "routed"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The stop that leaves labels freshest; None only without candidates."""
        places = best_computes(view)
        names = tuple(places)
        if not names:
            return None
        shares = {name: label_shares(place) for name, place in places.items()}
        labels = tuple(sorted({label for share in shares.values() for label in share}))
        sure = {name: sureness(place) for name, place in places.items()}
        teaches = {
            name: tuple(share.get(label, 0.0) * sure[name] for label in labels) for name, share in shares.items()
        }
        by_label, by_dataset, weight = exposures(teaches, len(labels), seen, records_per_visit)
        costs, weight_of_datasets = _costs(places), dataset_weight(places, records_per_visit)
        total = FADE * weight + 1 - FADE
        elsewhere = sum(math.log(FADE * one / total + FLOOR) for one in by_dataset.values())

        def value(name: DataSetId) -> float:
            fresh = worth([_after(old, new) / total for old, new in zip(by_label, teaches[name], strict=True)])
            kept = by_dataset[name]
            moved = math.log(_after(kept, sure[name]) / total + FLOOR) - math.log(FADE * kept / total + FLOOR)
            apart = _apart(weight_of_datasets * moved / len(names), costs[name], kept, with_labels=bool(labels))
            return fresh + weight_of_datasets * elsewhere / len(names) + apart

        values = {name: value(name) for name in names}
        # Rounded, so that a tie is one on every machine; then staying, then the name decides.
        chosen = min(names, key=lambda name: (-round(values[name], 9), name != seen.last, name))
        others = [one for name, one in values.items() if name != chosen]
        shown = {label: one / weight if weight else 0.0 for label, one in zip(labels, by_label, strict=True)}
        why = _explain(shown, shares[chosen], values[chosen], max(others, default=None))
        return Stop(dataset=chosen, compute_node=places[chosen].compute_node, why=why)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:
        """Whether the stop is worth more than each other one wherever facts lie in the span: O((V + S) · L).

        The difference of two worths is bounded from below: the stop at its worst, the other at its best, and what is
        left of the reading of a label wherever within its own bounds the difference is least. That is at one of their
        ends, since a difference of two logarithms of the same share is monotone in it.
        """
        if not best_compute_holds(span, stop):
            return False
        return all(least > CERTAIN for least in _leads(span, seen, records_per_visit, stop).values())


def _leads(span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> dict[DataSetId, float]:
    """By other data set: by how much, at the least, the stop is worth more."""
    names = datasets(span.worst)
    ends = {name: span.of(name) for name in names}
    sure = {
        name: (min(sureness(worst) for worst, _ in both), max(sureness(best) for _, best in both))
        for name, both in ends.items()
    }
    shares = {name: label_shares(both[0][0]) for name, both in ends.items()}
    labels = tuple(sorted({label for share in shares.values() for label in share}))
    plain = {name: tuple(share.get(label, 0.0) for label in labels) for name, share in shares.items()}
    taught = [
        {name: tuple(one * sure[name][end] for one in plain[name]) for name in names} for end in range(2)
    ]  # at the least, at the most
    read = [exposures(one, len(labels), seen, records_per_visit) for one in taught]
    by_dataset, weight = read[0][1], read[0][2]
    total = FADE * weight + 1 - FADE
    places = best_computes(span.worst)
    scale = dataset_weight(places, records_per_visit) / len(names)
    costs = _cost_bounds(ends)

    def moved(name: DataSetId, sureness: float) -> float:
        kept = by_dataset[name]
        return math.log(_after(kept, sureness) / total + FLOOR) - math.log(FADE * kept / total + FLOOR)

    def freshened(name: DataSetId, end: int, at: int, label: int) -> float:
        return math.log(_after(read[at][0][label], taught[end][name][label]) / total + FLOOR)

    mine = stop.dataset
    mine_moved = moved(mine, sure[mine][0])
    leads: dict[DataSetId, float] = {}
    for other in names:
        if other == mine:
            continue
        lead = sum(
            min(freshened(mine, 0, at, label) - freshened(other, 1, at, label) for at in range(2))
            for label in range(len(labels))
        ) / max(1, len(labels))
        other_moved = scale * moved(other, sure[other][1])
        lead += _apart(scale * mine_moved, costs[mine][1], by_dataset[mine], with_labels=bool(labels))
        leads[other] = lead - _apart(other_moved, costs[other][0], by_dataset[other], with_labels=bool(labels))
    return leads


def _cost_bounds(
    ends: Mapping[DataSetId, tuple[tuple[Candidate, Candidate], ...]],
) -> dict[DataSetId, tuple[float, float]]:
    """Least and most of `_costs`: of a data set's places only those can be the quickest that stream least and, of
    these, were measured if any was."""
    bounds: dict[DataSetId, tuple[float, float] | None] = {}
    for name, both in ends.items():
        near = [pair for pair in both if pair[0].streamed == min(worst.streamed for worst, _ in both)]
        shortest = [best.batch_s for _, best in near if best.batch_s is not None]
        longest = [worst.batch_s for worst, _ in near if worst.batch_s is not None]
        bounds[name] = (min(shortest), max(longest)) if shortest and longest else None
    timed = [bound for bound in bounds.values() if bound is not None]
    low, high = (median(bound[end] for bound in timed) if timed else 0.0 for end in range(2))
    if low <= 0:
        return dict.fromkeys(ends, (0.0, 0.0)) if high <= 0 else dict.fromkeys(ends, (0.0, math.inf))
    return {
        name: (0.0, 0.0)
        if bound is None
        else (SECOND_COST * max(0.0, bound[0] / high - 1.0), SECOND_COST * max(0.0, bound[1] / low - 1.0))
        for name, bound in bounds.items()
    }


def worth(shares: list[float]) -> float:
    """Mean logarithm of shares of recent reading; 0 where there are none."""
    return sum(math.log(share + FLOOR) for share in shares) / len(shares) if shares else 0.0


def dataset_weight(places: Mapping[DataSetId, Candidate], records_per_visit: int) -> float:
    """Worth of data sets against that of labels."""
    typical = median(place.records for place in places.values())
    read = records_per_visit / typical if typical > 0 else 1.0
    return min(DATASET_WEIGHT_MOST, max(DATASET_WEIGHT, read - READ_FRAC))


def label_shares(candidate: Candidate) -> dict[str, float]:
    """Share of each label that is more than noise; empty where labels are not known."""
    total = sum(count for count in candidate.labels.values() if count > 0)
    if total <= 0:
        return {}
    return {label: count / total for label, count in candidate.labels.items() if count / total > NOISE_FRAC}


def sureness(candidate: Candidate) -> float:
    """How much of a visit is expected to come of it."""
    return min(1.0, max(0.0, candidate.trust)) * min(1.0, max(0.0, candidate.availability))


def _after(exposure: float, taught: float) -> float:
    return FADE * exposure + (1 - FADE) * taught


def _apart(moved: float, cost: float, kept: float, *, with_labels: bool) -> float:
    """Worth of a stop apart from labels: what it adds for its data set (`moved`), less what its slowness costs.

    `kept`: what is left of the data set's reading, by which the cost fades. Where there are labels, the part that faded
    still counts against `moved`, down to nothing. Grows with `moved` and falls with `cost`.
    """
    if cost == math.inf:
        return -math.inf
    recent = min(1.0, kept / (1 - FADE))
    faded = cost * (1 - recent) if with_labels else 0.0
    return max(0.0, moved - faded) - cost * recent


def _costs(places: Mapping[DataSetId, Candidate]) -> dict[DataSetId, float]:
    """Worth that each place must bring more because it is slow; nothing where it was not measured yet."""
    measured = [place.batch_s for place in places.values() if place.batch_s is not None]
    usual = median(measured) if measured else 0.0
    if usual <= 0:
        return dict.fromkeys(places, 0.0)
    return {
        name: SECOND_COST * max(0.0, (place.batch_s if place.batch_s is not None else usual) / usual - 1.0)
        for name, place in places.items()
    }


def exposures(
    teaches: Mapping[DataSetId, tuple[float, ...]], labels: int, seen: Seen, records_per_visit: int
) -> tuple[list[float], dict[DataSetId, float], float]:
    """What is left of the reading of each label, of each data set, and of all. Data sets that are gone only fade."""
    by_label, by_dataset, weight = [0.0] * labels, dict.fromkeys(teaches, 0.0), 0.0
    for back, (dataset, records) in enumerate(reversed(seen.visits[-REMEMBERED:])):
        # Visits of one job are alike but for a replanned length; a longer one weighs more, none more than ten.
        length = min(10.0, records / records_per_visit) if records_per_visit > 0 else 1.0
        part = (1 - FADE**length) * FADE**back
        weight += part
        if dataset in teaches:
            by_dataset[dataset] += part
            for label, taught in enumerate(teaches[dataset]):
                by_label[label] += part * taught
    return by_label, by_dataset, weight


def _explain(shown: Mapping[str, float], held: Mapping[str, float], value: float, next_best: float | None) -> str:
    against = "" if next_best is None else f" (worth {value:.2f}, next best {next_best:.2f})"
    if not held:
        return f"read least of late{against}"
    least = min(held, key=lambda label: (shown[label], label))
    return f"freshens {least!r}, {shown[least]:.0%} of recent reading{against}"
