"""What is kept of a play that missed its bound: all logs, and a timeline of who waited for what.

The timeline tells, in seconds from the fault, what the centre recorded of the job and what each process logged; where
the centre recorded nothing for a while it says which visits were open, at which node, and since when.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from daitn.descriptors.job import LogEntry

BEFORE_S: Final = 4.0
AFTER_S: Final = 20.0
"""How much is told before a fault and after it."""

GAP_S: Final = 0.4
"""A silence of the centre's journal that is worth a line."""

DAY_S: Final = 86_400.0


class Told(NamedTuple):
    """One line of a timeline, so many seconds after the fault."""

    at_s: float
    who: str
    what: str


def keep_evidence(folder: Path, name: str, logs: Path, entries: Sequence[LogEntry], fault_unix_s: float) -> Path:
    """Copy all logs and write the timeline; returns the folder of this play."""
    words = "".join(one if one.isalnum() else " " for one in name).split()
    kept = folder / f"{'_'.join(words)}-{int(fault_unix_s)}"
    shutil.copytree(logs, kept, dirs_exist_ok=True)
    lines = [*_of_job(entries, fault_unix_s), *_of_logs(logs, fault_unix_s)]
    shown = sorted(line for line in lines if -BEFORE_S <= line.at_s <= AFTER_S)
    (kept / "timeline.txt").write_text("".join(f"{one.at_s:+8.3f}  {one.who:8s}  {one.what}\n" for one in shown))
    return kept


def _of_job(entries: Sequence[LogEntry], fault_unix_s: float) -> list[Told]:
    """The job's log, and what was open while it was silent."""
    told: list[Told] = []
    opened: dict[str, LogEntry] = {}
    last_s = fault_unix_s - BEFORE_S
    for entry in entries:
        if entry.unix_s - last_s > GAP_S and entry.unix_s > fault_unix_s - BEFORE_S:
            waiting = ", ".join(
                f"{visit.rpartition('/')[2]} at {one.node}, ordered {entry.unix_s - one.unix_s:.2f} s before"
                for visit, one in opened.items()
            )
            what = f"(silent for {entry.unix_s - last_s:.2f} s; open: {waiting or 'no visit'})"
            told.append(Told(entry.unix_s - fault_unix_s - 1e-4, "job", what))
        last_s = entry.unix_s
        if entry.visit:
            opened.pop(entry.visit, None)
            if entry.kind in ("ordered", "visit-ordered"):
                opened[entry.visit] = entry
        told.append(Told(entry.unix_s - fault_unix_s, "job", f"{entry.kind}: {entry.text}"))
    return told


def _of_logs(logs: Path, fault_unix_s: float) -> list[Told]:
    """What each process logged. Their lines tell the time of day."""
    midnight_s = time.mktime((*time.localtime(fault_unix_s)[:3], 0, 0, 0, 0, 0, -1))
    told: list[Told] = []
    for path in sorted(logs.glob("*.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            moment, _, what = line.partition(" ")
            try:
                hours, minutes, seconds = moment.split(":")
                unix_s = midnight_s + 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            except ValueError:
                continue
            at_s = unix_s - fault_unix_s
            told.append(Told(at_s + DAY_S if at_s < -DAY_S / 2 else at_s, path.stem, what))
    return told
