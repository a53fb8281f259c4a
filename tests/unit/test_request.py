"""Requests: the grammar of targets, and every fault listed at once."""

from __future__ import annotations

import pytest
from tests.builders import make_contract, make_request

from daitn.base.errors import InputError
from daitn.descriptors.contract import CategoryColumn, LanguageModelling, TextColumn, TokensInput
from daitn.descriptors.request import METRICS, Selection, Target, check_request, parse_target


@pytest.mark.parametrize(
    ("text", "name", "sense", "value"),
    [
        ("accuracy >= 0.8", "accuracy", ">=", 0.8),
        ("accuracy>=.8", "accuracy", ">=", 0.8),
        ("  accuracy  ≥  80 % ", "accuracy", ">=", 0.8),
        ("accuracy@cardiology >= 95%", "accuracy@cardiology", ">=", 0.95),
        ("accuracy@a≥0.5", "accuracy@a", ">=", 0.5),
        ("recall[malignant] >= 0.93", "recall[malignant]", ">=", 0.93),
        ("recall[grade 3]@field-x >= 1", "recall[grade 3]@field-x", ">=", 1.0),
        ("loss <= 4e-1", "loss", "<=", 0.4),
        ("mean_return ≤ -5", "mean_return", "<=", -5.0),
    ],
)
def test_target_that_fits_the_grammar_is_read(text, name, sense, value):
    target = parse_target(text)

    assert (target.name, target.sense, target.value) == (name, sense, pytest.approx(value))
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "accuracy",
        "accuracy 0.8",
        "accuracy > 0.8",
        "accuracy >= ",
        "accuracy >= high",
        "accuracy >= 1.2.3",
        "accuracy >= e",
        "Accuracy >= 0.8",
        "accuracy@ >= 0.8",
        "recall[] >= 0.8",
        "recall[a >= 0.8",
        ">= 0.8",
        "accuracy >= 0.8; loss <= 1",
        "accuracy >= 0.8\x00",
    ],
)
def test_target_that_does_not_fit_says_how_to_write_one(text):
    with pytest.raises(InputError) as caught:
        parse_target(text)

    assert repr(text) in str(caught.value)


def test_target_of_absurd_length_is_read_or_refused_quickly():
    for text in ("accuracy@" + "≥" * 20_000, " " * 50_000 + "x", "a" * 50_000, "accuracy" + " " * 50_000 + "!"):
        with pytest.raises(InputError):
            parse_target(text)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["f2 >= 0.5"], "unknown metric 'f2'"),
        (["mse <= 0.5"], "unknown metric 'mse'"),
        (["accuracy >= 95"], "between 0 and 1"),
        (["accuracy >= 1e999"], "not finite"),
        (["accuracy <= 0.9"], "better when higher"),
        (["loss >= 0.1"], "better when lower"),
        (["recall >= 0.5"], "needs a label"),
        (["recall[2] >= 0.5"], "no label '2'"),
        (["accuracy[1] >= 0.5"], "takes no label"),
        (["accuracy@twos >= 0.5"], "no field 'twos'"),
        (["accuracy >= 0.8", "accuracy >= 0.9"], "asked for twice"),
    ],
)
def test_fault_of_a_target_is_named(targets, said):
    with pytest.raises(InputError, match="not consistent") as caught:
        check_request(make_request(*targets), make_contract())

    assert said in str(caught.value)


def test_all_faults_are_listed_at_once():
    request = make_request(
        "f2 >= 0.5",
        "recall >= 0.5",
        data=Selection(include=("a/b",), exclude=("a/b",), min_records_field={"twos": 1}),
    )
    with pytest.raises(InputError) as caught:
        check_request(request, make_contract())

    for said in ("'f2'", "needs a label", "a/b", "'twos'"):
        assert said in str(caught.value)


def test_consistent_request_passes():
    check_request(make_request("accuracy >= 0.9", "recall[1]@ones >= 50%", "accuracy >= 0.9"), make_contract())


def test_contract_without_labels_says_so():
    contract = make_contract(
        columns=(TextColumn(name="t"), CategoryColumn(name="y", values=("0",))),
        inputs=(TokensInput(name="t", column="t"),),
        task=LanguageModelling(input="t"),
        fields=(),
    )
    with pytest.raises(InputError, match="none"):
        check_request(make_request("accuracy@x >= 0.9"), contract)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_value_that_is_no_number_never_counts_as_met(value):
    target = Target(metric="accuracy", value=0.5)

    assert not target.met_by(value)
    assert target.shortfall(value) > 0


def test_every_metric_has_a_direction():
    assert {direction for metrics in METRICS.values() for direction in metrics.values()} == {"up", "down"}
