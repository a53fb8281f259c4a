"""Files stay readable: around 400 lines each."""

from __future__ import annotations

from pathlib import Path

import pytest

import daitn

LINES_MOST = 450
"""Longest source file: what one can still read in one go."""

TOO_LONG = {
    "control_center/training/job.py": 740,
}
"""Files that are longer still, with the length they must not pass; one that is parted leaves this list."""

ROOT = Path(daitn.__file__).parent
LENGTHS = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize("path", [path for path, length in LENGTHS.items() if length > LINES_MOST or path in TOO_LONG])
def test_file_is_short_enough_to_read(path):
    assert LENGTHS[path] <= TOO_LONG.get(path, LINES_MOST), "part it: one noun per file"
    assert LENGTHS[path] > LINES_MOST, "it is short enough now: take it off the list"


def test_lengths_were_measured():
    assert len(LENGTHS) > 100
