"""`daitn demo hospitals`: hospitals train two models together that none could train alone, on this machine.

Real processes on loopback, joined through the same commands that real sites use; scikit-learn's bundled data, no
download. Ends with a table, `report.json`, `report.html` and the trained packages, and with every process gone.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from daitn.base.errors import InputError

__all__ = ["run"]

_MARK: Final = ".daitn-demo"
"""File that says that a folder was made by a demonstration, whose results the next may replace."""


def run(out: Path, *, keep: bool = False, quick: bool = False) -> int:
    """Perform, and write `out/report.json`, `out/report.html` and `out/models/…`; returns the exit code.

    `keep`: leave the network's own files (logs, stores, data) in `out/work`. `quick`: without the baselines that the
    network would have to run. 0: every target met, every refusal true and its offer admitted, no process left.
    """
    from daitn.demo.hospitals.board import Board
    from daitn.demo.hospitals.closing import fulfilled, write_reports
    from daitn.demo.hospitals.play import run_play

    work = _make_room(out)
    board = Board()
    with tempfile.TemporaryDirectory(prefix="daitn-demo-") as temporary, board:
        folder = work if keep else Path(temporary)
        recording = run_play(folder, out / "models", board, quick=quick)
    for one in write_reports(recording, out):
        board.print(one)
    return 0 if fulfilled(recording) else 1


def _make_room(out: Path) -> Path:
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
