"""Relevance from descriptions: near sites help more, noise is not mistaken for distance, and nothing breaks without."""

from __future__ import annotations

import numpy as np
import pytest
from tests.builders import make_contract, make_data

from daitn.base.ids import DataSetId
from daitn.descriptors.contract import CategoryColumn, FieldByColumn, Retrieval, TextColumn, TokensInput
from daitn.descriptors.descriptions import Sketch
from daitn.descriptors.terminals import DataDescriptor, Histogram
from daitn.descriptors.work import Measurement
from daitn.topology.relevance import (
    _squared_distances,
    needs_of,
    predicted_help,
    relevance_shares,
    sketch_distances,
    squared_distance,
)

FIELDS = ("heart", "lung")


def sketch(*mean: float, noise_std: float = 0.0, basis: str = "words-1") -> Sketch:
    return Sketch(column="text", basis=basis, mean=mean, noise_std=noise_std, groups=100.0, epsilon=0.5)


def site(name: str, heart: float, lung: float, *sketches: Sketch) -> DataDescriptor:
    return make_data(
        name,
        records=heart + lung,
        labels=None,
        field_counts=Histogram(counts={"heart": heart, "lung": lung}),
        descriptions=sketches,
    )


def contract():
    return make_contract(
        columns=(TextColumn(name="text"), CategoryColumn(name="ward", values=FIELDS)),
        inputs=(TokensInput(name="a", column="text"), TokensInput(name="b", column="text")),
        task=Retrieval(query="a", answer="b"),
        fields=(FieldByColumn(column="ward"),),
    )


def counts(*data: DataDescriptor):
    return np.array([[one.field_counts.counts[field] for field in FIELDS] for one in data])


def test_a_site_near_a_field_helps_it_more_than_a_far_one():
    data = [
        site("h", 500, 0, sketch(1, 0, 0, 0)),
        site("l", 0, 500, sketch(0, 1, 0, 0)),
        # nothing of either field, and alike to the first
        site("x", 0, 0, sketch(0.9, 0.1, 0, 0)),
    ]
    data[2] = make_data(
        "x", records=500.0, labels=None, field_counts=data[2].field_counts, descriptions=data[2].descriptions
    )
    help_SF = predicted_help(contract(), data, counts(*data))
    assert help_SF[0, 0] > help_SF[2, 0] > help_SF[1, 0]
    assert help_SF[1, 1] > help_SF[2, 1]
    flat_SF = predicted_help(contract(), data, counts(*data), by_sketch=False)
    assert np.ptp(flat_SF) == 0


def test_needs_of_a_field_weigh_what_is_there_for_it():
    data = [site("h", 500, 0, sketch(1, 0)), site("l", 0, 500, sketch(0, 1))]
    plain = predicted_help(contract(), data, counts(*data))
    needy = predicted_help(contract(), data, counts(*data), {"heart": 0.5, "lung": 0.0})
    assert needy[:, 0] == pytest.approx(0.5 * plain[:, 0])
    assert needy[:, 1].tolist() == [0, 0]


def test_shares_add_up_to_one_and_are_nothing_where_nobody_helps():
    data = [site("h", 500, 0, sketch(1, 0)), site("l", 0, 500, sketch(0, 1))]
    shares = relevance_shares(contract(), data, counts(*data), {"lung": 0.0})
    assert set(shares) == {DataSetId("h/records"), DataSetId("l/records")}
    assert sum(one[""] for one in shares.values()) == pytest.approx(1)
    assert sum(one["heart"] for one in shares.values()) == pytest.approx(1)
    assert [one["lung"] for one in shares.values()] == [0, 0]
    assert relevance_shares(contract(), [], np.zeros((0, 2))) == {}


def test_sketches_of_other_bases_or_none_count_as_typical():
    data = [site("h", 500, 0, sketch(1, 0)), site("l", 0, 500, sketch(0, 1, basis="base-1")), site("x", 250, 250)]
    help_SF = predicted_help(contract(), data, counts(*data))
    assert np.isfinite(help_SF).all()
    with pytest.raises(ValueError, match="cannot be compared"):
        squared_distance(data[0].descriptions[0], data[1].descriptions[0])


def test_distance_is_without_bias_whatever_the_noise():
    rng = np.random.default_rng(3)
    left, right = np.full(16, 0.1), np.zeros(16)
    found = []
    for _ in range(4000):
        noisy = [sketch(*(mean + rng.laplace(0, 0.1 / np.sqrt(2), 16)), noise_std=0.1) for mean in (left, right)]
        found.append(squared_distance(*noisy)[0])
    assert np.mean(found) == pytest.approx(0.16, abs=0.01)


def test_sketches_of_few_numbers_are_compared_in_those_they_share():
    full, short = sketch(*([0.2] * 16)), sketch(*([0.0] * 4))
    assert squared_distance(full, short)[0] == pytest.approx(16 * 0.04)


def test_all_pairs_at_once_are_what_pair_by_pair_is():
    rng = np.random.default_rng(5)
    sketches = [
        sketch(*rng.normal(0, 0.2, length), noise_std=float(rng.uniform(0, 0.05)))
        for length in rng.choice([4, 8, 16], 12).tolist()
    ]
    squared_SS, noise_SS = _squared_distances(sketches)
    for left in range(12):
        for right in range(12):
            if left != right:
                told = squared_distance(sketches[left], sketches[right])
                assert (squared_SS[left, right], noise_SS[left, right]) == pytest.approx(told)


def test_all_noise_makes_all_alike():
    drowned = [sketch(*np.random.default_rng(n).normal(0, 0.01, 16), noise_std=5.0) for n in range(4)]
    assert np.array_equal(sketch_distances(drowned), 1 - np.eye(4))


def test_needs_are_what_metrics_between_nought_and_one_leave_open():
    def measured(name: str, value: float) -> Measurement:
        return Measurement(name=name, value=value, low=value, high=value, records=10)

    found = needs_of(
        [
            measured("accuracy@heart", 0.7),
            measured("f1@heart", 0.6),
            measured("loss@lung", 0.3),
            measured("accuracy", 0.1),
        ]
    )
    assert found == {"heart": pytest.approx(0.4)}
