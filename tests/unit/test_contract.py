"""The data contract: faults listed at once, digests that mean equality."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_contract

from daitn.base.errors import InputError
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    FieldByColumn,
    FieldByValues,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
    Regression,
    Retrieval,
    TextColumn,
    TokensInput,
    VectorColumn,
    VectorInput,
    check_contract,
    decode_contract,
)

LABEL = CategoryColumn(name="y", values=("0", "1"))


def faults(**changes) -> str:
    """What `check_contract` says."""
    with pytest.raises(InputError) as caught:
        check_contract(make_contract(**changes))
    return str(caught.value)


def test_consistent_contract_passes_and_names_its_labels_and_fields():
    contract = make_contract(
        columns=(
            NumberColumn(name="x"),
            CategoryColumn(name="y", values=("0", "1")),
            CategoryColumn(name="ward", values=("a", "b")),
            IdentifierColumn(name="patient"),
            ImageColumn(name="scan", channels=1, height=2, width=2),
            VectorColumn(name="v", length=6),
            TextColumn(name="note"),
        ),
        inputs=(
            NumbersInput(name="x", columns=("x",), center=(0.0,), scale=(1.0,)),
            CategoryInput(name="w", column="ward"),
            ImageInput(name="s", column="scan"),
            VectorInput(name="v", column="v", shape=(2, 3)),
            TokensInput(name="t", column="note"),
        ),
        group="patient",
        fields=(FieldByColumn(column="ward"), FieldByValues(name="ones", column="y", values=("1",))),
    )
    check_contract(contract)

    assert contract.labels() == ("0", "1")
    assert contract.field_names() == ("a", "b", "ones")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": (LABEL, LABEL, NumberColumn(name="x"))}, "two columns"),
        ({"columns": (CategoryColumn(name="y", values=("0", "0", "1")), NumberColumn(name="x"))}, "value twice"),
        ({"inputs": (NumbersInput(name="x", columns=("x",)),) * 2}, "two inputs"),
        ({"inputs": (NumbersInput(name="x", columns=("z",)),)}, "'z'"),
        ({"inputs": (NumbersInput(name="x", columns=("y",)),)}, "needs a NumberColumn"),
        ({"inputs": (NumbersInput(name="x", columns=("x",), center=(0.0, 1.0)),)}, "2 entries in center"),
        ({"inputs": (NumbersInput(name="x", columns=("x",), scale=(0.0,)),)}, "scale of 0"),
        ({"inputs": (VectorInput(name="x", column="x"),)}, "needs a VectorColumn"),
        ({"inputs": (ImageInput(name="x", column="x"),)}, "needs a ImageColumn"),
        ({"inputs": (TokensInput(name="x", column="x"),)}, "needs a TextColumn"),
        ({"inputs": (CategoryInput(name="x", column="x"),)}, "needs a CategoryColumn"),
        ({"task": Classification(label="x")}, "the label"),
        ({"task": Regression(label="y")}, "the label"),
        ({"task": Retrieval(query="q", answer="a")}, "'q'"),
        ({"group": "x"}, "the group"),
        ({"fields": (FieldByColumn(column="x"),)}, "field rule"),
        ({"fields": (FieldByValues(name="f", column="y", values=("9",)),)}, "outside the vocabulary: 9"),
        ({"fields": (FieldByColumn(column="y"), FieldByValues(name="0", column="y", values=("1",)))}, "two fields"),
    ],
)
def test_fault_is_named(changes, said):
    assert said in faults(**changes)


def test_all_faults_are_listed_at_once():
    said = faults(group="x", task=Classification(label="nowhere"), inputs=(NumbersInput(name="x", columns=("z",)),))

    for name in ("'z'", "'nowhere'", "'x'"):
        assert name in said


def test_digest_is_equal_for_equal_contracts_only_and_survives_encoding():
    contract = make_contract()
    again = decode_contract(msgspec.json.encode(contract))

    assert again == contract
    assert again.digest() == contract.digest()
    assert make_contract(test_frac=0.3).digest() != contract.digest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        msgspec.json.encode(make_contract()).replace(b'"name":"toy"', b'"name":"toy","extra":1'),
        msgspec.json.encode(make_contract()).replace(b"0.2", b"NaN"),
        msgspec.json.encode(make_contract()).replace(b"0.2", b"1.0"),
    ],
)
def test_bytes_that_are_no_contract_are_refused(data):
    with pytest.raises(InputError):
        decode_contract(data)


def test_contract_of_too_many_bytes_is_refused_before_it_is_read():
    with pytest.raises(InputError, match="the limit"):
        decode_contract(b" " * (17 * 1024 * 1024))


def test_column_that_is_missing_lists_the_known_ones():
    with pytest.raises(InputError, match="it has: x, y"):
        make_contract().column("z")


def test_contract_is_closed_to_unknown_keys():
    assert DataContract.__struct_config__.forbid_unknown_fields
