"""Facts in simulated worlds: lost reports, a centre that crashes, and the map right in the end."""

from __future__ import annotations

import math
import random

import pytest
from tests.builders import changed
from tests.simulation.worlds import load

from daitn.base.ids import CENTER
from daitn.descriptors.fact_kinds import Kind
from daitn.scenario.spec import CENTER_NAME, CrashSpec
from daitn.simulation.world import World
from daitn.terminal.fact_reporter import FactsMeasured


def measure(world: World, rng: random.Random, seconds: float) -> dict[str, float]:
    """Every site measures its load each second; the last loads."""
    loads: dict[str, float] = {}
    for second in range(round(seconds)):
        for node, process in world.processes.items():
            if node == CENTER:
                continue
            load_frac = round(rng.random(), 3)

            def at(node=node, process=process, load_frac=load_frac) -> None:
                loads[node] = load_frac
                world.give(
                    process,
                    FactsMeasured(
                        kind=Kind.TERMINAL,
                        thing=node,
                        group="load",
                        values=(load_frac, 0.0, 1.0, math.nan, 1e9, 1e12),
                        measured_ns=process.clock_ns(world.now_ns),
                    ),
                )

            world.after(second + 1.0, at)
    return loads


@pytest.mark.parametrize("seed", range(5))
def test_map_holds_the_newest_load_of_each_site_whatever_was_lost(seed):
    scenario = load()
    crash = CrashSpec(node=CENTER_NAME, effect="Send", when="after", number=9 + seed)
    faults = changed(scenario.faults, loss=0.3, duplicate=0.1, crashes=(crash,), cuts=())
    world = World(changed(scenario, seed=seed, jobs=(), faults=faults), lambda _: None)
    loads = measure(world, random.Random(seed), 20)
    world.after(25.0, lambda: setattr(world.network, "faulty", False))

    world.run(45.0, lambda: False)

    assert world.crashes == 1
    knowledge = world.center.knowledge
    table = knowledge.facts[Kind.TERMINAL]
    held = {node: table.value(knowledge.node(node).row, "load_frac") for node in loads}
    assert held == pytest.approx(loads, abs=0.06)
