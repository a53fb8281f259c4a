"""What the orchestrator has learnt of facts: how each wanders and jumps, how wide it spreads, how near decisions are to
it.

Learnt from what sites tell and from the ranges that decisions come with; `topology.tuning` makes thresholds of it. Sums
fade with time, so that what a fact did yesterday does not decide what is told of it today.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from daitn.describe.reporting import GroupShape
from daitn.descriptors.reporting import GroupTuning, Reading, amount_of

Key = tuple[str, int]
"""A thing and the number of a group."""

SMOOTHING: Final = 0.1
"""Weight of a new value in a fact's running mean and variance."""

MARGINS: Final = 16
"""Margins of recent decisions that a fact's loss is made of."""


class WatchedFact:
    """What is known of one fact of one thing."""

    __slots__ = ("jump", "margins", "mean", "seconds", "squares", "variance")

    def __init__(self, value: float) -> None:
        self.mean = value
        self.variance = 0.0
        self.jump = 0.0
        """How far it moves at once: thresholds below that save nothing."""
        self.squares = 0.0
        self.seconds = 0.0
        self.margins: deque[tuple[float, float]] = deque(maxlen=MARGINS)
        """Of recent decisions: distance to the range's edge, and loss for each unit beyond."""

    @property
    def wander(self) -> float:
        """Squared units per second."""
        return self.squares / self.seconds if self.seconds > 0 else 0.0

    def told(self, before: float, now: float, seconds: float, fade: float, move: float) -> None:
        """Another value, `seconds` after the one before; `move`: the threshold in force. What it is seen to move when
        it is told for it bounds its jumps from above, and is one where there is no threshold."""
        far = abs(now - before)
        if move < far < math.inf:
            if self.jump <= 0 or far < self.jump:
                self.jump = far if self.jump <= 0 else (self.jump + far) / 2
            elif move <= 0:
                self.jump += SMOOTHING / 2 * (far - self.jump)
        if math.isfinite(now) and math.isfinite(before):
            self.squares = self.squares * fade + (now - before) ** 2
            self.seconds = self.seconds * fade + seconds
            off = now - self.mean if math.isfinite(self.mean) else 0.0
            self.mean = self.mean + SMOOTHING * off if math.isfinite(self.mean) else now
            self.variance = (1 - SMOOTHING) * (self.variance + SMOOTHING * off * off)


class WatchedGroup:
    """One group of one thing."""

    __slots__ = ("facts", "shape", "thing", "told_ns", "values")

    def __init__(self, shape: GroupShape, reading: Reading) -> None:
        self.thing = reading.thing
        self.shape = shape
        self.values = reading.values
        self.told_ns = reading.measured_ns
        self.facts = [WatchedFact(value) for value in reading.values]


class WatchedSite:
    """What a site was told, and what it has said of that."""

    __slots__ = ("acknowledged", "need", "number", "promised", "sent", "share", "taken_bytes", "things")

    def __init__(self) -> None:
        self.things: dict[tuple[str, str], WatchedGroup] = {}
        self.taken_bytes = 0
        """What it told since the last tuning."""
        self.need = 0.0
        """Bytes per second that it takes, or would."""
        self.share = 0.0
        """Bytes per second of the newest tuning."""
        self.promised = 0.0
        """The most that it may believe to have: the newest share, and older ones while they may still be in force."""
        self.number = 0
        self.acknowledged = 0
        self.sent: dict[Key, GroupTuning] = {}
        """What is in force there once the newest tuning has arrived."""


def moves_in_force(sent: GroupTuning | None, facts: int) -> list[float]:
    """Thresholds by a fact's place, as a site has them."""
    if sent is None:
        return [0.0] * facts
    rest = math.inf if sent.quiet else 0.0
    return [rest if (step := sent.moves.get(place)) is None else amount_of(step) for place in range(facts)]
