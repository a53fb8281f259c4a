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
from daitn.wire.packed_facts import (
    AFTER_TICKS,
    BRIEF_VERSION,
    PART_VERSION,
    TICK_NS,
    brief_dtype,
    brief_number,
    brief_values,
    encode_briefs,
    encode_parts,
    encode_records,
    part_dtype,
    record_dtype,
)

INCARNATION = 1_900_000_000_000
BEGAN_NS = INCARNATION * 1_000_000
NODE = NodeId("n0001")
THINGS = 3
LOAD = group_named("load")
ALL = (1 << len(LOAD.facts)) - 1


@st.composite
def reports(draw: st.DrawFn) -> tuple[int, int, int, float, bool]:
    """Which thing, which facts (0: all), how far its sequence goes on, a value that all facts told get, and whether it
    is told briefly where that can be.

    Ten reports at once go on by less than 127 together, which is what a sequence's last byte can tell."""
    facts = draw(st.one_of(st.just(0), st.integers(1, ALL)))
    step = draw(st.one_of(st.integers(1, 12), st.integers(-20, 0)))
    value = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    return draw(st.integers(0, THINGS - 1)), facts, step, value, draw(st.booleans())


def message(
    number: int, facts: int, sequence: int, value: float, count: int, now_ns: int, *, brief: bool = False
) -> bytes:
    if brief and facts and facts & (facts - 1) == 0:
        place = facts.bit_length() - 1
        one = np.zeros(1, brief_dtype(LOAD, place))
        one["number"], one["sequence"] = number, sequence & 0xFF
        one["value"] = brief_values(LOAD, place, np.array([value]))
        return encode_briefs(LOAD, place, one, sequence=count, incarnation=INCARNATION, at_ns=now_ns)
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
        for number, facts, step, value, brief in batch:
            count += 1
            sequence = max(0, sequences[number] + step)
            payloads.append(message(number, facts, sequence, value, count, now_ns, brief=brief))
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
@given(
    cut=st.integers(0, 40),
    tail=st.binary(max_size=30),
    facts=st.integers(1, ALL) | st.integers(0, len(LOAD.facts) - 1).map(lambda place: 1 << place),
    flip=st.integers(0, 39),
    brief=st.booleans(),
)
def test_damaged_parts_are_counted_and_change_no_other_thing(cut, tail, facts, flip, brief):
    intake = FactIntake(FactBook())
    intake.begin(NODE, INCARNATION)
    intake.announce(NODE, Kind.TERMINAL, 0, ["t0", "t1"])
    intake.take_messages([NODE], [message(1, 0, 1, 0.5, 1, BEGAN_NS + NS_PER_S)], BEGAN_NS + NS_PER_S)
    data = bytearray(message(0, facts, 1, 0.25, 2, BEGAN_NS + 2 * NS_PER_S, brief=brief))
    data[min(flip, len(data) - 1)] ^= 0x55
    data[0] = BRIEF_VERSION if brief else PART_VERSION

    intake.take_messages([NODE, NODE], [bytes(data[:cut]) + tail, bytes(data)], BEGAN_NS + 2 * NS_PER_S)

    table = intake.book[Kind.TERMINAL]
    for fact in LOAD.facts:
        values = table.column(fact.name)
        assert math.isnan(float(values[0])) or fact.least <= float(values[0]) <= fact.most
        assert math.isfinite(float(values[1]))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(allow_infinity=False, width=32), st.integers(-256, 256).map(float)))
def test_number_that_is_told_briefly_is_near_and_whole_ones_are_exact(value):
    told = brief_number(value)

    if math.isnan(value):
        assert math.isnan(told)
    elif math.isfinite(told):
        assert abs(told - value) <= 2.0**-8 * abs(value)
        assert told == value or not value.is_integer() or abs(value) > 256
        assert brief_number(told) == told
        codes = brief_values(LOAD, 0, np.array([told]))
        assert float((codes.astype("<u4") << 16).view("<f4")[0]) == told
    else:
        assert 0 < abs(value) < 2.0**-126 or abs(value) > 3.3e38


@settings(max_examples=100, deadline=None)
@given(
    ran_s=st.integers(1, 60 * 86_400),
    late_s=st.integers(-3600, 3600),
    ages_s=st.lists(st.integers(0, 200), min_size=1, max_size=4),
)
def test_moments_of_brief_reports_are_told_however_long_a_process_runs(ran_s, late_s, ages_s):
    ages_s = [min(age_s, ran_s) for age_s in ages_s]
    sent_ns = BEGAN_NS + ran_s * NS_PER_S
    intake = FactIntake(FactBook())
    intake.begin(NODE, INCARNATION)
    intake.announce(NODE, Kind.TERMINAL, 0, [f"t{number}" for number in range(len(ages_s))])
    one = np.zeros(len(ages_s), brief_dtype(LOAD, 0))
    first_ns = sent_ns - max(ages_s) * NS_PER_S
    for number, age_s in enumerate(ages_s):
        after = (sent_ns - age_s * NS_PER_S - first_ns) // TICK_NS // AFTER_TICKS
        one[number] = number, 1, min(255, after), 0
    now_ns = sent_ns + late_s * NS_PER_S  # clocks may differ by an hour

    data = encode_briefs(LOAD, 0, one, sequence=1, incarnation=INCARNATION, at_ns=first_ns)
    (taken,) = intake.take_messages([NODE], [data], now_ns).taken

    columns = intake.book[Kind.TERMINAL].ensure("load")
    for number, age_s in enumerate(ages_s):
        read_ns = int(columns.generated_ns[number])
        if late_s < 0:
            assert read_ns <= sent_ns
            continue
        slack_ns = max(TICK_NS * (1 + AFTER_TICKS), (max(ages_s) - age_s - 65) * NS_PER_S)
        assert 0 <= sent_ns - age_s * NS_PER_S - read_ns <= slack_ns
    assert len(taken[1].rows) == len(ages_s)
