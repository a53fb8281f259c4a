"""Whether data mapped to one contract's columns serves another contract."""

from __future__ import annotations

from typing import Any

from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByValues,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    NumbersInput,
    VectorColumn,
)
from daitn.descriptors.fitting import fits


def contract(*columns: Any, **changes: Any) -> DataContract:
    values: dict[str, Any] = {
        "name": "c",
        "columns": columns
        or (
            NumberColumn(name="age", unit="year"),
            CategoryColumn(name="sex", values=("f", "m")),
            CategoryColumn(name="label", values=("no", "yes")),
        ),
        "inputs": (NumbersInput(name="x", columns=("age",)),),
        "task": Classification(label="label"),
    }
    return DataContract(**values | changes)


def test_equal_columns_fit_and_more_columns_do_too() -> None:
    own = contract()
    assert fits(own, own.columns, own.fields) == ()
    assert fits(own, (*own.columns, IdentifierColumn(name="who")), ()) == ()


def test_all_faults_are_listed() -> None:
    other = (
        NumberColumn(name="age", unit="month"),
        NumberColumn(name="sex"),
    )
    assert fits(contract(), other, ()) == (
        "column 'age' is in 'month', the contract needs 'year'",
        "column 'sex' is a number, the contract needs a category",
        "column 'label' is not mapped",
    )


def test_label_values_must_all_be_known_other_categories_share_one() -> None:
    def data(sex: tuple[str, ...], label: tuple[str, ...]) -> tuple[Any, ...]:
        return (
            NumberColumn(name="age", unit="year"),
            CategoryColumn(name="sex", values=sex),
            CategoryColumn(name="label", values=label),
        )

    assert fits(contract(), data(("m", "other"), ("yes",)), ()) == ()
    assert fits(contract(), data(("m",), ("yes", "perhaps")), ()) == (
        "column 'label' has values the contract lacks: perhaps",
    )
    assert fits(contract(), data(("x",), ("yes",)), ()) == ("column 'sex' shares no value with the contract",)


def test_sizes_group_and_meaning_of_fields_are_compared() -> None:
    wanted = contract(
        VectorColumn(name="v", length=3),
        ImageColumn(name="i", channels=1, height=2, width=2),
        CategoryColumn(name="label", values=("no", "yes")),
        fields=(FieldByValues(name="f", column="label", values=("yes",)),),
        group="who",
    )
    columns = (
        VectorColumn(name="v", length=4),
        ImageColumn(name="i", channels=3, height=2, width=2),
        wanted.columns[2],
    )
    rules = (FieldByValues(name="f", column="label", values=("no",)),)
    assert fits(wanted, columns, rules, group="") == (
        "column 'v' has length 4, not 3",
        "column 'i' has images of 3×2×2, not 1×2×2",
        "grouped by 'record', the contract groups by 'who'",
        "field 'f' means something else in the data",
    )
