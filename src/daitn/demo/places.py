"""Places: the nodes of a demonstration as board and pictures show them."""

from __future__ import annotations

from typing import Final, NamedTuple


class Place(NamedTuple):
    """A node: name, what it is, and where it is drawn (0–100 each way)."""

    name: str
    what: str
    x: float
    y: float


CENTER_AT: Final = (50.0, 4.0)
"""Where the control centre is drawn."""
