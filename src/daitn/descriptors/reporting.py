"""Readings and how they are to be reported: values that pass between a terminal's rule and the map's orchestrator.

A reading is one group of facts (`descriptors.facts`) of one thing at one moment. A tuning says for each fact by how
much it must have moved to be worth telling, and at which age it is told again though it did not move.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

EVERY: Final = ""
"""The thing of a tuning that is for all things of a site."""

AGE_MOST_S: Final = 2.0**20
"""Longest that a fact may go untold, 12 days: what is rarer is a description."""

FACTS_OF_A_GROUP: Final = 32
"""Facts that one tuning may speak of; the largest group has ten."""

TUNINGS_OF_A_SITE: Final = 16_384
"""Tunings in one message: a site with two thousand terminals of eight groups; at 12 to 40 bytes each within a
message."""

STEPS_PER_OCTAVE: Final = 2
"""Thresholds and ages travel as steps of this many to a factor of two: finer ones save nothing, since what is lost is
flat around its least."""

ANY_MOVE: Final = -200
"""The step that means: whenever it changes."""


def amount_of(step: int) -> float:
    """The amount, in a fact's unit or in seconds, that a step means."""
    return 0.0 if step <= ANY_MOVE else float(2.0 ** (step / STEPS_PER_OCTAVE))


def step_of(amount: float) -> int:
    """The nearest step; amounts of nothing, and below 2^-99, mean any move."""
    return ANY_MOVE if amount < 2.0**-99 else min(200, round(STEPS_PER_OCTAVE * math.log2(amount)))


RATE_STEPS_PER_OCTAVE: Final = 8
"""Shares of bytes travel as steps of this many to a factor of two, rounded down: a site gets 4 % less in the mean."""

RATE_STEP_LEAST: Final = -80
RATE_STEP_MOST: Final = 239
"""From a thousandth of a byte a second to 10⁹."""

BURST_STEP_LEAST: Final = 48
BURST_STEP_MOST: Final = 160
"""From 64 bytes to a MiB."""


def rate_of(step: int) -> float:
    """Bytes, or bytes per second, that a step of a share means."""
    return float(2.0 ** (step / RATE_STEPS_PER_OCTAVE))


def rate_step_below(rate: float) -> int:
    """The largest step that means no more than a rate above 0; within what may travel."""
    step = math.floor(RATE_STEPS_PER_OCTAVE * math.log2(rate) + 1e-9)
    return min(RATE_STEP_MOST, max(RATE_STEP_LEAST, step))


Place = Annotated[int, msgspec.Meta(ge=0, lt=FACTS_OF_A_GROUP)]
Step = Annotated[int, msgspec.Meta(ge=ANY_MOVE, le=200)]


SweepStep = Annotated[int, msgspec.Meta(ge=-8, le=40)]
"""How often a site sweeps, in the steps of ages."""

SweptFacts = Annotated[
    dict[Annotated[int, msgspec.Meta(ge=1, le=255)], Annotated[int, msgspec.Meta(ge=1, lt=1 << FACTS_OF_A_GROUP)]],
    msgspec.Meta(max_length=255),
]
"""By a group's number: the facts that a sweep tells, as bits by place. Nothing: there are no sweeps."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of facts of one thing was, in the order of the group's facts."""

    thing: str
    group: str
    values: tuple[float, ...]
    measured_ns: int
    """By the clock of whoever measured."""
    part: int = 0
    """Which facts are told, as bits by place; 0: all. The others stand as they were told last."""


class GroupTuning(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How one group of one thing is reported. The one for that thing counts before the one for `EVERY`."""

    thing: Annotated[str, msgspec.Meta(max_length=128)]
    group: Annotated[int, msgspec.Meta(ge=1, le=255)]
    """Its number in the registry."""
    age_step: Annotated[int, msgspec.Meta(ge=-8, le=40)]
    """Told again at this age, whether it moved or not: `amount_of` seconds."""
    moves: Annotated[dict[Place, Step], msgspec.Meta(max_length=FACTS_OF_A_GROUP)] = {}
    """By a fact's place in its group: told when it has moved by more than `amount_of` this step."""
    quiet: bool = False
    """Whether facts not named are told only with others or by age; else they are told whenever they change."""


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How a site reports. `number` grows with each, from the centre's clock; an older one never replaces a
    newer."""

    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    bytes_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 20.0
    """What all reports of the site may take in the mean. The default, until tuned: a report every few seconds."""
    burst_bytes: Annotated[int, msgspec.Meta(ge=64, le=1 << 20)] = 16_384
    """What may be saved up: a report of everything on joining, for a hundred terminals."""
    sweep_step: SweepStep = 0
    """How often a site sweeps: `amount_of` seconds."""
    swept: SweptFacts = {}
    """What it tells then, of all things together, where it has changed at all."""
    groups: Annotated[tuple[GroupTuning, ...], msgspec.Meta(max_length=TUNINGS_OF_A_SITE)] = ()
