"""The matrix: each fault at each point of a job, as a short play on a running domain.

A play (`plays`) brings its job to the point, brings the fault about, and heals it when it has seen what it wanted to
see. How long the first accepted step after it took, whether that is within its bound, and that nothing is lost, doubled
or unfenced is looked at for all alike (`play`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.faults.plays import (
    Play,
    at_accepted,
    at_long_training,
    at_measuring,
    at_node_fetching,
    at_training,
    at_transfer,
    child_dies,
    clock_moves,
    cut,
    disk_full,
    disk_of_center_full,
    doer_killed,
    doer_stopped,
    kill_and_restart,
    kill_for_good,
    owner_fails,
    slow,
    stop_for_a_lease,
    stop_until_accepted,
    store_lost,
)
from benchmarks.faults.told import ACCEPTED
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import PATIENCE_S, World
from daitn.base.errors import DaitnError
from daitn.node.processes import CENTER, ROUTER
from daitn.sdk.jobs import Job

KILL_BOUND_S: Final = 5.0
CUT_BOUND_S: Final = PATIENCE_S + 5.0
"""The lease, and as long as after a kill. The centre gives longer leases to nodes whose signs of life come slowly, as
on a loaded machine: a lease that ran out and was longer counts as long as it was."""


DOER: Final = "who was hit"


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
        recovery = world.recovered(job, fault, case.steps)
        seconds = recovery.seconds
        next(acts, None)
        outcome = f"next step: {recovery.entry.kind}"
        if case.late:
            late = fault.name if case.late == DOER else case.late
            outcome += f"; the late visit was {world.fenced(job, late, fault.visit)} there"
        if case.tells:
            wait_for(lambda: any(e.kind == case.tells and e.unix_s > began for e in world.log(job)), case.tells)
            outcome += f"; the log tells {case.tells}"
        world.check(job)
        bound_s += max(0.0, world.longest_lease_s(job, fault) - PATIENCE_S) if case.bound_s == CUT_BOUND_S else 0.0
        ok = seconds <= bound_s
    except AssertionError as error:
        outcome, seconds = str(error)[:200], float("nan")
    finally:
        with contextlib.suppress(StopIteration):
            next(acts)
    by, moment = (fault.by, fault.unix_s) if fault is not None else ("", began)
    return Row(case.point, case.kind, seconds, bound_s, outcome, ok, by, moment)


CASES: Final = (
    Case("site, training", "kill", "small", KILL_BOUND_S, kill_and_restart("north", at_training("north"))),
    Case("site, training", "kill, not restarted", "small", KILL_BOUND_S, kill_for_good("north", at_training("north"))),
    Case(
        "site, training", "stop", "small", CUT_BOUND_S, stop_until_accepted("north", at_training("north")), late="north"
    ),
    Case(
        "site, after acknowledgement",
        "kill",
        "small",
        KILL_BOUND_S,
        kill_and_restart("north", at_accepted("north")),
        steps=("trained",),
    ),
    Case(
        "site, after acknowledgement",
        "kill, not restarted",
        "small",
        KILL_BOUND_S,
        kill_for_good("north", at_accepted("north")),
        steps=("trained",),
    ),
    Case(
        "site, after acknowledgement",
        "stop",
        "small",
        CUT_BOUND_S,
        stop_until_accepted("north", at_accepted("north")),
        steps=("trained",),
    ),
    Case("child", "kill", "small", KILL_BOUND_S, child_dies("north", at_training("north"), signal.SIGKILL)),
    Case("child", "stop", "small", CUT_BOUND_S, child_dies("north", at_training("north"), signal.SIGSTOP)),
    Case("centre", "kill", "small", KILL_BOUND_S, kill_and_restart(CENTER, at_training("north"))),
    Case("centre", "stop", "small", CUT_BOUND_S, stop_for_a_lease(CENTER, at_training("north"))),
    Case("router", "kill", "small", KILL_BOUND_S, kill_and_restart(ROUTER, at_training("north"))),
    Case("router", "stop", "small", CUT_BOUND_S, stop_for_a_lease(ROUTER, at_training("north"))),
    Case("owner's client", "kill", "small", KILL_BOUND_S, owner_fails(signal.SIGKILL)),
    Case("owner's client", "stop", "small", CUT_BOUND_S, owner_fails(signal.SIGSTOP)),
    Case(
        "link of the site",
        "cut both ways",
        "small",
        CUT_BOUND_S,
        cut("north", at_training("north"), "up", "down"),
        late="north",
        steps=("trained",),
    ),
    Case(
        "link of the site",
        "cut towards the router",
        "small",
        CUT_BOUND_S,
        cut("north", at_training("north"), "up"),
        late="north",
        steps=("trained",),
    ),
    Case(
        "link of the site",
        "cut from the router",
        "small",
        CUT_BOUND_S,
        cut("north", at_long_training("north"), "down"),
        late="north",
        steps=("trained",),
    ),
    Case(
        "link of the site",
        "delayed by 200 ms",
        "small",
        CUT_BOUND_S,
        slow("north", delay_s=0.2),
        steps=("trained",),
    ),
    Case("clock of the site", "moved forward 2 h", "small", KILL_BOUND_S, clock_moves("north", 7200.0)),
    Case("clock of the site", "moved back 2 h", "small", KILL_BOUND_S, clock_moves("north", -7200.0)),
    Case("clock of the centre", "moved forward 2 h", "small", KILL_BOUND_S, clock_moves(CENTER, 7200.0)),
    Case("clock of the centre", "moved back 2 h", "small", KILL_BOUND_S, clock_moves(CENTER, -7200.0)),
    Case("disk of the site", "full", "small", KILL_BOUND_S, disk_full),
    Case("disk of the centre", "full, then room", "small", KILL_BOUND_S, disk_of_center_full),
    Case("site, receiving", "kill", "big", KILL_BOUND_S, kill_and_restart("north", at_transfer("north", "down"))),
    Case(
        "site, receiving",
        "kill, not restarted",
        "big",
        KILL_BOUND_S,
        kill_for_good("north", at_transfer("north", "down")),
    ),
    Case("site, receiving", "stop", "big", CUT_BOUND_S, stop_until_accepted("north", at_transfer("north", "down"))),
    Case("site, sending", "kill", "big", KILL_BOUND_S, kill_and_restart("north", at_transfer("north", "up"))),
    Case(
        "site, sending", "kill, not restarted", "big", KILL_BOUND_S, kill_for_good("north", at_transfer("north", "up"))
    ),
    Case("site, sending", "stop", "big", CUT_BOUND_S, stop_until_accepted("north", at_transfer("north", "up"))),
    Case(
        "store of the site",
        "lost, process killed",
        "big",
        KILL_BOUND_S,
        store_lost("north", at_transfer("north", "up"), restarts=True),
        steps=("trained",),
    ),
    Case(
        "store of the site",
        "lost under its process",
        "big",
        KILL_BOUND_S,
        store_lost("north", at_transfer("north", "up"), restarts=False),
        steps=("trained",),
        tells="holder-dropped",
    ),
    Case("router, in a transfer", "kill", "big", KILL_BOUND_S, kill_and_restart(ROUTER, at_transfer("north", "down"))),
    Case(
        "link of the site",
        "throttled to 5 MB/s",
        "big",
        CUT_BOUND_S,
        slow("north", rate=5e6),
        steps=("trained",),
    ),
    Case(
        "verification unit",
        "kill",
        "big",
        KILL_BOUND_S,
        doer_killed("measured", at_node_fetching, restarts=True),
        steps=("measured",),
    ),
    Case(
        "verification unit",
        "kill, not restarted",
        "big",
        KILL_BOUND_S,
        doer_killed("measured", at_node_fetching, restarts=False),
        steps=("measured",),
    ),
    Case(
        "verification unit",
        "stop",
        "big",
        CUT_BOUND_S,
        doer_stopped("measured", at_node_fetching),
        late=DOER,
        steps=("measured",),
    ),
    Case(
        "verification unit, measuring",
        "kill",
        "big",
        KILL_BOUND_S,
        doer_killed("measured", at_measuring, restarts=True),
        steps=("measured",),
        tells="lost",
    ),
    Case(
        "verification unit, measuring",
        "kill, not restarted",
        "big",
        KILL_BOUND_S,
        doer_killed("measured", at_measuring, restarts=False),
        steps=("measured",),
        tells="lost",
    ),
    Case(
        "aggregator",
        "kill",
        "average",
        KILL_BOUND_S,
        doer_killed("averaged", at_node_fetching, restarts=True),
        steps=("averaged",),
    ),
    Case(
        "aggregator",
        "kill, not restarted",
        "average",
        KILL_BOUND_S,
        doer_killed("averaged", at_node_fetching, restarts=False),
        steps=("averaged",),
    ),
    Case(
        "aggregator",
        "stop",
        "average",
        CUT_BOUND_S,
        doer_stopped("averaged", at_node_fetching),
        late=DOER,
        steps=("averaged",),
    ),
)

KNOBS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "small": ("small", {}),
    "big": ("big", {}),
    "average": ("big", {"method": "fedavg"}),
}


def run_cases(
    world: World,
    cases: Sequence[Case],
    told: Callable[[Row, Job], None] = lambda *_: None,
    until: float = math.inf,
) -> list[Row]:
    """All cases in order, those in a row of one kind of job on one job; it is ended, and its end seen, before the next
    begins. No case is begun after `until` on the monotonic clock."""
    rows: list[Row] = []
    for kind, alike in itertools.groupby(cases, key=lambda case: case.job):
        if time.monotonic() > until:
            break
        size, knobs = KNOBS[kind]
        job = world.submit(size, **knobs)
        for case in alike:
            if time.monotonic() > until:
                break
            try:
                row = play(case, world, job)
            except DaitnError as error:
                row = Row(case.point, case.kind, float("nan"), case.bound_s, error.what[:200], False)
            rows.append(row)
            told(row, job)
        world.end(job)
    return rows
