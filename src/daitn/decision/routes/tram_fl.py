"""Tram-FL's rule, version 1 (Maejima et al., CCNC 2024): go where the labels seen so far become most even.

The next node is the one that minimises the variance of the per-label sample counts after the visit. Counts come from
private histograms, so they carry noise; a visit of R records at a site with histogram h adds R·h/|h|. We differ in one
thing: the model does not stay where it is while there is anywhere else to go, because one even site would otherwise
keep it for ever. Without labels (regression, text) the data set seen least for its size comes next.

Array legend: L labels.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean

from daitn.base.ids import DataSetId
from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView


class TramFl:
    """See the module's docstring. Cost: O(visits + data sets × L)."""

    name = "tram-fl"
    meanwhile = ""

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The data set that minimises the variance of label counts after the visit; ties by name."""
        names = datasets(view)
        if not names:
            return None
        open_names = [name for name in names if name != seen.last] or list(names)
        spreads, labels = variances_after(view, seen, records_per_visit)
        if not labels:
            read = reads_for_size(view, seen)
            chosen = min(open_names, key=lambda name: (read[name], name))
            why = f"read {read[chosen]:.1f} times over, less than any other"
        else:
            chosen = min(open_names, key=lambda name: (round(spreads[name], 6), name))
            why = f"evens out the labels seen: variance {spreads[chosen]:.0f}"
            others = sorted(spreads[name] for name in open_names if name != chosen)
            why += f", next best {others[0]:.0f}" if others else ""
        return Stop(dataset=chosen, compute_node=best_compute(view, chosen).compute_node, why=why)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:  # noqa: ARG002
        """Labels are no facts that move: only the quickest place for the next data set can change."""
        return best_compute_holds(span, stop)


def variances_after(view: TrainingView, seen: Seen, records_per_visit: int) -> tuple[dict[DataSetId, float], int]:
    """The variance of label counts after a visit at each data set, and how many labels there are."""
    names = datasets(view)
    shares = {name: label_shares_of(view, name) for name in names}
    labels = sorted({label for share in shares.values() for label in share})
    if not labels:
        return dict.fromkeys(names, 0.0), 0
    counts = dict.fromkeys(labels, 0.0)
    for dataset, records in _records_seen(seen).items():
        for label, share in shares.get(dataset, {}).items():
            counts[label] += records * share

    def spread(name: DataSetId) -> float:
        after = [counts[label] + records_per_visit * shares[name].get(label, 0.0) for label in labels]
        mean = fmean(after)
        return fmean((count - mean) ** 2 for count in after)

    return {name: spread(name) for name in names}, len(labels)


def reads_for_size(view: TrainingView, seen: Seen) -> dict[DataSetId, float]:
    """How many times over each data set was read."""
    sizes = {candidate.dataset: candidate.records for candidate in view.candidates}
    read = _records_seen(seen)
    return {name: read[name] / max(1.0, size) for name, size in sizes.items()}


def _records_seen(seen: Seen) -> Counter[DataSetId]:
    read: Counter[DataSetId] = Counter()
    for dataset, records in seen.visits:
        read[dataset] += records
    return read


def label_shares_of(view: TrainingView, dataset: DataSetId) -> dict[str, float]:
    """Share of each label at a data set; empty where labels are not known."""
    for candidate in view.candidates:
        if candidate.dataset == dataset:
            total = sum(candidate.labels.values())
            return {label: count / total for label, count in candidate.labels.items()} if total > 0 else {}
    return {}
