"""What the orchestrator has learnt of facts: how each wanders and jumps, how wide it spreads, how near decisions are to
it.

Learnt from what sites tell and from the ranges that decisions come with; `topology.thresholds` makes thresholds of it.
Sums fade with time, so that what a fact did yesterday does not decide what is told of it today.

What is known of a fact is never changed, another takes its place: so all that is known at a moment is a copy of
references, and thresholds can be worked out of it beside the core while more is learnt.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from daitn.base.units import ns_to_seconds
from daitn.describe.reporting import GroupShape
from daitn.descriptors.reporting import GroupTuning, Reading, amount_of

Key = tuple[str, int]
"""A thing and the number of a group."""

SMOOTHING: Final = 0.1
"""Weight of a new value in a fact's running mean and variance."""

MARGINS: Final = 16
"""Margins of recent decisions that a fact's loss is made of."""


class WatchedFact(msgspec.Struct, frozen=True, gc=False):
    """What is known of one fact of one thing."""

    mean: float
    variance: float = 0.0
    jump: float = 0.0
    """How far it moves at once: thresholds below that save nothing."""
    squares: float = 0.0
    seconds: float = 0.0
    margins: tuple[tuple[float, float], ...] = ()
    """Of recent decisions, the newest `MARGINS`: distance to the range's edge, and loss for each unit beyond."""
    told_ns: int = 0
    """When it was measured as it was told last."""

    @property
    def wander(self) -> float:
        """Squared units per second."""
        return self.squares / self.seconds if self.seconds > 0 else 0.0

    def told(self, before: float, now: float, told_ns: int, half_life_s: float, move: float) -> WatchedFact:
        """Once it is told again, as it was at `told_ns`; `move`: the threshold in force. What it is seen to move when
        it is told for it bounds its jumps from above, and is one where there is no threshold."""
        seconds = ns_to_seconds(told_ns - self.told_ns)
        fade = 0.5 ** (seconds / half_life_s)
        far, jump = abs(now - before), self.jump
        if move < far < math.inf:
            if jump <= 0 or far < jump:
                jump = far if jump <= 0 else (jump + far) / 2
            elif move <= 0:
                jump += SMOOTHING / 2 * (far - jump)
        if not (math.isfinite(now) and math.isfinite(before)):
            return WatchedFact(self.mean, self.variance, jump, self.squares, self.seconds, self.margins, told_ns)
        off = now - self.mean if math.isfinite(self.mean) else 0.0
        return WatchedFact(
            self.mean + SMOOTHING * off if math.isfinite(self.mean) else now,
            (1 - SMOOTHING) * (self.variance + SMOOTHING * off * off),
            jump,
            self.squares * fade + (now - before) ** 2,
            self.seconds * fade + seconds,
            self.margins,
            told_ns,
        )

    def near(self, margin: float, loss: float) -> WatchedFact:
        """Once a decision stood this far from its edge."""
        margins = (*self.margins[1 - MARGINS :], (margin, loss))
        return WatchedFact(self.mean, self.variance, self.jump, self.squares, self.seconds, margins, self.told_ns)


class WatchedGroup(msgspec.Struct, frozen=True):
    """One group of one thing."""

    shape: GroupShape
    reading: Reading
    """As it was told last."""
    facts: tuple[WatchedFact, ...]

    @property
    def key(self) -> Key:
        """Which it is."""
        return self.reading.thing, self.shape.number


class WatchedSite:
    """What a site was told, and what it has said of that."""

    __slots__ = ("acknowledged", "need", "number", "promised", "sent", "share", "sweeps", "taken_bytes", "things")

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
        self.sweeps: tuple[int, dict[int, int]] = (0, {})
        """How often it was told to sweep, and what."""
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
