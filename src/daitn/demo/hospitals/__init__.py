"""`daitn demo hospitals`: hospitals train two models together that none could train alone, on this machine.

Real processes on loopback, joined through the same commands that real sites use; scikit-learn's bundled data, no
download. Ends with a table, `report.json`, `report.html` and the trained packages, and with every process gone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from daitn.demo.room import make_room

__all__ = ["run"]


def run(out: Path, *, keep: bool = False, quick: bool = False) -> int:
    """Perform, and write `out/report.json`, `out/report.html` and `out/models/…`; returns the exit code.

    `keep`: leave the network's own files (logs, stores, data) in `out/work`. `quick`: without the baselines that the
    network would have to run. 0: every target met, every refusal true and its offer admitted, no process left.
    """
    from daitn.demo.board import Board
    from daitn.demo.hospitals.closing import fulfilled, write_reports
    from daitn.demo.hospitals.play import run_play
    from daitn.demo.hospitals.sites import PLACES

    work = make_room(out)
    board = Board(PLACES)
    with tempfile.TemporaryDirectory(prefix="daitn-demo-") as temporary, board:
        folder = work if keep else Path(temporary)
        recording = run_play(folder, out / "models", board, quick=quick)
    for one in write_reports(recording, out):
        board.print(one)
    return 0 if fulfilled(recording) else 1
