"""Statistics of a data set that may leave its site: differentially private counts, and the descriptor made of them.

Counts of training records, groups, labels and fields get discrete Laplace noise (`describe.mechanisms`). The noise
hides the presence of one *group* where the contract has a group column, else of one *record*. One group counts with at
most `policy.records_per_group` records, the others of it are left out of the counts; so adding or removing a group
changes

    groups by 1,    records and labels by k,    fields by k · m        (L1)

with k that bound (1 without a group column) and m the most fields one record can be in by the contract's rules. What
else the policy lets a data set say of its records (`describe.family`) is measured on the same records. The epsilon of a
release is divided among all by fixed weights, and adds up by sequential composition.

A release is drawn when it is due (`release_interval_days`), never because records were appended, and kept: asking again
gives the same numbers and costs nothing. Only after the noise counts below `policy.min_count` become 0, and negative
ones too (post-processing, free).

Not private in this sense, and said so in the preview: the columns, the policy, and the shares of faults, which are
rounded to a percent and set to 0 where they stand for fewer than `min_count` rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.ids import DataSetId
from daitn.describe.family import FAMILY
from daitn.describe.family.contract import Facts, Item, Member, Part, Source, VectorsOf, draw_parts
from daitn.describe.mechanisms import Noise, Share, make_share, opendp_laplace
from daitn.describe.report import FitReport
from daitn.describe.splits import field_matrix, training_rows
from daitn.describe.table import MappedTable, Rows
from daitn.descriptors.contract import Classification, DataContract, FieldByColumn
from daitn.descriptors.descriptions import DESCRIPTIONS_MOST, Description
from daitn.descriptors.fitting import record_bytes
from daitn.descriptors.policy import Policy, summarise
from daitn.descriptors.terminals import DataDescriptor, Histogram, Quality

HISTOGRAM_BINS: Final = 4096
"""Longest histogram that is published: 100 kB of a control message. Larger vocabularies publish none."""

_WEIGHTS: Final[Mapping[str, float]] = {"labels": 0.5, "fields": 0.3, "records": 0.1, "groups": 0.1}
"""Parts of the counts' epsilon. Routes are chosen by labels and fields; a volume is large beside its noise anyway.
Sketches are divided by the number of groups, so it gets as much as that of records, at less sensitivity."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Exact counts of training records. Never leaves the site."""

    records: int
    groups: int
    labels: dict[str, int]
    fields: dict[str, int]
    left_out: int
    """Records beyond the bound of their group, in none of the other counts."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Noisy counts of one version of a data set, before small ones are removed. Already private: it may be kept."""

    key: str
    epsilon: float
    records: int
    groups: int
    labels: dict[str, int]
    fields: dict[str, int]
    shares: dict[str, Share]
    kind: str = ""
    version: str = ""
    """Of the data it was drawn from; stays at the site."""
    bases: tuple[str, ...] = ()
    """Bases of sketches whose vectors were at hand."""
    parts: tuple[Part, ...] = ()
    """What the description family says, as noisy integers."""
    faults: Quality | None = None
    """Shares of faulty rows when it was drawn: renewed with the rest, never at an append."""
    newest_day: str = ""
    """Of its records, where the policy let it be told (`describe.record_age`)."""


def release_epsilon(policy: Policy) -> float:
    """What one release costs."""
    return policy.epsilon_per_period / policy.releases_per_period


def release_interval_days(policy: Policy) -> float:
    """Days from one release to the next."""
    return policy.period_days / policy.releases_per_period


def release_kind(contract: DataContract, policy: Policy) -> str:
    """Names what a release speaks of, whatever the records are: releases of one kind can stand for one another."""
    names = sorted(column.name for column in contract.columns)
    parts: tuple[object, ...] = (names, contract.labels(), contract.fields, contract.group)
    parts += (contract.test_frac, contract.held_out_shares, _group_bound(contract, policy))
    parts += (tuple((item.member, item.column) for _, item in described_items(contract, policy)),)
    return str(blake3(msgspec.json.encode(parts)).hexdigest())


def release_key(table: MappedTable, contract: DataContract, policy: Policy, bases: Iterable[str] = ()) -> str:
    """Names everything a release depends on: equal keys are answered with the same noise."""
    parts = (table.version, release_kind(contract, policy), sorted(bases))
    return str(blake3(msgspec.json.encode(parts)).hexdigest())


def described_items(
    contract: DataContract, policy: Policy, bases: Iterable[str] = ()
) -> tuple[tuple[Member, Item], ...]:
    """What the policy lets a data set of this contract say beyond counts; `bases`: those whose vectors are at hand."""
    at_hand = tuple(bases)
    return tuple(
        (member, item)
        for name, member in FAMILY.items()
        if name in policy.describe
        for item in member.items(contract, at_hand)
    )[:DESCRIPTIONS_MOST]


def count_records(table: MappedTable, contract: DataContract, policy: Policy) -> Counts:
    """Exact counts with the contribution of each group bounded: O(N log N)."""
    rows = training_rows(table, contract)
    kept = _kept_rows(table, contract, policy, rows)
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


def measurable(table: MappedTable, contract: DataContract, policy: Policy, vectors: VectorsOf | None = None) -> Source:
    """The records that descriptions are measured on: those that are counted."""
    kept = _kept_rows(table, contract, policy, training_rows(table, contract))
    _, group_of = np.unique(table.groups[kept], return_inverse=True)
    return Source(
        table=table,
        contract=contract,
        policy=policy,
        rows=kept,
        group_of=group_of.reshape(-1).astype(np.int64),
        bound=_group_bound(contract, policy),
        vectors=vectors or {},
    )


def draw_release(
    key: str,
    counts: Counts,
    contract: DataContract,
    policy: Policy,
    epsilon: float,
    noise: Noise | None = None,
    *,
    source: Source | None = None,
    bases: Iterable[str] = (),
    shares_of_faults: Quality | None = None,
    newest_day: str = "",
) -> Release:
    """Noisy counts, and the descriptions the policy asks for where `source` is given, that cost `epsilon` in all.

    To be called once per key, after the ledger has agreed.
    """
    draw, bases = noise or opendp_laplace, tuple(bases)
    wanted = described_items(contract, policy, bases) if source is not None else ()
    beside = math.fsum({member.name: member.weight for member, _ in wanted}.values())
    for_counts = epsilon / (1 + beside)
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
            part = for_counts * _WEIGHTS[item] / whole
            noisy[item] = draw(values, sensitivity[item], part)
            shares[item] = make_share(sensitivity[item], part)
    parts: tuple[Part, ...] = ()
    if source is not None and wanted:
        parts = draw_parts(wanted, source, max(0, noisy["groups"][0]), epsilon - for_counts, draw)
    return Release(
        key=key,
        kind=release_kind(contract, policy),
        version=source.table.version if source is not None else "",
        bases=tuple(sorted(bases)),
        epsilon=epsilon,
        records=noisy["records"][0],
        groups=noisy["groups"][0],
        labels=dict(zip(counts.labels, noisy["labels"], strict=True)),
        fields=dict(zip(counts.fields, noisy["fields"], strict=True)),
        shares=shares,
        parts=parts,
        faults=shares_of_faults,
        newest_day=newest_day,
    )


def descriptions(release: Release, contract: DataContract, policy: Policy) -> tuple[Description, ...]:
    """The descriptions of a release, those left out behind which too little stands."""
    facts = Facts(
        contract=contract,
        policy=policy,
        records=_cleanse(release.records, policy),
        groups=_cleanse(release.groups, policy),
        key=release.key,
    )
    found = (FAMILY[part.member].publish(part, facts) for part in release.parts if part.member in FAMILY)
    return tuple(one for one in found if one is not None)


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
        records_std=_noise_std(release, "records"),
        groups=_cleanse(release.groups, policy),
        groups_std=_noise_std(release, "groups"),
        labels=_histogram(release, "labels", release.labels, policy),
        field_counts=_histogram(release, "fields", release.fields, policy),
        quality=release.faults or quality(report, policy),
        descriptions=descriptions(release, contract, policy),
        record_bytes=record_bytes(contract),
        newest_day=release.newest_day if policy.newest_day else "",
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


def _kept_rows(table: MappedTable, contract: DataContract, policy: Policy, rows: Rows) -> Rows:
    """Rows that count: at most `records_per_group` of a group."""
    return rows[_first_of_group(table, rows, _group_bound(contract, policy))] if contract.group else rows


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


def _noise_std(release: Release, item: str) -> float:
    share = release.shares.get(item)
    return 0.0 if share is None else share.noise_std


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
