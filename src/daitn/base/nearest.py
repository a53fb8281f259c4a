"""The nearest known names to one that is not known: what every error about a wrong name ends with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

LISTED: Final = 40
"""Names listed where none is near: a kind's facts are about so many."""


def nearest_known(name: str, known: Iterable[str]) -> str:
    """A hint: up to three near names, or all where none is near."""
    names = sorted(known)
    if near := get_close_matches(name[:80], names, n=3, cutoff=0.5):
        return "did you mean " + ", ".join(near) + "?"
    return "known: " + ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
