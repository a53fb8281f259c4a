"""Simulated rounds with one site that is many times slower than the others: nobody waits for it, and nothing breaks."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.base.units import ns_to_seconds
from daitn.control_center.training.records import JobPhased, VisitAccepted, VisitLost, VisitOrdered
from daitn.decision.rounds import stragglers
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, TrainWork
from daitn.scenario.spec import CrashSpec, Scenario

SLOW = "west"


def slow_world(method: str, *, secure: bool = False, visits: int = 20, slowness: float = 40.0) -> Scenario:
    """Five hospitals, one of which takes many times as long as the others."""
    scenario = load()
    hospitals, others = scenario.nodes[:3], scenario.nodes[3:]
    hospitals = tuple(changed(one, slowness=slowness) if one.name == SLOW else one for one in hospitals)
    more = tuple(changed(hospitals[0], name=f"more{n}", operator=f"more{n}") for n in range(2))
    job = changed(scenario.jobs[0], visits=visits, method=method, secure_aggregation=secure, deadline_s=240.0)
    return changed(scenario, nodes=(*hospitals, *more, *others), jobs=(job,))


def running_s(world) -> float:
    """Seconds from the job's start to its end."""
    phases = records(world, JobPhased)
    began = next(one for one in phases if one.phase is Phase.RUNNING)
    return ns_to_seconds(phases[-1].at_ns - began.at_ns)


def cut(world) -> list[VisitLost]:
    return [one for one in records(world, VisitLost) if one.blame == "slow"]


@pytest.mark.parametrize("secure", [False, True])
def test_rounds_do_not_wait_for_a_site_that_is_forty_times_slower(secure, monkeypatch):
    report, world = play(with_faults(slow_world("fedavg", secure=secure)))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    stopped = cut(world)
    assert {world.processes[world.center.jobs["j1"].state.ordered[one.visit].node].name for one in stopped} == {SLOW}
    averages = [order.work for order in records(world, VisitOrdered) if isinstance(order.work, AggregateWork)]
    assert any(len(work.updates) == 4 for work in averages)
    monkeypatch.setattr(stragglers, "DEVIATIONS", 1e9)
    _, patient = play(with_faults(slow_world("fedavg", secure=secure)))
    assert not cut(patient)
    assert running_s(world) < running_s(patient) / 2


def test_no_result_is_accepted_of_a_visit_that_was_cut_though_the_centre_or_the_slow_site_dies():
    for node in ("center", SLOW, "mixer"):
        for number in (4, 8, 12, 16, 20):
            crash = CrashSpec(node=node, when="after", number=number)
            report, world = play(with_faults(slow_world("fedavg", visits=12), crash))
            assert report.fault == "", f"{node} {number}: {report.fault}"
            assert not {one.visit for one in cut(world)} & {one.visit for one in records(world, VisitAccepted)}


def test_slow_site_is_asked_for_shorter_visits_afterwards():
    _, world = play(with_faults(slow_world("fedavg")))
    works = [order.work for order in records(world, VisitOrdered) if isinstance(order.work, TrainWork)]
    whole = max(work.training.batches for work in works)

    shorter = {work.dataset.partition("/")[0] for work in works if work.training.batches < whole}
    assert shorter <= {SLOW}
    assert shorter
