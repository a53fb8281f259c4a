"""Spares: files of dropped packs, wiped and kept for the next ones, because fresh pages are dear.

Measured on a virtual machine: writing 100 MB into a new file takes 0.2 to 0.4 s, most of it for pages that the host has
to find; into a file whose pages are still cached, 0.03 s. A model that hops drops a pack and makes one of the same size
at each site, so the pages can go round. Small files are not worth it, and few are kept, since they hold room that
nothing uses.

A file only ever goes round within one job. A child may still have an old file mapped, or open for writing, when it gets
its next content; that must never be another owner's. Files are wiped, aside, before they are used again, and
deleted when their job ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from daitn.base.units import GIB, MIB

LEAST_BYTES: Final = 8 * MIB
"""Smaller files gain less than a millisecond."""

FILES: Final = 4
"""A node that trains and receives at the same time needs two; twice that for two jobs."""

MOST_BYTES: Final = 1 * GIB
"""Kept in all; beyond it a dropped file is deleted."""

NEAR: Final = 0.9
"""A spare may be a tenth smaller than what is needed; it then grows."""

_ZEROS: Final = bytes(4 * MIB)


class Spares:
    """See the module's docstring. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()  # of an earlier process, which may not have wiped it
        self._folder = folder
        self._lock = threading.Lock()
        self._ready: dict[Path, tuple[str, int]] = {}
        self._wiping: dict[Path, int] = {}
        """Size of each file that is being wiped."""
        self._ended: set[str] = set()
        self._number = 0
        self._wiper = ThreadPoolExecutor(1, thread_name_prefix="wipe")
        self._open = True

    @property
    def held_bytes(self) -> int:
        """Room that spares take on the disk."""
        with self._lock:
            return self._held()

    def drop(self, path: Path, job: str) -> None:
        """Delete a file, or keep it as a spare of `job` (empty: never); it is gone from `path` when this returns."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        with self._lock:
            keep = (
                bool(job)
                and self._open
                and size >= LEAST_BYTES
                and len(self._ready) < FILES
                and self._held() + size <= MOST_BYTES
            )
            self._number += 1
            spare = self._folder / str(self._number)
            if keep:
                self._wiping[spare] = size
        if not keep:
            path.unlink(missing_ok=True)
            return
        path.rename(spare)
        self._wiper.submit(self._wipe, spare, job, size)

    def take(self, path: Path, job: str, size: int) -> None:
        """Put a wiped spare of `job` at `path`, if there is one of about the size and `path` is free."""
        if not job or size < LEAST_BYTES or path.exists():
            return
        with self._lock:
            fitting = [
                (held, spare) for spare, (owner, held) in self._ready.items() if owner == job and held >= size * NEAR
            ]
            if not fitting:
                return
            _, spare = min(fitting)
            del self._ready[spare]
        os.truncate(spare, size)
        spare.rename(path)

    def clear(self, job: str = "") -> None:
        """Delete what is ready, of one job or of all: the job has ended, or the room is needed; of all, also what is
        being wiped."""
        with self._lock:
            gone = [spare for spare, (owner, _) in self._ready.items() if not job or owner == job]
            for spare in gone:
                del self._ready[spare]
            if job:
                self._ended.add(job)
            else:
                gone += self._wiping
                self._wiping.clear()
        for spare in gone:
            spare.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything."""
        with self._lock:
            self._open = False
        self._wiper.shutdown()
        self.clear()

    def _wipe(self, spare: Path, job: str, size: int) -> None:
        wiped = False
        with contextlib.suppress(OSError), spare.open("r+b", buffering=0) as file:
            for offset in range(0, size, len(_ZEROS)):
                if spare not in self._wiping:
                    break
                os.pwrite(file.fileno(), _ZEROS[: size - offset], offset)
            else:
                wiped = True
        with self._lock:
            waited_for = self._wiping.pop(spare, None) is not None
            if waited_for and wiped and self._open and job not in self._ended:
                self._ready[spare] = (job, size)
                return
        spare.unlink(missing_ok=True)

    def _held(self) -> int:
        return sum(size for _, size in self._ready.values()) + sum(self._wiping.values())
