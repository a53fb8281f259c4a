"""Units: the names that come last in identifiers, and how amounts are shown to people."""

from __future__ import annotations

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
KIB = 1024
MIB = 1024 * 1024
GIB = 1024 * 1024 * 1024


def seconds_to_ns(seconds: float) -> int:
    """Whole nanoseconds nearest to `seconds`."""
    return round(seconds * NS_PER_S)


def ns_to_seconds(nanoseconds: int) -> float:
    """Seconds as a float."""
    return nanoseconds / NS_PER_S


def show_bytes(count: float) -> str:
    """`12 B`, `3.4 kB`, `1.2 GB`: decimal units, as network people use them."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_seconds(seconds: float) -> str:
    """`0.4 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
