"""How old records are: dates in many forms, and a day that no single group's record decides."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daitn.describe.column_map import ColumnMap
from daitn.describe.conversion import as_moments
from daitn.describe.fit import fit
from daitn.describe.record_age import newest_day
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

DAY_S = 86_400.0
CONTRACT = DataContract(
    name="letters",
    columns=(
        IdentifierColumn(name="who"),
        NumberColumn(name="written", unit="unix_s"),
        CategoryColumn(name="ward", values=("heart", "lung")),
    ),
    inputs=(CategoryInput(name="w", column="ward"),),
    task=Classification(label="ward"),
    group="who",
)


def table_of(folder: Path, written: list[Any], groups: list[int] | None = None) -> MappedTable:
    """Records of these dates; each of a group of its own unless told otherwise."""
    who = groups if groups is not None else list(range(len(written)))
    rows = {
        "who": [f"p{one}" for one in who],
        "written": written,
        "ward": ["heart" if one % 2 else "lung" for one in range(len(written))],
    }
    return fit(CONTRACT, dict.fromkeys(rows, "text"), [rows], ColumnMap(), folder / "table", b"s" * 32).table


@pytest.mark.parametrize(
    "values",
    [
        ["1970-01-03", "1970-01-03T12:00:00+00:00", None],
        [date(1970, 1, 3), datetime(1970, 1, 3, 12, tzinfo=UTC), None],
        np.array(["1970-01-03", "1970-01-03T12", "NaT"], "datetime64[ms]"),
        [2 * DAY_S, "1970-01-03 13:00+01:00", None],
    ],
)
def test_dates_become_seconds_whatever_their_form(values):
    first, second, none = as_moments(values)

    assert (first, second) == (2 * DAY_S, 2.5 * DAY_S)
    assert none is None or np.isnan(none)


def test_text_that_is_no_date_stays_and_is_found_unparsable():
    assert as_moments(["yesterday", "9999999-01-01"]) == ["yesterday", "9999999-01-01"]


def test_day_told_is_one_that_enough_groups_stand_behind(tmp_path):
    old = [f"2026-01-{day:02d}" for day in range(1, 29)] * 10
    alone = ["2026-05-17"] * 3
    table = table_of(tmp_path, old + alone, [*range(len(old)), 999, 999, 999])

    told = newest_day(table, CONTRACT, Policy(newest_day=True, min_count=5))
    assert told.startswith("2026-01-2")
    assert newest_day(table, CONTRACT, Policy(min_count=5)) == ""
    assert newest_day(table, CONTRACT, Policy(newest_day=True, min_count=1000)) == ""


def test_records_without_dates_tell_no_day(tmp_path):
    table = table_of(tmp_path, [None] * 40)

    assert newest_day(table, CONTRACT, Policy(newest_day=True, min_count=1)) == ""
