"""TopologyOrchestrator (DRRT-O, QRRT orchestration): tunes what terminals tell, and finds out who has failed.

Paper II-A: the orchestrator commands the collection that the map (G-KRRM) is made of. Two loops, both cores' work:

    tuning   readings the map has taken, and the ranges within which decisions stand
             → weights and wander of each fact → thresholds by the law of `topology.budget`, a problem that is solved
               beside the core → `TuneReporting`
    failures signs of life → φ of each node (`topology.suspicion`) → `DeclareFailure`, `DeclareSuspicion`; a node that
             fails again and again is damped (`describe.damping`): here is where its falls are first known

A site that takes all its thresholds from here stays within its bytes by itself, since each tuning carries them; the
shares of all sites, and what the tunings themselves take, add up to the budget. A fact that no decision depends on is
told when it is old, and otherwise only when there is nothing better to spend bytes on.

It keeps nothing durable: after a restart sites go on as they were tuned, and what was learnt is learnt again within a
period. Legend: F facts, N nodes. Cost: O(1) for a reading or sign of life, O(N) for a look around and for
a tuning, whose thresholds are worked out beside the core.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Final

import msgspec

from daitn.base.effects import (
    Compute,
    Computed,
    Delivered,
    Effect,
    Event,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError
from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.describe.damping import DampingConfig, FlapDamper
from daitn.describe.reporting import GroupShape
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import Reading
from daitn.topology.suspicion import GapHistory, Standing, SuspicionConfig
from daitn.topology.thresholds import ThresholdsFound
from daitn.topology.tuning import ReportTuner, TunerConfig
from daitn.wire.topology_tools import ReportingTuned

TUNE_TIMER: Final = "tune reporting"
LOOK_TIMER: Final = "look for failures"

WELCOME_S: Final = 1.0
"""How soon after a new site's first report all are tuned: it gets its share then, and others that came with it too."""


class OrchestratorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that an operator may set."""

    tuner: TunerConfig = TunerConfig()
    suspicion: SuspicionConfig = SuspicionConfig()
    damping: DampingConfig = DampingConfig()
    beat_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    """What nodes are told to keep between two signs of life."""
    look_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    """How often φ is looked at."""


class ReadingsAccepted(Event, frozen=True, kw_only=True):
    """The map has taken readings that a site told. `wire_bytes`: what they took on the wire."""

    site: NodeId
    readings: tuple[Reading, ...]
    wire_bytes: int


class NodeSignalled(Event, frozen=True, kw_only=True):
    """Something came from a node; `beat`: its regular sign of life."""

    node: NodeId
    beat: bool


class NodeVanished(Event, frozen=True, kw_only=True):
    """Others found that a node is gone: its presence vanished."""

    node: NodeId


class NodeDropped(Event, frozen=True, kw_only=True):
    """A node left for good: nothing of it is kept."""

    node: NodeId


class RangesStated(Event, frozen=True, kw_only=True):
    """A decision was made that stands while facts lie within these ranges; replaces the holder's earlier ones. Without
    any: the holder depends on nothing more."""

    holder: str
    ranges: tuple[FactRange, ...] = ()


class DeclareSuspicion(Effect, frozen=True, kw_only=True):
    """A node is silent for longer than it usually is: prefer others."""

    node: NodeId
    phi: float


class DeclareFailure(Effect, frozen=True, kw_only=True):
    """A node has failed, as sure as the configuration asks for: it is not reachable."""

    node: NodeId
    phi: float
    silent_s: float


class TopologyOrchestrator:
    """See the module's docstring. `shape_of`: a group's facts and record size; `overhead_bytes`: of a report's
    header."""

    def __init__(self, config: OrchestratorConfig, shape_of: Callable[[str], GroupShape], overhead_bytes: int) -> None:
        self.config = config
        self.tuner = ReportTuner(config.tuner, shape_of, overhead_bytes)
        self._nodes: dict[NodeId, GapHistory] = {}
        self._standing: dict[NodeId, Standing] = {}
        """Of nodes that are not alive."""
        self._dampers: dict[NodeId, FlapDamper] = {}
        self._seeking = False
        """Whether thresholds are being worked out."""

    # --- core -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ReadingsAccepted(site=site, readings=readings, wire_bytes=wire_bytes):
                self._spoke(site, now_ns, beat=False)
                if self.tuner.take(site, readings, wire_bytes):
                    return [SetTimer(name=TUNE_TIMER, at_ns=now_ns + seconds_to_ns(WELCOME_S))]
            case NodeSignalled(node=node, beat=beat):
                self._spoke(node, now_ns, beat=beat)
            case NodeVanished(node=node):
                self._fell(node, now_ns)
            case NodeDropped(node=node):
                self._nodes.pop(node, None)
                self._standing.pop(node, None)
                self._dampers.pop(node, None)
                self.tuner.forget(node)
            case RangesStated(holder=holder, ranges=ranges):
                self.tuner.hold(holder, ranges)
            case Delivered(sender=sender, message=ReportingTuned(number=number)):
                return self._repeat(sender, number)
            case Started():
                self._seeking = False
                return [self._timer(LOOK_TIMER, now_ns), self._timer(TUNE_TIMER, now_ns)]
            case TimerFired(name="look for failures"):
                return [*self._look(now_ns), self._timer(LOOK_TIMER, now_ns)]
            case TimerFired(name="tune reporting"):
                sought: list[Effect] = []
                if not self._seeking:
                    self._seeking = True
                    sought = [Compute(key=TUNE_TIMER, basis=now_ns, problem=self.tuner.seek(now_ns))]
                return [*sought, self._timer(TUNE_TIMER, now_ns)]
            case Computed(key="tune reporting", solution=ThresholdsFound() as found):
                self._seeking = False
                tunings = self.tuner.spend(found, self._alive())
                return [Send(receiver=site, message=message) for site, message in tunings]
            case _:
                pass
        return []

    def check_invariants(self) -> None:
        """BugError if sites were given more than there is, or a standing is of nobody."""
        self.tuner.check_invariants()
        if astray := [node for node in self._standing if node not in self._nodes]:
            raise BugError(f"nodes have failed that were never heard of: {astray[:3]}")

    # --- what others ask --------------------------------------------------------------------------------------------

    def phi(self, node: NodeId, now_ns: int) -> float:
        """How sure it is that a node has failed; 0 for one never heard of."""
        history = self._nodes.get(node)
        return history.phi(now_ns, self.config.suspicion) if history is not None else 0.0

    def suspect(self, node: NodeId, now_ns: int) -> bool:
        """Whether decisions that can choose another node should."""
        return self.phi(node, now_ns) >= self.config.suspicion.suspect_phi

    def damped(self, node: NodeId, now_ns: int) -> bool:
        """Whether a node fell so often of late that nobody should plan with it."""
        damper = self._dampers.get(node)
        return damper is not None and damper.suppressed(now_ns)

    def fails_after_s(self, node: NodeId) -> float:
        """Silence after which a node counts as failed, as it speaks now."""
        history = self._nodes.get(node) or GapHistory(self.config.beat_s, 0)
        return history.fails_after_s(self.config.suspicion)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _timer(self, name: str, now_ns: int) -> Effect:
        every_s = self.config.look_s if name == LOOK_TIMER else self.config.tuner.period_s
        return SetTimer(name=name, at_ns=now_ns + seconds_to_ns(every_s))

    def _alive(self) -> Collection[NodeId]:
        return [node for node in self._nodes if self._standing.get(node) is not Standing.FAILED]

    def _spoke(self, node: NodeId, now_ns: int, *, beat: bool) -> None:
        history = self._nodes.get(node)
        if history is None:
            self._nodes[node] = GapHistory(self.config.beat_s, now_ns)
        elif self._standing.pop(node, None) is Standing.FAILED:
            history.resumed(now_ns)
        elif beat:
            history.beat(now_ns)
        else:
            history.heard(now_ns)

    def _fell(self, node: NodeId, now_ns: int) -> None:
        if node in self._nodes and self._standing.get(node) is not Standing.FAILED:
            self._standing[node] = Standing.FAILED
            self._dampers.setdefault(node, FlapDamper(self.config.damping)).fell(now_ns)

    def _look(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for node, history in self._nodes.items():
            before = self._standing.get(node, Standing.ALIVE)
            standing = history.standing(now_ns, self.config.suspicion)
            if before is Standing.FAILED or standing is before:
                continue
            phi = history.phi(now_ns, self.config.suspicion)
            if standing is Standing.FAILED:
                self._fell(node, now_ns)
                effects.append(DeclareFailure(node=node, phi=phi, silent_s=history.silent_s(now_ns)))
            elif standing is Standing.SUSPECT:
                self._standing[node] = standing
                effects.append(DeclareSuspicion(node=node, phi=phi))
            else:
                del self._standing[node]
        for node in [node for node, damper in self._dampers.items() if damper.forgotten(now_ns)]:
            del self._dampers[node]
        return effects

    def _repeat(self, site: NodeId, number: int) -> list[Effect]:
        message = self.tuner.answered(site, number)
        return [Send(receiver=site, message=message)] if message is not None else []
