"""What a node measures of its own machine, instead of claiming it: speed, memory, storage."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np

SIDE: Final = 384
"""Side of the matrices multiplied: they fit the second-level cache, and one product takes about a millisecond."""

REPEATS: Final = 8


def measure_flops() -> float:
    """Floating-point operations per second of one thread multiplying float32 matrices: the best of a few, 20 ms."""
    left = np.ones((SIDE, SIDE), dtype=np.float32)
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2.0 * SIDE**3 / best


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def busy_frac() -> float:
    """Share of the processor cores that was in use over the last minute, 0 to 1."""
    return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def memory_free_bytes() -> int:
    """Memory that could be given out now without taking it from anybody; all free pages where the system does not say
    more."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """Free storage where the folder lies."""
    return shutil.disk_usage(folder).free
