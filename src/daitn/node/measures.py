"""What a node measures of its own machine, instead of claiming it: speeds, memory, storage, load, energy.

Linux tells all but the speeds in files; where one is missing (another system, a container) the figure is 0 or unknown,
never guessed. The speeds are measured once, when the node starts; the rest costs a millisecond and is looked at often.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np

from daitn.descriptors.machine import Battery, EnergySource, MachineState

SIDE: Final = 384
"""Side of the matrices multiplied: they fit the second-level cache, and one product takes about a millisecond."""

REPEATS: Final = 8

COPY_BYTES: Final = 16 * 2**20
"""Copied to measure memory: beyond most second-level caches, 10 ms, and small beside what a visit takes."""

COPIES: Final = 3

ROOT: Final = Path("/")

UNLIMITED_BYTES: Final = 2**60
"""A control group without a limit says a number near this, or `max`."""


def measure_flops() -> float:
    """Floating-point operations per second of one thread multiplying float32 matrices: the best of a few, 20 ms."""
    left = np.ones((SIDE, SIDE), dtype=np.float32)
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2.0 * SIDE**3 / best


def measure_memory_rate() -> float:
    """Bytes per second that one thread copies in memory: the best of a few, 30 ms and 32 MiB for the time of it."""
    source = np.ones(COPY_BYTES // 8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return COPY_BYTES / best


def memory_bytes(root: Path = ROOT) -> int:
    """Memory this process may use: the machine's, or what its control group allows if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        _number(root / path) for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
    ]
    return min([physical, *(limit for limit in limits if limit is not None and 0 < limit < UNLIMITED_BYTES)])


def busy_frac() -> float:
    """Share of the processor cores that was in use over the last minute, 0 to 1."""
    return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def memory_free_bytes(root: Path = ROOT) -> int:
    """Memory that could be given out now without taking it from anybody, within what this process may use; all free
    pages where the system does not say more."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            used = _number(root / "sys/fs/cgroup/memory.current")
            return min(available, max(0, memory_bytes(root) - used)) if used is not None else available
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """Free storage where the folder lies."""
    return shutil.disk_usage(folder).free


def processor(root: Path = ROOT) -> str:
    """What the processor is called; empty where the system does not say."""
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()[:128]
    return platform.processor()[:128]


def cores() -> int:
    """Processors this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def accelerators(root: Path = ROOT) -> tuple[str, ...]:
    """Accelerators by name, as their kernel drivers list them; no library of theirs is loaded."""
    found: list[str] = []
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = next((line.partition(":")[2].strip() for line in _lines(card) if line.startswith("Model:")), "NVIDIA")
        found.append(model[:128])
    for node in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/name")):
        if (name := _text(node)) and _number(node.parent / "gpu_id"):
            found.append(name[:128])
    return tuple(found[:64])


def accelerator_memory_bytes(root: Path = ROOT) -> float | None:
    """Memory of all accelerators whose kernel driver lists it (AMD's does); None where none does."""
    sizes: list[int] = []
    for bank in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/mem_banks/*/properties")):
        if _number(bank.parents[2] / "gpu_id"):
            sizes += [int(line.split()[1]) for line in _lines(bank) if line.startswith("size_in_bytes ")]
    return float(sum(sizes)) if sizes else None


def runnable_frac() -> float:
    """Runnable threads over the processors there are, mean of the last minute."""
    try:
        return min(1e4, os.getloadavg()[0] / cores())
    except OSError:
        return 0.0


def energy(root: Path = ROOT) -> tuple[EnergySource, Battery | None]:
    """Where the power comes from, and the batteries together; unknown where the system lists no supply."""
    mains: list[bool] = []
    now = full = draw = watts = 0.0
    charging = False
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        kind = _text(supply / "type")
        if kind in ("Mains", "USB"):
            mains.append(_number(supply / "online") == 1)
        elif kind == "Battery" and _text(supply / "scope") != "Device":  # a mouse has a battery, too
            # In microwatt hours, or in microampere hours where the battery tells only those.
            for unit, rate in (("energy", "power_now"), ("charge", "current_now")):
                if (there := _number(supply / f"{unit}_full")) and (
                    left := _number(supply / f"{unit}_now")
                ) is not None:
                    now, full = now + left, full + there
                    drawn = abs(_number(supply / rate) or 0)
                    draw += drawn
                    # In microwatts, or microamperes times microvolts.
                    watts += drawn / 1e6 if unit == "energy" else drawn * (_number(supply / "voltage_now") or 0) / 1e12
                    break
            charging = charging or _text(supply / "status") in ("Charging", "Full")
    battery = None
    if full > 0:
        left_s = 3600.0 * now / draw if draw > 0 and not charging else None
        drawn_watts = watts if watts > 0 and not charging else None
        battery = Battery(charge_frac=min(1.0, now / full), charging=charging, left_s=left_s, draw_watts=drawn_watts)
    if any(mains) or charging:
        return EnergySource.MAINS, battery
    if battery is not None:
        return EnergySource.BATTERY, battery
    return (EnergySource.MAINS, None) if mains else (EnergySource.UNKNOWN, None)


def look(
    store: Path, *, flops: float, memory_bytes_per_s: float, slots: int, slots_free: int, root: Path = ROOT
) -> MachineState:
    """The machine now, with the speeds measured when the node started."""
    source, battery = energy(root)
    return MachineState(
        processor=processor(root),
        architecture=platform.machine()[:128],
        cores=cores(),
        memory_bytes=float(memory_bytes(root)),
        memory_free_bytes=float(memory_free_bytes(root)),
        storage_free_bytes=float(free_bytes(store)),
        accelerators=accelerators(root),
        flops=flops,
        memory_bytes_per_s=memory_bytes_per_s,
        load_frac=runnable_frac(),
        slots=slots,
        slots_free=slots_free,
        energy=source,
        battery=battery,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
