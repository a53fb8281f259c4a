"""Reports of some facts of a group: the map holds what a dictionary would, and no fact looks younger than it is."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.topology.fact_book import FactBook
from daitn.topology.intake import FactIntake
from daitn.topology.refusals import Fault
from daitn.wire.packed_facts import TICK_NS, encode_parts, encode_records, part_dtype, record_dtype

INCARNATION = 1_900_000_000_000
BEGAN_NS = INCARNATION * 1_000_000
NODE = NodeId("n0001")
THINGS = 3
LOAD = group_named("load")
ALL = (1 << len(LOAD.facts)) - 1


@st.composite
def reports(draw: st.DrawFn) -> tuple[int, int, int, float]:
    """Which thing, which facts (0: all), how far its sequence goes on, and a value that all facts told get.

    Ten reports at once go on by less than 127 together, which is what a sequence's last byte can tell."""
    facts = draw(st.one_of(st.just(0), st.integers(1, ALL)))
    step = draw(st.one_of(st.integers(1, 12), st.integers(-20, 0)))
    return draw(st.integers(0, THINGS - 1)), facts, step, draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))


def message(number: int, facts: int, sequence: int, value: float, count: int, now_ns: int) -> bytes:
    if not facts:
        whole = np.zeros(1, record_dtype(LOAD))
        whole["number"], whole["sequence"], whole["generated_ns"] = number, sequence, now_ns
        for fact in LOAD.facts:
            whole[fact.name] = value
        return encode_records(LOAD, whole, sequence=count, incarnation=INCARNATION)
    part = np.zeros(1, part_dtype(LOAD, facts))
    part["number"], part["sequence"] = number, sequence & 0xFF
    for place, fact in enumerate(LOAD.facts):
        if facts >> place & 1:
            part[fact.name] = value
    return encode_parts(LOAD, facts, part, sequence=count, incarnation=INCARNATION, at_ns=now_ns)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(reports(), min_size=1, max_size=10), min_size=1, max_size=8))
def test_map_holds_what_was_told_in_part_and_no_fact_looks_younger_than_it_is(batches):
    intake = FactIntake(FactBook())
    intake.begin(NODE, INCARNATION)
    intake.announce(NODE, Kind.TERMINAL, 0, [f"t{number}" for number in range(THINGS)])
    held: dict[tuple[int, str], tuple[float, int]] = {}
    sequences = dict.fromkeys(range(THINGS), 0)
    replayed = refused = count = 0
    now_ns = BEGAN_NS
    newest: dict[int, int] = {}
    for batch in batches:
        payloads: list[bytes] = []
        now_ns += 10 * NS_PER_S
        for number, facts, step, value in batch:
            count += 1
            sequence = max(0, sequences[number] + step)
            payloads.append(message(number, facts, sequence, value, count, now_ns))
            if sequence <= sequences[number]:
                replayed += 1
                continue
            sequences[number], newest[number] = sequence, facts or ALL
            for place, fact in enumerate(LOAD.facts):
                if (facts or ALL) >> place & 1:
                    held[number, fact.name] = value, now_ns
        refused += intake.take_messages([NODE] * len(payloads), payloads, now_ns).counts.get(Fault.REPLAYED, 0)

    assert refused == replayed
    table = intake.book[Kind.TERMINAL]
    assert intake.sources.dropped[1] == 0
    for number in range(THINGS):
        row = table.row_of(f"t{number}")
        assert row is not None
        for place, fact in enumerate(LOAD.facts):
            value, told_ns = held.get((number, fact.name), (math.nan, 0))
            found = float(table.column(fact.name)[row])
            assert found == value or (math.isnan(found) and math.isnan(value))
            age_s = float(table.age_s("load", now_ns, np.array([row]), fact=fact.name)[0])
            true_s = (now_ns - told_ns) / NS_PER_S if told_ns else math.inf
            assert age_s >= true_s - 1e-6
            if newest.get(number, 0) >> place & 1:
                assert age_s <= true_s + TICK_NS / NS_PER_S


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 40), tail=st.binary(max_size=30), facts=st.integers(1, ALL), flip=st.integers(0, 39))
def test_damaged_parts_are_counted_and_change_no_other_thing(cut, tail, facts, flip):
    intake = FactIntake(FactBook())
    intake.begin(NODE, INCARNATION)
    intake.announce(NODE, Kind.TERMINAL, 0, ["t0", "t1"])
    intake.take_messages([NODE], [message(1, 0, 1, 0.5, 1, BEGAN_NS + NS_PER_S)], BEGAN_NS + NS_PER_S)
    data = bytearray(message(0, facts, 1, 0.25, 2, BEGAN_NS + 2 * NS_PER_S))
    data[min(flip, len(data) - 1)] ^= 0x55
    data[0] = 2

    intake.take_messages([NODE, NODE], [bytes(data[:cut]) + tail, bytes(data)], BEGAN_NS + 2 * NS_PER_S)

    table = intake.book[Kind.TERMINAL]
    for fact in LOAD.facts:
        values = table.column(fact.name)
        assert math.isnan(float(values[0])) or fact.least <= float(values[0]) <= fact.most
        assert math.isfinite(float(values[1]))
