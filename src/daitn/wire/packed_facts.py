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

Everything is little-endian and packed. Decoding (`MESSAGES` at once, any mixture) looks at nothing but lengths and
the header until shapes are known; values are judged by the map (`topology.columns`).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError
from daitn.base.units import NS_PER_MS
from daitn.descriptors.fact_kinds import Fact, Form, Group

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
