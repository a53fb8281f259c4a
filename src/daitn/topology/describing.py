"""Descriptions into columns: what a node said of itself, as rows of the terminal, its data sets, labels and fields.

A description is whole: what it does not name any more leaves the map. The descriptor itself stays beside the columns,
for what is no fact (contracts, policies in full, keys).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypedDict

import numpy as np

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.access import Access, open_frac, open_span
from daitn.descriptors.contract import date_column
from daitn.descriptors.descriptions import Quantiles
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import fact_named
from daitn.descriptors.terminals import DataDescriptor, Histogram, NodeDescriptor, Role
from daitn.topology.columns import FactTable, Value
from daitn.topology.intake import FactIntake
from daitn.topology.taking import CENTER_SOURCE

_TYPES: Final = {"text": "text", "image": "image"}
"""What records are, by the kinds of their columns; anything else is a table."""

DATA_MOST: Final = 1024
BARS_MOST: Final = 1024
"""Data sets of one node, and bars of one histogram, that become rows (the largest first); a description may name more,
but what can be asked for must not grow with what a hostile one invents."""

_ROLES: Final = {
    "holds_data": Role.DATA,
    "computes": Role.COMPUTE,
    "verifies": Role.VERIFICATION,
    "aggregates": Role.AGGREGATOR,
    "hosts": Role.HOST,
}


HALF: Final = 0.5

DAY_S: Final = 86_400.0
"""Over which an access is said to be there."""


class _Stamps(TypedDict):
    generated_ns: int
    received_ns: int


def describe_node(intake: FactIntake, descriptor: NodeDescriptor, generated_ns: int, received_ns: int) -> int:
    """Put a description into the columns; the terminal's row. O(data sets · (labels + fields))."""
    book, node = intake.book, descriptor.node
    owner = intake.sources.add(node)
    terminals = book[Kind.TERMINAL]
    known = len(terminals)
    row = terminals.add(node, owner)
    intake.sources.things[owner] += len(terminals) - known
    identity: dict[str, Value] = {"name": descriptor.name, "operator": descriptor.operator}
    identity |= {"region": descriptor.region or None}
    identity |= {fact: role in descriptor.roles for fact, role in _ROLES.items()}
    compute = descriptor.compute
    if compute is not None:
        identity |= {"accelerator": ", ".join(compute.accelerators) or None, "processor": compute.processor or None}
    stamps = _Stamps(generated_ns=generated_ns, received_ns=received_ns)
    terminals.note(row, "identity", identity, source=CENTER_SOURCE, **stamps)
    if compute is not None:
        capacity: dict[str, Value] = {
            "cores": compute.cores,
            "slots": compute.slots,
            "memory_bytes": compute.memory_bytes,
            "storage_bytes": compute.storage_bytes,
            "accelerators": len(compute.accelerators),
            "flops": compute.flops,
            "memory_bytes_per_s": compute.memory_bytes_per_s or None,
        }
        terminals.note(row, "capacity", believed(Kind.TERMINAL, capacity), source=owner, **stamps)
        intake.bound_claims(row)
    if compute is not None and (watts := compute.tariff.watts):
        power: dict[str, Value] = {"flops_per_joule": float(terminals.value(row, "flops") or 0.0) / watts}
        terminals.note(row, "power", believed(Kind.TERMINAL, power), source=CENTER_SOURCE, **stamps)
    priced = compute or descriptor.host
    if priced is not None and priced.tariff.price_per_hour is not None:
        price: dict[str, Value] = {
            "price_per_hour": priced.tariff.price_per_hour,
            "price_per_gb": priced.tariff.price_per_gigabyte or 0.0,
        }
        terminals.note(row, "price", believed(Kind.TERMINAL, price), source=owner, **stamps)
    note_access(terminals, row, descriptor.access, generated_ns, received_ns)
    unit = descriptor.verification
    if unit is not None and terminals.value(row, "test_records") is None:  # else its last result says it
        left: dict[str, Value] = {"evaluations_left": float(unit.evaluations_per_job)}
        terminals.note(row, "verification", left, source=CENTER_SOURCE, **stamps)
    described = {data.dataset for data in descriptor.data}
    gone = [
        one
        for one in np.flatnonzero(book[Kind.DATA].column("terminal") == row).tolist()
        if book[Kind.DATA].id_of(one) not in described
    ]
    intake.withdraw(Kind.DATA, gone)
    for data in descriptor.data[:DATA_MOST]:
        _describe_data(intake, data, row, owner, generated_ns, received_ns)
    return row


def note_access(terminals: FactTable, row: int, access: Access, generated_ns: int, received_ns: int) -> None:
    """How a node is attached, and the window of its access that is open at `generated_ns` or the next one. Said again
    when that window has closed. O(windows)."""
    now_s = generated_ns / NS_PER_S
    span = open_span(access, now_s)
    planned = span is not None and bool(access.windows)
    values: dict[str, Value] = {
        "access_kind": access.kind.value,
        "metered": access.metered,
        "available_frac": open_frac(access, now_s, now_s + DAY_S),
        "window_opens_unix_s": span[0] if planned and span is not None else None,
        "window_closes_unix_s": span[1] if planned and span is not None else None,
    }
    source = int(terminals.owners()[row])
    stamps = _Stamps(generated_ns=generated_ns, received_ns=received_ns)
    terminals.note(row, "access", believed(Kind.TERMINAL, values), source=source, **stamps)


def _describe_data(
    intake: FactIntake, data: DataDescriptor, terminal: int, owner: int, generated_ns: int, received_ns: int
) -> None:
    table = intake.book[Kind.DATA]
    before = table.row_of(data.dataset)
    if before is not None and table.owners()[before] != owner:
        intake.withdraw(Kind.DATA, [before])  # its site joined anew: enrolment gave it the name
    row = table.add(data.dataset, owner)
    stamps = _Stamps(generated_ns=generated_ns, received_ns=received_ns)
    kinds = [str(column.__struct_config__.tag) for column in data.columns]
    types = {_TYPES[kind] for kind in kinds if kind in _TYPES}
    policy = data.policy
    identity: dict[str, Value] = {
        "terminal": terminal,
        "schema": data.contract_name,
        "data_type": "table" if not types else types.pop() if len(types) == 1 else "mixed",
        "raw_may_move": policy.raw_records != "stay",
        "sample_frac": policy.sample_frac,
        "open_to_all": "*" in policy.owners and "*" in policy.purposes,
    }
    table.note(row, "data_identity", identity, source=CENTER_SOURCE, **stamps)
    volume: dict[str, Value] = {
        "records": data.records,
        "groups": data.groups,
        "record_bytes": data.record_bytes,
        "data_bytes": data.records * data.record_bytes,
    }
    spreads = {"records": data.records_std, "groups": data.groups_std}
    spreads |= {"data_bytes": data.records_std * data.record_bytes}
    table.note(row, "volume", believed(Kind.DATA, volume), source=owner, deviations=spreads, **stamps)
    quality: dict[str, Value] = {
        name: getattr(data.quality, name)
        for name in ("missing_frac", "duplicate_frac", "out_of_vocabulary_frac", "dropped_frac")
    }
    table.note(row, "quality", quality, source=owner, **stamps)
    _describe_dates(table, data, row, owner, generated_ns, received_ns)
    if (dynamics := data.dynamics) is not None:
        drift, over_s = dynamics.drift, dynamics.over_days * DAY_S
        changes: dict[str, Value] = {
            "records_per_s": max(0.0, dynamics.arrival_per_day) / DAY_S,
            "drift": drift,
            "drift_per_s": None if drift is None else drift / over_s,
        }
        noises = {"records_per_s": (dynamics.arrival_std_per_day or 0.0) / DAY_S}
        noises |= {"drift": dynamics.drift_noise, "drift_per_s": dynamics.drift_noise / over_s}
        table.note(row, "dynamics", believed(Kind.DATA, changes), source=owner, deviations=noises, **stamps)
    _describe_bars(intake, Kind.DATA_LABEL, "label", data, row, data.labels, received_ns)
    _describe_bars(intake, Kind.DATA_FIELD, "field", data, row, data.field_counts, received_ns)


def _describe_dates(
    table: FactTable, data: DataDescriptor, row: int, owner: int, generated_ns: int, received_ns: int
) -> None:
    """When its records were made, by what is published of the column of dates."""
    column = date_column(data.columns)
    dates: dict[str, Value] = {"newest_unix_s": _day_unix_s(data.newest_day), "median_unix_s": None}
    resolution_s = 0.0
    for one in data.descriptions:
        if isinstance(one, Quantiles) and one.column == column and HALF in one.shares[: len(one.values)]:
            dates["median_unix_s"], resolution_s = one.values[one.shares.index(HALF)], one.resolution
    if table.group("data_age") is not None or any(value is not None for value in dates.values()):
        stamps = _Stamps(generated_ns=generated_ns, received_ns=received_ns)
        doubts = {"median_unix_s": resolution_s}
        table.note(row, "data_age", believed(Kind.DATA, dates), source=owner, deviations=doubts, **stamps)


def _describe_bars(
    intake: FactIntake,
    kind: Kind,
    word: str,
    data: DataDescriptor,
    row: int,
    histogram: Histogram | None,
    received_ns: int,
) -> None:
    """A histogram as rows, one for each of its words."""
    table = intake.book[kind]
    counts = histogram.counts if histogram is not None else {}
    if len(counts) > BARS_MOST:
        counts = dict(sorted(counts.items(), key=lambda bar: -bar[1])[:BARS_MOST])
    wanted = {f"{data.dataset}#{text}": (text, count) for text, count in counts.items()}
    held = np.flatnonzero(table.column("data") == row).tolist()
    intake.withdraw(kind, [one for one in held if table.id_of(one) not in wanted])
    number = f"{word}_records"
    stamps = _Stamps(generated_ns=received_ns, received_ns=received_ns)
    for thing, (text, count) in wanted.items():
        bar = table.add(thing, CENTER_SOURCE)
        values: dict[str, Value] = {"data": row, word: text, number: count}
        deviations = {number: histogram.noise_std if histogram is not None else 0.0}
        table.note(bar, table.kind.value, values, source=CENTER_SOURCE, deviations=deviations, **stamps)


def confirm_node(intake: FactIntake, descriptor: NodeDescriptor, now_ns: int) -> None:
    """The node says that its description still holds: all facts that come from it are as new as that. Those that it has
    reported since by number keep their own moments. O(data sets · (labels + fields)) look-ups."""
    book = intake.book
    _stamp(book[Kind.TERMINAL], ("identity", "capacity", "access"), [descriptor.node], now_ns)
    described = descriptor.data[:DATA_MOST]
    _stamp(
        book[Kind.DATA],
        ("data_identity", "volume", "quality", "data_age", "dynamics"),
        [data.dataset for data in described],
        now_ns,
    )
    for kind, histograms in (
        (Kind.DATA_LABEL, [(data.dataset, data.labels) for data in described]),
        (Kind.DATA_FIELD, [(data.dataset, data.field_counts) for data in described]),
    ):
        bars = [f"{dataset}#{text}" for dataset, one in histograms if one is not None for text in one.counts]
        _stamp(book[kind], (kind.value,), bars, now_ns)


def _stamp(table: FactTable, groups: tuple[str, ...], things: list[str], now_ns: int) -> None:
    rows = np.array([row for thing in things if (row := table.row_of(thing)) is not None], np.intp)
    for name in groups:
        columns = table.group(name)
        if columns is None or not len(rows):
            continue
        told = rows[(columns.sequence[rows] == 0) & (columns.source[rows] >= 0)]
        columns.generated_ns[told] = columns.received_ns[told] = now_ns


def _day_unix_s(day: str) -> float | None:
    """When a day began; None for what is no day since 1970."""
    try:
        return max(0.0, datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return None


def believed(kind: Kind, values: Mapping[str, Value]) -> dict[str, Value]:
    """Values as far as they can be: a number outside its fact's range is not known."""
    believed = dict(values)
    for name, value in values.items():
        fact = fact_named(kind, name)[1]
        if fact.numeric and value is not None and not fact.least <= float(value) <= fact.most:
            believed[name] = None
    return believed


def forget_node(intake: FactIntake, node: NodeId) -> None:
    """A node leaves: its terminals, its data sets, and all that refers to them."""
    owner = intake.sources.find(node)
    if owner < 0:
        return
    for kind in Kind:
        owned = np.flatnonzero(intake.book[kind].owners() == owner).tolist()
        if owned:
            intake.withdraw(kind, owned)


def things_of(descriptor: NodeDescriptor) -> Iterable[tuple[Kind, str]]:
    """What a node speaks for by its description."""
    yield Kind.TERMINAL, descriptor.node
    for data in descriptor.data:
        yield Kind.DATA, data.dataset
