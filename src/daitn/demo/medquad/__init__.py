"""`daitn demo medquad`: section III of the paper on the real text of nine health institutes, each its own site.

One model copy per department moves from site to site. The encoder lies at the sites already and never travels; what it
makes of each text is computed once per site and wiped when the jobs have ended. The text is MedQuAD (CC BY 4.0), which
this package does not carry: `--data` says where it is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from daitn.demo.room import make_room

__all__ = ["run"]


def run(data: Path, out: Path, *, keep: bool = False, **setting: Any) -> int:
    """Perform, and write `out/report.json`, `out/report.html` and `out/models/…`; returns the exit code.

    `data`: the folder of MedQuAD; `setting`: see `play.Setting`; without its `base`, a folder with an encoder as
    transformers saves it, a small encoder is trained from nothing. 0: every admitted goal met, no process and no
    activation left.
    """
    from daitn.demo.board import Board
    from daitn.demo.medquad.closing import fulfilled, write_reports
    from daitn.demo.medquad.play import Play, Setting
    from daitn.demo.medquad.sites import PLACES

    work = make_room(out)
    board = Board(PLACES)
    with tempfile.TemporaryDirectory(prefix="daitn-demo-") as temporary, board:
        folder = work if keep else Path(temporary)
        recording = Play(folder, board, Setting(**setting)).perform(data, out / "models")
    for one in write_reports(recording, out):
        board.print(one)
    return 0 if fulfilled(recording) else 1
