"""Relevance: how much each data set would help each field of a request, from private descriptions alone.

Paper II-A: views pair a request with the data that serves it, and no record may be looked at to find out which. The
prediction is a product of three things that are published, or asked for:

    help(s, f) = need(f) · amount(s) · transfer(s, f)

*need* is how far the model is from perfect in a field, as far as somebody measured it (a verification unit does before
the first visit); else fields count alike. *amount* is what there is to learn at the site: over labels, each saturating
with its records, since a model learns nothing of a label that is not there and little more from the thousandth record
of one that is; without labels, of all records. *transfer* falls with how far the site is from the field:

    transfer(s, f) = exp(-softness · d²(s, f) / typical d²)

A field has no sketch of its own: it lies where the sites are that have its records, weighted by their shares of it, so
d²(s, f) = Σ_t w(t, f) d²(s, t) - ½ Σ_tu w(t, f) w(u, f) d²(t, u), the squared distance to that centre. Distances are
taken in the numbers two sketches have in common, freed of what noise adds to them on average, and drawn towards the
typical one as far as they are noise. What cannot be compared counts as typical.

Where a verification unit has tried it on samples that sites gave (`learning.numerics.transfer`), what their samples
taught takes the place of need, and the amount is told from the sample's size, which no noise blurs:

    help(s, f) = ½ (taught(s, f) + mean over sites of taught(·, f)) · amount(s) · transfer(s, f)

Half is the field's mean, because a trial of some steps on a hundred records is noisy, and most of what differs is how
much a field learns from anybody (0.5 was chosen for that, and 0.25 and 0.75 were alike). A data set that gave no sample
has the field's mean alone.

How well it predicts is measured by real training (`benchmarks.relevance`, docs/sketches.md).

Legend: S data sets, F fields, C labels, D numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.ids import DataSetId
from daitn.descriptors.contract import DataContract, Retrieval
from daitn.descriptors.descriptions import SKETCH_NUMBERS, Sketch, sketches_of
from daitn.descriptors.request import UNIT_METRICS
from daitn.descriptors.terminals import DataDescriptor
from daitn.descriptors.work import Measurement, TaughtBy

SOFTNESS: Final = 0.1
"""How much a typical distance costs: even a far site teaches most of what a near one does. Chosen on one split of MNIST
(0.05 to 0.25 were alike), the figures are of others."""

RETRIEVAL_SOFTNESS: Final = 0.5
"""The same of retrieval, which learns to tell apart what lies close together and little of what lies elsewhere. Chosen
on MedQuAD (0.25 to 2 were alike), which is also all it was measured on."""

OWN_PART: Final = 0.5
"""Of what a data set's own sample taught; the rest is what all samples taught of the field."""

LEAST_PART: Final = 0.02
"""Of the mean: no data set is taken to teach less, since a trial cannot tell nothing from little."""

HALF_RECORDS: Final = 100.0
"""Records of which half of what many would teach is learnt, where records have no labels."""

HALF_LABEL_RECORDS: Final = 10.0
"""The same of one label."""

Matrix = NDArray[np.float64]


def predicted_help(
    contract: DataContract,
    data: Sequence[DataDescriptor],
    fields_SF: Matrix,
    needs: Mapping[str, float] | None = None,
    *,
    by_sketch: bool = True,
    taught: Sequence[TaughtBy] = (),
) -> Matrix:
    """Predicted help, (S, F), 0 or more, on a scale of its own: to be ranked and shared, not read as a gain.

    `fields_SF`: published records of each field of `contract.target_fields()`; `needs`: by field, what is missing to
    perfect, 0 … 1; `by_sketch`: False leaves distances out; `taught`: what samples taught at a unit. O(S² · D).
    """
    names = contract.target_fields()
    need_F = np.array([max(0.0, (needs or {}).get(name, 1.0)) for name in names])
    amount_S = _amounts(contract, data, {one.dataset: float(one.records) for one in taught})
    help_SF = amount_S[:, None] * _gains(contract, data, need_F, taught)
    if by_sketch and len(data) > 1:
        # What a sample taught has told most of the match already.
        softness = RETRIEVAL_SOFTNESS if isinstance(contract.task, Retrieval) and not taught else SOFTNESS
        help_SF = help_SF * np.exp(-softness * _to_fields(_distances(data), fields_SF))
    return np.asarray(help_SF)


def needs_of(measurements: Iterable[Measurement]) -> dict[str, float]:
    """Field → what a measured model lacks to perfect there: the most over metrics between 0 and 1."""
    needs: dict[str, float] = {}
    for one in measurements:
        metric, _, field = one.name.partition("@")
        # A metric of one label (`recall[ill]`) says little of its field; NaN stands for nothing measured.
        if metric in UNIT_METRICS and field and 0 <= one.value <= 1:
            needs[field] = max(needs.get(field, 0.0), 1.0 - one.value)
    return needs


def relevance_shares(
    contract: DataContract,
    data: Sequence[DataDescriptor],
    fields_SF: Matrix,
    needs: Mapping[str, float] | None = None,
    taught: Sequence[TaughtBy] = (),
) -> dict[DataSetId, dict[str, float]]:
    """Each data set's share of the help that all together promise, per field and over all (`""`); 0 where none do."""
    help_SF = predicted_help(contract, data, fields_SF, needs, taught=taught)
    if not help_SF.shape[1]:
        help_SF = _amounts(contract, data)[:, None]
    over_all_S = help_SF.mean(axis=1) if len(help_SF) else np.zeros(0)
    table = np.concatenate([over_all_S[:, None], help_SF[:, : len(contract.target_fields())]], axis=1)
    sums = table.sum(axis=0)
    shares = np.divide(table, sums, out=np.zeros_like(table), where=sums > 0)
    names = ("", *contract.target_fields())
    return {
        one.dataset: dict(zip(names, (float(value) for value in row), strict=True))
        for one, row in zip(data, shares, strict=True)
    }


def _gains(
    contract: DataContract, data: Sequence[DataDescriptor], need_F: Matrix, taught: Sequence[TaughtBy]
) -> Matrix:
    """What a data set of a usual amount would add to each field, (S, F), more than 0: as samples taught, else what is
    missing. Scales differ, so it is one or the other for all."""
    names = contract.target_fields()
    needed_SF = np.repeat(np.maximum(need_F, 0.0)[None, :], len(data), axis=0)
    by_dataset = {one.dataset: one.gains for one in taught}
    told_SF = np.full(needed_SF.shape, np.nan)
    for row, one in enumerate(data):
        gains = by_dataset.get(one.dataset, {})
        for column, name in enumerate(names):
            found = [gains[field] for field in contract.parts_of_field(name) if field in gains]
            if found:
                told_SF[row, column] = sum(found) / len(found)
    known_F = (~np.isnan(told_SF)).sum(axis=0)
    if not known_F.any() or not (mean := float(np.nanmean(told_SF))) > 0:
        return needed_SF
    # A field that nobody could try is as its need is to the need of all.
    usual_F = mean * need_F / max(1e-9, float(need_F.mean())) if need_F.size else need_F
    mean_F = np.where(known_F > 0, np.nansum(told_SF, axis=0) / np.maximum(known_F, 1), usual_F)
    shrunk_SF = OWN_PART * np.where(np.isnan(told_SF), mean_F, told_SF) + (1 - OWN_PART) * mean_F
    return np.asarray(np.maximum(shrunk_SF, LEAST_PART * mean))


def _amounts(
    contract: DataContract, data: Sequence[DataDescriptor], sampled: Mapping[DataSetId, float] | None = None
) -> Matrix:
    """What there is to learn at each site, (S,), 0 … 1. `sampled`: records of the samples that sites gave, as many as
    their policies allow of what is held out."""
    labels = contract.labels()
    if labels and all(one.labels is not None for one in data):
        counts_SC = np.array(
            [[one.labels.counts.get(label, 0.0) if one.labels else 0.0 for label in labels] for one in data]
        )
        if counts_SC.sum() > 0:
            weight_C = counts_SC.sum(axis=0) / counts_SC.sum()
            return np.asarray((counts_SC / (counts_SC + HALF_LABEL_RECORDS)) @ weight_C)
    records_S = np.array(
        [
            _records_of(one, (sampled or {}).get(one.dataset, 0.0), contract.test_frac) or max(0.0, one.records)
            for one in data
        ]
    )
    return records_S / (records_S + HALF_RECORDS)


def _records_of(data: DataDescriptor, sampled: float, test_frac: float) -> float:
    """Records that train, by those of the sample: of what is held out the policy gives at most a share of all."""
    given_frac = min(data.policy.sample_frac, test_frac)
    return sampled * (1 - test_frac) / given_frac if given_frac > 0 else 0.0


def _distances(data: Sequence[DataDescriptor]) -> Matrix | None:
    """Squared distances between sites, (S, S), in units of the typical one; mean over what can be compared, else 1.
    None where nothing can be: all distances are 1."""
    by_basis: dict[tuple[str, str], dict[int, Sketch]] = {}
    for place, one in enumerate(data):
        for sketch in sketches_of(one.descriptions):
            by_basis.setdefault((sketch.column, sketch.basis), {})[place] = sketch
    if not any(len(sketches) > 1 for sketches in by_basis.values()):
        return None
    total_SS, known_SS = np.zeros((len(data), len(data))), np.zeros((len(data), len(data)))
    for sketches in by_basis.values():
        if len(sketches) > 1:
            places = np.array(list(sketches))
            grid = np.ix_(places, places)
            total_SS[grid] += sketch_distances(list(sketches.values()))
            known_SS[grid] += 1.0
    distance_SS = np.divide(total_SS, known_SS, out=np.ones_like(total_SS), where=known_SS > 0)
    np.fill_diagonal(distance_SS, 0.0)
    return distance_SS


def sketch_distances(sketches: Sequence[Sketch]) -> Matrix:
    """Squared distances between sketches of one basis, (S, S), in units of the typical one, noise taken out."""
    count = len(sketches)
    squared_SS, noise_SS = _squared_distances(sketches)
    pairs = squared_SS[np.triu_indices(count, 1)]
    typical = float(np.median(pairs)) if len(pairs) else 0.0
    if typical <= 0:
        # More noise than distance: all are alike as far as anybody can see.
        return np.asarray(1.0 - np.eye(count))
    trust_SS = typical / (typical + noise_SS)
    scaled_SS = trust_SS * np.maximum(squared_SS, 0.0) / typical + (1.0 - trust_SS)
    np.fill_diagonal(scaled_SS, 0.0)
    return np.asarray(scaled_SS)


def _squared_distances(sketches: Sequence[Sketch]) -> tuple[Matrix, Matrix]:
    """`squared_distance` of all pairs, (S, S) each, at once: a view of a thousand data sets has half a million."""
    length_S = np.array([len(one.mean) for one in sketches])
    mean_SD = np.zeros((len(sketches), SKETCH_NUMBERS))
    for row, one in enumerate(sketches):
        mean_SD[row, : len(one.mean)] = one.mean
    variance_S = np.array([one.noise_std**2 for one in sketches])
    common_SS = np.minimum(length_S[:, None], length_S[None, :])
    squared_SS = np.zeros(common_SS.shape)
    for common in np.unique(length_S).tolist():
        part_SD = mean_SD[:, :common]
        norm_S = (part_SD**2).sum(axis=1)
        told_SS = np.maximum(norm_S[:, None] + norm_S[None, :] - 2 * part_SD @ part_SD.T, 0.0)
        squared_SS = np.where(common_SS == common, told_SS * SKETCH_NUMBERS / common, squared_SS)
    noise_SS = SKETCH_NUMBERS * (variance_S[:, None] + variance_S[None, :])
    return squared_SS - noise_SS, noise_SS


def squared_distance(left: Sketch, right: Sketch) -> tuple[float, float]:
    """Squared distance of two sketches as if both had all sixteen numbers, without bias, and what noise added to it.

    Below 0 where the noise was larger than the distance. ValueError where they are of different bases.
    """
    if (left.basis, left.column) != (right.basis, right.column):
        raise ValueError(f"sketches of {left.basis} and {right.basis} cannot be compared")
    common = min(len(left.mean), len(right.mean))
    scale = SKETCH_NUMBERS / common
    difference = np.array(left.mean[:common]) - np.array(right.mean[:common])
    noise = scale * common * (left.noise_std**2 + right.noise_std**2)
    return float(scale * (difference @ difference)) - noise, noise


def _to_fields(distance_SS: Matrix | None, fields_SF: Matrix) -> Matrix:
    """Squared distance of each site from each field's centre, (S, F)."""
    fields_SF = np.asarray(fields_SF, dtype=np.float64)
    sums_F = fields_SF.sum(axis=0)
    even = np.full_like(fields_SF, 1.0 / max(1, len(fields_SF)))
    weight_SF = np.divide(fields_SF, sums_F, out=even, where=sums_F > 0)
    mean_SF = 1.0 - weight_SF if distance_SS is None else distance_SS @ weight_SF
    spread_F = 0.5 * (weight_SF * mean_SF).sum(axis=0)
    return np.asarray(np.maximum(mean_SF - spread_F[None, :], 0.0))
