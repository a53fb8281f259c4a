"""The view that a job is planned on, through a real server: whole, then what its planner is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.owner_world import Door, make_request, put_package

from daitn.base.effects import PeerVanished, TimerFired
from daitn.base.errors import InputError
from daitn.base.ids import NodeId
from daitn.cli.main import run
from daitn.descriptors.work import TrainWork
from daitn.sdk.jobs import Job
from daitn.sdk.network import connect


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """Sites answer only when a test says so."""
    with Door(tmp_path, hold=True) as door:
        yield door


@pytest.fixture
def job(door: Door) -> Iterator[Job]:
    """Submitted, nothing answered yet."""
    package = door.on_loop(lambda: put_package(door.service))
    with connect(door.token()) as network:
        yield network.submit(make_request(package), "k1")


def trains(door: Door) -> bool:
    """Whether a training visit is under way."""
    return any(isinstance(order.work, TrainWork) for _, order in door.service.orders)


def test_view_is_told_whole_then_by_what_the_planner_is_told_until_the_job_ends(door, job):
    assert job.view() is None, "nothing was chosen yet"
    door.answer_until(lambda: trains(door))
    following = job.follow_view()
    why, view = next(following)

    assert why == ""
    assert view == job.view()
    assert {one.dataset for one in view.candidates} == {"h1/lesions", "h2/lesions"}

    busy = next(node for node, order in door.service.orders if isinstance(order.work, TrainWork))
    gone = next(node for node in ("n-h1", "n-h2") if node != busy)

    def vanish() -> None:
        door.service._handle(PeerVanished(node=NodeId(gone)))
        door.service._handle(TimerFired(name=f"view {job.id}"))

    timer = threading.Timer(0.3, lambda: door.on_loop(vanish))
    timer.start()
    why, view = next(following)
    timer.join()

    assert why == f"{gone[2:]}/lesions at {gone} is no candidate any more"
    assert [one.compute_node for one in view.candidates] == [busy]
    job.cancel()
    assert list(following) == []


def test_command_shows_the_view_and_nobody_sees_another_s(door, job, monkeypatch, capsys):
    door.answer_until(lambda: trains(door))
    monkeypatch.setenv("DAITN_TOKEN", door.token())

    assert run(["train", "view", job.id, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["dataset"] for one in told["candidates"]} == {"h1/lesions", "h2/lesions"}
    assert run(["train", "view", job.id]) == 0
    assert "h1/lesions" in capsys.readouterr().out
    with connect(door.token("bob")) as network, pytest.raises(InputError, match="no job"):
        network.job(job.id).view()
