"""Placement of one model as a programme: what its numbers mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from daitn.base.errors import UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.demand_book import DemandBook
from daitn.decision.model_placement import (
    CHANGE_S,
    DRAIN_S,
    HORIZON_S,
    REPLICA_MEMORY_S,
    REPLICA_S,
    SAME_S,
    STANDING_PER_S,
    START_S,
    DemandSeen,
    HostOffered,
    PlacementFound,
    PlacementSought,
)
from daitn.wire.center_serving import DemandTold, QueriesOf


def host(node: str, *path_s: float | None, **changes: Any) -> HostOffered:
    given = {
        "region": "", "held": False, "memory_frac": 0.01, "move_s": 1.0, "service_s": 0.005, "serves_per_s": math.inf,
    } | changes  # fmt: skip
    return HostOffered(node=NodeId(node), path_s=path_s, **given)


def place(*hosts: HostOffered, asked: tuple[float, ...] = (), **changes: Any) -> PlacementFound:
    spread = changes.pop("spread", (0.0,) * len(asked))
    given = {"least": 1, "most": 1} | changes
    demands = tuple(
        DemandSeen(region="", asked_per_s=one, spread_per_s=by) for one, by in zip(asked, spread, strict=True)
    )
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


# --- what counts differ by chance -----------------------------------------------------------------------------------


def test_move_is_made_where_it_saves_more_than_counts_differ_by_chance() -> None:
    there, better = host("there", 0.02, held=True), host("better", 0.01)

    unsure = place(there, better, asked=(6.0,), spread=(3.0,))
    sure = place(there, better, asked=(6.0,), spread=(0.5,))
    assert place(there, better, asked=(6.0,)).nodes == ("better",), "by the numbers alone it pays"
    assert (unsure.nodes, sure.nodes) == (("there",), ("better",))
    assert unsure.cost_s == pytest.approx(unsure.kept_cost_s)
    assert unsure.shares == (1.0,)


def test_large_move_carries_no_small_one_along() -> None:
    hosts = (
        host("old", 0.2, 0.3, 0.3, held=True), host("new", 0.001, 0.3, 0.3),
        host("kept", 0.3, 0.02, 0.3, held=True), host("alike", 0.3, 0.01, 0.3),
    )  # fmt: skip
    asked, spread = (20.0, 8.0, 0.1), (1.0, 6.0, 0.1)

    assert set(place(*hosts, asked=asked, most=2).nodes) == {"new", "alike"}
    found = place(*hosts, asked=asked, spread=spread, most=2)
    assert set(found.nodes) == {"new", "kept"}
    assert sum(found.shares) == pytest.approx(1.0)


def test_replica_is_added_for_demand_that_is_sure_and_let_go_where_nobody_asks() -> None:
    hosts = (host("a", 0.001, 0.3, held=True), host("b", 0.3, 0.001))

    assert place(*hosts, asked=(5.0, 0.2), spread=(0.3, 0.2), most=2).nodes == ("a",)
    assert len(place(*hosts, asked=(5.0, 2.0), spread=(0.3, 0.2), most=2).nodes) == 2
    spare = (hosts[0], host("b", 0.3, 0.001, held=True, memory_frac=0.5))
    assert place(*spare, asked=(5.0, 0.0), spread=(0.3, 0.0), most=2).nodes == ("a",)


def test_hosts_that_do_not_serve_all_are_not_kept_for_chance_s_sake() -> None:
    there = host("there", 0.001, held=True, serves_per_s=10.0)
    roomy = host("roomy", 0.002, serves_per_s=1000.0)

    assert place(there, roomy, asked=(50.0,), spread=(40.0,)).nodes == ("roomy",)


@pytest.mark.parametrize("seed", range(20))
def test_plan_less_its_unsure_moves_is_one_and_costs_what_is_said(seed: int) -> None:
    """Against a plain count: replicas within their bounds, and the cost of the nearest hosts, moves and changes."""
    rng = np.random.default_rng(seed)
    paths, asked = rng.uniform(0.001, 0.2, (6, 5)), rng.uniform(0.0, 6.0, 5)
    hosts = [host(f"h{number}", *paths[number].tolist(), held=number < 3) for number in range(6)]
    found = place(*hosts, asked=tuple(asked.tolist()), spread=tuple((asked / 4).tolist()), least=2, most=4)
    plan = place(*hosts, asked=tuple(asked.tolist()), least=2, most=4)
    assert 2 <= len(found.nodes) <= 4
    assert len(set(found.nodes) - {"h0", "h1", "h2"}) <= len(set(plan.nodes) - {"h0", "h1", "h2"})
    assert found.bound_s <= found.cost_s + 1e-9
    open_ = [int(node[1:]) for node in found.nodes]
    waits = (paths[open_].min(axis=0) + 0.005) @ asked * HORIZON_S
    standing = STANDING_PER_S * (SAME_S + 0.005) * HORIZON_S
    moved = [one for one in open_ if one >= 3]
    closed = [one for one in range(3) if one not in open_]
    fixed = len(open_) * (REPLICA_S + REPLICA_MEMORY_S * 0.01) + len(moved) * (START_S + 1.0) + len(closed) * DRAIN_S
    assert found.cost_s == pytest.approx(waits + standing + fixed + (CHANGE_S if moved or closed else 0.0))


def test_spread_of_a_forecast_is_what_counts_by_chance_make_of_it() -> None:
    rng, book, found = np.random.default_rng(1), DemandBook(), []
    for moment in range(3000):
        count = QueriesOf(model=ModelName("m"), queries=int(rng.poisson(6.0)))
        now_ns = 2 * moment * 1_000_000_000
        book.take(NodeId("g"), "north", DemandTold(seconds=2.0, counts=(count,)), [ModelName("m")], now_ns)
        (asked,) = book.asked(ModelName("m"), now_ns)
        if moment > 300:
            found.append((asked.forecast_per_s, asked.spread_per_s))
    forecasts, spreads = np.array(found).T
    assert spreads.mean() == pytest.approx(forecasts.std(), rel=0.3)


def test_two_hosts_that_are_nearly_alike_do_not_take_turns() -> None:
    """Two hours of three queries a second: by the numbers of each moment the model moves to and fro."""
    moves = {}
    for minds in (False, True):
        rng, book, held, last = np.random.default_rng(3), DemandBook(), "a", ()
        moves[minds] = 0
        for moment in range(3600):
            now_ns = 2 * moment * 1_000_000_000
            for gateway in ("g1", "g2"):
                count = QueriesOf(model=ModelName("m"), queries=int(rng.poisson(6.0)))
                book.take(NodeId(gateway), gateway, DemandTold(seconds=2.0, counts=(count,)), [ModelName("m")], now_ns)
            asked = book.asked(ModelName("m"), now_ns)
            steps = tuple(round(math.log(one.forecast_per_s) / math.log(1.2)) for one in asked)
            if moment < 60 or steps == last:
                continue
            last = steps
            hosts = (host("a", 0.001, 0.05, held=held == "a"), host("b", 0.05, 0.001, held=held == "b"))
            demand = tuple(one.forecast_per_s for one in asked)
            spread = tuple(one.spread_per_s for one in asked) if minds else (0.0, 0.0)
            (node,) = place(*hosts, asked=demand, spread=spread).nodes
            moves[minds] += node != held
            held = node
    assert moves[False] > 8
    assert moves[True] <= moves[False] // 4
