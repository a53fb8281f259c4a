"""Splits: groups stay whole, all sites agree, whatever the order, the batches and the site."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.describe.column_map import ColumnMap
from daitn.describe.fit import fit
from daitn.describe.splits import held_out_mask, held_out_rows, sample_rows, split_positions, training_rows
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    IdentifierColumn,
    NumberColumn,
)
from daitn.descriptors.policy import Policy


def contract(group: str = "who", test_frac: float = 0.3) -> DataContract:
    return DataContract(
        name="c",
        columns=(
            NumberColumn(name="x"),
            CategoryColumn(name="label", values=("a", "b")),
            IdentifierColumn(name="who"),
        ),
        inputs=(CategoryInput(name="l", column="label"),),
        task=Classification(label="label"),
        group=group,
        test_frac=test_frac,
    )


Row = tuple[str, float, str]
whos = st.text(st.characters(codec="utf-8", exclude_categories=("Zs", "Cc")), min_size=1, max_size=6).filter(
    lambda text: text.strip() not in ColumnMap().missing
)
rows = st.lists(
    st.tuples(whos, st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from("ab")),
    min_size=1,
    max_size=40,
)
quick = settings(max_examples=40, deadline=None)


def table_of(data: list[Row], which: DataContract, secret: bytes, folder: str, batch_rows: int = 7) -> MappedTable:
    batches: list[dict[str, list[Any]]] = [
        {"who": [row[0] for row in part], "x": [row[1] for row in part], "label": [row[2] for row in part]}
        for part in (data[start : start + batch_rows] for start in range(0, len(data), batch_rows))
    ]
    local = {"who": "text", "x": "number", "label": "text"}
    return fit(which, local, batches, ColumnMap(), Path(folder), secret).table


@quick
@given(rows, st.floats(0.05, 0.95))
def test_group_never_straddles(data: list[Row], test_frac: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        which = contract(test_frac=test_frac)
        held_out = held_out_mask(table_of(data, which, b"s" * 32, folder), which)
        sides: dict[str, set[bool]] = {}
        for row, side in zip(data, held_out.tolist(), strict=True):
            sides.setdefault(row[0].strip(), set()).add(side)
        assert all(len(side) == 1 for side in sides.values())


@quick
@given(rows, st.randoms(use_true_random=False), st.integers(1, 50), st.sampled_from(["who", ""]))
def test_split_is_the_same_on_any_site_in_any_order(data: list[Row], random: Any, batch: int, group: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        which = contract(group)
        shuffled = list(data)
        random.shuffle(shuffled)
        part = shuffled[: max(1, len(shuffled) // 2)]
        whole = table_of(data, which, b"s" * 32, folder)
        there = table_of(part, which, b"t" * 32, folder, batch)
        here = dict(zip([_key(row) for row in data], split_positions(whole, which).tolist(), strict=True))
        for row, position in zip(part, split_positions(there, which).tolist(), strict=True):
            assert here[_key(row)] == position


def _key(row: Row) -> Any:
    return (row[0], row[1] + 0.0, row[2])


@quick
@given(rows, st.floats(0, 1), st.floats(0.05, 0.95))
def test_sample_is_of_whole_held_out_groups_and_within_the_policy(
    data: list[Row], sample_frac: float, test_frac: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        which = contract(test_frac=test_frac)
        table = table_of(data, which, b"s" * 32, folder)
        sample = sample_rows(table, which, Policy(sample_frac=sample_frac))
        assert len(sample) <= sample_frac * len(data) + 1e-6
        assert np.isin(sample, held_out_rows(table, which)).all()
        assert not np.isin(table.groups[sample], table.groups[training_rows(table, which)]).any()
        rest = np.setdiff1d(np.arange(table.rows), sample)
        assert not np.isin(table.groups[sample], table.groups[rest]).any()


def test_duplicates_stay_together_without_groups_even_with_other_labels(tmp_path: Path) -> None:
    data: list[Row] = [(f"w{number}", float(number % 50), "ab"[number // 50 % 2]) for number in range(200)]
    held_out = held_out_mask(table_of(data, contract(""), b"s" * 32, str(tmp_path)), contract(""))
    assert (held_out[:50] == held_out[50:100]).all()
    assert (held_out[:50] == held_out[150:]).all()


def test_share_held_out_is_near_the_contracts_and_nested(tmp_path: Path) -> None:
    data: list[Row] = [(f"w{number}", float(number), "a") for number in range(4000)]
    table = table_of(data, contract(), b"s" * 32, str(tmp_path), 1000)
    small, large = (held_out_mask(table, contract(test_frac=share)) for share in (0.1, 0.3))
    # 4000 groups: standard deviation 0.0047 and 0.0072; the digests are fixed, so this never changes.
    assert abs(small.mean() - 0.1) < 0.015
    assert abs(large.mean() - 0.3) < 0.022
    assert not (small & ~large).any()


def test_sample_never_exceeds_the_policy_with_uneven_groups(tmp_path: Path) -> None:
    data: list[Row] = [(f"w{number}", float(number), "a") for number in range(60) for _ in range(1 + number % 7)]
    table = table_of(data, contract(), b"s" * 32, str(tmp_path), 1000)
    held_out = len(held_out_rows(table, contract()))
    for percent in range(1, 100):
        sample = sample_rows(table, contract(), Policy(sample_frac=percent / 100))
        room = percent * len(data) // 100
        assert min(room, held_out) - 6 <= len(sample) <= room


def test_sample_fills_what_the_policy_allows(tmp_path: Path) -> None:
    data: list[Row] = [(f"w{number}", float(number), "a") for number in range(1000)]
    table = table_of(data, contract(), b"s" * 32, str(tmp_path), 1000)
    assert len(sample_rows(table, contract(), Policy(sample_frac=0.1))) == 100
    assert len(sample_rows(table, contract(), Policy(sample_frac=1.0))) == len(held_out_rows(table, contract()))
    assert len(sample_rows(table, contract(), Policy())) == 0
