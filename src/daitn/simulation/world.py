"""The simulated world: real cores, virtual time, a seeded faulty network, and every effect performed in order.

One heap of moments; no clock, socket, thread or disk. A node's journal survives its crashes, everything else of it does
not. A crash can come before or after any effect of a node. All randomness comes from one generator seeded by the
scenario, so a seed replays exactly. After every event the core's own invariants and those of `invariants` are checked.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.grants import issue_grant
from daitn.artifacts.itineraries import sign_itinerary
from daitn.artifacts.signatures import public_hex, sign_report, verify_report
from daitn.base.effects import (
    Append,
    CancelTimer,
    Compute,
    Delivered,
    Effect,
    Event,
    Message,
    PeerAppeared,
    PeerVanished,
    Send,
    SendFailed,
    SetTimer,
    Started,
    TimerFired,
    replay,
)
from daitn.base.errors import BugError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, ArtifactId, DomainId, JobId, NodeId
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.control_center.center import ControlCenter
from daitn.control_center.config import CenterConfig, CenterTools, Member
from daitn.control_center.fact_desk import ReportsArrived
from daitn.control_center.training.commands import FetchModel, JobChanged, RetireSlot
from daitn.descriptors.work import TrainWork
from daitn.scenario.spec import CENTER_NAME, Scenario
from daitn.simulation.faults import Crashes
from daitn.simulation.groups import SimulatedGroups
from daitn.simulation.kept import Kept
from daitn.simulation.learner import Learner
from daitn.simulation.masking import SimulatedMasks
from daitn.simulation.mishaps import CHILD_CRASHES, Mishaps
from daitn.simulation.moving import SimulatedMoving
from daitn.simulation.network import SimulatedNetwork
from daitn.simulation.process import Process, Watcher
from daitn.simulation.sites import SimulatedSite
from daitn.simulation.work import SimulatedWork, made_by
from daitn.terminal.fact_reporter import ReportFacts
from daitn.terminal.reporter import DescriptorChanged, Linked, NodeLeft
from daitn.terminal.work import (
    AbandonVisit,
    BeginWork,
    DropArtifacts,
    FetchInputs,
    JobsPinned,
    WarmChild,
    WorkFailed,
    WorkFinished,
    WorkProgressed,
)
from daitn.tools.service import CloseLinks, OpenLink, PaceLinks
from daitn.topology.map_entries import KeepMapEntry
from daitn.wire.center_tools import VisitOrder
from daitn.wire.topology_tools import Describe, Heartbeat

EPOCH_NS: Final = 1_700_000_000 * NS_PER_S
"""Virtual time starts here, so that clocks look like clocks."""

COMPUTING_S: Final = 0.1
"""Longest that the solving of a problem takes; each takes a random share of it."""

LONG_S: Final = 2.0
"""How long a node looks on at a child that is stopped."""

EVENTS_MOST: Final = 400_000
"""Events of one run; more means that something goes round in circles."""


class World:
    """See the module's docstring."""

    def __init__(self, scenario: Scenario, check: Callable[[World], None]) -> None:
        self.scenario = scenario
        self.faults = scenario.faults
        self.rng = random.Random(f"world {scenario.seed}")
        self.network = SimulatedNetwork(scenario.faults, random.Random(f"network {scenario.seed}"))
        self._computing_rng = random.Random(f"computing {scenario.seed}")
        self.learner = Learner()
        self.now_ns = EPOCH_NS
        self.watcher = Watcher()
        self.events = self.crashes = 0
        self.trace: list[str] = []
        self._check = check
        self.mishaps = Mishaps(self)
        self._crash_plan = Crashes(scenario.faults, self.rng)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._key = Ed25519PrivateKey.from_private_bytes(bytes(32))
        self.center_key = self._key.public_key()
        self._site_key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
        self.artifacts: dict[NodeId, set[ArtifactId]] = {CENTER: set()}
        self.kept = Kept(self.artifacts)
        self.masks = SimulatedMasks(self._site_key)
        self.work = SimulatedWork(scenario, self.learner, self.artifacts, self.masks)
        self._groups = SimulatedGroups(self, self._key.public_key())
        self._moving = SimulatedMoving(self)
        config = CenterConfig(domain=DomainId(scenario.domain), patience_s=scenario.patience_s, running_jobs=2)
        issue, sign_route = partial(issue_grant, self._key), partial(sign_itinerary, self._key)
        tools = CenterTools(issue=issue, sign_route=sign_route, verify=self._verify, member=self._member)
        self.processes: dict[NodeId, Process] = {
            CENTER: Process(CENTER, CENTER_NAME, lambda: ControlCenter(config, tools))
        }
        self.specs = {NodeId(f"n{number:04d}"): spec for number, spec in enumerate(scenario.nodes, start=1)}
        for number, spec in enumerate(scenario.nodes, start=1):
            node = NodeId(f"n{number:04d}")
            self.artifacts[node] = set()
            keys = (public_hex(self._site_key), public_hex(self.center_key))
            make_site = partial(SimulatedSite, node, spec, scenario, self._sign, *keys)
            self.processes[node] = Process(node, spec.name, make_site)
        for process in self.processes.values():
            self.at(self.now_ns, partial(self._boot, process))

    def _sign(self, report: bytes) -> str:
        return sign_report(report, self._site_key)

    def _member(self, node: NodeId) -> Member | None:
        spec = self.specs.get(node)
        if spec is None:
            return None
        return Member(name=spec.name, operator=spec.operator, roles=tuple(role.value for role in spec.roles))

    def _verify(self, key: str, report: bytes, signature: str) -> bool:
        try:
            verify_report(report, signature, key)
        except (PeerError, PolicyError):
            return False
        return True

    # --- time -------------------------------------------------------------------------------------------------------

    def at(self, moment_ns: int, action: Callable[[], None]) -> None:
        """Do something at a moment of virtual time."""
        self._order += 1
        heapq.heappush(self._heap, (max(moment_ns, self.now_ns), self._order, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something some virtual seconds from now."""
        self.at(self.now_ns + seconds_to_ns(seconds), action)

    def run(self, until_s: float, done: Callable[[], bool]) -> bool:
        """Run until `done` or virtual `until_s`; whether it was done. BugError if it goes round in circles."""
        end_ns = EPOCH_NS + seconds_to_ns(until_s)
        while self._heap and self._heap[0][0] <= end_ns:
            if done():
                return True
            self.now_ns, _, action = heapq.heappop(self._heap)
            action()
            if self.events > EVENTS_MOST:
                raise BugError(f"{EVENTS_MOST} events and no end at {self.seconds():.1f} s")
        return done()

    def seconds(self) -> float:
        """Virtual seconds since the start."""
        return (self.now_ns - EPOCH_NS) / NS_PER_S

    @property
    def center(self) -> ControlCenter:
        """The centre's core, as it is in its present life."""
        core = self.processes[CENTER].core
        assert isinstance(core, ControlCenter)
        return core

    # --- processes --------------------------------------------------------------------------------------------------

    def _boot(self, process: Process) -> None:
        if process.alive:
            return
        process.core = process.make_core()
        replay(process.core, process.journal)
        self.masks.restarted(process.node)
        process.alive = True
        process.skew_ns = self.mishaps.clock_skew_ns(process)
        process.life += 1
        process.timers = {}
        process.computing = {}
        self._trace(process.node, "boot")
        self.give(process, Started())
        if process.node == CENTER:
            for job in self.watcher.seen_by_owner if process.alive else ():
                self._owner_looks(job)
            for node in self.alive_sites():
                self.give(process, PeerAppeared(node=node))
        elif isinstance(process.core, SimulatedSite):
            self.give(process, DescriptorChanged(descriptor=process.core.descriptor()))
            self._name_jobs(process, process.life)
            self.tell_center(lambda: PeerAppeared(node=process.node))

    def alive_sites(self) -> Iterator[NodeId]:
        """Sites that run and have a link."""
        for node, process in self.processes.items():
            if node != CENTER and process.alive and self.network.linked(node, CENTER):
                yield node

    def tell_center(self, event: Callable[[], Event], seconds: float = 0.005) -> None:
        """The fabric tells the centre of a node's presence."""
        self.after(seconds, lambda: self.give(self.processes[CENTER], event()))

    def crash(self, process: Process, why: str, down_s: float) -> None:
        """Kill a process; it starts again after a while, from its journal."""
        if not process.alive:
            return
        self.crashes += 1
        self.mishaps.note(process.node, "kill")
        process.alive = False
        process.life += 1
        self._trace(process.node, f"crash {why}")
        if process.node != CENTER:
            self.tell_center(lambda: PeerVanished(node=process.node))
        self.after(down_s, lambda: self._boot(process))

    def cut(self, node: NodeId, seconds: float, *, up: bool, down: bool) -> None:
        """Cut a node's link in one or both directions for a while."""
        self._trace(node, f"cut up={up} down={down} {seconds:.1f} s")
        way = "both ways" if up and down else "towards the router" if up else "from the router"
        self.mishaps.hit("link", f"cut {way}")
        if up:
            self.network.cut_up.add(node)
            self.tell_center(lambda: PeerVanished(node=node), 1.0 + 2.0 * self.rng.random())
        if down:
            self.network.cut_down.add(node)
        self.after(seconds, lambda: self._mend(node))

    def linked_again(self, node: NodeId) -> None:
        """A node's link, or its process, is there again."""
        process = self.processes[node]
        if process.alive and node != CENTER:
            self.tell_center(lambda: PeerAppeared(node=node))
            self.give(process, Linked())

    def _mend(self, node: NodeId) -> None:
        self.network.cut_up.discard(node)
        self.network.cut_down.discard(node)
        self.linked_again(node)

    # --- events and effects -----------------------------------------------------------------------------------------

    def give(self, process: Process, event: Event) -> None:
        """Hand an event to a core, check, and perform what it wants, in order, with crashes between."""
        if not process.alive:
            return
        if process.frozen_until_ns > self.now_ns:
            self.at(process.frozen_until_ns, partial(self._give_late, process, process.life, event))
            return
        self.events += 1
        match event:
            case Delivered(sender=sender, message=Describe() | Heartbeat()) if process.node == CENTER:
                self.watcher.confirmed_ns[sender] = self.now_ns
            case _:
                pass
        effects = process.core.handle(event, process.clock_ns(self.now_ns))
        process.core.check_invariants()
        life = process.life
        for effect in effects:
            if self._crashes(process, "before", effect):
                return
            self._perform(process, effect)
            if process.life != life or self._crashes(process, "after", effect):
                return
        self._check(self)

    def _give_late(self, process: Process, life: int, event: Event) -> None:
        """What reached a process while it was stopped."""
        if process.life == life:
            self.give(process, event)

    def _crashes(self, process: Process, when: str, effect: Effect) -> bool:
        if when == "before" and isinstance(effect, Append) and process.disk_full_until_ns > self.now_ns:
            self.crash(process, "its disk is full", self.faults.restart_s)
            return True
        down_s = self._crash_plan.down_s(process.name, when, effect, by_chance=self.network.faulty)
        if down_s is None:
            return False
        self.crash(process, f"{when} {type(effect).__name__}", down_s)
        return True

    def later(
        self,
        process: Process,
        seconds: float,
        event: Callable[[], Event | None],
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """An event for this life of a process, some time from now; `otherwise` where it is another life by then."""
        life = process.life

        def arrive() -> None:
            if process.life != life:
                otherwise()
                return
            made = event()
            if made is not None:
                self.give(process, made)

        self.after(seconds, arrive)

    def _perform(self, process: Process, effect: Effect) -> None:
        match effect:
            case Append(records=records):
                process.journal.extend(records)
                process.written_ns = process.clock_ns(self.now_ns)
            case Send(receiver=receiver, message=message):
                self.watcher.spoken.append((process.node, message, len(process.journal)))
                self._send(process, receiver, message)
            case SetTimer(name=name, at_ns=at_ns):
                process.timers[name] = at_ns
                life = process.life
                self.at(at_ns - process.skew_ns, lambda: self._fire(process, life, name, at_ns))
            case CancelTimer(name=name):
                process.timers.pop(name, None)
            case Compute():
                self.later(process, COMPUTING_S * self._computing_rng.random(), process.solved(effect))
            case FetchInputs(order=order):
                self._moving.fetch_inputs(process, order)
            case BeginWork(order=order):
                self._begin(process, order)
            case AbandonVisit(visit=visit):
                self._site(process).working.discard(visit)
            case FetchModel(job=job, model=model):
                self._moving.fetch_model(process, job, model)
            case JobChanged(job=job):
                self._owner_looks(job)
            case DropArtifacts(job=job, artifacts=artifacts, job_ended=ended):
                self.kept.drop(process.node, job, artifacts, job_ended=ended)
            case ReportFacts(payloads=payloads):
                for payload in payloads:
                    self._report(process.node, payload)
            case KeepMapEntry():
                pass  # the map's files are a shortcut: after a crash nodes are asked for their facts
            case WarmChild() | NodeLeft() | RetireSlot() | OpenLink() | CloseLinks() | PaceLinks():
                pass
            case _:
                raise BugError(f"the simulation has no way to perform {type(effect).__name__}")

    def _report(self, node: NodeId, payload: bytes) -> None:
        event = ReportsArrived(senders=[node], payloads=[payload])
        center = self.processes[CENTER]
        self.network.report(
            node, CENTER, lambda delay_ns: self.at(self.now_ns + delay_ns, lambda: self.give(center, event))
        )

    def _fire(self, process: Process, life: int, name: str, at_ns: int) -> None:
        if process.life == life and process.timers.get(name) == at_ns:
            del process.timers[name]
            self.give(process, TimerFired(name=name))

    def _send(self, process: Process, receiver: NodeId, message: Message) -> None:
        target = self.processes.get(receiver)
        if target is None or not target.alive or self.network.router_down:
            self.later(process, 0.002, lambda: SendFailed(receiver=receiver, message=message))
            return
        sender = process.node

        def deliver(delay_ns: int, copy: Message) -> None:
            self.at(self.now_ns + delay_ns, lambda: self.give(target, Delivered(sender=sender, message=copy)))

        self.network.send(sender, receiver, message, deliver)

    def _site(self, process: Process) -> SimulatedSite:
        assert isinstance(process.core, SimulatedSite)
        return process.core

    def _name_jobs(self, process: Process, life: int) -> None:
        """A site's store tells its core for which jobs it keeps something, now and every while."""
        if process.life == life:
            self.give(process, JobsPinned(jobs=self.kept.jobs(process.node)))
            self.after(self.scenario.patience_s, lambda: self._name_jobs(process, life))

    # --- working ----------------------------------------------------------------------------------------------------

    def _begin(self, process: Process, order: VisitOrder) -> None:
        site = self._site(process)
        site.working.add(order.visit)
        self.watcher.begun.append((process.node, order))
        if self._groups.began(process, order):
            return
        seconds = 0.05 + self.rng.random() * (1.5 if isinstance(order.work, TrainWork) else 0.2)
        seconds *= site.spec.slowness
        fails = self.network.faulty and self.rng.random() < self.faults.crash * CHILD_CRASHES
        if fails and self.rng.random() < 0.5:
            seconds += LONG_S  # stopped, and ended by its node when that has been so for a while
        self.later(process, seconds / 2, lambda: WorkProgressed(visit=order.visit, done=1, of=2))

        def finish() -> Event | None:
            if order.visit not in site.working:
                return None
            site.working.discard(order.visit)
            if fails:
                self.watcher.hit[("child", "kill" if seconds < LONG_S else "stop")] += 1
                return WorkFailed(visit=order.visit, what="the child process died", blame="unavailable")
            try:
                outcome = self.work.outcome(process.node, order, seconds)
            except (PeerError, PolicyError, UnavailableError) as error:
                return WorkFailed(visit=order.visit, what=error.what, blame=error.kind)
            for made in made_by(outcome):
                self.kept.pin(process.node, order.job, made)
            return WorkFinished(visit=order.visit, outcome=outcome)

        self.later(process, seconds, finish)

    # --- owners -----------------------------------------------------------------------------------------------------

    def _owner_looks(self, job: JobId) -> None:
        """What an owner who watches sees: it must never go back, over any crash of the centre or absence of his."""
        if self.mishaps.owners_away_until_ns > self.now_ns:
            return
        machine = self.center.jobs.get(job)
        if machine is None:
            raise BugError(f"the owner of {job} saw it and now it is gone")
        state = machine.state
        now = (state.visits, state.verifications)
        before = self.watcher.seen_by_owner.get(job, (0, 0))
        if now[0] < before[0] or now[1] < before[1]:
            raise BugError(f"the owner of {job} saw {before} and now sees {now}")
        self.watcher.seen_by_owner[job] = now

    def records_waiting(self) -> bool:
        """Whether some site still owes the centre a record, or is down and may."""
        sites = [process for node, process in self.processes.items() if node != CENTER]
        return any(not site.alive or self._site(site).outbox.waiting for site in sites)

    def owners_look(self) -> None:
        """All owners look at all their jobs, once the centre answers."""
        if not self.processes[CENTER].alive:
            self.after(0.5, self.owners_look)
            return
        for job in list(self.watcher.seen_by_owner):
            self._owner_looks(job)

    def _trace(self, node: NodeId, text: str) -> None:
        self.trace.append(f"{self.seconds():9.3f} {node} {text}")
