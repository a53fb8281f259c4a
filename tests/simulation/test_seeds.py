"""Seeds and scenarios hold their invariants, replay exactly, and break where a scenario says: nothing is lost twice."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest
from tests.builders import changed
from tests.simulation.worlds import FILES, first_training, load, play, records, with_faults

from daitn.base.ids import CENTER
from daitn.control_center.training.records import ModelGone, VisitAccepted, VisitLost
from daitn.descriptors.job import FINAL_PHASES, Phase
from daitn.scenario.spec import CrashSpec, CutSpec
from daitn.simulation.mishaps import missing
from daitn.simulation.run import run_seed
from daitn.terminal.visit_records import VisitClosed

SEEDS = range(12)


@lru_cache
def played(seed: int, faulty: bool):
    """A seed's report; two tests look at the same seeds."""
    return run_seed(seed, faulty=faulty)


@pytest.mark.parametrize("faulty", [False, True], ids=["calm", "faulty"])
@pytest.mark.parametrize("seed", SEEDS)
def test_seed_holds_every_invariant(seed, faulty):
    report = played(seed, faulty)

    assert report.fault == "", "\n".join(report.trace[-20:])
    assert set(report.phases) <= FINAL_PHASES


@pytest.mark.timeout(300)  # half a minute of a core, beside whatever else runs
def test_every_point_and_kind_of_the_matrix_can_be_drawn():
    """Which cells a few seeds come by is chance; that 1,000 come by all is for `--cover` to say."""
    hit: Counter[tuple[str, str]] = Counter()
    for seed in range(60):
        hit.update({(point, kind): times for point, kind, times in played(seed, True).hit})
        if len(missing(hit)) <= 2:  # more seeds hit more cells, and no fewer
            break

    assert len(missing(hit)) <= 2, missing(hit)


def test_seed_replays_exactly():
    first, second = run_seed(3), run_seed(3)

    assert first == second
    assert first.trace
    assert first != run_seed(4)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_file_holds_and_its_job_ends_well(path):
    report, world = play(load(path.stem))

    assert report.fault == "", "\n".join(report.trace[-20:])
    assert report.phases in ((Phase.DELIVERED,), (Phase.EXHAUSTED,))
    assert len(records(world, VisitAccepted)) >= 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("node", "first"), [("center", 6), ("north", 1), ("unit", 1)])
def test_crash_at_each_append_in_turn_loses_no_job(node, first, when):
    """The centre's first five records are its five nodes: before them there is nothing it could admit a job on."""
    scenario, number = load(), first
    while True:
        report, world = play(with_faults(scenario, CrashSpec(node=node, when=when, number=number)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        if not report.crashes:
            break
        assert world.center.jobs["j1"].state.visits == 5, f"append {number}"
        number += 1
    assert number > first + 5


def test_methods_survive_crashes_of_the_centre_at_any_append_of_a_round():
    scenario = load()
    scenario = changed(scenario, jobs=(changed(scenario.jobs[0], method="fedavg", visits=6),))
    for number in range(6, 30, 2):
        report, world = play(with_faults(scenario, CrashSpec(node="center", when="after", number=number)))
        assert report.fault == "", f"append {number}"
        assert world.center.jobs["j1"].state.visits == 6


def test_site_that_dies_with_the_only_copy_costs_its_visit_and_no_more():
    _, world = play(load("only_copy_lost"))

    gone = records(world, ModelGone)
    accepted = records(world, VisitAccepted)
    assert gone
    assert accepted[-1].at_ns > gone[0].at_ns
    assert all(one.instead == world.center.jobs["j1"].state.request.package for one in gone[:1])


def test_site_that_comes_back_late_is_fenced_and_changes_nothing():
    scenario = load()
    job = changed(scenario.jobs[0], visits=20, until_deadline=True)
    scenario = changed(scenario, patience_s=4.0, jobs=(job,))
    order, site, at_s = first_training(scenario)
    report, world = play(with_faults(scenario, CutSpec(node=site, at_s=at_s + 0.01, seconds=7.0, down=False)))

    assert report.fault == ""
    assert order.visit in {one.visit for one in records(world, VisitLost)}
    assert order.visit not in {one.visit for one in records(world, VisitAccepted)}
    closed = [one for one in world.processes[order.node].journal if isinstance(one, VisitClosed)]
    assert [one.why for one in closed if one.visit == order.visit] == ["fenced"]
    assert world.center.counters.of("results_fenced") >= 1
    assert world.center.jobs["j1"].state.visits == 20


def test_acknowledgement_that_is_lost_is_given_again():
    order, site, at_s = first_training(load())
    report, world = play(with_faults(load(), CutSpec(node=site, at_s=at_s + 0.01, seconds=6.0, up=False)))

    assert report.fault == ""
    assert [one.visit for one in records(world, VisitAccepted)].count(order.visit) <= 1
    closed = [one for one in world.processes[order.node].journal if isinstance(one, VisitClosed)]
    assert [one.visit for one in closed].count(order.visit) == 1


def test_both_ways_cut_costs_no_more_than_the_visit():
    order, site, at_s = first_training(load())
    report, world = play(with_faults(load(), CutSpec(node=site, at_s=at_s + 0.05, seconds=4.0)))

    assert report.fault == ""
    assert [one.visit for one in records(world, VisitLost)].count(order.visit) <= 1
    assert world.center.jobs["j1"].state.visits == 5


def test_centre_that_is_away_for_long_finds_everything_again():
    crash = CrashSpec(node="center", when="after", number=12, down_s=30.0)
    report, world = play(with_faults(load(), crash))

    assert report.fault == ""
    assert report.crashes == 1
    assert world.center.jobs["j1"].state.visits == 5
    assert world.processes[CENTER].life > 2
