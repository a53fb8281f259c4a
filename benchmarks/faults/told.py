"""What the centre has told of a job over HTTP, kept to see whether it ever takes something back.

A status is looked at as the centre serves it, each connection's in the order in which they came; the log as it grows. A
step that was told and is gone after a fault shows here, and so does one accepted with another fence than its order's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from daitn.descriptors.job import LogEntry
from daitn.oam.proofs import read_proof

ACCEPTED: Final = ("trained", "averaged", "measured")
"""Log entries that are steps of a job."""

COUNTS: Final = ("visits", "rounds", "verifications", "rolled_back", "lost", "transfer_bytes", "log_length")
"""Counters of a status that only grow."""

Fetch = Callable[[int], Sequence[LogEntry]]
"""The log from an entry on, as the centre serves it now."""


class Told:
    """See the module's docstring. For any number of threads."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._entries: list[LogEntry] = []
        self._last: dict[str, tuple[int, ...]] = {}
        self._faults: list[str] = []

    def status(self, way: str, raw: Mapping[str, Any]) -> None:
        """A status as it was served on one way (a stream, or one caller's questions): none of its counters may be less
        than in the one before on that way."""
        seen = tuple(int(raw[name]) for name in COUNTS)
        with self._lock:
            before, self._last[way] = self._last.get(way), seen
            for name, was, now in zip(COUNTS, before or seen, seen, strict=True):
                if now < was:
                    self._faults.append(f"the {way} of {self._job} told {name} {was} and then {now}")

    def read(self, fetch: Fetch) -> tuple[LogEntry, ...]:
        """What of the log is new, joined to what is known; all of it. One known entry is read again each time."""
        with self._lock:
            start = max(0, len(self._entries) - 1)
        return self._join(start, fetch(start))

    def reread(self, fetch: Fetch) -> tuple[LogEntry, ...]:
        """The whole log once more: what was told before must be its beginning."""
        return self._join(0, fetch(0))

    def take_faults(self) -> list[str]:
        """What went back since this was last asked; what was told until then is forgotten, if anything did."""
        with self._lock:
            found, self._faults = self._faults, []
            if found:
                self._entries, self._last = [], {}
            return found

    def _join(self, start: int, entries: Sequence[LogEntry]) -> tuple[LogEntry, ...]:
        with self._lock:
            if not entries and start < len(self._entries):
                self._faults.append(f"the log of {self._job} had an entry {start} and has none now")
            for number, entry in enumerate(entries, start=start):
                if number == len(self._entries):
                    self._entries.append(entry)
                elif number < len(self._entries) and _kept(entry) != _kept(self._entries[number]):
                    was = self._entries[number]
                    self._faults.append(
                        f"entry {number} of the log of {self._job} was {was.kind} {was.visit or ''} and is "
                        f"{entry.kind} {entry.visit or ''} now"
                    )
            return tuple(self._entries)


def _kept(entry: LogEntry) -> tuple[object, ...]:
    """What may never change of an entry; its words may, a node's name among them."""
    proof = read_proof(entry)
    signed = () if proof is None else (proof.fence, proof.report, proof.signature)
    return (entry.number, entry.unix_s, entry.kind, entry.visit, entry.node, *signed)


def faults_of_log(entries: Sequence[LogEntry]) -> list[str]:
    """What must not be in any log: a gap, a step accepted twice, one of a visit that was given up before or never
    ordered, one of another node or with another fence than was ordered, or a fence that does not grow."""
    found: list[str] = []
    if [entry.number for entry in entries] != list(range(len(entries))):
        found.append("the log has gaps")
    ordered: dict[str, LogEntry] = {}
    over: dict[str, str] = {}
    newest = 0
    for entry in entries:
        visit = entry.visit
        if visit is None:
            continue
        if entry.kind == "ordered":
            fence = int(visit.rpartition("/")[2])
            if fence <= newest:
                found.append(f"visit {visit} was ordered with fence {fence} after {newest}")
            newest, ordered[visit] = fence, entry
        elif entry.kind in (*ACCEPTED, "shared"):
            found += _faults_of_step(entry, visit, ordered.get(visit), over.get(visit))
            over[visit] = entry.kind
        elif entry.kind in ("lost", "stopped"):
            over[visit] = entry.kind
    return found


def _faults_of_step(entry: LogEntry, visit: str, order: LogEntry | None, over: str | None) -> list[str]:
    """What is wrong with an accepted step."""
    if order is None:
        return [f"visit {visit} was accepted and never ordered"]
    if over is not None:
        return [f"visit {visit} was accepted after it was {over}"]
    proof = read_proof(entry)
    if proof is None:
        return [f"visit {visit} was accepted without a proof"]
    fence = int(visit.rpartition("/")[2])
    if (proof.visit, proof.fence, proof.node) != (visit, fence, order.node):
        given = f"visit {proof.visit} with fence {proof.fence} at {proof.node}"
        return [f"visit {visit} at {order.node} was accepted on the proof of {given}"]
    return []
