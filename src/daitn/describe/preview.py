"""Preview: exactly what will leave a site about a data set, as bytes, and in words for whoever is to agree.

The numbers shown are the ones that will be published, noise included: they are drawn for the preview and kept, so
looking first does not cost more than publishing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from daitn.describe.family import FAMILY
from daitn.describe.mechanisms import Share
from daitn.describe.statistics import Release, release_interval_days
from daitn.descriptors.contract import CategoryColumn, FieldByColumn
from daitn.descriptors.descriptions import tag_of
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import DataDescriptor


class Preview(NamedTuple):
    """`data`: the descriptor as it will be sent (JSON); `text`: what each item is, how protected, at what cost."""

    data: bytes
    text: str


def preview(descriptor: DataDescriptor, release: Release, policy: Policy) -> Preview:
    """Bytes and explanation of one descriptor. Item by item, in the order of the bytes."""
    unit = "group" if descriptor.group else "record"
    lines = [
        f"What leaves this site about data set {descriptor.dataset}:",
        "",
        "Said as it is (no record enters):",
        f"  contract      {descriptor.contract_name}",
        f"  columns       {_shown([_column(column) for column in descriptor.columns])}",
        f"  group         {descriptor.group or 'none: each record stands for itself'}",
        f"  fields        {_shown([_rule(rule) for rule in descriptor.fields])}",
        f"  record size   {descriptor.record_bytes:.0f} B as tensors, from the contract alone",
        f"  policy        owners {_shown(list(policy.owners))}; purposes {_shown(list(policy.purposes))}; "
        f"methods {_shown(list(policy.methods))}; raw records {policy.raw_records}; sample {policy.sample_frac:.0%}",
        f"  version       {descriptor.version[:16]}…, a digest keyed by this site's secret: tells versions apart only",
        "",
        f"Counted over training records, with noise that hides one {unit} (differential privacy):",
        f"  records       {descriptor.records:.0f}  ({_cost(release.shares['records'], unit)})",
        f"  groups        {descriptor.groups:.0f}  ({_cost(release.shares['groups'], unit)})",
    ]
    for title, histogram, item in (
        ("labels", descriptor.labels, "labels"),
        ("field counts", descriptor.field_counts, "fields"),
    ):
        if histogram is not None:
            counts = _shown([f"{name} {count:.0f}" for name, count in histogram.counts.items()])
            lines.append(f"  {title:<13} {counts}  ({_cost(release.shares[item], unit)})")
    for heading, said in _explained(descriptor, release, unit):
        lines += [*said] if not heading else ["", f"{heading}:", *said]
    shares = ", ".join(
        f"{name.removesuffix('_frac').replace('_', ' ')} {getattr(descriptor.quality, name):.0%}"
        for name in descriptor.quality.__struct_fields__
    )
    lines += [
        f"  Counts below {policy.min_count} are published as 0.",
        f"  Cost of all of it: ε = {release.epsilon:g} of {policy.epsilon_per_period:g} in {policy.period_days} days. "
        "Publishing or looking again costs nothing.",
        f"  The next release is {release_interval_days(policy):.3g} days after this one at the earliest; until then "
        "records that are appended change nothing.",
        "",
        "Shares of faulty rows, rounded to a percent (no noise; 0 where fewer than "
        f"{max(1, policy.min_count)} rows stand behind it):",
        f"  quality       {shares}",
    ]
    if (dynamics := descriptor.dynamics) is None:
        lines.append("  dynamics      none: it takes two releases")
    else:
        shown = ", ".join(f"{name} {getattr(dynamics, name)}" for name in dynamics.__struct_fields__)
        lines.append(f"  dynamics      {shown}  (made of releases alone: costs nothing more)")
    if descriptor.newest_day:
        behind = f"{max(1, policy.min_count)} {unit}s or more have records of that day or later"
        lines.append(f"  newest day    {descriptor.newest_day}  (no noise; {behind})")
    return Preview(msgspec.json.encode(descriptor), "\n".join(lines) + "\n")


def _explained(descriptor: DataDescriptor, release: Release, unit: str) -> list[tuple[str, list[str]]]:
    """What each member of the description family says, with what protects it."""
    found: list[tuple[str, list[str]]] = []
    for name, member in FAMILY.items():
        parts = [part for part in release.parts if part.member == name]
        if parts:
            said = [f"  {member.explain(one)}" for one in descriptor.descriptions if tag_of(one) == name]
            cost = math.fsum(part.share.epsilon for part in parts)
            heading = f"Of the descriptions, {name} ({member.what}), with noise that hides one {unit}, ε = {cost:.3g}"
            found.append((heading, said or ["  nothing: fewer records stand behind it than min_count"]))
    return found or [("", ["  descriptions  none beyond these counts"])]


def _cost(share: Share, unit: str) -> str:
    return (
        f"ε = {share.epsilon:.3g}, one {unit} changes it by at most {share.sensitivity}, noise ± {share.noise_std:.1f}"
    )


def _shown(items: list[str], most: int = 20) -> str:
    rest = f", and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest if items else "none"


def _column(column: object) -> str:
    name = getattr(column, "name", "")
    kind = type(column).__name__.removesuffix("Column").lower()
    return f"{name} ({kind}, {len(column.values)} values)" if isinstance(column, CategoryColumn) else f"{name} ({kind})"


def _rule(rule: object) -> str:
    return f"each value of {rule.column}" if isinstance(rule, FieldByColumn) else str(getattr(rule, "name", rule))
