"""What can be wrong with a report of facts, in the order in which it is looked for, and what is then done."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray


class Fault(IntEnum):
    """Why a record was not taken, or (`MARKS`) was taken with a change."""

    NONE = 0
    UNKNOWN = 1
    """It speaks of a thing that the map does not have."""
    FORGED = 2
    """The sender does not speak for that thing, or for that group of facts."""
    FLOOD = 3
    """The sender has used up its share of this second."""
    NOT_A_NUMBER = 4
    NEGATIVE = 5
    """Below zero, where nothing can be."""
    OUT_OF_RANGE = 6
    REPLAYED = 7
    """Its sequence is not newer than what the map holds: replayed or reordered."""
    UNDECODABLE = 8
    """A message that is none: another version, a group that does not exist, a length that does not fit."""
    CLOCK_SKEW = 9
    """Taken; its moment lies in the future, or further back than any delay: a moment in the future counts as now."""
    CLAIM_BOUNDED = 10
    """Taken; it claims more than was measured, and counts as the most that is believed."""
    NEWER_VERSION = 11
    """A message in a form that a newer version of the software writes: the domain's centre is updated first."""

    @property
    def label(self) -> str:
        """As counters and alarms call it."""
        return self.name.lower().replace("_", "-")


MARKS: Final = (Fault.CLOCK_SKEW, Fault.CLAIM_BOUNDED)
REFUSALS: Final = tuple(fault for fault in Fault if fault not in (Fault.NONE, *MARKS))

CULPRITS_MOST: Final = 16
"""Sources named for one fault of one batch; others are named by a later one."""

SKEW_AHEAD_NS: Final = 2_000_000_000
"""A moment this far ahead of the map's clock is skew: NTP keeps machines within tens of milliseconds."""

SKEW_BEHIND_NS: Final = 300_000_000_000
"""A report that took five minutes was delayed by something else than the network."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One record that had a fault, for the alarm that names it."""

    source: int
    row: int
    group: str
    fact: str = ""
    value: float = 0.0
    most: float = 0.0


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch."""

    rows: NDArray[np.int32]
    """Rows that changed, in the order of the batch; one that was reported twice is there twice."""
    counts: dict[Fault, int]
    """Records with each fault."""
    examples: dict[Fault, Example]
    """The first of each."""
    culprits: tuple[tuple[Fault, Example], ...] = ()
    """One example for each further source with a fault, so that one that has many does not hide the others."""
    part: int = 0
    """Which facts were told, as bits by place; 0: all."""
