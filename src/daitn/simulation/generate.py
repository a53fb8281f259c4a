"""Scenarios from seeds: networks of unequal sites, jobs of several owners and methods, and faults of all kinds."""

from __future__ import annotations

import random

import msgspec

from daitn.descriptors.policy import Policy
from daitn.descriptors.request import CHANCE_FLOOR
from daitn.descriptors.terminals import Role
from daitn.scenario.spec import DataSpec, FaultSpec, JobSpec, NodeSpec, Scenario

OWNERS = ("ada", "grace")
PURPOSES = ("diagnosis-support", "quality-control")


def generate(seed: int, *, faulty: bool = True) -> Scenario:
    """The scenario of a seed: 3–8 data sites, one or two of everything else, 1–3 jobs."""
    rng = random.Random(f"scenario {seed}")
    classes = rng.choice((2, 4, 10))
    contract = f"made-{classes}"
    nodes = [_site(rng, number, classes, contract) for number in range(rng.randint(3, 7))]
    if rng.random() < 0.7:
        nodes.append(_site(rng, len(nodes), classes, contract, computes=False))
    nodes.append(NodeSpec(name="machine", operator="lab", roles=(Role.COMPUTE,), slots=rng.randint(1, 2)))
    for number in range(rng.randint(1, 2)):
        nodes.append(NodeSpec(name=f"unit{number}", operator="trust", roles=(Role.VERIFICATION,), slots=2))
    nodes.append(NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)))
    nodes = _with_others(nodes, random.Random(f"others {seed}"))
    jobs = tuple(_job(rng, number, classes, contract) for number in range(rng.randint(1, 3)))
    return Scenario(
        name=f"seed {seed}",
        patience_s=rng.choice((1.0, 2.0, 4.0)),
        nodes=tuple(nodes),
        jobs=_with_probes(jobs, random.Random(f"probes {seed}")),
        faults=_faults(rng) if faulty else FaultSpec(),
        seed=seed,
    )


def _with_others(nodes: list[NodeSpec], rng: random.Random) -> list[NodeSpec]:
    """Sometimes a second aggregator, and a second unit that is not every site's choice."""
    found: list[NodeSpec] = []
    audited = rng.random() < 0.4
    for node in nodes:
        if audited and node.name == "unit1":
            node = msgspec.structs.replace(node, operator="audit")
        if rng.random() < 0.7:
            operators = ("trust", "audit")
            data = tuple(_given_to(one, operators) for one in node.data)
            node = msgspec.structs.replace(node, data=data)
        found.append(node)
    if rng.random() < 0.5:
        found.append(NodeSpec(name="blender", operator="lab", roles=(Role.AGGREGATOR,)))
    return found


def _given_to(data: DataSpec, operators: tuple[str, ...]) -> DataSpec:
    policy = msgspec.structs.replace(data.policy, verification_operators=operators)
    return msgspec.structs.replace(data, policy=policy)


def _with_probes(jobs: tuple[JobSpec, ...], rng: random.Random) -> tuple[JobSpec, ...]:
    """Some owners allow a probe where the verdict is not sure."""
    return tuple(msgspec.structs.replace(job, allow_probe=rng.random() < 0.5) for job in jobs)


def _site(rng: random.Random, number: int, classes: int, contract: str, *, computes: bool = True) -> NodeSpec:
    shown = rng.sample(range(classes), rng.randint(1, classes))
    labels = {str(label): rng.randint(5, 400) for label in shown}
    policy = Policy(
        owners=("*",) if rng.random() < 0.8 else (rng.choice(OWNERS),),
        purposes=PURPOSES if rng.random() < 0.8 else (rng.choice(PURPOSES),),
        methods=("*",) if rng.random() < 0.9 else ("cyclic", "tram-fl"),
        raw_records="trust-zone" if rng.random() < 0.6 else "stay",
        compute_operators=("lab",) if rng.random() < 0.8 else (),
        sample_frac=0.2 if rng.random() < 0.9 else 0.0,
        verification_operators=("trust",),
    )
    roles = (Role.DATA, Role.COMPUTE) if computes else (Role.DATA,)
    data = DataSpec(name="records", contract=contract, policy=policy, labels=labels)
    return NodeSpec(
        name=f"site{number}",
        operator=f"hospital{number}",
        roles=roles,
        slots=rng.randint(1, 2),
        data=(data,),
        flops=10 ** rng.uniform(9, 11),
    )


def _job(rng: random.Random, number: int, classes: int, contract: str) -> JobSpec:
    goal = rng.choice((0.5, 0.8, 0.95, 0.999))
    targets = [f"accuracy >= {goal}"]
    if rng.random() < 0.3:
        targets.append(f"recall[{rng.randrange(classes)}] >= 0.6")
    return JobSpec(
        owner=rng.choice(OWNERS),
        name=f"job{number}",
        contract=contract,
        targets=tuple(targets),
        deadline_s=rng.choice((5.0, 60.0, 120.0)),
        purpose=rng.choice((*PURPOSES, "advertising")) if rng.random() < 0.15 else PURPOSES[0],
        method=rng.choice(
            ("", "planned", "cyclic", "tram-fl", "random", "fedavg", "fedadam", "data-parallel", "fedbuff")
        ),
        raw_records=rng.choice(("stay", "trust-zone")),
        visits=rng.choice((None, None, 12)),
        chance_floor=rng.choice((CHANCE_FLOOR, 0.0)),
        at_s=rng.uniform(0.5, 4.0),
    )


def _faults(rng: random.Random) -> FaultSpec:
    return FaultSpec(
        loss=rng.choice((0.0, 0.02, 0.2)),
        duplicate=rng.choice((0.0, 0.05, 0.3)),
        delay_s=rng.choice((0.0005, 0.01, 0.05)),
        slow=rng.choice((0.0, 0.05)),
        crash=rng.choice((0.0, 0.002, 0.01)),
        restart_s=rng.choice((0.5, 3.0)),
        cuts_per_minute=rng.choice((0.0, 6.0, 20.0)),
        cut_s=rng.choice((1.0, 10.0)),
        mishaps_per_minute=rng.choice((0.0, 8.0, 30.0)),
        mishap_s=rng.choice((1.5, 6.0)),
        clock_s=rng.choice((0.0, 5.0, 7200.0)),
        stop_after_s=90.0,
    )
