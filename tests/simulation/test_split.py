"""Split learning in simulated worlds: rounds of two, and a partner that dies at every point of one."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.control_center.training.records import GroupAgreed, GroupLost, JobAssessed, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.terminals import Role
from daitn.descriptors.work import TrainWork
from daitn.scenario.spec import CrashSpec, NodeSpec, Scenario


def cut_between(visits: int = 8, labs: int = 1) -> Scenario:
    """Three hospitals, of which two give activations to the lab."""
    scenario = load()
    nodes = []
    for node in scenario.nodes:
        gives = {"activations": "trust-zone", "compute_operators": ("lab",)} if node.name != "west" else {}
        data = tuple(
            changed(one, policy=msgspec.structs.replace(one.policy, **gives)) for one in node.data
        )  # fmt: skip
        nodes.append(changed(node, data=data))
    nodes += [NodeSpec(name=f"lab{number}", operator="lab", roles=(Role.COMPUTE,)) for number in range(labs)]
    job = changed(scenario.jobs[0], method="split", visits=visits)
    return changed(scenario, nodes=tuple(nodes), jobs=(job,))


def test_model_goes_from_hospital_to_hospital_cut_at_each():
    report, world = play(with_faults(cut_between()))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    agreed = records(world, GroupAgreed)
    assert len(agreed) == 4
    assert {len(one.visits) for one in agreed} == {2}
    orders = [one for one in records(world, VisitOrdered) if isinstance(one.work, TrainWork)]
    assert {one.work.dataset for one in orders} == {"north/records", "south/records"}
    assert all(one.work.split is not None for one in orders)
    assert len(world.center.jobs["j1"].state.seen) == 4


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("effect", ["FetchInputs", "BeginWork"])
@pytest.mark.parametrize("node", ["north", "lab0"])
def test_member_that_dies_in_mid_visit_loses_the_visit_and_no_more(node, effect, when):
    crash = CrashSpec(node=node, effect=effect, when=when, number=2, down_s=3.0)
    report, world = play(with_faults(cut_between(), crash))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert records(world, GroupAgreed)


def test_other_partner_takes_over_from_one_that_does_not_come_back():
    crash = CrashSpec(node="lab0", effect="BeginWork", when="after", number=1, down_s=60.0)
    report, world = play(with_faults(cut_between(labs=2), crash))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    assert records(world, GroupLost)
    after = [one for one in records(world, GroupAgreed) if one.at_ns > records(world, GroupLost)[0].at_ns]
    assert len(after) >= 3


def test_crash_of_the_centre_at_each_append_mixes_no_round():
    number = 6
    while True:
        report, world = play(with_faults(cut_between(4), CrashSpec(node="center", when="after", number=number)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        assert records(world, GroupAgreed), f"append {number}"
        if not report.crashes:
            break
        number += 1
    assert number > 10


def test_network_cuts_the_model_by_itself_where_hospitals_are_slow_and_says_why():
    scenario = cut_between()
    nodes = tuple(changed(one, flops=1e8) if one.name in ("north", "south") else one for one in scenario.nodes)
    nodes = tuple(changed(one, data=()) if one.name == "west" else one for one in nodes)
    report, world = play(with_faults(changed(scenario, nodes=nodes, jobs=(changed(scenario.jobs[0], method=""),))))

    assert report.fault == ""
    (plan,) = [one.plan for one in records(world, JobAssessed) if one.verdict.outcome == "admitted"]
    choice = next(one for one in plan.choices if one.what == "method")
    assert choice.chosen == "split"
    assert "by measured speed and bandwidth" in choice.why
    orders = [one for one in records(world, VisitOrdered) if one.purpose == "train"]
    assert orders
    assert all(isinstance(one.work, TrainWork) and one.work.split is not None for one in orders)
