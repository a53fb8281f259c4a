"""A simulated process, and what is kept of all processes' deeds for the invariants to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from daitn.base.effects import Compute, Computed, Message, Record, computed
from daitn.base.ids import ArtifactId, JobId, NodeId
from daitn.control_center.center import ControlCenter
from daitn.simulation.sites import SimulatedSite
from daitn.wire.center_tools import VisitOrder


class Process:
    """A node's process: one core, its journal, its timers. `life` counts restarts, so that what was meant for an
    earlier life does not reach a later one."""

    def __init__(self, node: NodeId, name: str, make_core: Callable[[], ControlCenter | SimulatedSite]) -> None:
        self.node = node
        self.name = name
        self.make_core = make_core
        self.core = make_core()
        self.journal: list[Record] = []
        self.timers: dict[str, int] = {}
        self.computing: dict[str, Compute] = {}
        """The newest problem of each key that this life of it wants solved."""
        self.alive = False
        self.life = 0
        self.frozen_until_ns = 0
        """Stopped (SIGSTOP) until then: it neither hears nor speaks, and its timers fire late."""
        self.disk_full_until_ns = 0
        """Until then it can make nothing durable, and ends wherever it tries."""
        self.skew_ns = 0
        """How far its clock is off. While a process runs its clock never jumps; when it starts, it may have."""
        self.written_ns = 0
        """When it last made something durable, by its own clock."""

    def clock_ns(self, now_ns: int) -> int:
        """What its own clock shows."""
        return now_ns + self.skew_ns

    def solved(self, effect: Compute) -> Callable[[], Computed | None]:
        """Solve a problem; the answer comes when it is asked for, unless the same key has asked again by then."""
        self.computing[effect.key] = effect
        event = computed(effect)
        return lambda: event if self.computing.get(effect.key) is effect else None


class Watcher(msgspec.Struct, kw_only=True):
    """What invariants may look at besides the cores: everything that was done, as it was done."""

    begun: list[tuple[NodeId, VisitOrder]] = []
    spoken: list[tuple[NodeId, Message, int]] = []
    """Who said what, and how many records its journal had then."""
    confirmed_ns: dict[NodeId, int] = {}
    """When the centre last heard from a node that its description holds."""
    transfers: list[tuple[NodeId, NodeId, ArtifactId]] = []
    ungranted: list[str] = []
    seen_by_owner: dict[JobId, tuple[int, int]] = {}
    sending: Counter[NodeId] = msgspec.field(default_factory=Counter)
    """Transfers under way, by the holder first asked."""
    hit: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    """How often a fault of a kind came at a point of the run."""
