"""Playing scenarios with the world kept, so that a test can look at journals and deeds afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import msgspec
from tests.builders import changed

from daitn.base.effects import Record
from daitn.base.ids import CENTER
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.records import VisitOrdered
from daitn.descriptors.work import TrainWork
from daitn.scenario.spec import CrashSpec, CutSpec, Scenario
from daitn.simulation.run import RunReport, run_scenario
from daitn.simulation.world import EPOCH_NS, World

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.toml"))


def load(name: str = "three_hospitals") -> Scenario:
    """A scenario file of this folder."""
    path = Path(__file__).parent / "scenarios" / f"{name}.toml"
    return msgspec.toml.decode(path.read_bytes(), type=Scenario)


def play(scenario: Scenario) -> tuple[RunReport, World]:
    """Run it; the report and the world as it ended."""
    worlds: list[World] = []

    class KeptWorld(World):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            worlds.append(self)

    with mock.patch("daitn.simulation.run.World", KeptWorld):
        report = run_scenario(scenario)
    return report, worlds[0]


def with_faults(scenario: Scenario, *faults: CrashSpec | CutSpec) -> Scenario:
    """The scenario with these and no other faults."""
    crashes = tuple(one for one in faults if isinstance(one, CrashSpec))
    cuts = tuple(one for one in faults if isinstance(one, CutSpec))
    return changed(scenario, faults=changed(scenario.faults, crashes=crashes, cuts=cuts))


def records(world: World, kind: type[Record]) -> list:
    """The centre's records of one kind."""
    return [record for record in world.processes[CENTER].journal if isinstance(record, kind)]


def first_training(scenario: Scenario) -> tuple[VisitOrdered, str, float]:
    """The first training visit when nothing is broken: the order, its site's name, and when it was ordered."""
    _, world = play(with_faults(scenario))
    orders: Sequence[VisitOrdered] = records(world, VisitOrdered)
    first = next(order for order in orders if isinstance(order.work, TrainWork))
    return first, world.processes[first.node].name, ns_to_seconds(first.at_ns - EPOCH_NS)
