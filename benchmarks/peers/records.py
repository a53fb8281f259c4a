"""The record of a peer's run: one line of JSON for each step, round and event, from all its processes; no I/O here.

A *step* is what a site does with version n of the model: it checks every byte and makes version n + 1. Its clock stands
on the same machine as all others, so times of different processes can be subtracted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from benchmarks.peers.environments import PeerAbsentError
from benchmarks.report import summary

WARMING = 1
"""Hops left out at the start of a job, in which processes start and modules load."""


class Step(NamedTuple):
    """What one site did with one version."""

    site: str
    version: int
    began_ns: int
    ended_ns: int


class Round(NamedTuple):
    """What a server saw of one round: from before the model goes out until the mean is there."""

    sites: int
    began_ns: int
    ended_ns: int


class Record(NamedTuple):
    """A run, or what there is of it yet."""

    steps: tuple[Step, ...]
    rounds: tuple[Round, ...]
    marks_ns: Mapping[str, int]


def read_record(text: str) -> Record:
    """The record in these lines; PeerAbsentError where a site or the server got other bytes than were sent."""
    steps: list[Step] = []
    rounds: list[Round] = []
    marks: dict[str, int] = {}
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):  # still being written
            break
        said = json.loads(line)
        if said.get("right") is False:
            raise PeerAbsentError(f"version {said['version']} arrived with other bytes: {line.strip()}")
        if said["event"] == "step":
            steps.append(Step(said["site"], said["version"], said["began_ns"], said["ended_ns"]))
        elif said["event"] == "round":
            rounds.append(Round(said["sites"], said["began_ns"], said["ended_ns"]))
        else:
            marks[said["event"]] = said["at_ns"]
    return Record(tuple(steps), tuple(rounds), marks)


def hops_s(record: Record) -> list[float]:
    """Seconds from the end of a step at one site to the start of the next one at another; warming hops left out.

    Versions that went to several sites at once are no hops. PeerAbsentError where a site had two versions in a row.
    """
    at: dict[int, list[Step]] = {}
    for step in record.steps:
        at.setdefault(step.version, []).append(step)
    seconds: list[float] = []
    for before, after in pairwise(sorted(at)):
        if len(at[before]) != 1 or len(at[after]) != 1:
            continue
        left, reached = at[before][0], at[after][0]
        if after != before + 1 or left.site == reached.site:
            raise PeerAbsentError(f"version {after} came to {reached.site} after version {before} at {left.site}")
        seconds.append((reached.began_ns - left.ended_ns) / 1e9)
    return seconds[WARMING:]


def rounds_s(record: Record, sites: int) -> list[float]:
    """Seconds of the rounds with that many sites, their steps included."""
    return [(one.ended_ns - one.began_ns) / 1e9 for one in record.rounds if one.sites == sites]


def job_start_s(record: Record) -> float:
    """Seconds from handing a job in until its first step."""
    return (min(step.began_ns for step in record.steps) - record.marks_ns["submitted"]) / 1e9


def job_close_s(record: Record) -> float:
    """Seconds from its last step until the job counts as ended."""
    return (record.marks_ns["finished"] - max(step.ended_ns for step in record.steps)) / 1e9


def figures(name: str, size: str, seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread under the names that our own figures have."""
    if not seconds:
        raise PeerAbsentError(f"no {name} of {size} was measured")
    found = summary(seconds)
    return {f"{name}_s_{size}": found["median"]} | {
        f"{name}_{part}_s_{size}": found[part] for part in ("p95", "min", "max")
    }
