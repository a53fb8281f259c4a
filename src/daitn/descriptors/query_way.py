"""How the hosts of one query were chosen, as whoever asked it is told. Nothing of what it asked or was answered."""

from __future__ import annotations

import msgspec


class HostWeighed(msgspec.Struct, frozen=True, kw_only=True):
    """A host as a choice saw it. Milliseconds."""

    host: str
    held_back_by: str = ""
    """The first condition that it did not meet; empty: it could be chosen."""
    cost_ms: float
    """What choices are made by: completion, more for the queue, and for doubt."""
    path_ms: float
    queue_ms: float
    service_ms: float
    deviation_ms: float
    report_age_s: float
    price: float | None
    """None: its operator states none."""
    correct: float


class StepShown(msgspec.Struct, frozen=True, kw_only=True):
    """One host that was asked."""

    host: str
    why: str
    predicted_ms: float
    came: str
    hosts: tuple[HostWeighed, ...]
    """All hosts at the moment of that choice, the best first."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How one query went."""

    query: str
    took_ms: float
    outcome: str
    steps: tuple[StepShown, ...]
