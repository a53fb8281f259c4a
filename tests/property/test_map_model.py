"""The columns against a plain dictionary that takes record after record, under hostile reports in any mixture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import CLAIM_FACTOR, Form, Group, Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.uncertainty import NOT_KNOWN
from daitn.topology.fact_book import FactBook
from daitn.topology.intake import FactIntake, Intake
from daitn.topology.refusals import SKEW_AHEAD_NS, SKEW_BEHIND_NS, Fault
from daitn.wire.packed_facts import HEADER, PART_VERSION, Records, encode_records, record_dtype

NOW = 2_000_000_000 * NS_PER_S
INCARNATION = 1_900_000_000_000
NODES = (NodeId("n0001"), NodeId("n0002"))
THINGS = 3
"""Terminals of each node; number 3 is nobody's."""

LOAD, CAPACITY, PATH = group_named("load"), group_named("capacity"), group_named("path")

numbers = st.one_of(
    st.floats(0, 1, width=32), st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e18, 3e38]), st.floats(width=32)
)
moments = st.one_of(
    st.integers(NOW - 10 * NS_PER_S, NOW + NS_PER_S), st.sampled_from([-(2**63), 0, 2**63 - 1, NOW + 3600 * NS_PER_S])
)


@st.composite
def records_of(draw: st.DrawFn, group: Group) -> Records:
    count = draw(st.integers(1, 6))
    records = np.zeros(count, record_dtype(group))
    for record in records:
        record["number"] = draw(st.integers(0, THINGS))
        record["sequence"] = draw(st.integers(0, 5))
        record["generated_ns"] = draw(moments)
        for fact in group.facts:
            record[fact.name] = draw(st.integers(0, 255) if fact.form in (Form.FLAG, Form.CHOICE) else numbers)
        record["deviations"] = draw(
            st.lists(st.integers(0, 255), min_size=len(group.numeric), max_size=len(group.numeric))
        )
    return records


@st.composite
def messages(draw: st.DrawFn) -> tuple[NodeId, bytes]:
    group = draw(st.sampled_from([LOAD, CAPACITY, PATH]))
    incarnation = draw(st.sampled_from([INCARNATION, INCARNATION, INCARNATION, INCARNATION - 1, INCARNATION + 1]))
    data = encode_records(group, draw(records_of(group)), sequence=draw(st.integers(0, 9)), incarnation=incarnation)
    if draw(st.integers(0, 19)) == 0:
        data = bytes([draw(st.integers(3, 255))]) + data[1:]  # of a newer version
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=3))
    return draw(st.sampled_from([*NODES, NodeId("n0009")])), data


class Model:
    """The same rules, one record after the other."""

    def __init__(self) -> None:
        self.held: dict[tuple[NodeId, int, str], dict[str, Any]] = {}
        self.counts: dict[Fault, int] = {}
        self.changes = 0

    def message(self, sender: NodeId, data: bytes) -> None:
        if len(data) <= HEADER.itemsize:
            return self.count(Fault.UNDECODABLE)
        header = np.frombuffer(data[: HEADER.itemsize], HEADER)[0]
        if header["version"] > PART_VERSION:
            return self.count(Fault.NEWER_VERSION)
        group = {one.number: one for one in (LOAD, CAPACITY, PATH)}.get(int(header["group"]))
        if group is None or header["version"] != 1:
            return self.count(Fault.UNDECODABLE)
        body = data[HEADER.itemsize :]
        if len(body) != header["records"] * record_dtype(group).itemsize:
            return self.count(Fault.UNDECODABLE)
        if sender not in NODES or header["incarnation"] > INCARNATION:
            return self.count(Fault.UNKNOWN)
        if header["incarnation"] < INCARNATION:
            return self.count(Fault.REPLAYED)
        for record in np.frombuffer(body, record_dtype(group)):
            self.record(sender, group, record)
        return None

    def record(self, sender: NodeId, group: Group, record: Any) -> None:
        if record["number"] >= THINGS:
            return self.count(Fault.UNKNOWN)
        if group is PATH:  # what the centre measures is not a node's to say
            return self.count(Fault.FORGED)
        for place, fact in enumerate(group.numeric):
            value = float(record[fact.name])
            unknown = math.isnan(value) and record["deviations"][place] == NOT_KNOWN
            if not unknown and not fact.least <= value <= fact.most:
                fault = Fault.NOT_A_NUMBER if math.isnan(value) else Fault.NEGATIVE if value < 0 else Fault.OUT_OF_RANGE
                return self.count(fault)
        key = (sender, int(record["number"]), group.name)
        before = self.held.get(key)
        if record["sequence"] <= (before["sequence"] if before else 0):
            return self.count(Fault.REPLAYED)
        moment = int(record["generated_ns"])
        if moment > NOW + SKEW_AHEAD_NS or moment < NOW - SKEW_BEHIND_NS:
            self.count(Fault.CLOCK_SKEW)
        held = {fact.name: float(record[fact.name]) for fact in group.facts}
        self.held[key] = held | {"sequence": int(record["sequence"]), "generated_ns": min(NOW, max(1, moment))}
        self.changes += 1
        return None

    def count(self, fault: Fault) -> None:
        self.counts[fault] = self.counts.get(fault, 0) + 1


def map_of_two() -> FactIntake:
    intake = FactIntake(FactBook())
    for node in NODES:
        assert intake.begin(node, INCARNATION)
        intake.announce(node, Kind.TERMINAL, 0, [f"{node}/t{number}" for number in range(THINGS)])
    return intake


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(messages(), min_size=1, max_size=12), min_size=1, max_size=4))
def test_columns_hold_what_a_dictionary_would(batches):
    intake, model = map_of_two(), Model()
    counts: dict[Fault, int] = {}
    taken = 0
    for batch in batches:
        seen = intake.take_messages([sender for sender, _ in batch], [data for _, data in batch], NOW)
        taken += seen.records
        for fault, count in seen.counts.items():
            counts[fault] = counts.get(fault, 0) + count
        # Messages of one length and group are taken together; across lengths the order is the receiver's.
        for sender, data in sorted(batch, key=lambda one: (len(one[1]), one[1][1:2])):
            model.message(sender, data)

    counts.pop(Fault.CLAIM_BOUNDED, None)
    assert counts == model.counts
    assert taken == model.changes
    table = intake.book[Kind.TERMINAL]
    for node in NODES:
        for number in range(THINGS):
            row = table.row_of(f"{node}/t{number}")
            assert row is not None
            for group in (LOAD, CAPACITY):
                held = model.held.get((node, number, group.name))
                columns = table.group(group.name)
                if held is None:
                    assert columns is None or columns.sequence[row] == 0
                    continue
                assert columns is not None
                assert columns.sequence[row] == held["sequence"]
                assert columns.generated_ns[row] == held["generated_ns"]
                for fact in group.facts:
                    expected = held[fact.name]
                    if fact.measured_as and expected > fact.unmeasured_most:
                        expected = float(np.float32(fact.unmeasured_most))
                    assert same(float(columns.values[fact.name][row]), expected), fact.name


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["claim", "measured"]), st.floats(1, 2.0**56, width=32)), min_size=1, max_size=8)
)
def test_claim_is_never_above_what_was_measured(steps):
    intake = map_of_two()
    table = intake.book[Kind.TERMINAL]
    for sequence, (what, value) in enumerate(steps, start=1):
        group, fact, source = (
            (CAPACITY, "flops", 1) if what == "claim" else (group_named("measured"), "measured_flops", 0)
        )
        records = np.zeros(1, record_dtype(group))
        records["sequence"], records["generated_ns"], records[fact] = sequence, NOW, value
        intake.take_rows(group, source, np.zeros(1, np.int32), records, NOW, Intake())
    measured, claim = table.column("measured_flops")[0], table.column("flops")[0]
    bound = 1e14 if math.isnan(measured) else CLAIM_FACTOR * measured
    assert math.isnan(claim) or claim <= np.float32(bound)


def test_flood_costs_nobody_else_a_report():
    intake = map_of_two()
    flood = np.zeros(2000, record_dtype(LOAD))
    flood["sequence"], flood["generated_ns"] = np.arange(1, 2001), NOW
    honest = flood[:1].copy()
    payloads = [encode_records(LOAD, flood[:1000], sequence=1, incarnation=INCARNATION)] * 2
    payloads.append(encode_records(LOAD, honest, sequence=1, incarnation=INCARNATION))

    seen = intake.take_messages([NODES[0], NODES[0], NODES[1]], payloads, NOW)

    assert seen.counts[Fault.FLOOD] > 1000
    assert intake.book[Kind.TERMINAL].group("load").sequence[THINGS] == 1  # type: ignore[union-attr]


def test_lost_messages_are_counted_and_the_source_is_asked_again():
    intake = map_of_two()
    one = np.zeros(1, record_dtype(LOAD))
    one["generated_ns"] = NOW

    for sequence in (1, 2, 6):
        one["sequence"] = sequence
        intake.take_messages([NODES[0]], [encode_records(LOAD, one, sequence=sequence, incarnation=INCARNATION)], NOW)

    assert intake.sources.dropped[1] == 3
    assert intake.to_ask(NOW) == (NODES[0],)
    assert intake.to_ask(NOW) == ()
    intake.synced(NODES[0], 6, NOW)
    assert intake.to_ask(NOW + 10 * NS_PER_S) == ()
    intake.synced(NODES[0], 7, NOW)
    assert intake.to_ask(NOW) == ()
    assert intake.to_ask(NOW + 10 * NS_PER_S) == (NODES[0],)


def test_process_that_began_anew_begins_its_sequences_anew_and_no_recording_plays():
    intake = map_of_two()
    one = np.zeros(1, record_dtype(LOAD))
    one["sequence"], one["generated_ns"], one["load_frac"] = 5, NOW, 0.5
    recording = encode_records(LOAD, one, sequence=5, incarnation=INCARNATION)
    intake.take_messages([NODES[0]], [recording], NOW)

    assert intake.begin(NODES[0], INCARNATION + 7)
    intake.announce(NODES[0], Kind.TERMINAL, 0, [f"{NODES[0]}/t0"])
    assert intake.take_messages([NODES[0]], [recording], NOW).counts == {Fault.REPLAYED: 1}
    one["sequence"], one["load_frac"] = 1, 0.25
    fresh = encode_records(LOAD, one, sequence=1, incarnation=INCARNATION + 7)
    assert intake.take_messages([NODES[0]], [fresh], NOW).counts == {}
    assert intake.book[Kind.TERMINAL].column("load_frac")[0] == 0.25
