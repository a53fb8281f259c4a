"""A whole network whose model can gain no more: the job ends long before its deadline, and says why."""

from __future__ import annotations

from tests.builders import changed
from tests.simulation.worlds import load, play

from daitn.descriptors.job import Phase
from daitn.scenario.spec import Scenario


def endless() -> Scenario:
    """Three hospitals and a job that has an hour for a goal that nothing reaches."""
    scenario = load()
    return changed(scenario, jobs=(changed(scenario.jobs[0], visits=None, deadline_s=3600.0),))


def test_job_that_gains_no_more_ends_exhausted_long_before_its_deadline():
    report, world = play(endless())

    state = world.center.jobs["j1"].state
    assert report.fault == ""
    assert state.phase is Phase.EXHAUSTED
    assert "brought no gain beyond noise" in state.reason
    assert state.ended_ns - state.submitted_ns < 360e9
    assert state.best != state.request.package
