"""The folder of a demonstration's results: made, or cleared of an earlier one's, and of nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from daitn.base.errors import InputError

_MARK: Final = ".daitn-demo"
"""File that says that a folder was made by a demonstration, whose results the next may replace."""


def make_room(out: Path) -> Path:
    """Make the folder, or clear an earlier demonstration's results from it; returns where the work may stay.

    InputError where the folder holds something else: nothing is removed that was not made here.
    """
    if out.exists() and not (out / _MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and not of an earlier demonstration", todo="choose another folder: --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    for old in ("models", "work"):
        shutil.rmtree(out / old, ignore_errors=True)
    for name in ("report.json", "report.html", "recording.json"):
        (out / name).unlink(missing_ok=True)
    return out / "work"
