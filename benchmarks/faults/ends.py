"""Plays at the two ends of a job: its submission, and its last measurement, delivery and result.

Each has a job of its own, for it ends. What counts is not the next step but what the owner waits for: that the end is
told, once; that the model is there, the one that was measured; that a command given again after a kill goes on with the
same job and sends no chunk twice. Owners' programs are the real commands, through a link that can be slow.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import daitn
from benchmarks.faults.afterwards import check_ended, end
from benchmarks.faults.points import PART_BYTES, SLOW_BYTES_PER_S
from benchmarks.faults.programs import Program, owner_program
from benchmarks.faults.sites import CONTRACT, SPECS, WIDTH, make_model
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import OWNER, Fault, World
from daitn.artifacts.package import read_package
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.job import FINAL_PHASES, JobStatus, Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import CENTER
from daitn.sdk.jobs import Job
from daitn.sdk.packaging import package_module

GOALS: Final = {"small": ("loss <= 1", 3e-3, 600), "big": ("loss <= 1.5", 1e-4, 12)}
"""Goal, learning rate and batches of a visit: untrained the models are at 1.4 and 1.8, after the first visit at 0.6 and
1.3, so that the first measurement is the last one."""


class Ended(NamedTuple):
    """What became of a play: from the fault to what the owner waited for."""

    fault: Fault
    seconds: float
    outcome: str


Ending = Callable[[World], Ended]


class Follower:
    """An owner who watches a job by the library; what was seen, and when."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.seen: list[tuple[float, JobStatus]] = []
        self._thread = threading.Thread(target=self._follow, daemon=True, name="follower")
        self._thread.start()

    def _follow(self) -> None:
        for status in self._job.watch():
            self.seen.append((time.time(), status))

    def at(self, *phases: Phase) -> JobStatus:
        """Wait until it has seen one of these phases; AssertionError at once where the job has ended in another."""

        def found() -> JobStatus | None:
            seen = [status for _, status in self.seen]
            wanted = next((status for status in seen if status.phase in phases), None)
            if wanted is None and seen and seen[-1].phase in FINAL_PHASES:
                raise AssertionError(f"{self._job.id} is {seen[-1].phase.value}: {seen[-1].reason}")
            return wanted

        status = wait_for(found, f"{self._job.id} {' or '.join(phases)}", look_s=0.002)
        assert status is not None
        return status

    def end(self) -> tuple[float, JobStatus]:
        """When the end came, and which; AssertionError unless it came once, last, after what never went back."""
        self.at(*FINAL_PHASES)
        self._thread.join(5.0)
        assert not self._thread.is_alive(), f"the owner of {self._job.id} still waits after its end"
        lengths = [status.log_length for _, status in self.seen]
        assert lengths == sorted(lengths), f"the log of {self._job.id} was told as {lengths}"
        ends = [status.phase for _, status in self.seen if status.phase in FINAL_PHASES]
        assert len(ends) == 1, f"the end of {self._job.id} was told as {ends}"
        return self.seen[-1]


# --- the end of a job -------------------------------------------------------------------------------------------------


def center_dies_at_goal(world: World) -> Ended:
    """The centre is killed while the measurement is made that will meet the goal."""
    job, owner = _submit(world, "small")
    units = world.tails(*(spec.name for spec in SPECS if Role.VERIFICATION in spec.roles))

    def measuring() -> bool:
        return any("first step at" in line for tail in units.values() for line in tail.lines())

    wait_for(measuring, "the first step of a measurement", look_s=0.005)
    fault = _kill_center(world)
    return _delivered(world, job, owner, fault)


def center_dies_delivering(world: World) -> Ended:
    """The centre is killed while it fetches the best model, of which a quarter has come."""
    job, owner = _submit(world, "big")
    link = world.links[CENTER]
    link.rate_bytes_per_s = SLOW_BYTES_PER_S
    try:
        owner.at(Phase.DELIVERING)
        world.at_bytes(CENTER, "down", PART_BYTES)
        fault = _kill_center(world)
    finally:
        link.rate_bytes_per_s = 0.0
    return _delivered(world, job, owner, fault)


def center_dies_handing_out(world: World) -> Ended:
    """The centre is killed while the owner fetches the result, of which a quarter has come."""
    job, status = _finished(world)
    with _fetching(world, job, "handed-out") as (program, folder):
        fault = world.kill(CENTER)
        world.links[OWNER].mend()
        world.restart(CENTER)
        said = program.answer()
        seconds = time.time() - fault.unix_s
    world.ready(CENTER)
    _is_whole(folder, status, said)
    check_ended(world, job)
    return Ended(fault, seconds, f"the same command has the model of the job that is {job.status().phase.value}")


def owner_dies_fetching(world: World) -> Ended:
    """The owner's program is killed before it has the result; the same command is given again."""
    job, status = _finished(world)
    with _fetching(world, job, "fetched-again") as (program, folder):
        fault = program.kill()
        world.links[OWNER].mend()
        assert not folder.exists(), f"{folder} was there before all of the model was"
        said = owner_program(world, "train", "fetch", job.id, str(folder)).answer()
        seconds = time.time() - fault.unix_s
    _is_whole(folder, status, said)
    check_ended(world, job)
    return Ended(fault, seconds, "the same command again has the model")


def _submit(world: World, size: str) -> tuple[Job, Follower]:
    """A job that will reach its goal, and who watches it."""
    goal, rate, batches = GOALS[size]
    rates = Hyperparameters(batch_size=8, batches_per_visit=batches, learning_rate=rate)
    knobs: dict[str, Any] = {"targets": [goal], "until_deadline": False, "budget": Budget(visits=3)}
    job = world.submit(size, hyperparameters=rates, **knobs)
    return job, Follower(job)


def _kill_center(world: World) -> Fault:
    """Kill the centre; its supervisor starts it again at once."""
    fault = world.kill(CENTER)
    world.restart(CENTER)
    return fault


def _delivered(world: World, job: Job, owner: Follower, fault: Fault) -> Ended:
    """What must hold of a job that had, or was about to have, its model when the centre was killed."""
    told_unix_s, status = owner.end()
    world.ready(CENTER)
    assert told_unix_s > fault.unix_s, f"the owner of {job.id} had been told its end before"
    assert status.phase is Phase.DELIVERED, f"{job.id} is {status.phase.value}: {status.reason}"
    best = [found for _, seen in owner.seen if seen.phase is Phase.DELIVERING and (found := seen.model) is not None]
    assert set(best) <= {status.model}, f"the model was {best[0]} and is {status.model}"
    finals = [entry.text for entry in job.log() if entry.kind == "phase" and entry.text.startswith("delivered")]
    assert len(finals) == 1, f"the log tells the end as {finals}"
    folder = world.domain.folder / "results" / str(job.id)
    folder.parent.mkdir(exist_ok=True)
    assert job.result(folder).artifact == status.model
    check_ended(world, job)
    return Ended(fault, told_unix_s - fault.unix_s, "delivered, told once, the model is the measured one")


def _finished(world: World) -> tuple[Job, JobStatus]:
    """A job that has been delivered, with a big model: one that was played before, or a new one."""
    for job in reversed(world.jobs):
        status = job.status()
        if status.name.startswith("big") and status.phase is Phase.DELIVERED:
            return job, status
    job, owner = _submit(world, "big")
    owner.at(Phase.DELIVERED)
    return job, owner.end()[1]


@contextmanager
def _fetching(world: World, job: Job, name: str) -> Iterator[tuple[Program, Path]]:
    """An owner's program that has a quarter of a job's model, on a slow link."""
    folder = world.domain.folder / "results" / f"{name}-{job.id}"
    folder.parent.mkdir(exist_ok=True)
    program = owner_program(world, "train", "fetch", job.id, str(folder))
    try:
        world.at_part(OWNER, "down", PART_BYTES, SLOW_BYTES_PER_S, stays_slow=True)
        yield program, folder
    finally:
        world.links[OWNER].mend()
        program.end()


def _is_whole(folder: Path, status: JobStatus, said: dict[str, Any]) -> None:
    assert said["artifact"] == status.model, f"fetched {said['artifact']}, the job has {status.model}"
    assert read_package(folder).artifact == status.model
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")]
    assert not left, f"left over beside the result: {', '.join(left)}"


# --- its submission ---------------------------------------------------------------------------------------------------


def owner_dies_uploading(world: World) -> Ended:
    """`daitn train submit` is killed when most of the model has been sent; the same command is given again."""
    command, size = _submission(world, "killed-uploading", "big")
    link = world.links[OWNER]
    program = owner_program(world, *command)
    try:
        world.at_part(OWNER, "up", size * 9 // 10, SLOW_BYTES_PER_S, stays_slow=True)
        fault = program.kill()
    finally:
        link.mend()
        program.end()
    before = link.passed["up"]
    program = owner_program(world, *command)
    try:
        made = wait_for(lambda: _jobs_named(world, "killed-uploading"), "the job", look_s=0.05)
    finally:
        program.end()
    sent = link.passed["up"] - before
    assert len(made) == 1, f"there are {made}"
    assert sent < size, f"{sent} bytes were sent again, the package has {size}"
    job = world.adopt(made[0])
    taken_unix_s = job.status().submitted_unix_s
    end(world, job)
    return Ended(fault, taken_unix_s - fault.unix_s, "the same command again is one job, and sends what was lacking")


def owner_dies_submitting(world: World) -> Ended:
    """`daitn train submit` is killed when the domain has the job and the owner does not know; the same command is given
    again."""
    command, _ = _submission(world, "killed-submitting", "small")
    program = owner_program(world, *command)
    try:
        made = wait_for(lambda: _jobs_named(world, "killed-submitting"), "the job", look_s=0.005)
        fault = program.kill()
    finally:
        program.end()
    job, seconds = _again(world, command, fault)
    assert [job.id] == made, f"the second command made {job.id} beside {made}"
    end(world, job)
    return Ended(fault, seconds, "the same command again is the same job")


def _submission(world: World, name: str, size: str) -> tuple[Sequence[str], int]:
    """The command that submits a package of its own, and the package's bytes."""
    folder = world.domain.folder / "packages" / f"{name}-{time.time_ns()}"
    folder.parent.mkdir(exist_ok=True)
    model = make_model(WIDTH[size], seed=time.time_ns() % 1_000_000)
    contract = decode_contract(json.dumps(CONTRACT).encode())
    package_module(model, contract, folder, key=load_or_create_key(world.domain.folder / "ada.key"), name=name)
    payload_bytes = read_package(folder).manifest.payload_bytes
    knobs = ("--deadline", "1h", "--purpose", "research", "--chance-floor", "0", "--until-deadline", "--visits", "5000")
    return (
        "train",
        "submit",
        "--package",
        str(folder),
        "--target",
        "loss <= 0.0000001",
        "--name",
        name,
        *knobs,
    ), payload_bytes


def _again(world: World, command: Sequence[str], fault: Fault) -> tuple[Job, float]:
    """Give the command again: its job, the only one of its name that is under way, and how long it took."""
    said = owner_program(world, *command).answer()
    seconds = time.time() - fault.unix_s
    job = world.adopt(said["status"]["job"])
    assert said["status"]["phase"] in ("queued", "running"), said["status"]["reason"]
    name = command[command.index("--name") + 1]
    assert _jobs_named(world, name) == [job.id], f"there are {_jobs_named(world, name)}"
    return job, seconds


def _jobs_named(world: World, name: str) -> list[str]:
    """Jobs of a name that have not ended."""
    with daitn.connect(world.token) as network:
        jobs = network.jobs(20)
    return [status.job for status in jobs if status.name == name and status.phase not in FINAL_PHASES]
