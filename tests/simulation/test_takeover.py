"""A unit or an aggregator that is lost for good at any moment of its work: the other takes over within the bound."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.base.ids import NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.measuring import Measuring
from daitn.control_center.training.records import OtherTestSet, VisitAccepted, VisitLost, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, EvaluateWork, Work
from daitn.scenario.spec import CrashSpec, CutSpec, Scenario
from daitn.simulation.run import run_scenario
from daitn.simulation.world import World

KILL_BOUND_S = 5.0
FOR_GOOD_S = 600.0


def two_of_each(method: str = "cyclic") -> Scenario:
    scenario = load("two_of_each")
    return changed(scenario, jobs=(changed(scenario.jobs[0], method=method),))


def named(world: World, node: NodeId) -> str:
    return world.processes[node].name


def who(world: World, kind: type[Work]) -> list[str]:
    """By whom each accepted work of a kind was done."""
    ordered = {one.visit: one for one in records(world, VisitOrdered)}
    works = [ordered[one.visit] for one in records(world, VisitAccepted)]
    return [named(world, one.node) for one in works if isinstance(one.work, kind)]


def first_of(scenario: Scenario, kind: type[Work]) -> str:
    """Who does this work while nothing is broken."""
    _, world = play(with_faults(scenario))
    return who(world, kind)[0]


def takeover_s(world: World, lost: str, kind: type[Work]) -> float:
    """Seconds from the last sign that a node's loss was noticed late to the other's accepted work: from when it could
    first have been done, its order to the lost node, to its end."""
    orders = [one for one in records(world, VisitOrdered) if isinstance(one.work, kind)]
    dead = next((one for one in orders if named(world, one.node) == lost and _is_lost(world, one)), None)
    if dead is None:
        return 0.0
    ordered = {one.visit: one for one in orders}
    done = [one for one in records(world, VisitAccepted) if one.visit in ordered and one.at_ns > dead.at_ns]
    return ns_to_seconds(done[0].at_ns - dead.at_ns)


def _is_lost(world: World, ordered: VisitOrdered) -> bool:
    return ordered.visit in {one.visit for one in records(world, VisitLost)}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "method", "effect"),
    [
        (EvaluateWork, "cyclic", "FetchInputs"),
        (EvaluateWork, "cyclic", "BeginWork"),
        (EvaluateWork, "cyclic", "Append"),
        (AggregateWork, "fedavg", "FetchInputs"),
        (AggregateWork, "fedavg", "BeginWork"),
        (AggregateWork, "fedavg", "Append"),
    ],
)
def test_who_is_lost_for_good_at_any_moment_of_its_work_is_followed_by_the_other(kind, method, effect, when):
    scenario = two_of_each(method)
    lost = first_of(scenario, kind)
    number = 2 if kind is EvaluateWork and effect != "Append" else 1  # the first is the preflight
    number = 4 if kind is EvaluateWork and effect == "Append" else number
    played = 0
    while True:
        crash = CrashSpec(node=lost, when=when, effect=effect, number=number, down_s=FOR_GOOD_S)
        report, world = play(with_faults(scenario, crash))
        if not report.crashes:
            break
        assert "still keeps artifacts" in report.fault or "the centre was told" in report.fault or not report.fault
        assert report.phases == (Phase.EXHAUSTED,), f"{effect} {number}"
        assert world.center.jobs["j1"].state.visits == 6, f"{effect} {number}"
        assert not records(world, OtherTestSet), f"{effect} {number}"
        assert takeover_s(world, lost, kind) <= KILL_BOUND_S, f"{effect} {number}"
        played += 1
        number += 1
    assert played >= 2


@pytest.mark.parametrize("kind", [EvaluateWork, AggregateWork])
def test_who_is_cut_off_is_followed_by_the_other_and_comes_back_late_to_nothing(kind):
    scenario = two_of_each("cyclic" if kind is EvaluateWork else "fedavg")
    lost = first_of(scenario, kind)
    _, calm = play(with_faults(scenario))
    second = [one for one in records(calm, VisitOrdered) if isinstance(one.work, kind)][1]
    at_s = ns_to_seconds(second.at_ns - records(calm, VisitOrdered)[0].at_ns) + 1.0
    report, world = play(with_faults(scenario, CutSpec(node=lost, at_s=at_s, seconds=20.0)))

    assert report.fault == ""
    assert len(set(who(world, kind))) == 2
    assert takeover_s(world, lost, kind) <= scenario.patience_s + KILL_BOUND_S


def test_figures_of_two_test_sets_that_are_compared_are_found(monkeypatch):
    """The deputy gets no sample of south, whose policy names another operator; the unit is lost for good."""
    scenario = two_of_each()
    nodes = []
    for node in scenario.nodes:
        if node.name == "deputy":
            node = changed(node, operator="audit")
        if node.name == "north":
            policy = changed(node.data[0].policy, verification_operators=("trust", "audit"))
            node = changed(node, data=(changed(node.data[0], policy=policy),))
        nodes.append(node)
    lost = first_of(scenario, EvaluateWork)
    crash = CrashSpec(node="unit", when="after", effect="BeginWork", number=3, down_s=FOR_GOOD_S)
    apart = with_faults(changed(scenario, nodes=tuple(nodes)), crash)
    assert lost in ("unit", "deputy")
    _, world = play(apart)
    assert records(world, OtherTestSet)

    monkeypatch.setattr(Measuring, "is_other", lambda *given: False)

    assert "figures of another test set" in run_scenario(apart).fault
