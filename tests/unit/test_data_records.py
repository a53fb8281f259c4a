"""Columns as named input arrays, and records that travel as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import DataSetId
from daitn.describe.column_map import ColumnMap
from daitn.describe.fit import fit
from daitn.describe.table import MappedTable
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
    TextColumn,
    TokensInput,
    VectorColumn,
    VectorInput,
    check_contract,
)
from daitn.descriptors.fitting import input_specs, record_bytes
from daitn.learning.records import (
    encode_inputs,
    encode_labels,
    encode_records,
    records_from_tensors,
    records_to_tensors,
)

DATASET = DataSetId("clinic/mixed")


def mixed(**changes: Any) -> DataContract:
    values: dict[str, Any] = {
        "name": "mixed",
        "columns": (
            NumberColumn(name="a"),
            NumberColumn(name="b"),
            VectorColumn(name="v", length=4),
            CategoryColumn(name="kind", values=("red", "blue")),
            ImageColumn(name="image", channels=1, height=2, width=2),
            TextColumn(name="text"),
            CategoryColumn(name="label", values=("no", "yes", "perhaps")),
            IdentifierColumn(name="who"),
        ),
        "inputs": (
            NumbersInput(name="numbers", columns=("b", "a"), center=(1.0, 0.0), scale=(2.0, 1.0), missing=-9.0),
            VectorInput(name="vector", column="v", center=1.0, scale=0.5, shape=(2, 2)),
            CategoryInput(name="kind", column="kind"),
            ImageInput(name="image", column="image", center=0.5, scale=0.25),
            TokensInput(name="tokens", column="text", length=4, padding=0, mask="mask"),
        ),
        "task": Classification(label="label"),
        "group": "who",
        "fields": (
            FieldByColumn(column="kind"),
            FieldByValues(name="sure", column="label", values=("no", "yes")),
        ),
    }
    contract = DataContract(**values | changes)
    check_contract(contract)
    return contract


@pytest.fixture
def table(tmp_path: Path) -> MappedTable:
    rows: dict[str, list[Any]] = {
        "a": [1.0, None, 3.0],
        "b": [5, 7, 9],
        "v": [[0, 1, 2, 3], [1, 1, 1, 1], [2, 2, 2, 2]],
        "kind": ["blue", None, "red"],
        "image": [np.full((2, 2), level, dtype=np.uint8) for level in (0, 255, 51)],
        "text": ["hé", "abcdef", ""],
        "label": ["yes", "perhaps", "no"],
        "who": ["p1", "p2", "p1"],
    }
    return fit(mixed(), dict.fromkeys(rows, "text"), [rows], ColumnMap(), tmp_path, b"s" * 32).table


def test_inputs_are_what_the_contract_says(table: MappedTable) -> None:
    arrays = encode_inputs(table, mixed(), np.array([0, 1, 2]))
    assert arrays["numbers"].tolist() == [[2, 1], [3, -9], [4, 3]]
    assert arrays["vector"].tolist()[0] == [[-2, 0], [2, 4]]
    assert arrays["kind"].tolist() == [1, 2, 0]
    assert arrays["image"][:, 0, 0, 0].tolist() == pytest.approx([-2, 2, -1.2])
    assert arrays["tokens"].tolist() == [
        [ord("h") + 1, 0xC3 + 1, 0xA9 + 1, 0],
        [ord("a") + 1, ord("b") + 1, ord("c") + 1, ord("d") + 1],
        [0, 0, 0, 0],
    ]
    assert arrays["mask"].sum(axis=1).tolist() == [3, 4, 0]


def test_rows_are_picked_in_any_order_with_repeats(table: MappedTable) -> None:
    whole = encode_inputs(table, mixed(), np.arange(3))
    picked = encode_inputs(table, mixed(), np.array([2, 0, 2]))
    for name, array in whole.items():
        assert (picked[name] == array[[2, 0, 2]]).all(), name


def test_shapes_and_types_are_those_of_the_specs(table: MappedTable) -> None:
    arrays = encode_inputs(table, mixed(), np.array([1]))
    assert list(arrays) == [spec.name for spec in input_specs(mixed())]
    for spec in input_specs(mixed()):
        assert (arrays[spec.name].dtype.name, arrays[spec.name].shape) == (spec.dtype, (1, *spec.shape))
    labels = encode_labels(table, mixed(), np.array([1]))
    assert labels is not None
    assert record_bytes(mixed()) == sum(array.nbytes for array in arrays.values()) + labels.nbytes


def test_labels_and_fields(table: MappedTable) -> None:
    records = encode_records(table, mixed(), np.array([2, 1, 0]), DATASET)
    assert records.labels is not None
    assert records.labels.tolist() == [0, 2, 1]
    assert mixed().field_names() == ("red", "blue", "sure")
    assert records.fields.tolist() == [[True, False, True], [False, False, False], [False, True, True]]
    assert records.groups.tolist() == [0, 1, 0]
    assert records.size == 3


def test_another_vocabulary_is_mapped_by_value(table: MappedTable) -> None:
    columns = list(mixed().columns)
    columns[6] = CategoryColumn(name="label", values=("never", "perhaps", "yes", "no"))
    labels = encode_labels(table, mixed(columns=tuple(columns)), np.arange(3))
    assert labels is not None
    assert labels.tolist() == [2, 1, 3]
    columns[6] = CategoryColumn(name="label", values=("no", "yes"))
    with pytest.raises(InputError, match="1 of 3 records have a label"):
        encode_labels(table, mixed(columns=tuple(columns)), np.arange(3))


def test_missing_category_stays_missing_in_another_vocabulary(table: MappedTable) -> None:
    columns = list(mixed().columns)
    columns[3] = CategoryColumn(name="kind", values=("blue", "green", "red"))
    contract = mixed(columns=tuple(columns))
    assert encode_inputs(table, contract, np.arange(3))["kind"].tolist() == [0, 3, 2]
    fields = encode_records(table, contract, np.arange(3), DATASET).fields
    assert fields[1, :3].tolist() == [False, False, False]


def test_regression_label_is_scaled(table: MappedTable) -> None:
    contract = mixed(task=Regression(label="b", center=5.0, scale=2.0))
    labels = encode_labels(table, contract, np.arange(3))
    assert labels is not None
    assert labels.dtype == np.float32
    assert labels.tolist() == [0, 1, 2]


def test_number_beyond_float32_counts_as_missing(tmp_path: Path) -> None:
    contract = mixed(inputs=(NumbersInput(name="x", columns=("a",), missing=7.0),))
    rows = {name: [value] for name, value in zip([c.name for c in contract.columns], _one_record(), strict=True)}
    rows["a"] = [1e300]
    table = fit(contract, dict.fromkeys(rows, "text"), [rows], ColumnMap(), tmp_path, b"s" * 32).table
    assert encode_inputs(table, contract, np.array([0]))["x"].tolist() == [[7]]


def _one_record() -> list[Any]:
    return [1.0, 2.0, [0, 0, 0, 0], "red", np.zeros((2, 2), dtype=np.uint8), "t", "no", "p"]


def test_tokenizer_file_is_used_when_its_digest_is_right(table: MappedTable) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 3, "abcdef": 5}, unk_token="[UNK]")
    data = tokenizers.Tokenizer(model).to_str().encode()
    digest = blake3(data).hexdigest()
    contract = mixed(inputs=(TokensInput(name="t", column="text", tokenizer=digest, length=2, padding=1, mask="m"),))
    arrays = encode_inputs(table, contract, np.arange(3), {digest: data})
    assert arrays["t"].tolist() == [[3, 1], [5, 1], [1, 1]]
    assert arrays["m"].tolist() == [[1, 0], [1, 0], [0, 0]]
    with pytest.raises(InputError, match="not at hand"):
        encode_inputs(table, contract, np.arange(3))
    with pytest.raises(InputError, match="another or damaged"):
        encode_inputs(table, contract, np.arange(3), {digest: data + b" "})


def test_records_travel_and_come_back_equal(table: MappedTable) -> None:
    records = encode_records(table, mixed(), np.arange(3), DATASET)
    tensors = records_to_tensors(records)
    assert {"input/numbers", "input/mask", "label", "fields", "group"} <= set(tensors)
    again = records_from_tensors(tensors, mixed(), DATASET)
    for name, array in records.inputs.items():
        assert (again.inputs[name] == array).all()
    assert again.labels is not None
    assert (again.labels == records.labels).all()
    assert (again.fields == records.fields).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("label", lambda a: a + 3, "'label' has 5, the most is 2"),
        ("label", lambda a: a - 9, "the least is 0"),
        ("label", lambda a: a.astype(np.int32), "type int32"),
        ("input/numbers", lambda a: a[:, :1], "shape"),
        ("input/numbers", lambda a: a * np.float32("nan"), "not finite"),
        ("input/tokens", lambda a: a + 256, "the most is 256"),
        ("input/kind", lambda a: a + 1, "the most is 2"),
        ("fields", lambda a: a[:2], "number of records differs"),
        ("group", lambda a: None, "'group' is missing"),
        ("input/extra", lambda a: np.zeros(3), "'input/extra' is not in the contract"),
    ],
)
def test_records_that_do_not_fit_are_the_peers_fault(table: MappedTable, name: str, change: Any, message: str) -> None:
    tensors = records_to_tensors(encode_records(table, mixed(), np.arange(3), DATASET))
    changed = change(tensors.get(name))
    if changed is None:
        del tensors[name]
    else:
        tensors[name] = changed
    with pytest.raises(PeerError, match=message):
        records_from_tensors(tensors, mixed(), DATASET)
