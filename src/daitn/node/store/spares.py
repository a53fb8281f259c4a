"""Spares: files of dropped packs, wiped and kept for the next ones, because fresh pages are dear.

Measured on a virtual machine: writing into a new file takes 2 to 4 s a GB while the host has to find its pages, 0.13 s
if they were given back a moment ago, and 0.10 s into a file whose pages are still cached. A model that hops drops a
pack and makes one of the same size at each site, so the pages can go round. Small files are not worth it, and few are
kept, and not for long, since they hold room that nothing uses.

A child may still have an old file mapped, or open for writing, when it gets its next content; that must never be
another owner's. So a file goes from one job to another only if the kernel says, before it is wiped, that nobody but
this node has it open or mapped (`files.is_alone`); nobody can open it afterwards, since its folder is closed to all
others. One that somebody still has is wiped too, and goes round within its job; when the job ends, it is tried again,
and deleted if that somebody is still there.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from daitn.base.units import MIB
from daitn.node.store import files

LEAST_BYTES: Final = 8 * MIB
"""Smaller files gain less than a millisecond."""

FILES: Final = 8
"""A node that trains and receives at the same time needs two; twice that for two jobs, and as many being wiped."""

QUOTA_SHARE: Final = 4
MEMORY_SHARE: Final = 4
DISK_SHARE: Final = 8
"""Spares take at most these parts of the store's quota, of the machine's memory (beyond it their pages would not stay),
and of what would be free without them on the disk, which other nodes may share."""

KEPT_S: Final = 600.0
"""One that nobody needed for so long goes."""

NEAR: Final = 0.9
"""A spare may be a tenth smaller than what is needed; it then grows."""

WASTE: Final = 2
"""It may be so many times as large; the rest is cut off."""

_ZEROS: Final = bytes(4 * MIB)


class _Spare(NamedTuple):
    size: int
    job: str
    """Whose next artifacts may have it; empty: anyone's."""
    since_s: float


class Spares:
    """See the module's docstring. Thread-safe; the wiping is done by a thread of its own."""

    def __init__(self, folder: Path, quota_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()  # of an earlier process, which may not have wiped it
        self._folder = folder
        self._clock = clock
        self._most_bytes = min(quota_bytes // QUOTA_SHARE, files.memory_bytes() // MEMORY_SHARE)
        self._lock = threading.Lock()
        self._ready: dict[Path, _Spare] = {}
        """Wiped, the oldest first."""
        self._wiping: dict[Path, _Spare] = {}
        self._number = 0
        self._work: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._wiper: threading.Thread | None = None
        self._open = True

    @property
    def held_bytes(self) -> int:
        """Room that spares take on the disk."""
        with self._lock:
            return self._held()

    def drop(self, path: Path, job: str = "") -> None:
        """Delete a file, or keep it as a spare; it is gone from `path` when this returns.

        `job`: whose it is for as long as others may still have it open; with none it is then deleted.
        """
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        with self._lock:
            gone, keep = self._make_place(size)
            self._number += 1
            spare = self._folder / str(self._number)
            if keep:
                self._wiping[spare] = _Spare(size, job, self._clock())
        for old in gone:
            old.unlink(missing_ok=True)
        if not keep:
            path.unlink(missing_ok=True)
            return
        path.rename(spare)
        self._wipe_aside([spare])

    def take(self, path: Path, job: str, size: int) -> None:
        """Put a wiped spare at `path`, if there is one of about the size for that job and `path` is free."""
        if size < LEAST_BYTES or path.exists():
            return
        with self._lock:
            fitting = [
                (one.size, spare)
                for spare, one in self._ready.items()
                if one.job in ("", job) and size * NEAR <= one.size <= size * WASTE
            ]
            if not fitting:
                return
            _, spare = min(fitting)
            del self._ready[spare]
        os.truncate(spare, size)
        spare.rename(path)

    def end_job(self, job: str) -> None:
        """What was kept for this job is anyone's if nobody has it open any more; else it is deleted."""
        with self._lock:
            mine = [spare for spare, one in self._ready.items() if job and one.job == job]
            for spare in mine:
                self._wiping[spare] = self._ready.pop(spare)._replace(job="")
            for spare, one in self._wiping.items():
                if one.job == job:
                    self._wiping[spare] = one._replace(job="")
        self._wipe_aside(mine)

    def give_way(self, needed_bytes: int) -> None:
        """Delete as many as hold this room, the oldest first, what is still being wiped last."""
        gone: list[Path] = []
        with self._lock:
            for kept in (self._ready, self._wiping):
                while kept and needed_bytes > 0:
                    spare = next(iter(kept))
                    needed_bytes -= kept.pop(spare).size
                    gone.append(spare)
        for spare in gone:
            spare.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything; nothing is kept any more."""
        with self._lock:
            self._open = False
            wiper, self._wiper = self._wiper, None
            held = self._held()
        self.give_way(held)
        if wiper is not None:
            self._work.put(None)
            wiper.join()

    def _make_place(self, size: int) -> tuple[list[Path], bool]:
        """Whether a file of this size may be kept, and the older ones that go for it."""
        most_bytes = min(self._most_bytes, (self._held() + files.free_bytes(self._folder)) // DISK_SHARE)
        if not self._open or not LEAST_BYTES <= size <= most_bytes:
            return [], False
        gone: list[Path] = []
        while self._ready and (self._count() >= FILES or self._held() + size > most_bytes):
            gone.append(next(iter(self._ready)))
            del self._ready[gone[-1]]
        return gone, self._count() < FILES and self._held() + size <= most_bytes

    def _wipe_aside(self, spares: list[Path]) -> None:
        with self._lock:
            if self._open and self._wiper is None and spares:
                self._wiper = threading.Thread(target=self._run, name="wipe", daemon=True)
                self._wiper.start()
        for spare in spares:
            self._work.put(spare)

    def _run(self) -> None:
        """Wipe what is handed over, one after the other; delete what has waited too long."""
        while True:
            try:
                spare = self._work.get(timeout=self._next_s())
            except queue.Empty:
                self._expire()
                continue
            if spare is None:
                return
            self._wipe(spare)

    def _next_s(self) -> float | None:
        with self._lock:
            oldest = min((one.since_s for one in self._ready.values()), default=None)
        return None if oldest is None else max(0.1, oldest + KEPT_S - self._clock())

    def _expire(self) -> None:
        with self._lock:
            before_s = self._clock() - KEPT_S
            gone = [spare for spare, one in self._ready.items() if one.since_s <= before_s]
            for spare in gone:
                del self._ready[spare]
        for spare in gone:
            spare.unlink(missing_ok=True)

    def _wipe(self, spare: Path) -> None:
        alone = wiped = False
        try:
            with spare.open("r+b", buffering=0) as file:
                alone = files.is_alone(file.fileno())
                with self._lock:
                    one = self._wiping.get(spare)
                if one is not None and (alone or one.job):
                    wiped = self._write_zeros(spare, file.fileno(), one.size)
        except OSError:  # it is deleted below
            pass
        with self._lock:
            one = self._wiping.pop(spare, None)
            if one is not None and wiped and self._open and (alone or one.job):
                self._ready[spare] = one._replace(job="" if alone else one.job, since_s=self._clock())
                return
        spare.unlink(missing_ok=True)

    def _write_zeros(self, spare: Path, fd: int, size: int) -> bool:
        """Whether all of it was wiped; not if it is no longer wanted."""
        for offset in range(0, size, len(_ZEROS)):
            if spare not in self._wiping:
                return False
            os.pwrite(fd, memoryview(_ZEROS)[: size - offset], offset)
        return True

    def _count(self) -> int:
        return len(self._ready) + len(self._wiping)

    def _held(self) -> int:
        return sum(one.size for one in (*self._ready.values(), *self._wiping.values()))
