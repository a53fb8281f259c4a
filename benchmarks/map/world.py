"""A map of many terminals to measure on: sites that report for ten thousand terminals each, 31 facts a terminal."""

from __future__ import annotations

import numpy as np

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Form, Group, Kind, Source
from daitn.descriptors.facts import group_named
from daitn.topology.fact_book import FactBook
from daitn.topology.intake import FactIntake, Intake
from daitn.topology.taking import CENTER_SOURCE
from daitn.wire.packed_facts import Records, record_dtype

TERMINALS = 1_000_000
PER_SITE = 10_000
GROUPS = ("load", "capacity", "path", "power", "access", "price", "trust")
"""31 facts; `path`, `power` and `trust` are what the centre and the tools' services measure."""

INCARNATION = 1_700_000_000_000
START_NS = INCARNATION * 1_000_000
REGIONS = 64


def random_records(group: Group, numbers: np.ndarray, sequence: int, now_ns: int, rng: np.random.Generator) -> Records:
    """Records that are right, for things with these numbers."""
    records = np.zeros(len(numbers), record_dtype(group))
    records["number"], records["sequence"] = numbers, sequence
    records["generated_ns"] = now_ns - rng.integers(0, NS_PER_S, len(numbers))
    for fact in group.facts:
        if fact.form is Form.CHOICE:
            records[fact.name] = rng.integers(0, len(fact.choices), len(numbers))
        elif fact.form is Form.FLAG:
            records[fact.name] = rng.integers(0, 2, len(numbers))
        elif fact.unit == "frac":
            records[fact.name] = rng.random(len(numbers), np.float32)
        else:
            most = min(fact.most, fact.unmeasured_most or fact.most)
            records[fact.name] = np.exp(rng.random(len(numbers)) * np.log1p(most * 1e-3))
    records["deviations"] = rng.integers(1, 60, records["deviations"].shape)
    return records


def make_map(terminals: int = TERMINALS, seed: int = 0) -> FactIntake:
    """A map of so many terminals, every fact of `GROUPS` reported once, in the sites' batches."""
    rng = np.random.default_rng(seed)
    intake = FactIntake(FactBook())
    for site in range(-(-terminals // PER_SITE)):
        count = min(PER_SITE, terminals - site * PER_SITE)
        node = site_name(site)
        intake.begin(node, INCARNATION)
        intake.announce(node, Kind.TERMINAL, 0, [f"{node}/t{number:05d}" for number in range(count)])
    for name in GROUPS:
        refresh(intake, name, 1, START_NS, rng)
    regions = np.array([intake.book.words.code(f"region-{number}") for number in range(REGIONS)], np.int32)
    columns = intake.book[Kind.TERMINAL].ensure("identity")
    columns.values["region"][:terminals] = rng.choice(regions, terminals)
    columns.values["computes"][:terminals] = 1
    columns.source[:terminals] = CENTER_SOURCE
    columns.generated_ns[:terminals] = columns.received_ns[:terminals] = START_NS
    return intake


def refresh(intake: FactIntake, name: str, sequence: int, now_ns: int, rng: np.random.Generator) -> Intake:
    """Every terminal's report of one group, a batch for each site."""
    group, seen = group_named(name), Intake()
    roster = intake.rosters[Kind.TERMINAL]
    for index in range(1, len(intake.sources)):
        rows = roster.rows_of(index)
        numbers = np.flatnonzero(rows >= 0)
        records = random_records(group, numbers, sequence, now_ns, rng)
        if group.source is Source.OWNER:
            intake.take_records(group, np.full(len(records), index, np.int32), records, now_ns, seen)
        else:
            intake.take_rows(group, CENTER_SOURCE, rows[numbers], records, now_ns, seen)
    return seen


def site_name(site: int) -> NodeId:
    """`n0001` for the first."""
    return NodeId(f"n{site + 1:04d}")
