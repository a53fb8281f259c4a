"""The plays of the matrix: bring a job to a point, bring a fault about, heal it once the job has gone on.

A play yields the fault when it has been brought about, and is resumed when the next step was accepted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.faults.sites import BATCHES
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import PATIENCE_S, Fault, World
from daitn.node.processes import CENTER, DAITN
from daitn.sdk.jobs import Job

SLOW_BYTES_PER_S: Final = 2_500_000.0
LONG_BATCHES: Final = 6000
"""Batches of a visit that takes five seconds, more than twice the lease."""

PART_BYTES: Final = 1_000_000
"""A quarter of what changes in the big model: when so much has passed, its transfer is under way for one and a half
seconds more."""

Play = Callable[[World, Job], Iterator[Fault]]
"""Yields the fault when it has been brought about; goes on to heal it once the next step was accepted."""


Point = Callable[[World, Job], str]
"""Waits until a job is at some point; the visit that is there, if it is one visit's."""


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


def doer_killed(kind: str, at: Callable[[str], Point], *, restarts: bool) -> Play:
    """Kill who makes a job's steps of a kind, at a point of it. Where nobody starts it again, another one's step counts
    and it comes back only after that."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        name = _doer(world, job, kind)
        at(name)(world, job)
        fault = world.kill(name)
        if restarts:
            world.restart(name)
            yield fault
        else:
            yield fault._replace(elsewhere=world.slot(name))
            world.restart(name)
        world.ready(name)

    return run


def doer_stopped(kind: str, at: Callable[[str], Point]) -> Play:
    """Stop who makes a job's steps of a kind; it goes on once another one has taken over, and comes back late."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        name = _doer(world, job, kind)
        at(name)(world, job)
        fault = world.stop(name)
        visit = world.open_visit(job, name)
        try:
            yield fault._replace(visit=visit, elsewhere=world.slot(name), name=name)
        finally:
            world.go_on(name)

    return run


def _doer(world: World, job: Job, kind: str) -> str:
    name = world.doer(job, kind)
    if kind == "measured":
        world.other_ready(job, name)
    return name


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
    """Cut a node's link; it is mended once another node has gone on with the job."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        visit = at(world, job)
        now = time.time()
        world.links[name].cut(*ways)
        try:
            yield Fault(now, visit, by=world.links[name].cut_by, elsewhere=world.slot(name))
        finally:
            world.links[name].mend()

    return run


def slow(name: str, *, delay_s: float = 0.0, rate: float = 0.0) -> Play:
    """A node's link becomes slow while another trains: what counts is the slow node's own next step. It takes part as
    ever before that, and has the model, so that only what changes of it comes over the slow link."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        slot = world.slot(name)
        wait_for(
            lambda: sum(entry.kind == "trained" and entry.node == slot for entry in world.log(job)) >= 2,
            f"two visits at {name}",
        )
        at_training(name)(world, job)
        at_training("north" if name == "south" else "south")(world, job)
        now = time.time()
        world.links[name].delay_s, world.links[name].rate_bytes_per_s = delay_s, rate
        try:
            yield Fault(now, by="proxy", at=slot)
        finally:
            world.links[name].mend()

    return run


def clock_moves(name: str, seconds: float) -> Play:
    """The wall clock of one process jumps."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        with world.movable_clock(name):
            at_training("north")(world, job)
            fault = world.set_clock(name, seconds)
            try:
                yield fault
                at_accepted("north")(world, job)
            finally:
                world.set_clock(name, 0.0)

    return run


def store_lost(name: str, at: Point, *, restarts: bool) -> Play:
    """All that a node holds is gone, under its running process or while that starts again; at the end, in both cases,
    it starts again and sees it."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        now = time.time()
        if restarts:
            world.kill(name)
        world.lose_store(name)
        if restarts:
            world.restart(name)
        yield Fault(now, by="files removed")
        if not restarts:
            world.domain.processes.end(name)
            world.restart(name)
        world.ready(name)

    return run


def owner_fails(number: signal.Signals) -> Play:
    """An owner's watching program is killed or stopped; another one sees the job further on."""
    return lambda world, job: _owner_fails(world, job, number)


def _owner_fails(world: World, job: Job, number: signal.Signals) -> Iterator[Fault]:
    command = [*DAITN, "train", "watch", job.id]
    environment = world.domain.processes.environment | {"DAITN_TOKEN": world.token}
    log = Path(world.domain.folder / "logs" / "owner.out")
    with log.open("wb") as out:
        program = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        wait_for(lambda: log.stat().st_size > 0, "the first words of the owner's program")
        before = job.status()
        now = time.time()
        program.send_signal(number)
        try:
            yield Fault(now)
            after = job.status()
            assert after.visits >= before.visits, "the owner's progress went back"
        finally:
            program.kill()
            program.wait()


def disk_full(world: World, job: Job) -> Iterator[Fault]:
    """North's disk is full; later there is room again, and its supervisor starts it where it had to end."""
    at_accepted("south")(world, job)
    now = time.time()
    empty = world.fill_disk("north")
    slot, known = world.slot("north"), len(world.log(job))

    def alive() -> bool:
        return world.domain.processes.alive("north")

    def trained() -> bool:
        if not alive():
            world.restart("north")
            world.ready("north")
        return any(e.kind == "trained" and e.node == slot for e in world.log(job)[known:])

    try:
        yield Fault(now, by="a small file system")
        wait_for(
            lambda: not alive() or any(e.kind == "lost" and e.node == slot for e in world.log(job)[known:]),
            "north's full disk to be noticed",
        )
    finally:
        empty()
    known = len(world.log(job))
    wait_for(trained, "a visit at north after there was room again")


def disk_of_center_full(world: World, job: Job) -> Iterator[Fault]:
    """The centre's disk is full, so that it ends: it says nothing that is not kept. The fault is over when there is
    room, and it is counted from there, since nothing is accepted before."""
    at_training("north")(world, job)
    empty = world.fill_disk(CENTER)
    try:
        wait_for(lambda: not world.domain.processes.alive(CENTER), "the centre to end on its full disk")
    finally:
        empty()
    now = time.time()
    world.restart(CENTER)
    yield Fault(now, by="a small file system")
    world.ready(CENTER)


# --- points -----------------------------------------------------------------------------------------------------------


def at_training(node: str) -> Point:
    """A visit at a node has made its first step."""
    return lambda world, _: world.at_training(node)


def at_long_training(node: str) -> Point:
    """A visit that takes longer than a lease has made its first step at a node; those after it are short again."""

    def point(world: World, job: Job) -> str:
        wanted = f" {LONG_BATCHES} batches of "
        world.set_batches(job, LONG_BATCHES)
        try:
            while True:
                visit = world.at_training(node)
                order = next(e for e in world.log(job) if e.visit == visit and e.kind == "ordered")
                if wanted in order.text:
                    return visit
        finally:
            world.set_batches(job, BATCHES["small"])

    return point


def at_measuring(node: str) -> Point:
    """A measurement at a node has made its first step; it takes most of a second."""
    return at_training(node)


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
