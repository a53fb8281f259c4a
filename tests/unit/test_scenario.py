"""Scenarios: read as declared, refused with every fault."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.builders import changed, make_policy

from daitn.base.errors import InputError
from daitn.descriptors.terminals import Role
from daitn.scenario.spec import CrashSpec, CutSpec, DataSpec, FaultSpec, JobSpec, NodeSpec, Scenario, check_scenario
from daitn.simulation.generate import generate

FILES = sorted((Path(__file__).parent.parent / "simulation" / "scenarios").glob("*.toml"))


def make_scenario(**changes) -> Scenario:
    """One site and one job."""
    data = DataSpec(name="records", contract="made-2", policy=make_policy(), labels={"0": 10})
    node = NodeSpec(name="site", operator="hospital", roles=(Role.DATA, Role.COMPUTE), data=(data,))
    job = JobSpec(
        owner="ada", name="job", contract="made-2", targets=("accuracy >= 0.5",), deadline_s=60.0, purpose="care"
    )
    values = {"name": "toy", "nodes": (node,), "jobs": (job,)}
    return Scenario(**(values | changes))


def faults(scenario: Scenario) -> str:
    """What `check_scenario` says."""
    with pytest.raises(InputError) as caught:
        check_scenario(scenario)
    return str(caught.value)


def test_scenario_that_is_consistent_passes():
    check_scenario(make_scenario())


def test_all_faults_are_listed_at_once():
    good = make_scenario()
    node, job = good.nodes[0], good.jobs[0]
    twice = changed(node, roles=(Role.COMPUTE,), data=node.data * 2)
    planned = FaultSpec(
        crashes=(CrashSpec(node="nobody", when="before", number=1),), cuts=(CutSpec(node="nowhere", at_s=1, seconds=1),)
    )
    said = faults(
        make_scenario(nodes=(node, twice), jobs=(changed(job, targets=("better than ever",)),), faults=planned)
    )

    for part in ("two nodes are called 'site'", "not the role 'data'", "two data sets", "'nobody'", "'nowhere'"):
        assert part in said
    assert "better than ever" in said


def test_centre_may_crash_but_has_no_link_to_cut():
    check_scenario(make_scenario(faults=FaultSpec(crashes=(CrashSpec(node="center", when="after", number=1),))))
    assert "'center'" in faults(make_scenario(faults=FaultSpec(cuts=(CutSpec(node="center", at_s=1, seconds=1),))))


@pytest.mark.parametrize("text", ['{"name":"x","nodes":[]}', '{"name":"x","nodes":[{"name":"a"}],"speed":1}', "[]"])
def test_file_with_a_slip_is_refused(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text.encode(), type=Scenario)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_file_is_consistent(path):
    check_scenario(msgspec.toml.decode(path.read_bytes(), type=Scenario))


@pytest.mark.parametrize("seed", range(20))
def test_generated_scenarios_are_consistent_and_the_same_each_time(seed):
    scenario = generate(seed)
    check_scenario(scenario)

    assert generate(seed) == scenario
    assert generate(seed, faulty=False).faults == FaultSpec()
