"""Files stay readable: around 400 lines each."""

from __future__ import annotations

from pathlib import Path

import daitn

LINES_MOST = 450
"""Longest source file: what one can still read in one go."""

ROOT = Path(daitn.__file__).parent
LENGTHS = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}


def test_files_are_short_enough_to_read():
    too_long = {path: length for path, length in LENGTHS.items() if length > LINES_MOST}

    assert not too_long, "part them: one noun per file"


def test_lengths_were_measured():
    assert len(LENGTHS) > 100
