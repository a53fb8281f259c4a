"""Mapping rows to contract columns: what is kept, what is counted, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daitn.base.errors import InputError
from daitn.describe.column_map import ColumnMap, ColumnSource
from daitn.describe.conversion import FaultKind, Unreadable
from daitn.describe.fit import Fitted, fit
from daitn.describe.report import FitReport
from daitn.describe.table import MappedTable, TextArray
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    FieldByColumn,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    LanguageModelling,
    NumberColumn,
    NumbersInput,
    TextColumn,
    TokensInput,
    VectorColumn,
    VectorInput,
    check_contract,
)

SECRET = b"s" * 32


def patients(**changes: Any) -> DataContract:
    values: dict[str, Any] = {
        "name": "patients",
        "columns": (
            NumberColumn(name="age", unit="year", low=0, high=130),
            CategoryColumn(name="sex", values=("female", "male")),
            CategoryColumn(name="outcome", values=("well", "ill")),
            IdentifierColumn(name="patient"),
        ),
        "inputs": (NumbersInput(name="x", columns=("age",)), CategoryInput(name="s", column="sex")),
        "task": Classification(label="outcome"),
        "group": "patient",
    }
    contract = DataContract(**values | changes)
    check_contract(contract)
    return contract


def rows(count: int = 20, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "age": [str(30 + number) for number in range(count)],
        "sex": ["female", "male"] * (count // 2),
        "outcome": ["well", "ill"] * (count // 2),
        "patient": [f"p{number}" for number in range(count)],
    }
    return values | changes


def fitted(
    tmp_path: Path, batch: dict[str, Any], contract: DataContract | None = None, column_map: ColumnMap | None = None
) -> Fitted:
    return fit(
        contract or patients(), dict.fromkeys(batch, "text"), [batch], column_map or ColumnMap(), tmp_path, SECRET
    )


def counts(report: FitReport) -> dict[tuple[str, str], int]:
    return {(fault.column, fault.kind.name): fault.count for fault in report.faults}


def test_rows_that_fit_become_columns(tmp_path: Path) -> None:
    table, report = fitted(tmp_path, rows())
    assert (report.rows, report.records, report.groups, report.faults, report.dropped) == (20, 20, 20, (), {})
    assert report.labels == {"well": 10, "ill": 10}
    assert table.numbers(["age"])[:3, 0].tolist() == [30, 31, 32]
    assert table.categories("sex")[:2].tolist() == [0, 1]
    assert table.folder == tmp_path / table.version


def test_faults_are_counted_per_column_with_rows_and_examples(tmp_path: Path) -> None:
    batch = rows(age=["30", "NA", "old", "200", *["40"] * 16], sex=["f", *["male"] * 19])
    table, report = fitted(tmp_path, batch)
    assert counts(report) == {
        ("age", "MISSING"): 1,
        ("age", "UNPARSABLE"): 1,
        ("age", "OUT_OF_RANGE"): 1,
        ("sex", "OUT_OF_VOCABULARY"): 1,
    }
    unparsable = next(fault for fault in report.faults if fault.kind is FaultKind.UNPARSABLE)
    assert (unparsable.rows, unparsable.examples) == ((3,), ("old",))
    assert np.isnan(table.numbers(["age"])[:, 0]).tolist() == [False, True, True, True] + [False] * 16
    assert table.categories("sex")[0] == -1
    assert report.rows_with_missing == 4
    assert report.rows_out_of_vocabulary == 1


def test_report_without_values_holds_no_value(tmp_path: Path) -> None:
    _, report = fitted(tmp_path, rows(sex=["secret-value", *["male"] * 19]))
    assert "secret-value" in " ".join(report.lines())
    assert "secret-value" not in str(report.without_values())


def test_record_without_label_or_group_is_dropped_and_counted(tmp_path: Path) -> None:
    batch = rows(outcome=["", "unknown", *["well", "ill"] * 9], patient=["", "", "", *[f"p{n}" for n in range(17)]])
    table, report = fitted(tmp_path, batch)
    assert report.dropped == {"no usable label": 2, "no group (patient)": 1}
    assert (table.rows, report.rows) == (17, 20)


def test_value_map_and_units_are_applied(tmp_path: Path) -> None:
    column_map = ColumnMap(
        columns={
            "age": ColumnSource(column="months", multiply=1 / 12),
            "sex": ColumnSource(column="geschlecht", values={"w": "female", "m": "male"}),
            "outcome": ColumnSource(constant="ill"),
        }
    )
    batch = {"months": [120, 240], "geschlecht": ["w", "m"], "patient": [1, 2]}
    table, report = fitted(tmp_path, batch, column_map=column_map)
    assert table.numbers(["age"])[:, 0].tolist() == [10, 20]
    assert table.categories("sex").tolist() == [0, 1]
    assert "all records have the same label, 'ill'" in report.warnings


def test_missing_column_error_names_the_nearest(tmp_path: Path) -> None:
    batch = rows()
    batch["Outcomes"] = batch.pop("outcome")
    with pytest.raises(InputError, match=r"no column 'outcome' \(did you mean 'Outcomes'\?\)"):
        fitted(tmp_path, batch)


def test_map_faults_are_all_listed(tmp_path: Path) -> None:
    column_map = ColumnMap(
        columns={
            "agee": ColumnSource(column="age"),
            "sex": ColumnSource(column="sex", values={"f": "femal"}),
            "outcome": ColumnSource(column="outcome", multiply=2),
            "patient": ColumnSource(column="patient", constant="x"),
        }
    )
    with pytest.raises(InputError) as caught:
        fitted(tmp_path, rows(), column_map=column_map)
    for part in ("'agee'", "did you mean 'age'", "did you mean 'female'", "only numbers are converted", "exactly one"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": ["0", "1"] * 10}, "all 20 values are out of vocabulary, such as '0', '1'; expected one of well"),
        ({"age": ["young", "old"] * 10}, "column 'age' .*all 20 values are unparsable"),
        ({"age": [1000.0] * 20}, "column 'age' .*all 20 values are out of range"),
        ({"outcome": [None] * 20}, "none of 20 rows can be used"),
        ({name: [] for name in ("age", "sex", "outcome", "patient")}, "no rows"),
        ({"age": ["1"]}, "different lengths"),
    ],
)
def test_hopeless_data_is_refused_and_leaves_nothing(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted(tmp_path, rows(**change))
    assert list(tmp_path.iterdir()) == []


def test_group_in_two_fields_is_reported(tmp_path: Path) -> None:
    contract = patients(fields=(FieldByColumn(column="sex"),))
    _, report = fitted(tmp_path, rows(patient=[f"p{number // 4}" for number in range(20)]), contract)
    assert report.straddling_groups == 5
    assert report.fields == {"female": 10, "male": 10}
    assert any("5 of 5 groups (patient) have records of different fields" in text for text in report.warnings)


def test_duplicates_are_counted_without_label_and_identifier(tmp_path: Path) -> None:
    _, report = fitted(tmp_path, rows(age=["50"] * 20))
    assert report.duplicates == 18
    assert any("repeat the content" in text for text in report.warnings)


def test_version_does_not_depend_on_batches_but_on_data_and_secret(tmp_path: Path) -> None:
    whole = rows()
    halves = [{name: values[:7] for name, values in whole.items()}, {name: v[7:] for name, v in whole.items()}]
    local = dict.fromkeys(whole, "text")
    versions = [
        fit(patients(), local, batches, ColumnMap(), tmp_path, secret).table.version
        for batches, secret in (([whole], SECRET), (halves, SECRET), ([whole], b"t" * 32), ([rows(10)], SECRET))
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_identifiers_are_keyed_and_groups_are_not(tmp_path: Path) -> None:
    local = dict.fromkeys(rows(), "text")
    tables = [fit(patients(), local, [rows()], ColumnMap(), tmp_path, secret).table for secret in (SECRET, b"t" * 32)]
    assert (tables[0].identifiers("patient") != tables[1].identifiers("patient")).all()
    assert (tables[0].groups == tables[1].groups).all()


@pytest.mark.parametrize("values", [[7, 8], np.array([7, 8]), np.array([7.0, 8.0]), ["7", " 8 "], [7.0, "8"]])
def test_numbers_written_in_any_way_are_one_category_and_one_identifier(tmp_path: Path, values: Any) -> None:
    contract = patients(
        columns=(
            CategoryColumn(name="digit", values=("7", "8")),
            CategoryColumn(name="outcome", values=("well", "ill")),
            IdentifierColumn(name="patient"),
        ),
        inputs=(CategoryInput(name="s", column="digit"),),
    )
    table, _ = fitted(tmp_path, {"digit": values, "patient": values, "outcome": ["well", "ill"]}, contract)
    assert table.categories("digit").tolist() == [0, 1]
    reference, _ = fitted(tmp_path, {"digit": ["7", "8"], "patient": ["7", "8"], "outcome": ["well", "ill"]}, contract)
    assert table.version == reference.version


def test_images_of_other_sizes_and_broken_ones_are_dropped_and_counted(tmp_path: Path) -> None:
    contract = DataContract(
        name="pictures",
        columns=(
            ImageColumn(name="image", channels=1, height=2, width=3),
            CategoryColumn(name="label", values=("a", "b")),
        ),
        inputs=(ImageInput(name="x", column="image"),),
        task=Classification(label="label"),
    )
    good = np.arange(6, dtype=np.uint8).reshape(2, 3)
    images = [good, good[..., None], good.T, Unreadable("cut short"), None, good.astype(np.int64) + 300]
    table, report = fitted(tmp_path, {"image": images, "label": ["a"] * 6}, contract)
    assert counts(report) == {
        ("image", "WRONG_SIZE"): 1,
        ("image", "UNPARSABLE"): 2,
        ("image", "MISSING"): 1,
    }
    assert report.dropped == {"no usable image (image)": 4}
    assert table.images("image").tolist() == [[good.tolist()]] * 2


def test_vector_is_made_of_columns_by_pattern_and_of_flattened_images(tmp_path: Path) -> None:
    contract = DataContract(
        name="vectors",
        columns=(VectorColumn(name="v", length=4), CategoryColumn(name="label", values=("0", "1"))),
        inputs=(VectorInput(name="x", column="v"),),
        task=Classification(label="label"),
    )
    values = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    flat = values.reshape(2, 4)
    spread = {f"p{place}": flat[:, place].astype(str).tolist() for place in range(4)} | {"label": [0, 1]}
    by_pattern = ColumnMap(columns={"v": ColumnSource(columns=("p*",))})
    one, _ = fitted(tmp_path, spread, contract, by_pattern)
    other, _ = fitted(tmp_path, {"v": values, "label": [0, 1]}, contract)
    ragged, report = fitted(tmp_path, {"v": [[1, 2, 3, 4], [1, 2], [1, None, 3, 4]], "label": [0, 1, 1]}, contract)
    assert one.version == other.version
    assert one.vectors("v").tolist() == flat.tolist()
    assert (ragged.rows, report.dropped) == (1, {"no usable vector (v)": 2})


def test_texts_are_kept_to_the_byte_and_empty_ones_dropped_where_they_are_the_task(tmp_path: Path) -> None:
    contract = DataContract(
        name="notes",
        columns=(TextColumn(name="note"),),
        inputs=(TokensInput(name="tokens", column="note", length=8),),
        task=LanguageModelling(input="tokens"),
    )
    table, report = fitted(tmp_path, {"note": ["naïve  ", "", None, "二", "NA"]}, contract)
    assert [table.texts("note").text(row) for row in range(table.rows)] == ["naïve  ", "二", "NA"]
    assert report.dropped == {"no text": 2}


def test_text_of_a_dropped_record_does_not_stay(tmp_path: Path) -> None:
    contract = patients(columns=(*patients().columns, TextColumn(name="note")))
    notes = [f"note {number}" for number in range(20)]
    outcomes = [None if number % 3 == 0 else "ill" for number in range(20)]
    table, _ = fitted(tmp_path, rows(note=notes, outcome=outcomes), contract)
    kept = [note for note, outcome in zip(notes, outcomes, strict=True) if outcome]
    assert [table.texts("note").text(row) for row in range(table.rows)] == kept
    assert bytes(table.texts("note").blob) == "".join(kept).encode()


def test_table_opens_again_read_only_and_damage_is_found(tmp_path: Path) -> None:
    table, _ = fitted(tmp_path, rows())
    again = MappedTable.open(table.folder)
    assert (again.numbers(["age"]) == table.numbers(["age"])).all()
    with pytest.raises(ValueError, match="read-only"):
        again.groups[0] = 1
    again.verify(SECRET)
    data = bytearray((table.folder / "numbers.npy").read_bytes())
    data[-1] ^= 1
    (table.folder / "numbers.npy").write_bytes(data)
    with pytest.raises(InputError, match=r"numbers\.npy is damaged"):
        MappedTable.open(table.folder).verify(SECRET)
    (table.folder / "numbers.npy").write_bytes(data[:-8])
    with pytest.raises(InputError, match="cannot be read"):
        MappedTable.open(table.folder)


def test_all_texts_empty_can_still_be_opened(tmp_path: Path) -> None:
    contract = patients(columns=(*patients().columns, TextColumn(name="note")))
    table, _ = fitted(tmp_path, rows(note=[""] * 20), contract)
    assert isinstance(table.texts("note"), TextArray)
    assert table.texts("note").text(3) == ""
