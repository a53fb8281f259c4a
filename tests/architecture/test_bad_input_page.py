"""The table of bad input speaks of tests that exist and of counters that are declared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from daitn.base.metrics import is_declared

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "bad-input.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| case |")
]

UNCOUNTED = ("screen", "nothing is refused")
"""Why a row names no counter: the page says what each means."""


def test_page_has_its_rows():
    assert len(ROWS) > 40
    assert sum("`" in row[3] for row in ROWS) > 4 * len(ROWS) // 5, "most rows are refusals, and those are counted"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_names_tests_that_exist_and_counters_that_are_declared(row):
    assert len(row) == 5
    _, _, told, counter, tests = row
    assert told
    named = re.findall(r"`([^`]+)::([^`]+)`", tests)
    assert named, "every case has a test"
    for file, test in named:
        functions = {node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")}
        assert test in functions, f"{file} has no {test}"
    for name, value in re.findall(r"`(\w+)(?:\[([\w-]+)\])?`", counter):
        assert is_declared(name, value), counter
    assert "`" in counter or counter in UNCOUNTED, "what is refused is counted, or the page says why not"
