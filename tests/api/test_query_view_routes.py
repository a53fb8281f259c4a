"""Query views through a real server: asked for once, and followed while the choice on them stands."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.owner_world import Door

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.cli.main import run
from daitn.descriptors.query_view import QueryDemand, QueryRequest
from daitn.descriptors.serving import QueryGoal, Replica, ReplicaMeasured, ReplicaPhase
from daitn.node.clock import NodeClock
from daitn.sdk.map_questions import MapQuestions
from daitn.sdk.network import connect


def serve(door: Door, seconds: dict[str, float]) -> None:
    """Nodes serve `sides`, each answering in so long."""
    knowledge, now_ns = door.service.center.knowledge, NodeClock().now_ns()
    for name, service_s in seconds.items():
        replica = Replica(
            model=ModelName("sides"),
            artifact=ArtifactId("a" * 64),
            phase=ReplicaPhase.SERVING,
            measured=ReplicaMeasured(row_s=service_s),
        )
        knowledge.heard(NodeId(f"n-{name}"), knowledge.node(NodeId(f"n-{name}")).sequence, now_ns)  # type: ignore[union-attr]
        knowledge.hosted(NodeId(f"n-{name}"), {"sides": (replica, {"accuracy": 0.9})}, now_ns)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as door:
        serve(door, {"h1": 0.1, "h2": 0.3})
        yield door


@pytest.fixture
def asking(door: Door) -> Iterator[MapQuestions]:
    with connect(door.token("op", "operate")) as network:
        yield network.map


def test_hosts_that_may_serve_and_those_that_may_not_are_told(door, asking):
    view = asking.hosts(QueryRequest(model="sides", goal=QueryGoal(deadline_s=0.2)))

    assert [one.thing for one in view.hosts] == ["h1/sides"]
    assert [(one.thing, one.reason.value) for one in view.excluded] == [("h2/sides", "late")]
    with pytest.raises(InputError, match="did you mean sides"):
        asking.hosts(QueryRequest(model="side"))
    with pytest.raises(InputError, match="no terminal 'nowhere'"):
        asking.hosts(QueryRequest(model="sides", asked_from="nowhere"))


def test_view_is_followed_and_silent_while_the_choice_stands(door, asking):
    following = asking.follow_hosts(QueryRequest(model="sides"))
    first = next(following)
    serve(door, {"h1": 0.12, "h2": 0.29})  # nearer, and still the same choice
    timer = threading.Timer(0.6, serve, (door, {"h1": 0.5, "h2": 0.29}))
    timer.start()
    second = next(following)
    timer.join()

    assert [one.thing for one in first.hosts] == ["h1/sides", "h2/sides"]
    assert [one.thing for one in second.hosts] == ["h2/sides", "h1/sides"]
    assert [round(one.service_s, 2) for one in second.hosts] == [0.29, 0.5]


def test_command_line_shows_hosts_and_demand(door, monkeypatch, capsys):
    door.service.center.knowledge.demanded([QueryDemand(kind="sides", asked_per_s=3.0)], NodeClock().now_ns())
    monkeypatch.setenv("DAITN_TOKEN", door.token("op", "operate"))

    assert run(["map", "hosts", "sides", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["thing"] for one in told["hosts"]] == ["h1/sides", "h2/sides"]
    assert run(["map", "hosts", "sides", "--deadline", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert "not h2/sides: predicted to answer in 0.300 s, asked for is 0.200 s" in shown
    assert "asked: sides, 3 a second" in shown
