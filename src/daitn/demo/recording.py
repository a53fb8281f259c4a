"""What the demonstration saw, as values: jobs with their logs, baselines, refusals; and what follows from them.

Everything in the reports is made of this and of nothing else, so a report can be made again from a recording, and
tested without a network. What a hop was and why is read from the network's own log.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from daitn.descriptors.job import JobStatus, LogEntry, TargetState
from daitn.descriptors.work import Measurement


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it ended. `key`: its short name in the reports (`breast`, `forms`)."""

    key: str
    title: str
    status: JobStatus
    log: tuple[LogEntry, ...]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Another way to spend the same number of local batches. `inside`: whether the network did it."""

    name: str
    what: str
    inside: bool
    visits: int
    batches: int
    """Local batches in all."""
    seconds: float
    measurements: tuple[Measurement, ...]
    stopped: str = ""
    """Why it made fewer, if it did."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was refused, and what became of its counter-offer."""

    title: str
    status: JobStatus
    taken: JobStatus | None
    admitted_after_s: float | None
    """Seconds from taking the offer to admission; None: there was no offer, or it was not admitted."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the play with its baselines."""

    job: JobRecord
    baselines: tuple[Baseline, ...]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The trained model as the network served it, a host killed meanwhile."""

    goal: str
    hosts: tuple[str, ...]
    placed_s: float
    """From giving the package to the network to the last replica that answers."""
    killed: str
    hosts_after: tuple[str, ...]
    asked: int
    right: int
    """Answered, and as `daitn predict` answers the same row."""
    calm_median_ms: float
    slowest_after_ms: float
    """The slowest query that was asked after the kill."""
    replaced_s: float
    """From the kill to as many replicas as before."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run of the demonstration."""

    version: str
    began_unix_s: float
    seconds: float
    jobs: tuple[Compared, ...]
    refusals: tuple[Refusal, ...]
    names: dict[str, str]
    """Node id → name."""
    processes: int
    left: int
    """Processes that were still there after everything was told to stop: 0."""
    predicted: str = ""
    """What `daitn predict` said of samples that no site had."""
    served: Served | None = None
    """The last scene; None where it was not played."""


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted training visit: where the model went, on which data, and why."""

    number: Annotated[int, msgspec.Meta(ge=1)]
    site: str
    dataset: str
    why: str
    began_unix_s: float
    ended_unix_s: float
    streamed: bool
    """Whether the data came from another site than the one that trained."""
    kept: bool = True
    """False where verification rolled it back."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One verification: after how many visits, and what was measured."""

    visits: int
    unix_s: float
    measurements: tuple[Measurement, ...]
    kept: bool


def hops(record: JobRecord, names: dict[str, str]) -> tuple[Hop, ...]:
    """The visits of a job in order; those since the last kept model are marked where a verification rolled back."""
    ordered = {entry.visit: entry for entry in record.log if entry.kind == "ordered" and entry.visit is not None}
    found: list[Hop] = []
    kept = 0
    for entry in record.log:
        if entry.kind == "trained" and entry.visit in ordered:
            order = ordered[entry.visit]
            site, dataset = names.get(entry.node or "", entry.node or ""), dataset_of(entry)
            found.append(
                Hop(
                    number=len(found) + 1,
                    site=site,
                    dataset=dataset,
                    why=order.text.rpartition("; why: ")[2],
                    began_unix_s=order.unix_s,
                    ended_unix_s=entry.unix_s,
                    streamed=dataset.partition("/")[0] != site,
                )
            )
        elif entry.kind == "kept":
            kept = len(found)
        elif entry.kind == "rolled-back":
            found[kept:] = [msgspec.structs.replace(hop, kept=False) for hop in found[kept:]]
            kept = len(found)
    return tuple(found)


def curve(record: JobRecord) -> tuple[Point, ...]:
    """The untrained model, then every verification."""
    points: list[Point] = []
    if record.status.untrained:
        start = Point(visits=0, unix_s=record.status.submitted_unix_s, measurements=record.status.untrained, kept=True)
        points.append(start)
    visits = 0
    for entry in record.log:
        if entry.kind == "trained":
            visits += 1
        elif entry.kind in ("kept", "rolled-back") and entry.measurements:
            kept = entry.kind == "kept"
            points.append(Point(visits=visits, unix_s=entry.unix_s, measurements=entry.measurements, kept=kept))
    return tuple(points)


def dataset_of(entry: LogEntry) -> str:
    """The data set that a visit's proof names."""
    if not entry.proof:
        return ""
    proof: dict[str, Any] = msgspec.json.decode(entry.proof)
    return str(proof.get("dataset", ""))


def value_of(measurements: tuple[Measurement, ...], name: str) -> float | None:
    """The figure of that name, if it was measured."""
    return next((one.value for one in measurements if one.name == name), None)


def wanted_value(target: TargetState) -> float:
    """The number in `>= 0.95`."""
    return float(target.wanted.split()[-1])


def local_batches(status: JobStatus) -> int:
    """Training batches that a job made at sites in all."""
    return status.visits * status.plan.training.batches if status.plan is not None else 0
