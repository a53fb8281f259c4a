"""Statistics of a data set that may leave its site: differentially private counts, and the descriptor made of them.

Counts of training records, groups, labels and fields get discrete Laplace noise from OpenDP (Ghosh, Roughgarden,
Sundararajan, Universally Utility-Maximizing Privacy Mechanisms, 2009). The noise hides the presence of one *group*
where the contract has a group column, else of one *record*. One group counts with at most `policy.records_per_group`
records, the others of it are left out of the counts; so adding or removing a group changes

    groups by 1,    records and labels by k,    fields by k · m        (L1)

with k that bound (1 without a group column) and m the most fields one record can be in by the contract's rules. The
epsilon of a release is divided among the four by fixed weights, and adds up by sequential composition.

A release is drawn once per version of the data and kept: asking again gives the same numbers and costs nothing. Only
after the noise counts below `policy.min_count` become 0, and negative ones too (post-processing, free).

Not private in this sense, and said so in the preview: the columns, the policy, and the shares of faults, which are
rounded to a percent and set to 0 where they stand for fewer than `min_count` rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import BugError, InputError
from daitn.base.ids import DataSetId
from daitn.describe.report import FitReport
from daitn.describe.splits import field_matrix, training_rows
from daitn.describe.table import MappedTable, Rows
from daitn.descriptors.contract import Classification, DataContract, FieldByColumn
from daitn.descriptors.fitting import record_bytes
from daitn.descriptors.policy import Policy, summarise
from daitn.descriptors.terminals import DataDescriptor, Histogram, Quality

Noise = Callable[[Sequence[int], int, float], list[int]]
"""`(counts, L1 sensitivity, epsilon) → noisy counts`."""

RELEASES_PER_PERIOD: Final = 2
"""A release takes this part of the period's budget: one for the data as it is, one for when it has changed. More would
let a site publish more often, with as much more noise each time."""

HISTOGRAM_BINS: Final = 4096
"""Longest histogram that is published: 100 kB of a control message. Larger vocabularies publish none."""

_WEIGHTS: Final[Mapping[str, float]] = {"labels": 0.5, "fields": 0.3, "records": 0.15, "groups": 0.05}
"""Parts of a release's epsilon. Routes are chosen by labels and fields; a volume is large beside its noise anyway, and
groups have the least sensitivity."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Exact counts of training records. Never leaves the site."""

    records: int
    groups: int
    labels: dict[str, int]
    fields: dict[str, int]
    left_out: int
    """Records beyond the bound of their group, in none of the other counts."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """How one item of a release was protected. `sensitivity` is L1, for one group or record more or less."""

    epsilon: float
    sensitivity: int
    noise_std: float


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Noisy counts of one version of a data set, before small ones are removed. Already private: it may be kept."""

    key: str
    epsilon: float
    records: int
    groups: int
    labels: dict[str, int]
    fields: dict[str, int]
    shares: dict[str, Share]


def release_epsilon(policy: Policy) -> float:
    """What one release costs."""
    return policy.epsilon_per_period / RELEASES_PER_PERIOD


def release_key(table: MappedTable, contract: DataContract, policy: Policy) -> str:
    """Names everything a release depends on: equal keys are answered with the same noise."""
    bound = _group_bound(contract, policy)
    names = sorted(column.name for column in contract.columns)
    parts: tuple[object, ...] = (table.version, names, contract.labels(), contract.fields, contract.group)
    parts += (contract.test_frac, bound)
    if contract.held_out_shares:
        parts += (contract.held_out_shares,)
    return str(blake3(msgspec.json.encode(parts)).hexdigest())


def count_records(table: MappedTable, contract: DataContract, policy: Policy) -> Counts:
    """Exact counts with the contribution of each group bounded: O(N log N)."""
    rows = training_rows(table, contract)
    kept = rows[_first_of_group(table, rows, _group_bound(contract, policy))] if contract.group else rows
    fields = dict(zip(contract.field_names(), field_matrix(table, contract, kept).sum(axis=0).tolist(), strict=True))
    labels: dict[str, int] = {}
    if isinstance(contract.task, Classification):
        codes = table.categories(contract.task.label, kept, contract.labels())
        counts = np.bincount(codes[codes >= 0], minlength=len(contract.labels()))
        labels = dict(zip(contract.labels(), counts.tolist(), strict=True))
    return Counts(
        records=len(kept),
        groups=len(np.unique(table.groups[rows])),
        labels=labels if len(labels) <= HISTOGRAM_BINS else {},
        fields=fields if len(fields) <= HISTOGRAM_BINS else {},
        left_out=len(rows) - len(kept),
    )


def draw_release(
    key: str, counts: Counts, contract: DataContract, policy: Policy, epsilon: float, noise: Noise | None = None
) -> Release:
    """Noisy counts that cost `epsilon` in all. To be called once per key, after the ledger has agreed."""
    draw = noise or opendp_laplace
    exact: dict[str, list[int]] = {
        "labels": list(counts.labels.values()),
        "fields": list(counts.fields.values()),
        "records": [counts.records],
        "groups": [counts.groups],
    }
    whole = math.fsum(_WEIGHTS[item] for item, values in exact.items() if values)
    bound = _group_bound(contract, policy)
    sensitivity = {"labels": bound, "fields": bound * _most_fields(contract), "records": bound, "groups": 1}
    noisy: dict[str, list[int]] = {"labels": [], "fields": []}
    shares: dict[str, Share] = {}
    for item, values in exact.items():
        if values:
            part = epsilon * _WEIGHTS[item] / whole
            noisy[item] = draw(values, sensitivity[item], part)
            shares[item] = Share(
                epsilon=part, sensitivity=sensitivity[item], noise_std=laplace_std(sensitivity[item] / part)
            )
    return Release(
        key=key,
        epsilon=epsilon,
        records=noisy["records"][0],
        groups=noisy["groups"][0],
        labels=dict(zip(counts.labels, noisy["labels"], strict=True)),
        fields=dict(zip(counts.fields, noisy["fields"], strict=True)),
        shares=shares,
    )


def opendp_laplace(counts: Sequence[int], sensitivity: int, epsilon: float) -> list[int]:
    """Counts with discrete Laplace noise of scale `sensitivity / epsilon`, by OpenDP (its own secure random source).

    BugError where OpenDP's own privacy map says that it costs more than `epsilon`.
    """
    dp = load_opendp()
    measurement: Any = dp.m.make_laplace(
        dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64"), scale=sensitivity / epsilon
    )
    cost = float(measurement.map(sensitivity))
    if cost > epsilon * (1 + 1e-6):
        raise BugError(f"a release meant to cost {epsilon} costs {cost}")
    return [int(value) for value in measurement(list(counts))]


def load_opendp() -> Any:
    """The module `opendp.prelude`; InputError where it is not installed: to be known before any budget is spent."""
    try:
        import opendp.prelude as dp
    except ImportError:
        raise InputError("private statistics need the package opendp", todo="install daitn[data]") from None
    dp.enable_features("contrib")
    return dp


def laplace_std(scale: float) -> float:
    """Standard deviation of discrete Laplace noise: P(x) ∝ exp(-|x| / scale)."""
    ratio = math.exp(-1 / scale)
    return math.sqrt(2 * ratio) / (1 - ratio)


def describe_data(
    dataset: DataSetId,
    table: MappedTable,
    contract: DataContract,
    policy: Policy,
    release: Release,
    report: FitReport,
) -> DataDescriptor:
    """What the network sees of a data set, all small counts removed."""
    return DataDescriptor(
        dataset=dataset,
        version=table.version,
        contract_name=contract.name,
        columns=contract.columns,
        group=contract.group,
        fields=contract.fields,
        records=_cleanse(release.records, policy),
        groups=_cleanse(release.groups, policy),
        labels=_histogram(release, "labels", release.labels, policy),
        field_counts=_histogram(release, "fields", release.fields, policy),
        quality=quality(report, policy),
        record_bytes=record_bytes(contract),
        policy=summarise(policy),
    )


def quality(report: FitReport, policy: Policy) -> Quality:
    """Shares of faulty rows in whole percent, 0 where they stand for fewer than `min_count` rows."""

    def share(count: int) -> float:
        return round(count / report.rows, 2) if report.rows and count >= max(1, policy.min_count) else 0.0

    return Quality(
        missing_frac=share(report.rows_with_missing),
        duplicate_frac=share(report.duplicates),
        out_of_vocabulary_frac=share(report.rows_out_of_vocabulary),
        dropped_frac=share(report.rows - report.records),
    )


def _group_bound(contract: DataContract, policy: Policy) -> int:
    return policy.records_per_group if contract.group else 1


def _most_fields(contract: DataContract) -> int:
    """The most fields one record can be in, by the rules alone."""
    by_column = sum(isinstance(rule, FieldByColumn) for rule in contract.fields)
    per_value: dict[str, dict[str, int]] = {}
    for rule in contract.fields:
        if not isinstance(rule, FieldByColumn):
            counts = per_value.setdefault(rule.column, {})
            for value in set(rule.values):
                counts[value] = counts.get(value, 0) + 1
    return max(1, by_column + sum(max(counts.values()) for counts in per_value.values()))


def _first_of_group(table: MappedTable, rows: Rows, bound: int) -> NDArray[np.bool_]:
    """True for the first `bound` records of each group, in the order of their content's digest."""
    groups, contents = table.groups[rows], table.contents[rows]
    order = np.lexsort((contents, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(rows) else np.zeros(0, int)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    mask = np.zeros(len(rows), dtype=bool)
    mask[order] = rank < bound
    return mask


def _cleanse(count: int, policy: Policy) -> int:
    return count if count >= max(1, policy.min_count) else 0


def _histogram(release: Release, item: str, counts: Mapping[str, int], policy: Policy) -> Histogram | None:
    share = release.shares.get(item)
    if share is None:
        return None
    return Histogram(
        counts={name: _cleanse(count, policy) for name, count in counts.items()},
        noise_std=share.noise_std,
        epsilon=share.epsilon,
    )
