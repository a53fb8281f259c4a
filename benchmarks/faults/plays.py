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

from benchmarks.faults.points import Point, at_accepted, at_training
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import PATIENCE_S, Fault, World
from daitn.node.processes import CENTER, DAITN, ROUTER
from daitn.sdk.jobs import Job

LONG_S: Final = 10.0
"""A stop or cut after which links are given up at both ends: a fabric's lease is 3 s."""

LINK_LOST: Final = "the link to the router is lost"
GRANT_ENDED: Final = "it ended at"
"""What a requester hears of a holder whose clock is beyond the end of a grant."""

Play = Callable[[World, Job], Iterator[Fault]]
"""Yields the fault when it has been brought about; goes on to heal it once the next step was accepted."""


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


def stop_for_long(name: str, at: Point) -> Play:
    """Stop a process that nothing goes on without until its links are given up; it is counted from when it goes on."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        tails = world.tails(*(() if name == ROUTER else (name,)))
        world.stop(name)
        try:
            time.sleep(LONG_S)
        finally:
            now = time.time()
            world.go_on(name)
        for tail in tails.values():
            tail.wait(LINK_LOST)
        yield Fault(now)

    return run


def cut_for(name: str, seconds: float, at: Point, *, from_mending: bool = False) -> Play:
    """Cut the link of a process that nothing goes on without, both ways; it is mended after a while, and counted from
    then or from the cut."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        at(world, job)
        link = world.links[name]
        tail = world.tails(name)[name]
        now = time.time()
        link.cut("up", "down")
        try:
            time.sleep(seconds)
            if from_mending:
                tail.wait(LINK_LOST)
        finally:
            mended = time.time()
            link.mend()
        yield Fault(mended if from_mending else now, by=link.cut_by)

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


def doer_cut(kind: str, at: Callable[[str], Point]) -> Play:
    """Cut the link, both ways, of who makes a job's steps of a kind; it is mended once another one has taken over."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        name = _doer(world, job, kind)
        try:
            at(name)(world, job)
            visit = world.open_visit(job, name)
            now = time.time()
            world.links[name].cut("up", "down")
            yield Fault(now, visit, by=world.links[name].cut_by, elsewhere=world.slot(name), name=name)
        finally:
            world.links[name].mend()

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
        try:
            visit = at(world, job)
            now = time.time()
            world.links[name].cut(*ways)
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


def clock_wrong_at_start(name: str, seconds: float) -> Play:
    """A process is killed, and the one that starts in its place has a clock that is off: its links are made, and the
    grants that it is shown are judged, by that clock. Both sites go on, and no transfer is refused."""

    def run(world: World, job: Job) -> Iterator[Fault]:
        with world.movable_clock(name):
            at_training("north")(world, job)
            tails = world.tails()
            known = len(world.log(job)) if name == CENTER else None
            fault = world.kill(name)
            moved = world.set_clock(name, seconds)
            world.restart(name)
            try:
                yield fault._replace(by=moved.by, known=known)
                world.ready(name)
                at_accepted("north")(world, job)
                at_accepted("south")(world, job)
                refused = [line for tail in tails.values() for line in tail.lines() if GRANT_ENDED in line]
                assert not refused, f"a transfer was refused: {refused[0]}"
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
