"""Units: the names that come last in identifiers, and how amounts are shown to people."""

from __future__ import annotations

import re

from daitn.base.errors import InputError

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


_SIZES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB,
}  # fmt: skip


def parse_bytes(text: str) -> int:
    """`10GB`, `1.5 TiB`, `500000`: a size as people write it. InputError for anything else, or less than a byte."""
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([a-zA-Z]*)\s*", text)
    factor = _SIZES.get(found[2].lower()) if found else None
    size = round(float(found[1]) * factor) if found and factor else 0
    if size < 1:
        raise InputError(f"{text!r} is not a size", todo="write a number and a unit: 500MB, 10GB, 1.5TiB")
    return size


def show_seconds(seconds: float) -> str:
    """`0.4 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
