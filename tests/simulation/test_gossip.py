"""Gossip in simulated worlds: rounds of small groups without an aggregator, and losses at every place of one."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.records import AllMet, GroupsDrawn, ModelJudged, VisitAccepted, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.terminals import Role
from daitn.descriptors.work import AggregateOutcome, AggregateWork, TrainOutcome, TrainWork
from daitn.scenario.spec import CrashSpec, CutSpec, Scenario
from daitn.simulation.generate import generate


def whisper(visits: int = 20) -> Scenario:
    """Five hospitals and no aggregator."""
    scenario = load()
    hospitals, others = scenario.nodes[:3], scenario.nodes[3:]
    more = tuple(changed(hospitals[2], name=f"more{n}", operator=f"more{n}") for n in range(2))
    others = tuple(one for one in others if Role.AGGREGATOR not in one.roles)
    job = changed(scenario.jobs[0], visits=visits, method="gossip")
    return changed(scenario, nodes=(*hospitals, *more, *others), jobs=(job,))


def averages(world) -> list[AggregateWork]:
    works = [order.work for order in records(world, VisitOrdered)]
    return [work for work in works if isinstance(work, AggregateWork)]


def test_sites_of_a_calm_world_mix_and_meet_without_an_aggregator():
    report, world = play(with_faults(whisper()))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert {len(group) for one in records(world, GroupsDrawn) for group in one.groups} == {2, 3}
    assert all(work.among for work in averages(world))
    lasts = [work for work in averages(world) if not work.share]
    assert lasts
    assert {sum(one.members for one in work.updates) for work in lasts} == {5}
    made = {one.outcome.model for one in records(world, VisitAccepted) if isinstance(one.outcome, AggregateOutcome)}
    assert {one.model for one in records(world, ModelJudged)} <= made


def test_member_goes_on_from_the_mean_it_is_in_and_all_go_on_from_the_mean_of_all():
    _, world = play(with_faults(whisper(40)))
    kinds = AggregateOutcome | TrainOutcome
    outcomes = {one.visit: one.outcome.model for one in records(world, VisitAccepted) if isinstance(one.outcome, kinds)}
    orders = records(world, VisitOrdered)
    means = {outcomes[one.visit] for one in orders if isinstance(one.work, AggregateWork) and one.visit in outcomes}
    begun = [one.work.model for one in orders if isinstance(one.work, TrainWork)]

    assert means & set(begun)
    package = world.center.jobs["j1"].state.request.package
    assert set(begun) - means - set(outcomes.values()) == {package}
    assert records(world, AllMet)


@pytest.mark.parametrize(("node", "first", "step"), [("center", 14, 9), ("north", 1, 3), ("more1", 2, 5)])
def test_crash_at_each_append_in_turn_ends_the_job_all_the_same(node, first, step):
    number = first
    while True:
        report, world = play(with_faults(whisper(10), CrashSpec(node=node, when="after", number=number, down_s=1.5)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        assert records(world, ModelJudged), f"append {number}"
        if not report.crashes:
            break
        number += step
    assert number > first


def test_site_that_does_not_come_back_takes_no_more_with_it_than_what_only_it_held():
    crash = CrashSpec(node="north", effect="BeginWork", when="after", number=2, down_s=60.0)
    report, world = play(with_faults(whisper(30), crash))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert [work for work in averages(world) if not work.share]


@pytest.mark.parametrize(("up", "down"), [(True, True), (False, True), (True, False)])
def test_link_of_a_member_that_is_cut_at_any_time_delays_and_no_more(up, down):
    for at_s in (2.0, 4.0):
        cut = CutSpec(node="west", at_s=at_s, seconds=6.0, up=up, down=down)
        report, _ = play(with_faults(whisper(15), cut))
        assert report.fault == ""
        assert report.phases == (Phase.EXHAUSTED,)


def test_faulty_worlds_hold():
    scenarios = [
        changed(one, jobs=tuple(changed(job, method="gossip") for job in one.jobs))
        for one in (generate(seed) for seed in range(302, 305))
    ]
    played = [play(scenario) for scenario in scenarios]

    assert [report.fault for report, _ in played if report.fault] == []
    assert sum(len(averages(world)) for _, world in played) > 4
