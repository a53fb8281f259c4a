"""Buffered averaging in simulated worlds: slow sites, losses; what is added up is looked at from outside."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.test_stragglers import SLOW, running_s, slow_world
from tests.simulation.worlds import play, records, with_faults

from daitn.control_center.training.buffer_book import BufferBook
from daitn.control_center.training.records import VisitAccepted, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, TrainWork
from daitn.scenario.spec import CrashSpec, Scenario
from daitn.simulation.generate import generate


def buffers(world) -> list[AggregateWork]:
    works = [order.work for order in records(world, VisitOrdered)]
    return [work for work in works if isinstance(work, AggregateWork)]


def test_nobody_waits_for_a_slow_site_and_its_update_counts_when_it_comes():
    report, world = play(with_faults(slow_world("fedbuff", visits=60, slowness=10.0)))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert all(work.buffered for work in buffers(world))
    discounts = [update.discount for work in buffers(world) for update in work.updates]
    assert min(discounts) < 0.5
    accepted = [world.center.jobs["j1"].state.ordered[one.visit] for one in records(world, VisitAccepted)]
    assert SLOW in {world.processes[one.node].name for one in accepted if isinstance(one.work, TrainWork)}


def test_as_many_visits_take_less_time_than_in_rounds():
    _, buffered = play(with_faults(slow_world("fedbuff")))
    _, rounds = play(with_faults(slow_world("fedavg")))

    assert running_s(buffered) < running_s(rounds)


@pytest.mark.parametrize(("node", "first"), [("center", 8), ("mixer", 1), ("north", 1), (SLOW, 1)])
def test_crash_at_each_append_in_turn_ends_the_job_all_the_same(node, first):
    number = first
    while True:
        crash = CrashSpec(node=node, when="after", number=number)
        report, _ = play(with_faults(slow_world("fedbuff", visits=8), crash))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        if not report.crashes or number > first + 24:
            break
        number += 3
    assert number > first


def faulty_seeds(count: int) -> list[Scenario]:
    return [
        changed(one, jobs=tuple(changed(job, method="fedbuff") for job in one.jobs))
        for one in (generate(seed) for seed in range(100, 100 + count))
    ]


def test_faulty_worlds_hold():
    played = [play(scenario) for scenario in faulty_seeds(12)]

    assert [report.fault for report, _ in played if report.fault] == []
    assert sum(len(buffers(world)) for _, world in played) > 20


# --- teeth --------------------------------------------------------------------------------------------------------


class ForgetfulBook(BufferBook):
    """Takes every update for new."""

    def weighed(self, updates):
        return tuple(changed(one, discount=1.0) for one in super().weighed(updates))


def test_centre_that_takes_old_updates_for_new_is_found(monkeypatch):
    monkeypatch.setattr("daitn.control_center.training.job_state.BufferBook", ForgetfulBook)
    report, _ = play(with_faults(slow_world("fedbuff", visits=60)))

    assert "heads old" in report.fault
