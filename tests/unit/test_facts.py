"""The registry of facts, and deviations in one byte."""

from __future__ import annotations

import math

import numpy as np
import pytest

from daitn.base.errors import BugError, InputError
from daitn.descriptors.fact_kinds import Form, Kind
from daitn.descriptors.facts import BY_NAME, BY_NUMBER, GROUPS, fact_named, facts_of, group_named
from daitn.descriptors.uncertainty import DEVIATIONS, EXACT, NOT_KNOWN, encode_deviation, encode_deviations
from daitn.wire.packed_facts import HEADER, MESSAGE_BYTES, encode_records, record_dtype, records_most


def test_names_and_numbers_are_unique():
    assert len(BY_NAME) == len(BY_NUMBER) == len(GROUPS)
    assert all(1 <= group.number <= 255 for group in GROUPS)
    for kind in Kind:
        names = [fact.name for fact in facts_of(kind)]
        assert len(names) == len(set(names)) > 0


def test_every_fact_has_a_meaning_and_a_range_that_is_one():
    for group in GROUPS:
        for fact in group.facts:
            assert fact.meaning
            assert fact.least <= fact.most
            assert (fact.form is Form.CHOICE) == bool(fact.choices)
            assert (fact.form is Form.REFERENCE) == (fact.refers_to is not None)
            if fact.measured_as:
                assert fact_named(group.kind, fact.measured_as)


def test_wrong_name_names_the_nearest():
    with pytest.raises(InputError, match="flop") as caught:
        fact_named(Kind.TERMINAL, "flop")
    assert "flops" in caught.value.todo

    with pytest.raises(InputError, match="did you mean load"):
        group_named("loda")


def test_deviations_survive_within_twelve_percent():
    asked = np.geomspace(1e-6, 1e18, 999)

    kept = DEVIATIONS[encode_deviations(asked)]

    assert np.abs(kept / asked - 1).max() < 0.123
    assert [encode_deviation(one) for one in asked] == encode_deviations(asked).tolist()


@pytest.mark.parametrize(
    ("deviation", "code"), [(0.0, EXACT), (1e-9, EXACT), (math.nan, NOT_KNOWN), (math.inf, NOT_KNOWN), (1e300, 254)]
)
def test_deviations_at_the_ends(deviation, code):
    assert encode_deviation(deviation) == code
    assert encode_deviations([deviation]).tolist() == [code]


def test_packed_record_travels_with_its_header():
    group = group_named("load")
    records = np.zeros(2, record_dtype(group))

    data = encode_records(group, records, sequence=7, incarnation=9)

    assert len(data) == HEADER.itemsize + 2 * record_dtype(group).itemsize
    assert np.frombuffer(data[: HEADER.itemsize], HEADER)[0].tolist() == (1, group.number, 2, 7, 9)
    assert HEADER.itemsize + records_most(group) * record_dtype(group).itemsize <= MESSAGE_BYTES


def test_groups_with_words_do_not_travel_packed():
    with pytest.raises(BugError, match="identity"):
        record_dtype(group_named("identity"))
