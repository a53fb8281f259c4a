"""How far apart the label mixes of sites are."""

from __future__ import annotations

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
