"""Reports of facts, packed: fixed-size records of one group, so that a receiver decodes thousands in one step.

Link terminal → topology through the tools layer (paper, II-A, DRRT-tool CP), as telemetry: may be dropped, latest
counts. One message is a header and one or more records of one group; a terminal sends one record, a site that reports
for its terminals sends many. Things are named by the number that the sender gave them in its roster
(`wire.topology_tools.RosterAnnounced`), so a message proves by its key who speaks and can name nothing of another's.

`sequence` of the header counts the sender's messages: gaps are drops, which the next sync repairs. `sequence` of a
record counts the reports of that group of that thing: whatever is not newer is refused. Both begin at 1 with each
`incarnation`, the millisecond of Unix time at which the sender's process began.

Everything is little-endian and packed. Decoding (`MESSAGES` at once, any mixture) looks at nothing but lengths and
the header until shapes are known; values are judged by the map (`topology.columns`).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError
from daitn.descriptors.fact_kinds import Form, Group

PACKED_VERSION: Final = 1

MESSAGE_BYTES: Final = 64 * 1024
"""Largest message: what one telemetry value may have."""

HEADER: Final = np.dtype(
    [("version", "u1"), ("group", "u1"), ("records", "<u2"), ("sequence", "<u4"), ("incarnation", "<u8")]
)
"""16 bytes."""

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
