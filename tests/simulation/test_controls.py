"""Control variates in simulated worlds: nothing is lost to crashes, and every visit is given what belongs together."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.records import VisitAccepted, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.work import TrainOutcome, TrainWork
from daitn.scenario.spec import CrashSpec, Scenario
from daitn.simulation.generate import generate
from daitn.simulation.run import run_scenario


def scaffold(visits: int = 12) -> Scenario:
    """Three hospitals, three visits a round."""
    scenario = load()
    return changed(scenario, jobs=(changed(scenario.jobs[0], method="scaffold", visits=visits),))


def check_visits(world) -> int:
    """How many visits were given the variate that the last visit of their data set had left, and a shared one."""
    last: dict[str, str] = {}
    ordered = {one.visit: one for one in records(world, VisitOrdered)}
    corrected = 0
    for one in records(world, VisitAccepted):
        work = ordered[one.visit].work
        if isinstance(work, TrainWork) and isinstance(one.outcome, TrainOutcome):
            assert (work.shared_control is None) or work.own_control in (last.get(work.dataset), None)
            corrected += work.shared_control is not None
            last[work.dataset] = one.outcome.control
    return corrected


def test_rounds_of_a_calm_world_are_corrected_from_the_second_on():
    report, world = play(with_faults(scaffold()))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert check_visits(world) == 9


@pytest.mark.parametrize(("node", "first"), [("center", 6), ("mixer", 1), ("north", 1)])
def test_crash_at_each_append_in_turn_ends_the_job_all_the_same(node, first):
    number = first
    while True:
        report, world = play(with_faults(scaffold(9), CrashSpec(node=node, when="after", number=number)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        check_visits(world)
        if not report.crashes:
            break
        number += 1
    assert number > first + 4


def test_faulty_worlds_hold():
    seeds = [generate(seed) for seed in range(12)]
    reports = [
        run_scenario(changed(one, jobs=tuple(changed(job, method="scaffold") for job in one.jobs))) for one in seeds
    ]

    assert [report.fault for report in reports if report.fault] == []
