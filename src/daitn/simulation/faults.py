"""Faults of a simulated world: by chance, as rates say, or exactly where a scenario names them.

A rate finds what nobody thought of; a named fault shows that one known danger is past. Both use the world's own
moments, so a scenario with its seed replays exactly.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from daitn.base.effects import Effect
from daitn.base.ids import CENTER, NodeId
from daitn.scenario.spec import FaultSpec

if TYPE_CHECKING:
    from daitn.simulation.world import World


class Crashes:
    """Decides before and after each effect of a process whether the process dies there."""

    def __init__(self, spec: FaultSpec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._performed: Counter[tuple[str, str]] = Counter()

    def down_s(self, name: str, when: str, effect: Effect, *, by_chance: bool) -> float | None:
        """Seconds until the process called `name` starts again, or None: it lives on. Ask once before, once after."""
        kind = type(effect).__name__
        if when == "before":
            self._performed[(name, kind)] += 1
        for crash in self._spec.crashes:
            here = (crash.node, crash.effect, crash.when, crash.number)
            if here == (name, kind, when, self._performed[(name, kind)]):
                return crash.down_s
        if by_chance and self._rng.random() < self._spec.crash:
            return self._spec.restart_s * (0.2 + self._rng.random())
        return None


def plan_cuts(world: World) -> None:
    """Set down every cut of a world's links: those that the scenario names, and those that its rate draws."""
    faults = world.faults
    by_name = {process.name: node for node, process in world.processes.items()}
    for cut in faults.cuts:
        _cut_at(world, cut.at_s, by_name[cut.node], cut.seconds, up=cut.up, down=cut.down)
    rng = random.Random(f"cuts {world.scenario.seed}")
    nodes = [node for node in world.processes if node != CENTER]
    moment_s = 0.0
    while faults.cuts_per_minute > 0:
        moment_s += rng.expovariate(faults.cuts_per_minute / 60)
        if moment_s >= faults.stop_after_s:
            return
        node, kind = rng.choice(nodes), rng.randrange(3)
        seconds = faults.cut_s * (0.2 + rng.random())
        _cut_at(world, moment_s, node, seconds, up=kind in (0, 2), down=kind in (1, 2))


def _cut_at(world: World, moment_s: float, node: NodeId, seconds: float, *, up: bool, down: bool) -> None:
    world.after(moment_s, lambda: world.cut(node, seconds, up=up, down=down))
