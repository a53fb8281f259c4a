"""A representative half of the fault matrix on real processes; all of it, with its times, is `benchmarks.faults`.

What is held here is that a job goes on after each fault and that nothing is lost, doubled or unfenced; how soon is
measured by the benchmark, on a quiet machine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import pytest
from benchmarks.faults.afterwards import end
from benchmarks.faults.cells import CASES
from benchmarks.faults.matrix import KNOBS as JOBS
from benchmarks.faults.matrix import Cell, Whole, play, play_whole
from benchmarks.faults.world import World, open_world

from daitn.sdk.jobs import Job

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes and reads /proc"),
]

HERE = {
    "site, training, kill",
    "site, training, kill, not restarted",
    "site, training, stop",
    "site, after acknowledgement, kill",
    "child, kill",
    "child, stop",
    "centre, stop",
    "router, stop",
    "owner's client, kill",
    "link of the site, cut both ways",
    "link of the site, cut towards the router",
    "link of the site, cut from the router",
    "clock of the site, moved forward 2 h",
    "disk of the site, full",
    "site, receiving, kill",
    "site, sending, stop",
    "store of the site, lost under its process",
    "verification unit, kill",
    "verification unit, kill, not restarted",
    "aggregator, kill, not restarted",
    "centre, last measurement, kill",
    "owner's client, submitting, kill",
}
"""Kills of the centre and of the router are in `test_training_run`."""

PICKED = [case for case in CASES if case.name in HERE]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def jobs(world: World) -> Iterator[dict[str, Job]]:
    """The job of each kind that is under way: one at a time, each ended before the next begins."""
    running: dict[str, Job] = {}
    yield running
    for job in running.values():
        end(world, job)


@pytest.mark.parametrize("case", PICKED, ids=lambda case: case.name)
def test_job_goes_on_after_a_fault_and_nothing_is_lost_doubled_or_unfenced(
    world: World, jobs: dict[str, Job], case: Cell
) -> None:
    if case.job not in jobs:
        for kind in list(jobs):
            end(world, jobs.pop(kind))
    if isinstance(case, Whole):
        row = play_whole(case, world)
    else:
        size, knobs = JOBS[case.job]
        jobs[case.job] = jobs.get(case.job) or world.submit(size, **knobs)
        row = play(case, world, jobs[case.job])

    if row.outcome.startswith("left out"):
        pytest.skip(row.outcome)
    assert not math.isnan(row.seconds), row.outcome


def test_matrix_names_every_case_once() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert set(names) >= HERE
