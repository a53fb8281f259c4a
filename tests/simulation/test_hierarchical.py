"""Rounds averaged in shares, in simulated worlds: every aggregator can be lost at every point."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.records import VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork
from daitn.scenario.spec import CrashSpec, Scenario
from daitn.simulation.generate import generate


def two_mixers(visits: int = 10) -> Scenario:
    """Five hospitals and two aggregators."""
    scenario = load()
    hospitals, others = scenario.nodes[:3], scenario.nodes[3:]
    more = tuple(changed(hospitals[2], name=f"more{n}", operator=f"more{n}") for n in range(2))
    blender = changed(next(one for one in others if one.name == "mixer"), name="blender")
    job = changed(scenario.jobs[0], visits=visits, method="hierarchical")
    return changed(scenario, nodes=(*hospitals, *more, *others, blender), jobs=(job,))


def of_shares(world) -> list[AggregateWork]:
    works = [order.work for order in records(world, VisitOrdered)]
    return [work for work in works if isinstance(work, AggregateWork) and work.share]


def test_round_of_a_calm_world_is_averaged_in_two_shares():
    report, world = play(with_faults(two_mixers(12)))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert sorted(len(work.updates) for work in of_shares(world)) == [2, 2, 3, 3]
    assert world.center.jobs["j1"].state.rounds == 3


@pytest.mark.parametrize("node", ["mixer", "blender", "center"])
def test_crash_at_each_append_in_turn_ends_the_job_all_the_same(node):
    for number in range(1 if node != "center" else 12, 40, 1 if node != "center" else 4):
        report, _ = play(with_faults(two_mixers(5), CrashSpec(node=node, when="after", number=number, down_s=3.0)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        if not report.crashes:
            break


def test_faulty_worlds_hold():
    scenarios = [
        changed(one, jobs=tuple(changed(job, method="hierarchical") for job in one.jobs))
        for one in (generate(seed) for seed in range(200, 212))
    ]
    played = [play(scenario) for scenario in scenarios]

    assert [report.fault for report, _ in played if report.fault] == []
    assert sum(len(of_shares(world)) for _, world in played) > 4
