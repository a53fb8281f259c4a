"""The matrix: each fault at each point of a job, as a short play on a running domain.

A play brings its job to the point, brings the fault about, and heals it when it has seen what it wanted to see. How
long the first accepted step after it took, whether it is within its bound, and that nothing is lost, doubled or
unfenced is looked at for all alike (`play`).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.faults.world import ACCEPTED, PATIENCE_S, Fault, World, wait_for
from daitn.base.errors import DaitnError
from daitn.node.processes import CENTER, DAITN, ROUTER
from daitn.sdk.jobs import Job

KILL_BOUND_S: Final = 5.0
CUT_BOUND_S: Final = PATIENCE_S + 5.0
"""The lease, and as long as after a kill."""

SLOW_BYTES_PER_S: Final = 2_500_000.0
PART_BYTES: Final = 1_000_000
"""A quarter of what changes in the big model: when so much has passed, its transfer is under way for one and a half
seconds more."""

Play = Callable[[World, Job], Iterator[Fault]]
"""Yields the fault when it has been brought about; goes on to heal it once the next step was accepted."""


Point = Callable[[World, Job], str]
"""Waits until a job is at some point; the visit that is there, if it is one visit's."""


class Case(NamedTuple):
    """One cell of the matrix."""

    point: str
    kind: str
    job: str
    """small, big, or average: federated averaging of the big model."""
    bound_s: float
    run: Play
    late: str = ""
    """The node that comes back late, if one does: what it had must have been fenced."""
    steps: tuple[str, ...] = ACCEPTED
    """Steps that count as going on: not a verification that was under way elsewhere when a model was lost."""

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


def play(case: Case, world: World, job: Job) -> Row:
    """Run one case to its end."""
    if case.run is disk_full and world.no_disk:
        return Row(case.point, case.kind, float("nan"), case.bound_s, f"left out: {world.no_disk}", True)
    acts = case.run(world, job)
    try:
        fault = next(acts)
        recovery = world.recovered(job, fault, case.steps)
        next(acts, None)
        outcome = f"next step: {recovery.entry.kind}"
        if case.late:
            outcome += f"; the late visit was {world.fenced(job, case.late, fault.visit)} there"
        world.check(job)
    except AssertionError as error:
        return Row(case.point, case.kind, float("nan"), case.bound_s, str(error)[:200], False)
    finally:
        with contextlib.suppress(StopIteration):
            next(acts)
    return Row(case.point, case.kind, recovery.seconds, case.bound_s, outcome, recovery.seconds <= case.bound_s)


# --- plays ------------------------------------------------------------------------------------------------------------


def kill_and_restart(name: str, at: Point) -> Play:
    """Kill a process at a point; its supervisor starts it again at once."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        fault = world.kill(name)
        world.restart(name)
        yield fault
        world.ready(name)

    return run


def kill_for_good(name: str, at: Point) -> Play:
    """Kill a process at a point; nobody starts it again until the job has gone on."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        fault = world.kill(name)
        yield fault
        world.restart(name)
        world.ready(name)

    return run


def stop_until_accepted(name: str, at: Point) -> Play:
    """Stop a process at a point; it goes on once the job has gone on without it, and comes back late."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        visit = at(world, job)
        fault = world.stop(name)
        try:
            yield fault._replace(visit=visit)
        finally:
            world.go_on(name)

    return run


def stop_for_a_lease(name: str, at: Point) -> Play:
    """Stop a process that nothing goes on without, for a little longer than a lease."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        fault = world.stop(name)
        time.sleep(PATIENCE_S + 0.5)
        world.go_on(name)
        yield fault

    return run


def child_dies(name: str, at: Point, number: signal.Signals) -> Play:
    """A signal to the sandboxed process of a node."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        now = time.time()
        for pid in world.children(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        yield Fault(now)

    return run


def cut(name: str, at: Point, *ways: Any) -> Play:
    """Cut a node's link; it is mended once the job has gone on without it."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        visit = at(world, job)
        now = time.time()
        world.links[name].cut(*ways)
        try:
            yield Fault(now, visit)
        finally:
            world.links[name].mend()

    return run


def slow(name: str, *, delay_s: float = 0.0, rate: float = 0.0) -> Play:
    """A node's link becomes slow; nothing is to be lost."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at_training("north" if name == "south" else "south")(world, job)
        now = time.time()
        world.links[name].delay_s, world.links[name].rate_bytes_per_s = delay_s, rate
        try:
            yield Fault(now)
            slot = world.slot(name)
            known = len(world.log(job))
            wait_for(
                lambda: any(e.kind == "trained" and e.node == slot for e in world.log(job)[known:]),
                f"a visit at {name} over its slow link",
            )
        finally:
            world.links[name].mend()

    return run


def clock_moves(name: str, seconds: float) -> Play:
    """The wall clock of one process jumps."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at_training("north")(world, job)
        fault = world.set_clock(name, seconds)
        try:
            yield fault
            at_accepted("north")(world, job)
        finally:
            world.set_clock(name, 0.0)

    return run


def owner_dies(world: World, job: Job) -> Iterator[Fault]:
    """An owner's watching program is killed; another one sees the job further on."""
    command = [*DAITN, "train", "watch", job.id]
    environment = world.domain.processes.environment | {"DAITN_TOKEN": world.token}
    log = Path(world.domain.folder / "logs" / "owner.out")
    with log.open("wb") as out:
        program = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        wait_for(lambda: log.stat().st_size > 0, "the first words of the owner's program")
        before = job.status()
        now = time.time()
        program.kill()
        program.wait()
    yield Fault(now)
    after = job.status()
    assert after.visits >= before.visits, "the owner's progress went back"


def disk_full(world: World, job: Job) -> Iterator[Fault]:
    """North's disk is full; later there is room again, and its supervisor starts it where it had to end."""
    at_accepted("south")(world, job)
    now = time.time()
    empty = world.fill_disk()
    try:
        yield Fault(now)
        slot, known = world.slot("north"), len(world.log(job))
        wait_for(
            lambda: (
                not world.domain.processes.alive("north")
                or any(e.kind == "lost" and e.node == slot for e in world.log(job)[known:])
            ),
            "north's full disk to be noticed",
        )
    finally:
        empty()
        if not world.domain.processes.alive("north"):
            world.restart("north")
            world.ready("north")
    at_accepted("north")(world, job)


# --- points -----------------------------------------------------------------------------------------------------------


def at_training(node: str) -> Point:
    """A visit at a node has made its first step."""
    return lambda world, _: world.at_training(node)


def at_accepted(node: str) -> Point:
    """A visit at a node has been accepted: it holds the newest model, and for a moment alone."""
    return lambda world, job: world.at_accepted(job, node)


def at_transfer(node: str, way: str) -> Point:
    """A quarter of what changes in the big model has come to (`down`) or left (`up`) a node, on a slow link."""

    def point(world: World, _: Job) -> str:
        world.at_training("south" if way == "down" else "north")
        world.links[node].rate_bytes_per_s = SLOW_BYTES_PER_S
        try:
            world.at_bytes(node, way, PART_BYTES)
        finally:
            world.links[node].rate_bytes_per_s = 0.0
        return ""

    return point


def at_node_fetching(node: str) -> Point:
    """A quarter of what changes in the big model has come to a node that fetches only now and then."""

    def point(world: World, _: Job) -> str:
        world.links[node].rate_bytes_per_s = SLOW_BYTES_PER_S
        try:
            world.at_bytes(node, "down", PART_BYTES)
        finally:
            world.links[node].rate_bytes_per_s = 0.0
        return ""

    return point


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
    Case("owner's client", "kill", "small", KILL_BOUND_S, owner_dies),
    Case(
        "link of the site",
        "cut both ways",
        "small",
        CUT_BOUND_S,
        cut("north", at_training("north"), "up", "down"),
        late="north",
    ),
    Case(
        "link of the site",
        "cut towards the router",
        "small",
        CUT_BOUND_S,
        cut("north", at_training("north"), "up"),
        late="north",
    ),
    Case(
        "link of the site",
        "cut from the router",
        "small",
        CUT_BOUND_S,
        cut("north", at_training("north"), "down"),
    ),
    Case("link of the site", "delayed by 200 ms", "small", CUT_BOUND_S, slow("north", delay_s=0.2)),
    Case("clock of the site", "moved forward 2 h", "small", KILL_BOUND_S, clock_moves("north", 7200.0)),
    Case("clock of the site", "moved back 2 h", "small", KILL_BOUND_S, clock_moves("north", -7200.0)),
    Case("clock of the centre", "moved forward 2 h", "small", KILL_BOUND_S, clock_moves(CENTER, 7200.0)),
    Case("clock of the centre", "moved back 2 h", "small", KILL_BOUND_S, clock_moves(CENTER, -7200.0)),
    Case("disk of the site", "full", "small", KILL_BOUND_S, disk_full),
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
    Case("router, in a transfer", "kill", "big", KILL_BOUND_S, kill_and_restart(ROUTER, at_transfer("north", "down"))),
    Case("link of the site", "throttled to 2 MB/s", "big", CUT_BOUND_S, slow("north", rate=2e6)),
    Case("verification unit", "kill", "big", KILL_BOUND_S, kill_and_restart("unit", at_node_fetching("unit"))),
    Case("verification unit", "stop", "big", CUT_BOUND_S, stop_for_a_lease("unit", at_node_fetching("unit"))),
    Case("aggregator", "kill", "average", KILL_BOUND_S, kill_and_restart("mixer", at_node_fetching("mixer"))),
    Case("aggregator", "stop", "average", CUT_BOUND_S, stop_for_a_lease("mixer", at_node_fetching("mixer"))),
)

KNOBS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "small": ("small", {}),
    "big": ("big", {}),
    "average": ("big", {"method": "fedavg"}),
}


def run_cases(
    world: World,
    cases: Sequence[Case],
    told: Callable[[Row], None] = lambda _: None,
    until: float = math.inf,
) -> list[Row]:
    """All cases in order, those of one job together; a job is ended, and its end seen, before the next begins. No case
    is begun after `until` on the monotonic clock."""
    rows: list[Row] = []
    for kind in dict.fromkeys(case.job for case in cases):
        size, knobs = KNOBS[kind]
        job = world.submit(size, **knobs)
        for case in cases:
            if case.job != kind or time.monotonic() > until:
                continue
            try:
                row = play(case, world, job)
            except DaitnError as error:
                row = Row(case.point, case.kind, float("nan"), case.bound_s, error.what[:200], False)
            rows.append(row)
            told(row)
        world.end(job)
    return rows
