"""Hedging: a query that takes far longer than was expected is sent a second time, within a budget.

Tails come from hosts that slowed down or hang with queries already there, which no choice could know of. A second copy
elsewhere ends that; without a budget it would also double the load just when hosts are slow (J. Dean and L. Barroso
2013). Whoever hedges takes the first answer and withdraws the other copy. Pure.
"""

from __future__ import annotations

from typing import Final

from daitn.base.errors import InputError
from daitn.decision.query_route.choosing import Choice

SHARE: Final = 0.05
"""Copies, as a share of queries."""

SAVED_MOST: Final = 20.0
"""Copies that may be saved up."""

LATE_Z: Final = 1.5
"""A query is late by this many deviations of its completion."""


def hedge_after_s(choice: Choice, late_z: float = LATE_Z) -> float:
    """How long to wait for an answer, or the first piece of one that comes in pieces, before a second copy is worth it;
    seconds from the choice."""
    return choice.first_s + late_z * choice.first_deviation_s


class HedgeBudget:
    """What may be hedged: each query earns a share of a copy."""

    def __init__(self, share: float = SHARE, most: float = SAVED_MOST) -> None:
        if not 0 <= share <= 1 or most < 1:
            raise InputError(f"a hedging share of {share} with at most {most} saved")
        self._share, self._most, self._saved = share, most, 1.0

    def earn(self) -> None:
        """A query was sent for the first time."""
        self._saved = min(self._saved + self._share, self._most)

    def take(self) -> bool:
        """Whether a copy may be sent now; it is paid for if so."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
