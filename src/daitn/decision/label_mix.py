"""How far apart the label mixes of sites are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daitn.base.ids import DataSetId
from daitn.descriptors.view import TrainingView


def label_skew(view: TrainingView) -> float:
    """Mean total-variation distance between a site's label mix and that of all: 0 alike, near 1 disjoint."""
    sites: dict[str, dict[str, float]] = {candidate.dataset: candidate.labels for candidate in view.candidates}
    totals: dict[str, float] = {}
    for labels in sites.values():
        for label, count in labels.items():
            totals[label] = totals.get(label, 0.0) + count
    everything = sum(totals.values())
    if everything <= 0 or not sites:
        return 0.0
    distances = []
    for labels in sites.values():
        mine = sum(labels.values()) or 1.0
        distances.append(sum(abs(labels.get(k, 0.0) / mine - v / everything) for k, v in totals.items()) / 2)
    return sum(distances) / len(distances)


def label_gaps(view: TrainingView, stops: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """After each stop of a route, how far the labels seen so far are from the mix of all: of all stops together, each
    counting alike, and of the one that is nearest to it. Total variation: 0 alike, near 1 disjoint."""
    sites = {candidate.dataset: candidate.labels for candidate in view.candidates}
    everything = _mix(list(sites.values()))
    together: dict[str, float] = {}
    unseen: list[float] = []
    lopsided: list[float] = []
    for stop in stops:
        mine = _mix([sites[DataSetId(stop)]])
        for label, share in mine.items():
            together[label] = together.get(label, 0.0) + share
        unseen.append(_distance(_mix([together]), everything))
        lopsided.append(min(_distance(mine, everything), *lopsided[-1:], 1.0))
    return tuple(unseen), tuple(lopsided)


def _mix(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Shares of labels in all of these counts."""
    total = sum(sum(one.values()) for one in counts) or 1.0
    shares: dict[str, float] = {}
    for one in counts:
        for label, count in one.items():
            shares[label] = shares.get(label, 0.0) + count / total
    return shares


def _distance(mine: Mapping[str, float], everything: Mapping[str, float]) -> float:
    return sum(abs(mine.get(label, 0.0) - share) for label, share in everything.items()) / 2
