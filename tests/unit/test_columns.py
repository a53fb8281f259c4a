"""Tables of facts: rows, single facts, batches and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from daitn.base.errors import BugError, InputError, PeerError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.uncertainty import encode_deviation
from daitn.topology.columns import ROWS_FIRST, FactTable
from daitn.topology.refusals import Fault, Taken
from daitn.topology.taking import Batch, take
from daitn.topology.words import NO_WORD, Words
from daitn.wire.packed_facts import record_dtype

NOW = 1_000 * NS_PER_S
ANN, BOB = 1, 2


def table_of(*things: str, owner: int = ANN) -> FactTable:
    table = FactTable(Kind.TERMINAL, Words())
    table.add_many(things, owner)
    return table


def report(table: FactTable, group: str, rows: list[int], *, source: int = ANN, sequence=1, at=NOW, **values) -> Taken:
    known = group_named(group)
    records = np.zeros(len(rows), record_dtype(known))
    records["sequence"] = sequence
    records["generated_ns"] = at
    for name, given in values.items():
        records[name] = given
    batch = Batch(known, np.full(len(rows), source, np.int32), np.asarray(rows, np.int32), records)
    return take(table, batch, NOW)


def test_rows_are_kept_grown_and_used_again():
    table = table_of(*(f"t{number}" for number in range(ROWS_FIRST + 1)))
    assert table.capacity == 2 * ROWS_FIRST
    report(table, "load", [3], load_frac=0.5)

    table.remove([3, 3, 99_999])

    assert (len(table), table.row_of("t3")) == (ROWS_FIRST, None)
    assert not table.alive()[3]
    assert table.add("new", BOB) == 3
    assert np.isnan(table.column("load_frac")[3])


def test_thing_of_another_node_is_not_given_away():
    with pytest.raises(PeerError, match="another node"):
        table_of("a").add("a", BOB)


def test_groups_that_nobody_reports_take_no_memory():
    table = table_of("a")
    before = table.nbytes

    assert np.isnan(table.column("round_trip_s")).all()
    assert table.nbytes == before
    report(table, "load", [0])
    assert table.nbytes > before
    assert [group.name for group in table.groups()] == ["load"]


def test_report_sets_values_deviations_and_stamps():
    table = table_of("a", "b")

    taken = report(
        table, "load", [1], load_frac=0.25, wait_s=3.0, deviations=encode_deviation(0.125), at=NOW - 5 * NS_PER_S
    )

    assert (taken.rows.tolist(), taken.counts) == ([1], {})
    assert table.column("load_frac").tolist()[1:] == [0.25]
    assert table.deviation("wait_s")[1] == pytest.approx(0.125)
    assert table.age_s("load", NOW).tolist() == [np.inf, 5.0]
    assert table.value(1, "wait_s") == 3.0
    assert table.value(0, "wait_s") is None


def test_age_beyond_its_most_widens():
    table = table_of("a")
    report(table, "load", [0], wait_s=4.0, at=NOW - 20 * NS_PER_S)

    assert table.deviation("wait_s", NOW - 15 * NS_PER_S)[0] == 0
    assert table.deviation("wait_s", NOW)[0] == pytest.approx(4.0)


def test_columns_are_read_only_and_wrong_names_are_named():
    table = table_of("a")

    with pytest.raises(ValueError):
        table.column("load_frac")[0] = 1
    with pytest.raises(InputError, match="load_farc"):
        table.column("load_farc")


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        (Fault.UNKNOWN, {"rows": [7]}),
        (Fault.UNKNOWN, {"rows": [-1]}),
        (Fault.FORGED, {"source": BOB}),
        (Fault.FORGED, {"group": "path"}),
        (Fault.NOT_A_NUMBER, {"load_frac": np.nan}),
        (Fault.NEGATIVE, {"memory_free_bytes": -1.0}),
        (Fault.OUT_OF_RANGE, {"load_frac": 1.5}),
        (Fault.OUT_OF_RANGE, {"wait_s": np.inf}),
        (Fault.REPLAYED, {"sequence": 0}),
    ],
)
def test_bad_record_is_refused_counted_and_named(fault, change):
    table = table_of("a")
    asked = {"group": "load", "rows": [0], **change}

    taken = report(table, asked.pop("group"), asked.pop("rows"), **asked)

    assert taken.counts == {fault: 1}
    assert taken.examples[fault].source == change.get("source", ANN)
    assert not len(taken.rows)


def test_rest_of_a_batch_is_applied():
    table = table_of("a", "b", "c")

    taken = report(table, "load", [0, 1, 2], load_frac=[0.5, np.nan, 0.25])

    assert taken.rows.tolist() == [0, 2]
    assert taken.counts == {Fault.NOT_A_NUMBER: 1}
    assert (taken.examples[Fault.NOT_A_NUMBER].row, taken.examples[Fault.NOT_A_NUMBER].fact) == (1, "load_frac")
    np.testing.assert_array_equal(table.column("load_frac"), [0.5, np.nan, 0.25])


def test_row_that_is_reported_several_times_keeps_the_newest():
    table = table_of("a", "b")

    taken = report(table, "load", [0, 1, 0, 0], sequence=[2, 9, 5, 3], load_frac=[0.2, 0.9, 0.5, 0.3])

    assert taken.counts == {Fault.REPLAYED: 1}
    assert table.column("load_frac").tolist() == pytest.approx([0.5, 0.9])
    assert report(table, "load", [0], sequence=5).counts == {Fault.REPLAYED: 1}


def test_number_that_is_said_to_be_unknown_is_taken():
    table = table_of("a")

    assert report(table, "load", [0], load_frac=np.nan, deviations=255).counts == {}
    assert table.value(0, "load_frac") is None


def test_moment_in_the_future_counts_as_now():
    table = table_of("a", "b")

    taken = report(table, "load", [0, 1], at=[NOW + 3600 * NS_PER_S, -(2**63)])

    assert taken.counts == {Fault.CLOCK_SKEW: 2}
    assert table.age_s("load", NOW)[0] == 0
    assert table.age_s("load", NOW)[1] == pytest.approx(1000, abs=1)


def test_absurd_claim_counts_as_what_was_measured():
    table = table_of("laptop", "honest")
    table.note(0, "measured", {"measured_flops": 5e10}, source=0, generated_ns=NOW, received_ns=NOW)

    taken = report(table, "capacity", [0, 1], flops=[1e18, 9e13])

    assert taken.counts == {Fault.CLAIM_BOUNDED: 1}
    assert table.column("flops").tolist() == pytest.approx([1e11, 9e13])
    assert table.deviation("flops")[0] == pytest.approx(1e11, rel=0.13)


def test_measurement_that_comes_later_bounds_the_claim_too():
    table = table_of("laptop")
    assert report(table, "capacity", [0], flops=1e18).counts == {Fault.CLAIM_BOUNDED: 1}
    assert table.column("flops")[0] == pytest.approx(1e14)

    taken = report(table, "measured", [0], source=0, measured_flops=5e10)

    assert taken.counts == {Fault.CLAIM_BOUNDED: 1}
    assert table.column("flops")[0] == pytest.approx(1e11)


def test_what_was_not_confirmed_since_a_restart_is_stale():
    table = table_of("a", "b", "c")
    report(table, "load", [0, 1])
    table.stale_before_ns = NOW + 1

    assert table.stale("load").tolist() == [True, True, True]
    table.note(1, "load", {"load_frac": 0.5}, source=ANN, generated_ns=NOW, received_ns=NOW + 1)
    assert table.stale("load").tolist() == [True, False, True]


def test_words_choices_and_flags_are_read_as_text():
    table = table_of("a")
    table.note(
        0,
        "identity",
        {"region": "north", "computes": True, "accelerator": None},
        source=0,
        generated_ns=1,
        received_ns=1,
    )
    table.note(0, "access", {"access_kind": "satellite"}, source=ANN, generated_ns=1, received_ns=1)

    assert [table.value(0, name) for name in ("region", "computes", "accelerator", "access_kind", "operator")] == [
        "north", True, None, "satellite", None,
    ]  # fmt: skip
    assert table.words.find("south") == NO_WORD


@pytest.mark.parametrize("values", [{"load_frac": 2.0}, {"region": "x"}, {"wait_s": float("nan")}])
def test_single_fact_that_cannot_be_is_our_bug(values):
    with pytest.raises(BugError):
        table_of("a").note(0, "load", values, source=0, generated_ns=1, received_ns=1)


def test_each_source_with_a_fault_is_named_though_another_has_many():
    table = table_of("a", "b")
    table.add("c", BOB)
    known = group_named("load")
    records = np.zeros(4, record_dtype(known))
    records["sequence"], records["load_frac"] = 1, np.nan

    sources, rows = np.array([ANN, ANN, BOB, ANN], np.int32), np.array([0, 1, 2, 1], np.int32)
    taken = take(table, Batch(known, sources, rows, records), NOW)

    assert taken.examples[Fault.NOT_A_NUMBER].source == ANN
    assert [(fault, one.source, one.row) for fault, one in taken.culprits] == [(Fault.NOT_A_NUMBER, BOB, 2)]
