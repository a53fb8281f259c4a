"""Groups in simulated worlds: every crash point of a round, members that die or differ, and checkers with teeth."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.groups import Groups
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.records import GroupAgreed, GroupLost, VisitAccepted, VisitLost
from daitn.descriptors.job import Phase
from daitn.descriptors.work import TrainWork
from daitn.scenario.spec import CrashSpec, CutSpec, Scenario
from daitn.simulation import groups as simulated
from daitn.simulation.generate import generate
from daitn.simulation.run import run_scenario


def lockstep(visits: int = 9) -> Scenario:
    """Three hospitals that train in lock step, three visits a round."""
    scenario = load()
    return changed(scenario, jobs=(changed(scenario.jobs[0], method="data-parallel", visits=visits),))


def test_rounds_of_a_calm_world_all_agree():
    report, world = play(with_faults(lockstep()))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert len(records(world, GroupAgreed)) == 3
    assert not records(world, GroupLost)
    assert world.center.jobs["j1"].state.visits == 9


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("node", "first"), [("center", 6), ("north", 1), ("west", 1)])
def test_crash_at_each_append_in_turn_loses_no_job_and_mixes_no_round(node, first, when):
    number = first
    while True:
        report, world = play(with_faults(lockstep(6), CrashSpec(node=node, when=when, number=number)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        assert records(world, GroupAgreed), f"append {number}"
        if not report.crashes:
            break
        number += 1
    assert number > first + 4


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("effect", ["FetchInputs", "BeginWork"])
def test_member_that_dies_in_mid_round_is_left_out_of_the_next(effect, when):
    crash = CrashSpec(node="north", effect=effect, when=when, number=2, down_s=20.0)
    report, world = play(with_faults(lockstep(), crash))

    assert report.fault == ""
    lost = records(world, GroupLost)
    assert lost
    assert lost[0].left_out == "north/records"
    agreed = [one for one in records(world, GroupAgreed) if one.at_ns > lost[0].at_ns]
    assert {len(one.visits) for one in agreed} >= {2}


@pytest.mark.parametrize(("up", "down"), [(True, True), (False, True), (True, False)])
def test_link_of_a_member_that_is_cut_in_mid_round_loses_the_round_and_no_more(up, down):
    _, world = play(with_faults(lockstep()))
    begun = next(one for one in world.watcher.begun if isinstance(one[1].work, TrainWork))
    site = world.processes[begun[0]].name
    for at_s in (1.5, 2.0, 2.5, 3.0):
        cut = CutSpec(node=site, at_s=at_s, seconds=6.0, up=up, down=down)
        report, cut_world = play(with_faults(lockstep(12), cut))
        assert report.fault == ""
        assert report.phases == (Phase.EXHAUSTED,)
        assert records(cut_world, GroupAgreed)


def test_member_that_differs_is_recorded_with_a_reason(monkeypatch):
    monkeypatch.setattr(simulated, "DIFFERS", 0.5)
    found = []
    for seed in range(40):
        scenario = changed(lockstep(12), seed=seed)
        scenario = changed(scenario, faults=changed(scenario.faults, stop_after_s=50.0))
        report, world = play(with_faults(scenario))
        assert report.fault == ""
        found += [one for one in records(world, GroupLost) if "different models" in one.why]

    assert found
    assert any(one.left_out is not None for one in found)


# --- teeth --------------------------------------------------------------------------------------------------------


class HastyGroups(Groups):
    """Believes the first member."""

    def accepted(self, turn, group):
        state = self._state
        visits = tuple(member.visit for member in group.members)
        first = next(iter(state.group.values()), None)
        if first is None:
            return False
        turn.record(GroupAgreed(job=state.job, at_ns=turn.now_ns, visits=visits, model=first[1].model))
        return True


def lockstep_seeds() -> list[Scenario]:
    return [
        changed(one, jobs=tuple(changed(job, method="data-parallel") for job in one.jobs))
        for one in (generate(seed) for seed in range(30))
    ]


def test_centre_that_does_not_wait_for_all_members_is_found(monkeypatch):
    monkeypatch.setattr("daitn.control_center.training.job.Groups", HastyGroups)

    assert any(run_scenario(scenario).fault for scenario in lockstep_seeds())


def test_exchange_without_a_grant_is_found(monkeypatch):
    monkeypatch.setattr(OrderDesk, "_partners", lambda *_: ())

    report = run_scenario(with_faults(lockstep()))
    assert "without a grant" in report.fault


def test_honest_centre_holds_on_the_same_seeds():
    reports = [run_scenario(scenario) for scenario in lockstep_seeds()[:12]]

    assert [report.fault for report in reports if report.fault] == []


def test_round_that_is_lost_ends_every_visit_of_it():
    for scenario in lockstep_seeds()[:12]:
        _, world = play(scenario)
        ended = {one.visit for one in (*records(world, VisitLost), *records(world, VisitAccepted))}
        for lost in records(world, GroupLost):
            assert set(lost.visits) <= ended
