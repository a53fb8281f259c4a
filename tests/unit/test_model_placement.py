"""Placement of one model as a programme: what its numbers mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from daitn.base.errors import UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.decision.model_placement import DemandSeen, HostOffered, PlacementFound, PlacementSought


def host(node: str, *path_s: float | None, **changes: Any) -> HostOffered:
    given = {
        "region": "", "held": False, "memory_frac": 0.01, "move_s": 1.0, "service_s": 0.005, "serves_per_s": math.inf,
    } | changes  # fmt: skip
    return HostOffered(node=NodeId(node), path_s=path_s, **given)


def place(*hosts: HostOffered, asked: tuple[float, ...] = (), **changes: Any) -> PlacementFound:
    given = {"least": 1, "most": 1} | changes
    demands = tuple(DemandSeen(region="", asked_per_s=one) for one in asked)
    return PlacementSought(model=ModelName("m"), hosts=hosts, demands=demands, **given).solve()


def test_measured_paths_decide_where_a_model_goes() -> None:
    near, far = host("far", 0.2), host("near", 0.01)

    assert place(near, far, asked=(10.0,)).nodes == ("near",)


def test_another_replica_is_placed_where_it_saves_more_waiting_than_it_costs() -> None:
    hosts = (host("a", 0.001, 0.2), host("b", 0.2, 0.001))

    assert len(place(*hosts, asked=(1.0, 0.01), most=2).nodes) == 1
    assert len(place(*hosts, asked=(1.0, 1.0), most=2).nodes) == 2


def test_replica_that_is_there_stays_unless_a_move_pays() -> None:
    there, better = host("there", 0.02, held=True), host("better", 0.01)

    kept = place(there, better, asked=(1.0,))
    moved = place(there, better, asked=(10.0,))
    assert (kept.nodes, moved.nodes) == (("there",), ("better",))
    assert moved.cost_s < moved.kept_cost_s
    assert moved.bound_s == pytest.approx(moved.cost_s)


def test_latency_of_the_goal_rules_hosts_out_while_any_keeps_it() -> None:
    cheap, quick = host("cheap", 0.2, memory_frac=0.0), host("quick", 0.01, memory_frac=1.0)

    assert place(cheap, quick, asked=(0.001,), within_s=0.05).nodes == ("quick",)
    assert place(cheap, asked=(0.001,), within_s=0.05).nodes == ("cheap",), "late is better than not at all"


def test_more_demand_than_all_hosts_can_serve_is_served_by_as_many_as_are_allowed() -> None:
    hosts = (host("a", 0.01, serves_per_s=10.0), host("b", 0.01, serves_per_s=10.0))

    found = place(*hosts, asked=(1000.0,), most=2)
    assert len(found.nodes) == 2
    assert sum(found.shares) == pytest.approx(1.0)


def test_no_host_is_said() -> None:
    with pytest.raises(UnavailableError, match="no host may carry m"):
        place()
