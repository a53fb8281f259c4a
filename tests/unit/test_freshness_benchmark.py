"""The benchmark of freshness measures what it says: the truth has no regret, bytes are the codec's, curves meet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks import freshness, freshness_views
from benchmarks import freshness_world as fw

from daitn.descriptors.facts import group_named
from daitn.wire.packed_facts import HEADER, record_dtype

DATA = Path(os.environ.get("DAITN_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def tiny_world(terminals: int = 8) -> fw.World:
    """Terminals whose waits rise and fall in turn, and one that fails at 50 s."""
    load, capacity = [], []
    for terminal in range(terminals):
        values = np.zeros((2, len(fw.LOAD.facts)))
        values[:, fw.WAIT] = [terminal, 2 * terminal]
        load.append(fw.Track(np.array([0.0, 50.0]), values))
        facts = np.zeros((2, len(fw.CAPACITY.facts)))
        facts[:, fw.SLOTS], facts[:, fw.SPEED] = 1.0, fw.FLOPS
        facts[1, fw.SLOTS] = float(terminal > 0)
        capacity.append(fw.Track(np.array([0.0, 50.0]), facts))
    asked = np.arange(5.0, 100.0, 5.0)
    return fw.World(
        load=load,
        capacity=capacity,
        site_of=np.arange(terminals) // 4,
        delay_s=np.full(terminals, 0.05),
        round_trip_RN=np.full((freshness_views.REQUESTS, terminals), 0.1),
        asked_s=asked,
        asker=np.zeros(len(asked), np.int64),
        horizon_s=100.0,
        warm_s=10.0,
    )


def test_choice_on_the_truth_has_no_regret_and_one_on_a_map_of_before_a_failure_has():
    world = tiny_world()
    near = world.round_trip_RN[world.asker]
    true = fw.completion(near, *fw.true_facts(world))

    assert fw.regrets(true, true) == pytest.approx(np.zeros(len(true)))
    stale = np.repeat(true[:1], len(true), axis=0)
    assert fw.regrets(stale, true)[-1] > fw.PATIENCE_S / true[-1, 1:4].sum() * 0.9


def test_reports_are_counted_with_the_bytes_of_the_codec():
    load = group_named("load")

    assert freshness.packed_bytes({"load": 3}) == HEADER.itemsize + 3 * record_dtype(load).itemsize


def test_periodic_reporting_costs_what_its_period_says_and_errs_more_the_longer_it_is():
    world = tiny_world()
    short, long = (freshness.run_periodic(world, period_s, seed=1) for period_s in (1.0, 40.0))

    assert short.bytes_per_terminal_s == pytest.approx(40 * long.bytes_per_terminal_s)
    assert short.error <= long.error
    assert long.age_p95_s > 10 * short.age_p95_s


def test_tuned_domain_knows_of_the_failure_within_a_second_of_its_report():
    outcome = freshness.Domain(tiny_world(), 200.0, 10.0).run()

    assert outcome.error < freshness.run_periodic(tiny_world(), 40.0, seed=1).error
    assert outcome.bytes_per_terminal_s < 200.0


def test_views_followed_by_an_adapter_err_nowhere_and_periodic_ones_do():
    world = tiny_world()
    followed, periodic = (freshness_views.run_views(world, period_s) for period_s in (None, 60.0))

    assert followed.error == pytest.approx(0.0)
    assert periodic.error > 0.0
    assert followed.deltas_per_view_s < 1 / 5.0


def test_choice_within_its_bounds_is_the_same_choice():
    scores = np.array([3.0, 1.0, 7.0, 2.0, np.inf, 5.0])
    low, high = fw.keep_best(scores, 3)
    worst = np.where(np.isfinite(high), high - 1e-9, np.where(np.isfinite(low), low + 1e-9, scores))

    assert set(np.argsort(worst)[:3]) == set(np.argsort(scores)[:3]) == {0, 1, 3}


def test_ratio_is_that_of_bytes_at_the_same_error():
    cells = {}
    for seed in freshness.SEEDS:
        for budget in freshness.KINDS["tuned"]:
            cells[f"tuned/{budget:g}/{seed}"] = {"bytes_per_terminal_s": budget, "error": 1.0 / budget}
        for period in freshness.KINDS["periodic"]:
            cells[f"periodic/{period:g}/{seed}"] = {"bytes_per_terminal_s": 80.0 / period, "error": period / 10.0}

    found = freshness.ratios(cells, "periodic")

    assert found["bytes_ratio_at_equal_error"] == pytest.approx(8.0)
    assert found["bytes_ratio_least"] == pytest.approx(8.0)


@pytest.mark.skipif(not (DATA / "availability_load").is_dir(), reason=f"no availability_load in {DATA}: set DAITN_DATA")
def test_world_is_made_of_the_recorded_traces_and_is_the_same_for_the_same_seed():
    first, again = (fw.make_world(DATA, 3, terminals=4, per_site=2, horizon_s=600.0, every_s=60.0) for _ in range(2))

    assert all((one.values == other.values).all() for one, other in zip(first.load, again.load, strict=True))
    assert 0 < first.delay_s.min() < first.delay_s.max() < 1
    assert max(len(track.at_s) for track in first.load) > 50
