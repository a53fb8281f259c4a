"""Mishaps of a simulated world beyond crashes and cuts, and the ledger of which fault came at which point of a run.

The points and kinds are those of the fault matrix on real processes (`CELLS`); a run over many seeds must have come by
all of them (`missing`).
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from daitn.base.effects import LinkBroken, PeerVanished
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import seconds_to_ns
from daitn.descriptors.terminals import Role
from daitn.simulation.process import Process
from daitn.simulation.sites import SimulatedSite
from daitn.terminal.visit_keeper import State

if TYPE_CHECKING:
    from daitn.simulation.world import World

SITE_POINTS: Final = ("site, receiving", "site, training", "site, sending", "site, after acknowledgement")
CELLS: Final = (
    *((point, kind) for point in SITE_POINTS for kind in ("kill", "stop")),
    *((point, kind) for point in ("child", "verification unit", "aggregator", "centre") for kind in ("kill", "stop")),
    ("router", "kill"),
    ("router", "stop"),
    ("owner's client", "away"),
    ("link", "cut both ways"),
    ("link", "cut towards the router"),
    ("link", "cut from the router"),
    ("link", "delayed"),
    ("link", "throttled"),
    ("disk of a site", "full"),
    ("store of a site", "lost"),
    ("disk of the centre", "full"),
    ("clock of a site", "moved"),
    ("clock of the centre", "moved"),
)
"""Every point × kind of the matrix."""

IDLE: Final = "idle"
"""The point of a process that has nothing to do."""

BUSY_FRAC: Final = 0.7
"""Share of stops that pick among those who are at a point of the matrix; most processes have nothing to do."""

CHILD_CRASHES: Final = 20
"""A child's work ends badly so many times as often as an effect does: a node has many effects, a job few visits."""

LINK_LEASE_S: Final = 3.0
"""After so long a silence the fabric gives a link up."""

SLOWER: Final = {"delayed": 20.0, "throttled": 50.0}


class Mishaps:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"mishaps {world.scenario.seed}")
        self.owners_away_until_ns = 0

    # --- planning ---------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Set down all mishaps that the scenario's rate draws."""
        world, moment_s = self._world, 0.0
        others = (self._router, self._disk, self._lost_store, self._slow_link, self._owners_leave)
        kinds = (*[self._stop] * 4, *others)
        while world.faults.mishaps_per_minute > 0:
            moment_s += self._rng.expovariate(world.faults.mishaps_per_minute / 60)
            if moment_s >= world.faults.stop_after_s:
                return
            kind, seconds = self._rng.choice(kinds), world.faults.mishap_s * (0.2 + self._rng.random())
            world.after(moment_s, lambda kind=kind, seconds=seconds: kind(seconds))  # type: ignore[misc]

    def clock_skew_ns(self, process: Process) -> int:
        """How far off the clock is that a starting process looks at. A centre's never shows less than what it has
        written, as in the real world."""
        world = self._world
        most_s = world.faults.clock_s if process.node != CENTER else min(5.0, world.faults.clock_s)
        if not most_s or not world.network.faulty:
            skew_ns = 0
        else:
            skew_ns = seconds_to_ns(most_s) - round(self._rng.random() * 2 * seconds_to_ns(most_s))
        if process.node == CENTER:
            skew_ns = max(skew_ns, process.written_ns - world.now_ns)
        if skew_ns != process.skew_ns:
            self.hit("clock of the centre" if process.node == CENTER else "clock of a site", "moved")
        return skew_ns

    # --- mishaps ----------------------------------------------------------------------------------------------------

    def _stop(self, seconds: float) -> None:
        """SIGSTOP for a while. What the process is told meanwhile it hears late; presence lasts as long as the link."""
        world = self._world
        busy = [process for process in world.processes.values() if self._point(process.node) != IDLE]
        process = self._rng.choice(busy if self._rng.random() < BUSY_FRAC else list(world.processes.values()))
        if not process.alive or process.frozen_until_ns > world.now_ns:
            return
        self.note(process.node, "stop")
        process.frozen_until_ns = world.now_ns + seconds_to_ns(seconds)
        if seconds > LINK_LEASE_S:
            node = process.node
            if node != CENTER:
                world.tell_center(lambda: PeerVanished(node=node), LINK_LEASE_S)
                world.after(seconds, lambda: world.linked_again(node))
            else:
                world.after(seconds, self._all_linked_again)

    def _router(self, seconds: float) -> None:
        """Killed, so that every link closes at once, or stopped, so that they fall silent."""
        world = self._world
        killed = self._rng.random() < 0.5
        self.hit("router", "kill" if killed else "stop")
        world.network.router_down = True
        if killed or seconds > LINK_LEASE_S:
            delay_s = 0.005 if killed else LINK_LEASE_S
            world.tell_center(LinkBroken, delay_s * (0.5 + self._rng.random()))
            for node in [node for node in world.processes if node != CENTER]:
                world.tell_center(lambda node=node: PeerVanished(node=node), delay_s)  # type: ignore[misc]
        world.after(seconds, self._router_back)

    def _router_back(self) -> None:
        self._world.network.router_down = False
        self._all_linked_again()

    def _all_linked_again(self) -> None:
        world = self._world
        for node in list(world.alive_sites()):
            world.after(self._rng.random(), lambda node=node: world.linked_again(node))  # type: ignore[misc]

    def _disk(self, seconds: float) -> None:
        world = self._world
        process = world.processes[CENTER if self._rng.random() < 0.3 else self._rng.choice(list(world.processes))]
        self.hit("disk of the centre" if process.node == CENTER else "disk of a site", "full")
        process.disk_full_until_ns = world.now_ns + seconds_to_ns(seconds)

    def _lost_store(self, seconds: float) -> None:
        """A site that computes starts again with its journal and without the models it held."""
        world = self._world
        computing = [node for node, spec in world.specs.items() if Role.COMPUTE in spec.roles]
        process = world.processes[self._rng.choice(computing)]
        if process.alive:
            self.hit("store of a site", "lost")
            world.crash(process, "its store is lost", seconds)
            world.kept.lose(process.node)

    def _slow_link(self, seconds: float) -> None:
        world = self._world
        node = self._rng.choice([node for node in world.processes if node != CENTER])
        kind = self._rng.choice(list(SLOWER))
        self.hit("link", kind)
        world.network.slow[node] = SLOWER[kind]
        world.after(seconds, lambda: world.network.restore_speed(node))

    def _owners_leave(self, seconds: float) -> None:
        """Their programs are killed; later they look again, and must not see less than before."""
        world = self._world
        self.hit("owner's client", "away")
        self.owners_away_until_ns = world.now_ns + seconds_to_ns(seconds)
        world.after(seconds, world.owners_look)

    # --- the ledger -------------------------------------------------------------------------------------------------

    def hit(self, point: str, kind: str) -> None:
        """A fault has come at a point."""
        self._world.watcher.hit[(point, kind)] += 1

    def note(self, node: NodeId, kind: str) -> None:
        """A process is killed or stopped: at which point of its work?"""
        self.hit(self._point(node), kind)

    def _point(self, node: NodeId) -> str:
        world = self._world
        core = world.processes[node].core
        if not isinstance(core, SimulatedSite):
            return "centre"
        states = {state for _, state in core.keeper.snapshot()}
        if Role.VERIFICATION in core.spec.roles:
            return "verification unit" if states else IDLE
        if Role.AGGREGATOR in core.spec.roles:
            return "aggregator" if states else IDLE
        if State.WORKING in states:
            return "site, training"
        if State.FETCHING in states:
            return "site, receiving"
        if world.watcher.sending[node] > 0:
            return "site, sending"
        heads = {machine.state.head for machine in world.center.jobs.values() if not machine.state.ended}
        return "site, after acknowledgement" if heads & world.artifacts[node] else IDLE


def missing(hit: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Cells of the matrix that no run came by."""
    return [cell for cell in CELLS if not hit[cell]]
