"""Reports of facts, packed: fixed-size records of one group, so that a receiver decodes thousands in one step.

Link terminal → topology through the tools layer (paper, II-A, DRRT-tool CP), as telemetry: may be dropped, latest
counts. One message is a header and one or more records of one group; a terminal sends one record, a site that reports
for its terminals sends many. Things are named by the number that the sender gave them in its roster
(`wire.topology_tools.RosterAnnounced`), so a message proves by its key who speaks and can name nothing of another's.

`sequence` of the header counts the sender's messages: gaps are drops, which the next sync repairs. `sequence` of a
record counts the reports of that group of that thing: whatever is not newer is refused. Both begin at 1 with each
`incarnation`, the millisecond of Unix time at which the sender's process began.

A second form tells *some* facts of a group (`PART_VERSION`): where a tuning says which facts matter, the others need
not travel with them. What is left out stays as it was told last, and is as old as that. It is short, because most such
messages have one record: of incarnation and sequences it has the last bytes, which are completed by what the receiver
holds, and moments are counted from the incarnation. A load of which only the wait matters takes 22 bytes, not 62. Of
one thing at most 127 reports may be lost or come at once: later ones are taken for replays until a whole one comes.

A third form tells *one* fact as precisely as it needs to be (`BRIEF_VERSION`): its place instead of bits, two bytes of
a number, and no deviation, since what is told for its threshold is known to a part of that. That load takes 15 bytes.

Everything is little-endian and packed. Decoding (`MESSAGES` at once, any mixture) looks at nothing but lengths and
the header until shapes are known; values are judged by the map (`topology.columns`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError
from daitn.base.units import NS_PER_MS
from daitn.descriptors.fact_kinds import Fact, Form, Group
from daitn.descriptors.uncertainty import EXACT, NOT_KNOWN

PACKED_VERSION: Final = 1

MESSAGE_BYTES: Final = 64 * 1024
"""Largest message: what one telemetry value may have."""

HEADER: Final = np.dtype(
    [("version", "u1"), ("group", "u1"), ("records", "<u2"), ("sequence", "<u4"), ("incarnation", "<u8")]
)
"""16 bytes."""

PART_VERSION: Final = 2

PART_HEADER: Final = np.dtype(
    [("version", "u1"), ("group", "u1"), ("facts", "<u2"), ("incarnation", "<u2"), ("sequence", "<u2"), ("at", "<u4")]
)
"""12 bytes. `facts`: a bit for each place of the group; `incarnation`, `sequence`: their last two bytes; `at`: ticks
since the incarnation began."""

TICK_NS: Final = 16_000_000
"""Moments of the second form are told to 16 ms: four bytes reach for two years of one process."""

PART_NUMBERS: Final = 1 << 16
"""Things with larger numbers are told in the first form."""

PART_BEFORE_NS: Final = 65_000 * TICK_NS
"""How long before the moment of its message a record may have been read: 17 minutes; older ones take the first form."""

PART_PROCESS_NS: Final = (1 << 32) * TICK_NS
"""A process that runs for longer tells everything in the first form."""

BRIEF_VERSION: Final = 3

BRIEF_HEADER: Final = np.dtype(
    [
        *(("version", "u1"), ("group", "u1"), ("place", "u1"), ("at_high", "u1")),
        *(("incarnation", "<u2"), ("sequence", "<u2"), ("at", "<u2")),
    ]
)
"""10 bytes. `place`: of the fact in its group; `at`, `at_high`: the last three bytes of the ticks since the incarnation
began at which the oldest of its records was read; they come around in three days, and are completed by when they
arrive."""

BRIEF_NUMBERS: Final = 1 << 8
"""Things with larger numbers are told in another form."""

AFTER_TICKS: Final = 16
"""Records say how long after the oldest of their message they were read in steps of so many ticks, a quarter of a
second, rounded down and to 65 s at most: a fact may look older than it is, never younger."""

BRIEF_AGE_NS: Final = (1 << 22) * TICK_NS
"""What was read longer ago, 19 hours, is told in another form."""

BRIEF_BITS: Final = 8
"""Leading bits of a number that are told: to 0.4 %, and whole numbers to 256 as they are."""

BRIEF_LEAST: Final = 2.0**-126
BRIEF_MOST: Final = 255 * 2.0**120
"""Numbers that have leading bits to tell; and 0, and NaN."""

_TYPES: Final = {Form.NUMBER: "<f4", Form.EXACT: "<f8", Form.FLAG: "u1", Form.CHOICE: "u1"}

Records = NDArray[Any]
"""Structured array of `record_dtype`."""


@cache
def record_dtype(group: Group) -> np.dtype[Any]:
    """One report of a group of one thing: who, which, when, the values, and a deviation code for each number."""
    if not group.packed:
        raise BugError(f"group {group.name} has words or references and does not travel packed")
    fields: list[tuple[Any, ...]] = [("number", "<u4"), ("sequence", "<u4"), ("generated_ns", "<i8")]
    fields += [(fact.name, _TYPES[fact.form]) for fact in group.facts]
    if group.numeric:
        fields.append(("deviations", "u1", (len(group.numeric),)))
    return np.dtype(fields)


def records_most(group: Group) -> int:
    """Records of a group that one message can carry."""
    return (MESSAGE_BYTES - HEADER.itemsize) // record_dtype(group).itemsize


def encode_records(group: Group, records: Records, *, sequence: int, incarnation: int) -> bytes:
    """One message; BugError if there are none, or more than fit."""
    if not 1 <= len(records) <= records_most(group):
        raise BugError(f"{len(records)} records of {group.name} in one message, 1 to {records_most(group)} fit")
    header = np.array((PACKED_VERSION, group.number, len(records), sequence, incarnation), dtype=HEADER)
    return header.tobytes() + records.tobytes()


# --- some facts of a group --------------------------------------------------------------------------------------------


@cache
def part_dtype(group: Group, facts: int) -> np.dtype[Any]:
    """One report of the facts of a group whose bits are set. BugError for none, or a bit beyond the group's facts."""
    told = facts_of_part(group, facts)
    fields: list[tuple[Any, ...]] = [("number", "<u2"), ("sequence", "u1"), ("before", "<u2")]
    fields += [(fact.name, _TYPES[fact.form]) for fact in told]
    if numbers := sum(fact.numeric for fact in told):
        fields.append(("deviations", "u1", (numbers,)))
    return np.dtype(fields)


def facts_of_part(group: Group, facts: int) -> tuple[Fact, ...]:
    """The facts whose bits are set."""
    if not group.packed or not 0 < facts < 1 << min(16, len(group.facts)):
        raise BugError(f"group {group.name} has no facts {facts:#x} that travel in part")
    return tuple(fact for place, fact in enumerate(group.facts) if facts >> place & 1)


def is_part(group: Group, facts: int) -> bool:
    """Whether these bits are facts of a group that travels."""
    return group.packed and 0 < facts < 1 << min(16, len(group.facts))


def parts_most(group: Group, facts: int) -> int:
    """Records of these facts that one message can carry."""
    return (MESSAGE_BYTES - PART_HEADER.itemsize) // part_dtype(group, facts).itemsize


def encode_parts(group: Group, facts: int, records: Records, *, sequence: int, incarnation: int, at_ns: int) -> bytes:
    """One message of some facts; `at_ns`: the moment that `before` counts back from, in ticks, after the incarnation
    began. BugError if there are no records, more than fit, or the moment cannot be told."""
    if not 1 <= len(records) <= parts_most(group, facts):
        raise BugError(f"{len(records)} records of {group.name}, 1 to {parts_most(group, facts)} fit")
    since_ns = at_ns - incarnation * NS_PER_MS
    if not 0 <= since_ns < PART_PROCESS_NS:
        raise BugError(f"a moment {since_ns} ns after the process began cannot be told in part")
    head = (PART_VERSION, group.number, facts, incarnation & 0xFFFF, sequence & 0xFFFF, since_ns // TICK_NS)
    return np.array(head, dtype=PART_HEADER).tobytes() + records.tobytes()


# --- one fact, briefly ------------------------------------------------------------------------------------------------


def brief_number(value: float) -> float:
    """The nearest number that two bytes tell; NaN stays, infinite where there is none."""
    if value == 0 or math.isnan(value):
        return value
    if not BRIEF_LEAST <= abs(value) <= BRIEF_MOST:
        return math.inf
    leading, exponent = math.frexp(value)
    return math.ldexp(round(leading * (1 << BRIEF_BITS)), exponent - BRIEF_BITS)


@cache
def brief_dtype(group: Group, place: int) -> np.dtype[Any]:
    """One report of one fact of a group. BugError where that fact does not travel so (`is_brief`)."""
    if not is_brief(group, place):
        raise BugError(f"group {group.name} has no fact {place} that travels briefly")
    value = "<u2" if group.facts[place].form is Form.NUMBER else "u1"
    return np.dtype([("number", "u1"), ("sequence", "u1"), ("after", "u1"), ("value", value)])


def is_brief(group: Group, place: int) -> bool:
    """Whether there is such a fact, and two bytes are enough for it: exact numbers need all of theirs."""
    return group.packed and 0 <= place < min(16, len(group.facts)) and group.facts[place].form is not Form.EXACT


def briefs_most(group: Group, place: int) -> int:
    """Records of this fact that one message can carry."""
    return (MESSAGE_BYTES - BRIEF_HEADER.itemsize) // brief_dtype(group, place).itemsize


def brief_values(group: Group, place: int, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a fact as they travel: numbers lose what `brief_number` does not keep."""
    if group.facts[place].form is not Form.NUMBER:
        return values.astype(np.uint8)
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def encode_briefs(group: Group, place: int, records: Records, *, sequence: int, incarnation: int, at_ns: int) -> bytes:
    """One message of one fact; `at_ns`: when the oldest record was read. BugError if there are no records, or more than
    fit."""
    if not 1 <= len(records) <= briefs_most(group, place):
        raise BugError(f"{len(records)} records of {group.name}, 1 to {briefs_most(group, place)} fit")
    ticks = max(0, at_ns - incarnation * NS_PER_MS) // TICK_NS
    head = (BRIEF_VERSION, group.number, place, ticks >> 16 & 0xFF)
    lasts = (incarnation & 0xFFFF, sequence & 0xFFFF, ticks & 0xFFFF)
    return np.array((*head, *lasts), dtype=BRIEF_HEADER).tobytes() + records.tobytes()


def brief_ticks(headers: Records, incarnation_ms: NDArray[np.uint64], now_ns: int) -> NDArray[np.int64]:
    """Ticks since the incarnations began that headers tell, completed to be near `now_ns`: (n,)."""
    told = headers["at"].astype(np.int64) | headers["at_high"].astype(np.int64) << 16
    now = (now_ns - incarnation_ms.astype(np.int64) * NS_PER_MS) // TICK_NS
    half = 1 << 23
    return np.asarray(np.maximum(0, now + (told - now + half) % (2 * half) - half))


def part_of_brief(group: Group, place: int, told: Records) -> Records:
    """The same in the form of `part_dtype`, as if read at the moment of the message."""
    records: Records = np.zeros(told.shape, part_dtype(group, 1 << place))
    records["number"], records["sequence"] = told["number"], told["sequence"]
    fact = group.facts[place]
    if not fact.numeric:
        records[fact.name] = told["value"]
        return records
    values = (told["value"].astype("<u4") << 16).view("<f4")
    records[fact.name] = values
    records["deviations"] = np.where(np.isnan(values), NOT_KNOWN, EXACT)[..., None]
    return records
