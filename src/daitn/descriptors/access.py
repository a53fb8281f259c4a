"""Access kinds: how a node reaches the network, as facts that routes can plan with (paper, II-A, terminals and tools).

Wireline, Wi-Fi, cellular or satellite; metered or not; always there or in windows known in advance, such as passes of
a satellite or the hours in which a ship is in port. All functions are pure: what is available when, how much of a span,
and when a transfer would be through. Windows say what is *planned*; failures come on top (`tools.availability`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.errors import InputError

WINDOWS: Final = 64
"""Windows of one node: a day of passes of a satellite in low orbit is 16."""

RATE_LEAST_BYTES_PER_S: Final = 100_000.0
"""Least limit of an access: a chunk of 2 MiB then takes 21 s, and 30 s without a byte count as a broken link."""

STEPS: Final = 4096
"""Windows looked at for one question at most: a window that comes every minute for three days."""

UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class AccessKind(StrEnum):
    """The technology of a node's way into the network."""

    WIRELINE = "wireline"
    WIFI = "wifi"
    CELLULAR = "cellular"
    SATELLITE = "satellite"


METERED: Final = frozenset({AccessKind.CELLULAR, AccessKind.SATELLITE})
"""Kinds that are usually paid by the byte."""


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the access is there: from a moment on for a while, once or again every period."""

    start_unix_s: UnixSeconds
    seconds: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    every_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    """From one beginning to the next; None: it comes once."""


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node reaches the network. No windows: always."""

    kind: AccessKind = AccessKind.WIRELINE
    metered: bool = False
    """Each byte costs: bulk goes elsewhere where it can."""
    bytes_per_s: Rate = 0.0
    """Most that data may take of it, both ways together; 0: no limit."""
    windows: Annotated[tuple[Window, ...], msgspec.Meta(max_length=WINDOWS)] = ()


def check_access(access: Access) -> None:
    """InputError listing all faults."""
    faults = [
        f"a window of {one.seconds:g} s every {one.every_s:g} s never ends"
        for one in access.windows
        if one.every_s is not None and one.seconds >= one.every_s
    ]
    if faults:
        raise InputError("access: " + "; ".join(faults), todo="leave the windows out where the access is always there")


def open_span(access: Access, at_s: float) -> tuple[float, float] | None:
    """The span (Unix seconds) in which the access is there at `at_s`, or the next one; None where none comes any more.

    Windows that touch or overlap are one span; one of more than `STEPS` windows, as where they never close together, is
    told as far as that. O(windows × windows in the span).
    """
    if not access.windows:
        return (-math.inf, math.inf)
    spans = [span for one in access.windows if (span := _span(one, at_s)) is not None]
    if not spans:
        return None
    start, end = min(spans)
    for _ in range(STEPS):
        grown = [span for one in access.windows if (span := _span(one, end)) is not None and span[0] <= end < span[1]]
        if not grown:
            break
        end = max(span[1] for span in grown)
    return start, end


def is_open(access: Access, at_s: float) -> bool:
    """Whether the access is there, by plan, at a moment (Unix seconds)."""
    span = open_span(access, at_s)
    return span is not None and span[0] <= at_s < span[1]


def open_frac(access: Access, from_s: float, to_s: float) -> float:
    """Share of the time from `from_s` to `to_s` in which the access is there, by plan; at one moment 0 or 1."""
    if to_s <= from_s:
        return 1.0 if is_open(access, from_s) else 0.0
    there_s, at_s = 0.0, from_s
    for _ in range(STEPS):
        span = open_span(access, at_s)
        if span is None or span[0] >= to_s:
            break
        there_s += min(span[1], to_s) - max(span[0], at_s)
        if span[1] >= to_s:
            break
        at_s = span[1]
    return min(1.0, there_s / (to_s - from_s))


def done_at(access: Access, at_s: float, needs_s: float) -> float:
    """When something that needs the access for `needs_s` seconds would be through, begun at `at_s`, going on from
    window to window (transfers resume); infinite where the windows to come are not enough."""
    left_s = needs_s
    for _ in range(STEPS):
        span = open_span(access, at_s)
        if span is None:
            return math.inf
        begin_s = max(span[0], at_s)
        if begin_s + left_s <= span[1]:
            return begin_s + left_s
        left_s -= span[1] - begin_s
        at_s = span[1]
    return math.inf


def _span(window: Window, at_s: float) -> tuple[float, float] | None:
    """The window's span that holds `at_s`, or its next one."""
    start = window.start_unix_s
    if window.every_s is not None and at_s >= start:
        start += math.floor((at_s - start) / window.every_s) * window.every_s
        if at_s >= start + window.seconds:
            start += window.every_s
    end = start + window.seconds
    return None if at_s >= end else (start, end)
