"""Nothing is promised twice, whatever breaks: played with several jobs at once, and with a book that forgets."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records

from daitn.control_center.training.promise_book import PromiseBook
from daitn.control_center.training.records import JobAssessed, PromiseMade
from daitn.decision.promises import Promises
from daitn.descriptors.job import FINAL_PHASES
from daitn.scenario.spec import Scenario
from daitn.simulation.generate import generate
from daitn.simulation.run import run_scenario


def crowded(deadline_s: float) -> Scenario:
    """Three hospitals, and four jobs that begin a moment apart."""
    scenario = load()
    job = changed(scenario.jobs[0], deadline_s=deadline_s, visits=None)
    jobs = tuple(changed(job, name=f"heart{number}", at_s=1.0 + number / 10) for number in range(4))
    return changed(scenario, jobs=jobs)


@pytest.mark.parametrize("deadline_s", [5.0, 8.0])
def test_jobs_that_crowd_are_promised_what_there_is_and_no_more(deadline_s):
    report, world = play(crowded(deadline_s))

    assert report.fault == ""
    assert set(report.phases) <= FINAL_PHASES
    assert records(world, PromiseMade)
    refused = [one for one in records(world, JobAssessed) if one.verdict.outcome == "refused"]
    for one in refused:
        assert one.verdict.failed()


def test_jobs_of_any_seed_are_promised_what_there_is():
    made = 0
    for seed in range(100, 112):
        scenario = generate(seed)
        jobs = tuple(changed(job, deadline_s=8.0, at_s=1.0) for job in scenario.jobs)
        report, world = play(changed(scenario, jobs=jobs))
        assert report.fault == "", seed
        made += len(records(world, PromiseMade))
    assert made > 5


def test_book_that_forgets_what_others_hold_is_found_out(monkeypatch):
    monkeypatch.setattr(PromiseBook, "owed", lambda *_: Promises())

    assert "are promised by then" in run_scenario(crowded(5.0)).fault
