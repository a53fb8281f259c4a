"""Compressed updates in simulated worlds: every average is given the model that its updates were trained from."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.records import VisitAccepted, VisitOrdered
from daitn.descriptors.compression import Compression
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, TrainOutcome, TrainWork
from daitn.scenario.spec import Scenario
from daitn.simulation.generate import generate


def compressed(scenario: Scenario, method: str) -> Scenario:
    job = changed(scenario.jobs[0], method=method, compression=Compression(keep=0.1))
    return changed(scenario, jobs=(job, *scenario.jobs[1:]))


def begun_from(world, updates) -> set:
    """The models that these updates were trained from."""
    orders = {order.visit: order for order in records(world, VisitOrdered)}
    made = {
        one.outcome.model: orders[one.visit].work.model
        for one in records(world, VisitAccepted)
        if isinstance(one.outcome, TrainOutcome)
    }
    return {made[one.model] for one in updates if one.model in made}


@pytest.mark.parametrize("method", ["", "fedyogi", "hierarchical", "fedbuff"])
def test_averages_are_given_the_model_that_their_updates_were_trained_from(method):
    report, world = play(with_faults(compressed(load(), method)))

    works = [order.work for order in records(world, VisitOrdered)]
    averages = [work for work in works if isinstance(work, AggregateWork)]
    assert report.fault == ""
    assert report.phases[0] in (Phase.EXHAUSTED, Phase.DELIVERED)
    assert averages
    for work in averages:
        assert work.compression == Compression(keep=0.1)
        bases = {one.base for one in work.updates} if work.buffered else {work.base}
        assert begun_from(world, work.updates) <= bases
    trained = [work for work in works if isinstance(work, TrainWork)]
    assert {work.compression for work in trained} == {Compression(keep=0.1)}


def test_faulty_worlds_hold():
    played = [play(compressed(generate(seed), "fedavg")) for seed in range(300, 303)]

    assert [report.fault for report, _ in played if report.fault] == []
