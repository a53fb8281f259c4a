"""Leak check: this process becomes the reaper of everything it starts, so that what outlives its parent is seen.

A process whose parent has died is handed to the nearest reaper among its ancestors; without one it goes to init and
nobody knows any more where it came from. Linux only; elsewhere nothing is claimed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36

GONE_S = 5.0
"""How long what is ending may take: a killed node's sandbox ends when its tether has seen it, within milliseconds."""


def adopt_orphans() -> None:
    """From now on, orphaned descendants are children of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def running_children() -> dict[int, str]:
    """Process id → command of this process's children, adopted ones included, that have not ended."""
    found: dict[int, str] = {}
    for task in os.listdir("/proc/self/task") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            for pid in map(int, Path(f"/proc/self/task/{task}/children").read_text().split()):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    found[pid] = (
                        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    )
    return found


def left_over(before: dict[int, str]) -> list[str]:
    """Children that were not there before and do not end in time; they are killed, and named."""
    give_up = time.monotonic() + GONE_S
    while (left := running_children().keys() - before.keys()) and time.monotonic() < give_up:
        time.sleep(0.01)
    commands = running_children()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid} {commands.get(pid, '')[:160]}" for pid in sorted(left)]
