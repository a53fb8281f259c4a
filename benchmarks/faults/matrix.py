"""The matrix: each fault at each point of a job, as a short play on a running domain.

A play (`plays`) brings its job to the point, brings the fault about, and heals it when it has seen what it wanted to
see. How long the first accepted step after it took, whether that is within its bound, and that nothing is lost, doubled
or unfenced is looked at for all alike (`play`). The cells themselves are in `cells`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.faults.afterwards import check, end, fenced, longest_lease_s, recovered
from benchmarks.faults.ends import Ending
from benchmarks.faults.plays import Play, disk_full, disk_of_center_full
from benchmarks.faults.told import ACCEPTED
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import PATIENCE_S, World
from daitn.base.errors import DaitnError
from daitn.sdk.jobs import Job

DOER: Final = "who was hit"

KNOBS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "small": ("small", {}),
    "big": ("big", {}),
    "average": ("big", {"method": "fedavg"}),
}
"""The model of each kind of job, and what else is asked."""


class Case(NamedTuple):
    """One cell of the matrix."""

    point: str
    kind: str
    job: str
    """small, big, or average: federated averaging of the big model."""
    bound_s: float
    run: Play
    late: str = ""
    """The node that comes back late, if one does: what it had must have been fenced. `DOER`: the one that was hit."""
    steps: tuple[str, ...] = ACCEPTED
    """Steps that count as going on: not a verification that was under way elsewhere when a model was lost."""
    tells: str = ""
    """An entry that the job's log has to have after the fault."""
    leased: bool = False
    """Whether a lease has to run out first: one that was longer than the domain's patience counts as long as it was."""

    @property
    def name(self) -> str:
        """`point, kind`."""
        return f"{self.point}, {self.kind}"


class Row(NamedTuple):
    """What became of a case. `seconds`: from the fault to the next accepted step."""

    point: str
    kind: str
    seconds: float
    bound_s: float
    outcome: str
    ok: bool
    by: str = ""
    fault_unix_s: float = 0.0

    @property
    def name(self) -> str:
        """`point, kind`."""
        return f"{self.point}, {self.kind}"


def play(case: Case, world: World, job: Job) -> Row:
    """Run one case to its end."""
    if case.run in (disk_full, disk_of_center_full) and world.no_disk:
        return Row(case.point, case.kind, float("nan"), case.bound_s, f"left out: {world.no_disk}", True)
    acts = case.run(world, job)
    began, seconds, bound_s, fault, ok = time.time(), float("nan"), case.bound_s, None, False
    try:
        fault = next(acts)
        recovery = recovered(world, job, fault, case.steps)
        seconds = recovery.seconds
        next(acts, None)
        outcome = f"next step: {recovery.entry.kind}"
        if case.late:
            late = fault.name if case.late == DOER else case.late
            outcome += f"; the late visit was {fenced(world, job, late, fault.visit)} there"
        if case.tells:
            wait_for(lambda: any(e.kind == case.tells and e.unix_s > began for e in world.log(job)), case.tells)
            outcome += f"; the log tells {case.tells}"
        check(world, job)
        bound_s += max(0.0, longest_lease_s(world, job, fault) - PATIENCE_S) if case.leased else 0.0
        ok = seconds <= bound_s
    except AssertionError as error:
        outcome, seconds = str(error)[:200], float("nan")
    finally:
        with contextlib.suppress(StopIteration):
            next(acts)
    by, moment = (fault.by, fault.unix_s) if fault is not None else ("", began)
    return Row(case.point, case.kind, seconds, bound_s, outcome, ok, by, moment)


class Whole(NamedTuple):
    """One cell of the matrix that has a job of its own, since the job ends or is yet to be submitted."""

    point: str
    kind: str
    bound_s: float
    run: Ending
    job: str = "its own"

    @property
    def name(self) -> str:
        """`point, kind`."""
        return f"{self.point}, {self.kind}"


Cell = Case | Whole


def play_whole(cell: Whole, world: World) -> Row:
    """Run one such cell to its end."""
    began = time.time()
    try:
        ended = cell.run(world)
    except (AssertionError, DaitnError) as error:
        said = error.what if isinstance(error, DaitnError) else str(error)
        return Row(cell.point, cell.kind, float("nan"), cell.bound_s, said[:200], False, "signal", began)
    ok = ended.seconds <= cell.bound_s
    fault = ended.fault
    return Row(cell.point, cell.kind, ended.seconds, cell.bound_s, ended.outcome, ok, fault.by, fault.unix_s)


def run_cases(
    world: World,
    cases: Sequence[Cell],
    told: Callable[[Row], None] = lambda _: None,
    until: float = math.inf,
) -> list[Row]:
    """All cases in order, those in a row of one kind of job on one job; it is ended, and its end seen, before the next
    begins. No case is begun after `until` on the monotonic clock."""
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        told(row)

    for kind, alike in itertools.groupby(cases, key=lambda case: case.job):
        job: Job | None = None
        for case in alike:
            if time.monotonic() > until:
                break
            if isinstance(case, Whole):
                add(play_whole(case, world))
                continue
            if job is None:
                size, knobs = KNOBS[kind]
                job = world.submit(size, **knobs)
            try:
                add(play(case, world, job))
            except DaitnError as error:
                add(Row(case.point, case.kind, float("nan"), case.bound_s, error.what[:200], False))
        if job is not None:
            end(world, job)
    return rows
