"""Trust as people see it: what was seen of a node, and how its score changed with it (`topology.trust` keeps it)."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Evidence(StrEnum):
    """What was seen of a node."""

    KEPT = "promise-kept"
    """A visit was accepted."""
    BROKEN = "promise-broken"
    """A visit was lost: silence, a crash, a result that does not answer the order."""
    REFUTED = "claim-refuted"
    """It said of itself or signed what is not so."""
    HELPED = "model-improved"
    """A verification unit found the model better after its visit."""
    HARMED = "model-harmed"
    """A verification unit found the model so much worse that it was rolled back."""
    VANISHED = "vanished"
    """Its presence was lost while it was enrolled."""


class TrustChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a score."""

    at_unix_s: float
    kind: Evidence
    why: str
    before: float
    after: float
