"""A model in stages at the centre and at a gateway: placed, told, lost, placed anew, withdrawn, asked as one."""

from __future__ import annotations

import asyncio
import random
import time

import msgspec
import numpy as np
import pytest
from tests.unit.test_deployment_desk import MODEL, NEEDS, PACKAGE, Domain, make_gate, make_host
from tests.unit.test_pipelines import Domain as Gate

from daitn.base.effects import PeerAppeared, PeerVanished, TimerFired
from daitn.base.ids import ModelName, NodeId, OwnerId
from daitn.control_center.inference.commands import DeployAsked, DeployStagesAsked, StagePlanned, UndeployAsked
from daitn.control_center.inference.query_admission import Refused
from daitn.control_center.inference.stage_planning import plan_stages
from daitn.control_center.inference.staged import parts_of
from daitn.decision.hosting import HostCondition
from daitn.descriptors.serving import QueryGoal, ServedModel, TensorSpec, parse_goal
from daitn.descriptors.stages import Activation, CutPlace, GraphProfile, SplitAsked, Stage
from daitn.descriptors.terminals import NodeDescriptor

CUT = Activation(place=4, node=3, dtype="float32", sides=("batch", 8))
OTHER = Activation(place=6, node=5, dtype="float32", sides=("batch", 8))
PROFILE = GraphProfile(
    row_flops=1e6,
    weight_bytes=300,
    places=(
        CutPlace(activation=CUT, before_frac=0.5, before_bytes=150, row_bytes=32),
        CutPlace(activation=OTHER, before_frac=0.7, before_bytes=210, row_bytes=32),
    ),
)
FIRST, SECOND = ModelName("sides.begin-4"), ModelName("sides.4-end")


def plan(
    domain: Domain, stages: int = 0, goal: str = "= 1 replicas"
) -> tuple[StagePlanned, ...] | tuple[HostCondition, ...]:
    desk = domain.center.inference.deployment
    return plan_stages(
        MODEL,
        OwnerId("ada"),
        NEEDS,
        parse_goal(goal),
        SplitAsked(profile=PROFILE, stages=stages),
        desk.hosts(parts_of(desk.models, MODEL)),
        domain.center.knowledge,
        desk.gateways,
        base_bytes=50,
        copies=1,
    )


def deploy(domain: Domain, stages: int = 0, goal: str = "= 1 replicas") -> tuple[StagePlanned, ...]:
    planned = tuple(one for one in plan(domain, stages, goal) if isinstance(one, StagePlanned))
    assert planned
    owner = OwnerId("ada")
    domain.do(DeployStagesAsked(model=MODEL, owner=owner, artifact=PACKAGE, goal=parse_goal(goal), stages=planned))
    return planned


def where(domain: Domain) -> dict[str, set[str]]:
    return {name: set(one.placed) for name, one in domain.center.inference.deployment.models.items()}


def hosts(*memories: int) -> list[NodeDescriptor]:
    return [make_host(number, memory_bytes=memory) for number, memory in enumerate(memories, 1)]


def test_stages_go_to_the_hosts_that_the_cut_was_made_for_and_gateways_hear_of_them_as_stages() -> None:
    domain = Domain(*hosts(250, 250, 120), make_gate(9, "north"))
    planned = deploy(domain)
    assert [one.needs.memory_bytes for one in planned] == [200, 200]
    assert where(domain) == {FIRST: {planned[0].node}, SECOND: {planned[1].node}}
    assert len({one.node for one in planned}) == 2
    for one in planned:
        (order,) = domain.told[one.node].orders
        assert order.needs.stage == one.needs.stage
        assert order.artifact == PACKAGE
        domain.serve(one.node)
    served = {one.model: one for one in domain.center.inference.deployment.served()}
    assert [(served[name].stage.number, served[name].stage.of) for name in (FIRST, SECOND)] == [(1, 2), (2, 2)]  # type: ignore[union-attr]
    assert all(one.routes for one in served.values())


def test_lost_stage_is_loaded_by_another_host_and_the_others_stay_where_they_are() -> None:
    domain = Domain(*hosts(250, 250, 250))
    planned = deploy(domain)
    for one in planned:
        domain.serve(one.node)
    lost, kept = planned[1].node, planned[0].node
    (third,) = {"n0001", "n0002", "n0003"} - {lost, kept}
    domain.do(PeerVanished(node=lost), after_s=1)
    domain.do(TimerFired(name="hosting"), after_s=5)
    assert where(domain) == {FIRST: {kept}, SECOND: {third}}
    (order,) = domain.told[NodeId(third)].orders
    assert order.needs.stage == planned[1].needs.stage


def test_stages_are_one_model_to_its_provider() -> None:
    domain = Domain(*hosts(250, 250, 250))
    deploy(domain)
    domain.restart()
    for node in domain.hosts:
        domain.do(PeerAppeared(node=node))
    assert set(where(domain)) == {FIRST, SECOND}, "the journal has the cut"
    deploy(domain, stages=3)
    assert set(where(domain)) == {FIRST, ModelName("sides.4-6"), ModelName("sides.6-end")}, "another cut replaces it"
    small = msgspec.structs.replace(NEEDS, memory_bytes=200)
    domain.do(
        DeployAsked(model=MODEL, owner=OwnerId("ada"), artifact=PACKAGE, goal=parse_goal("= 1 replicas"), needs=small)
    )
    assert set(where(domain)) == {MODEL}, "and so does the whole"
    deploy(domain)
    domain.do(UndeployAsked(model=MODEL))
    assert where(domain) == {}
    domain.restart()
    assert where(domain) == {}


def test_what_hosts_rule_out_is_said_before_anything_is_cut() -> None:
    domain = Domain(*hosts(250, 250))
    failed = plan(domain, goal="= 1 replicas, region south")
    assert next(one.code for one in failed if isinstance(one, HostCondition)) == "region"
    (lacking,) = plan(Domain(*hosts(120, 120)))
    assert isinstance(lacking, HostCondition)
    assert str(lacking).startswith("stages: required 350 bytes of memory and 50 for every stage but the first")
    (few,) = plan(domain, stages=3)
    assert isinstance(few, HostCondition)
    assert str(few) == "stages: required 3 stages, available 2 hosts and 2 places to cut at"


@pytest.mark.parametrize("seed", range(20))
def test_every_stage_has_a_host_again_whatever_is_lost_while_there_is_memory(seed: int) -> None:
    """Hosts come and go at random, the centre starts anew now and then; in the end each stage is served once."""
    draw = random.Random(seed)
    domain = Domain(*hosts(250, 250, 250, 250))
    deploy(domain, stages=2)
    gone: set[str] = set()
    for _ in range(30):
        match draw.choice(("lose", "back", "serve", "serve", "restart", "wait")):
            case "lose" if len(gone) < 2:
                node = draw.choice(sorted({"n0001", "n0002", "n0003", "n0004"} - gone))
                gone.add(node)
                domain.do(PeerVanished(node=NodeId(node)), after_s=0.5)
            case "back" if gone:
                node = draw.choice(sorted(gone))
                gone.remove(node)
                domain.do(PeerAppeared(node=NodeId(node)), after_s=0.5)
            case "restart":
                domain.restart()
                for node in sorted(domain.hosts):
                    domain.do((PeerVanished if node in gone else PeerAppeared)(node=NodeId(node)))
            case "serve":
                for node in sorted(set(domain.told) - gone):
                    domain.serve(node)
            case _:
                domain.do(TimerFired(name="hosting"), after_s=6)
    domain.do(TimerFired(name="hosting"), after_s=30)
    domain.do(TimerFired(name="placing"), after_s=30)
    placed = {name: set(one.staying) for name, one in domain.center.inference.deployment.models.items()}
    assert set(placed) == {FIRST, SECOND}
    assert all(nodes and not nodes & gone for nodes in placed.values()), (placed, gone)


# --- at a gateway -----------------------------------------------------------------------------------------------------


def staged(gate: Gate, name: str, number: int, of: int) -> ServedModel:
    """A model of the gate's as the centre tells of a stage."""
    stage = Stage(
        model=MODEL, number=number, of=of, begin=None if number == 1 else CUT, end=CUT if number == 1 else None
    )
    outputs = (TensorSpec(name=CUT.name if number == 1 else "p", datatype="FP32", shape=(-1, 2)),)
    return msgspec.structs.replace(gate._served(name), stage=stage, outputs=outputs)


def test_query_of_a_model_in_stages_is_answered_once_though_hosts_of_both_stages_are_lost() -> None:
    gate = Gate()
    gate.add("sides.begin-4", lambda given: {CUT.name: given["x"] + 1})
    gate.add("sides.4-end", lambda given: {"p": given[CUT.name] * 3}, CUT.name)
    combining = gate.combining()
    combining.follow([staged(gate, "sides.4-end", 2, 2)])
    assert combining.described("sides") is None, "it is no model until all of it is there"
    both = [staged(gate, "sides.4-end", 2, 2), staged(gate, "sides.begin-4", 1, 2)]
    gate.engine.follow(both, time.monotonic_ns())
    combining.follow(both)
    described = combining.described("sides")
    assert described is not None
    assert ([one.name for one in described.inputs], [one.name for one in described.outputs]) == (["x"], ["p"])
    assert described.routes

    gate.first_dies = {"sides.begin-4", "sides.4-end"}
    rows = np.array([[1.0, 2.0]], np.float32)
    found = asyncio.run(combining.ask("sides", {"x": rows}, QueryGoal()))
    assert not isinstance(found.outcome, Refused)
    assert found.outcome["p"].tolist() == ((rows + 1) * 3).tolist()
    assert [[step.came for step in one.steps] for one in found.asked] == [["lost", "answered"]] * 2

    combining.follow([])
    assert combining.described("sides") is None
