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


def free_bytes(folder: Path) -> int:
    """Free storage where the folder lies."""
    return shutil.disk_usage(folder).free
