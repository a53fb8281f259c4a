"""The flapping world's own parts: a site that comes and goes, what views know of it, and how ratios are made."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.tramfl_flapping import (
    BATCH_S,
    DOWN_S,
    LEASE_S,
    OURS,
    PUBLISHED,
    SLOW,
    UP_S,
    Clocked,
    Flapper,
    report,
)
from benchmarks.tramfl_world import BATCHES, Digits, Site


def sites(count: int = 3) -> list[Site]:
    """Sites of one picture of each label."""
    digits = Digits(np.zeros((10, 1, 28, 28), np.float32), np.arange(10))
    return [Site(number, digits, (number, number + 1)) for number in range(count)]


def test_flapping_site_is_up_and_down_by_turns_and_the_same_for_a_seed():
    one, other = Flapper(3), Flapper(3)
    turns = one.turns(100_000.0)
    up_s = sum(end - start for start, end in zip(turns[::2], turns[1::2], strict=False))

    assert other.turns(50_000.0) == [turn for turn in turns if turn <= 50_000.0]
    assert [one.is_up(turn + 1e-6) for turn in turns[:6]] == [True, False] * 3
    assert one.next_turn(turns[4]) == turns[5]
    assert up_s / turns[-1] == pytest.approx(UP_S / (UP_S + DOWN_S), abs=0.05)


def test_view_leaves_a_site_out_once_its_lease_has_run_out_and_counts_on_it_less_each_time():
    world = Clocked(sites(), 1)
    turns = world.flapper.turns(2000.0)
    flapping = world.sites[1].dataset

    def seen(at_s: float) -> float | None:
        there = {one.dataset: one.availability for one in world.view(at_s, all_sites=False).candidates}
        return there.get(flapping)

    first, gone = seen(1.0), turns[1]
    assert first == 1.0
    assert seen(gone + LEASE_S / 2) is not None
    assert world.flapper.next_turn(gone) < gone + LEASE_S or seen(gone + LEASE_S + 0.1) is None
    later = seen(turns[-1] + 0.1) if len(turns) % 2 else seen(turns[-2] + 0.1)
    assert later is not None
    assert later < first
    assert len(world.view(gone + 60, all_sites=True).candidates) == 3


def test_view_has_times_of_batches_once_they_were_measured_and_leaves_resting_sites_for_later():
    world = Clocked(sites(), 1)
    slow = world.sites[0].dataset
    assert world.seconds_per_batch(slow) == SLOW * BATCH_S
    assert {one.batch_s for one in world.view(0.0, all_sites=False).candidates} == {None}

    world.batch_s[slow] = world.seconds_per_batch(slow)
    world.resting_until_s[world.sites[2].dataset] = 5.0

    assert [one.batch_s for one in world.view(1.0, all_sites=False).candidates] == [SLOW * BATCH_S, None]
    assert len(world.view(5.0, all_sites=False).candidates) == 3


def test_ratios_are_means_over_node_counts_and_wait_for_all_of_them():
    def cells(*nodes: int) -> dict[str, dict[str, float]]:
        cell = {"updates": 1, "lost": 0, "reached": True}
        return {
            f"{method}/{count}/{seed}": cell | {"seconds": seconds * count}
            for count in nodes
            for seed in (0, 1)
            for method, seconds in ((OURS, 10.0), (PUBLISHED, 40.0), ("tram-fl", 20.0))
        }

    figures, peers = report(cells(*BATCHES))

    assert figures["seconds_ratio_flapping"] == pytest.approx(0.25)
    assert figures["seconds_ratio_flapping_same"] == pytest.approx(0.5)
    assert peers[PUBLISHED]["seconds_n5"] == 200.0
    assert "seconds_ratio_flapping" not in report(cells(3, 5))[0]
