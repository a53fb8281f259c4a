"""Running seeds: build the world of a scenario, submit its jobs, let faults happen, check, and say how to replay."""

from __future__ import annotations

import msgspec

from daitn.base.errors import DaitnError
from daitn.base.ids import CENTER, JobId, OwnerId
from daitn.control_center.training.commands import SubmissionReceived
from daitn.decision.facts import PackageFacts
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, NumberColumn, NumbersInput
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Request, SecureAggregation, parse_target
from daitn.scenario.spec import JobSpec, Scenario, check_scenario
from daitn.simulation.faults import plan_cuts
from daitn.simulation.generate import generate
from daitn.simulation.invariants import Invariants, policies_of
from daitn.simulation.sites import simulated_labels
from daitn.simulation.world import World

SETTLE_S = 240.0
"""Virtual seconds after the last deadline in which everything must have ended."""


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a seed."""

    seed: int
    events: int
    crashes: int
    messages: int
    phases: tuple[Phase, ...]
    seconds: float
    fault: str = ""
    hit: tuple[tuple[str, str, int], ...] = ()
    """How often a fault of a kind came at a point: (point, kind, times)."""
    trace: tuple[str, ...] = ()


def simulated_contract(name: str) -> DataContract:
    """One number in, one of the contract's labels out."""
    return DataContract(
        name=name,
        columns=(NumberColumn(name="x"), CategoryColumn(name="y", values=simulated_labels(name))),
        inputs=(NumbersInput(name="x", columns=("x",)),),
        task=Classification(label="y"),
    )


def run_scenario(scenario: Scenario) -> RunReport:
    """One run to its end; a violated invariant or an unended job is the report's `fault`."""
    check_scenario(scenario)
    invariants = Invariants(policies_of(scenario))
    world = World(scenario, invariants)
    for number, job in enumerate(scenario.jobs):
        _submit_later(world, number, job)
    plan_cuts(world)
    world.mishaps.plan()
    world.after(scenario.faults.stop_after_s, lambda: _calm(world))
    last = max((job.at_s + job.deadline_s for job in scenario.jobs), default=0.0)
    fault = ""
    try:
        world.run(max(last, scenario.faults.stop_after_s) + SETTLE_S, lambda: _all_ended(world))
        invariants.check_end(world)
    except (DaitnError, AssertionError, KeyError, LookupError, AttributeError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__} at {world.seconds():.3f} s: {error}"
    return RunReport(
        seed=scenario.seed,
        events=world.events,
        crashes=world.crashes,
        messages=world.network.sent,
        phases=tuple(machine.state.phase for machine in world.center.jobs.values()),
        seconds=world.seconds(),
        fault=fault,
        hit=tuple((point, kind, times) for (point, kind), times in sorted(world.watcher.hit.items())),
        trace=tuple(world.trace),
    )


def run_seed(seed: int, *, faulty: bool = True) -> RunReport:
    """The generated scenario of a seed."""
    return run_scenario(generate(seed, faulty=faulty))


def _submit_later(world: World, number: int, spec: JobSpec) -> None:
    contract = simulated_contract(spec.contract)
    package = world.learner.submit(f"{spec.owner} {spec.name}")
    world.artifacts[CENTER].add(package)
    event = SubmissionReceived(
        job=JobId(f"j{number + 1}"),
        owner=OwnerId(spec.owner),
        request=Request(
            name=spec.name,
            package=package,
            purpose=spec.purpose,
            targets=tuple(parse_target(text) for text in spec.targets),
            deadline_s=spec.deadline_s,
            budget=Budget(visits=spec.visits),
            raw_records=spec.raw_records,
            method=spec.method,
            seed=number,
            accept_counter_offer=number == 1,
            chance_floor=spec.chance_floor,
            allow_probe=spec.allow_probe,
            until_deadline=spec.until_deadline,
            secure_aggregation=SecureAggregation() if spec.secure_aggregation else None,
            compression=spec.compression,
        ),
        package=PackageFacts(contract=contract, kind="graph", signer="owner", payload_bytes=1000, parts_bytes=100),
        key=spec.name,
    )

    def submit() -> None:
        """An owner repeats a submission until the centre has it: the key makes it one job."""
        process = world.processes[CENTER]
        if process.alive and world.center.submitted_before(spec.owner, spec.name) is None:
            world.give(process, event)
        if not process.alive or world.center.submitted_before(spec.owner, spec.name) is None:
            world.after(0.5, submit)
            return
        if world.network.faulty:
            world.after(1.0, submit)

    world.after(spec.at_s, submit)


def _calm(world: World) -> None:
    world.network.faulty = False


def _all_ended(world: World) -> bool:
    """All jobs have, and no site keeps anything for one any more."""
    if not world.processes[CENTER].alive:
        return False
    jobs = world.center.jobs
    if len(jobs) < len(world.scenario.jobs) or not all(machine.state.ended for machine in jobs.values()):
        return False
    return not world.records_waiting() and not any(world.kept.jobs(node) for node in world.processes)
