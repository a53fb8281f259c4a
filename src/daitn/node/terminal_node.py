"""A terminal as a process: fabric, store, shelf, sandbox and the terminal core, joined to its domain until stopped.

Started from the folder that `daitn join` made. It only opens connections, outwards. It joins before it has measured
what its sandbox enforces or its data sets are described, and says more as it learns more; data sets that are added by
`daitn data add` while it runs are noticed and described.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from pathlib import Path
from typing import Final

from daitn import __version__
from daitn.artifacts.signatures import public_hex, public_key, sign_report
from daitn.assembly.terminal import TerminalCore
from daitn.base import limits
from daitn.base.effects import Effect, Event
from daitn.base.errors import DaitnError
from daitn.base.ids import DataSetId, JobId
from daitn.base.metrics import Counters
from daitn.base.units import NS_PER_S
from daitn.descriptors.machine import MachineState
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import (
    ComputeDescriptor,
    DataDescriptor,
    NodeDescriptor,
    Role,
    VerificationDescriptor,
)
from daitn.learning.masking.site import SiteMasks
from daitn.node import measures
from daitn.node.activations import ActivationCache, SiteActivations
from daitn.node.bases import BaseShelf
from daitn.node.child_pool import ChildPool
from daitn.node.clock import NodeClock
from daitn.node.compute_watch import ComputeWatch, Speeds
from daitn.node.core_runner import CoreRunner
from daitn.node.counting import fabric_counts, keep_told
from daitn.node.data_watch import LOOK_S, DataWatch, ReleasedDynamics, keep_sensed
from daitn.node.datasets import DataShelf
from daitn.node.enrolment import keep_renewed, load_membership
from daitn.node.exchanges import Exchanges
from daitn.node.fabric.contract import Fabric
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.journal import Journal
from daitn.node.moving import Moving
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.node.refusals import refused_here
from daitn.node.sandbox.launcher import Limits, Sandbox
from daitn.node.serving.host_offer import PIN, host_descriptor, serves
from daitn.node.serving.roles import ServingHands, open_serving
from daitn.node.store import ChunkStore
from daitn.node.tools_watch import LinkWatch, MachineWatch
from daitn.node.visit_worker import VisitWorker
from daitn.oam.collection import Collection, prefixed
from daitn.oam.outbox import OUTBOX_RECORDS, AlarmNoticed
from daitn.terminal.fact_reporter import ReportFacts, attachment_facts
from daitn.terminal.gateway import Gateway
from daitn.terminal.model_host import ModelHost
from daitn.terminal.reporter import DescriptorChanged, LeaveAsked, Linked, NodeLeft, Reporter
from daitn.terminal.roles import DataNode, Roles, VerificationUnit
from daitn.terminal.visit_keeper import KeeperConfig, VisitKeeper
from daitn.terminal.visit_records import KEEPER_RECORDS
from daitn.terminal.work import JOBS_PINNED_S, JobsPinned, PoliciesChanged
from daitn.tools.manager import ServiceManager
from daitn.tools.sensing import Sensed, SensingService

STREAM: Final = "terminal"
SHELF_S: Final = 0.5
"""How often the shelf's index is looked at for data sets added from outside; a stat of one file."""

RENEWAL_S: Final = 3600
"""How often it is asked, at least, whether published statistics have grown stale and new ones are due."""

ROOM_S: Final = 5.0
"""How often the room in the store is looked at."""

ROOM_FRAC: Final = 0.05
"""A change of this part of the quota is said to the domain; each description is a record in the centre's journal."""

SYNC_S: Final = 2.0
"""How often received artifacts are made to survive a power cut, aside."""

_log = logging.getLogger(__name__)


class TerminalNode:
    """See the module's docstring."""

    def __init__(self, folder: Path) -> None:
        self.folder = NodeFolder(folder)
        self.config: NodeConfig = self.folder.load()
        self.membership = load_membership(self.folder.tls)
        self.described = asyncio.Event()
        """Set once the domain's map holds this node."""
        self._clock = NodeClock()
        self._signing = self.folder.signing_key()
        self._computes = Role.COMPUTE in self.config.roles or Role.VERIFICATION in self.config.roles
        self._shelf = DataShelf(self.folder.data, self.folder.site_secret(), activations=self.folder.activations)
        self._dynamics = ReleasedDynamics(self.folder.data)
        self._bases = BaseShelf(self.folder.bases)
        self._known_bases: tuple[str, ...] = ()
        self._sensing = SensingService()
        self.serving: tuple[ServingHands, ...] = ()
        self._left = asyncio.Event()
        self._sandbox: tuple[str, ...] = ()
        self._speeds = Speeds()
        self._shelf_stamp = self._renewal_ns = 0
        self._room_bytes = self._capacity_bytes = 0
        self._data: dict[str, DataDescriptor] = {}
        self._counters = Counters()

    async def run(self, stop: asyncio.Event, leave: asyncio.Event | None = None) -> None:
        """Join and serve until `stop` is set; `leave`, once set, also takes the node out of its domain for good.

        An error of core or journal is raised. UnavailableError if no router answers.
        """
        config = self.config
        fabric_config = self.membership.fabric_config(
            self.folder.tls, bulk_host=config.direct_host, bulk_port=config.direct_port
        )
        store = await asyncio.to_thread(ChunkStore, self.folder.store, config.store_bytes)
        journal = Journal(self.folder.journal, (*KEEPER_RECORDS, *OUTBOX_RECORDS))
        try:
            async with open_fabric(fabric_config) as fabric:
                await self._serve(fabric, store, journal, stop, leave or asyncio.Event())
        finally:
            store.close()
            journal.close()

    async def _serve(
        self, fabric: Fabric, store: ChunkStore, journal: Journal, stop: asyncio.Event, leave: asyncio.Event
    ) -> None:
        config = self.config
        network = self.membership.network
        moving = Moving(self.membership.domain, fabric, store, public_key(network.center_key), self._clock)
        exchanges = Exchanges(self.membership.domain, fabric, public_key(network.center_key), self._clock)
        sandbox = Sandbox(Limits(memory_bytes=config.memory_bytes))
        children = ChildPool(sandbox, store, threads=config.threads, keep=2 * config.slots + 2)
        core = self._core()
        self.serving = open_serving(config, fabric, store, moving, self.folder, lambda event: runner.post(event))
        serving = self.serving
        cache = ActivationCache(self.folder.activations, self._shelf, self._bases, config.activation_bytes)
        activations = SiteActivations(cache, sandbox, config.threads)
        masks = SiteMasks(self.membership.slot, self._signing)
        worker = VisitWorker(
            store, moving, exchanges, self._shelf, children, activations, masks, lambda event: runner.post_soon(event)
        )

        def perform(effect: Effect) -> None:
            if isinstance(effect, NodeLeft):
                self._left.set()
            elif isinstance(effect, ReportFacts):
                runner.spawn(fabric.report(effect.payloads))
            elif not links.perform(effect) and not any(hands.perform(effect) for hands in serving):
                worker.perform(effect)

        runner = CoreRunner(core, journal, STREAM, fabric, self._clock, perform)
        links = LinkWatch(fabric, runner.post, runner.spawn)
        machine = MachineWatch(lambda: self._look(core), children, runner.post, runner.spawn)
        runner.restore()
        self._room_bytes = await asyncio.to_thread(store.room_bytes)
        self._capacity_bytes = await asyncio.to_thread(store.capacity_bytes)
        if self._computes:
            await self._speeds.measure()
        await moving.start()
        await exchanges.start()
        for hands in serving:
            await hands.start()
        await runner.start()
        links.start(config.access)
        machine.start()
        if fabric.direct_addresses:
            _log.info("direct transfers at %s", ", ".join(fabric.direct_addresses))
        await self._look_at_shelf(runner)
        self._describe(runner, fabric)
        runner.spawn(self._watch_links(runner, fabric))
        runner.spawn(self._watch_shelf(runner, fabric, activations))
        runner.spawn(self._watch_described(core.reporter))
        if self._computes:
            watch = ComputeWatch(self.membership.slot, config, store, core.keeper, self._speeds, self._clock)
            runner.spawn(watch.run(runner.post))
        runner.spawn(_sync_often(moving))
        runner.spawn(_name_jobs(store, runner))
        if Role.DATA in config.roles:
            data_watch = DataWatch(self._shelf, config.name, self._sense, self._counters)
            runner.spawn(_watch_data(data_watch, self._sensing, self.folder.data))
        runner.spawn(self._watch_room(store, runner, fabric))
        runner.spawn(self._leave_when(runner, leave))
        runner.spawn(keep_renewed(self.folder.tls, lambda fault: self._not_renewed(runner, fault)))
        collection = self._collection(fabric, store, core, runner, moving, worker)
        for hands in serving:
            collection.add(hands.counters.snapshot)
        runner.spawn(keep_told(collection, fabric, self.folder.folder))
        if self._computes:
            runner.spawn(self._measure_sandbox(runner, fabric, sandbox))
        try:
            await _first(stop.wait(), self._left.wait(), runner.failed)
        finally:
            await worker.stop()
            for hands in serving:
                await hands.stop()
            await exchanges.stop()
            await runner.stop()

    def _not_renewed(self, runner: CoreRunner, fault: DaitnError) -> None:
        self._counters.count("certificates_not_renewed")
        _alarm(runner, "certificate", f"it is not renewed: {fault}")

    def _collection(
        self,
        fabric: Fabric,
        store: ChunkStore,
        core: TerminalCore,
        runner: CoreRunner,
        moving: Moving,
        worker: VisitWorker,
    ) -> Collection:
        kept = (core.keeper.counters, core.facts.counters, core.outbox.counters)
        books = (self._counters, *kept, runner.counters, moving.counters, worker.counters)
        collection = Collection(time.time(), *books)
        collection.add(lambda: fabric_counts(fabric.counters))
        collection.add(lambda: prefixed("store", store.snapshot().counts))
        collection.add(lambda: prefixed("tools", core.tools_counts()))
        collection.add(lambda: refused_here(self.folder.data))
        return collection

    async def _leave_when(self, runner: CoreRunner, leave: asyncio.Event) -> None:
        await leave.wait()
        runner.post(LeaveAsked(reason="its operator took it out"))

    def doors(self) -> tuple[str, ...]:
        """Where it answers queries, if it is a gateway."""
        return tuple(hands.address for hands in self.serving if hands.address)

    @property
    def left(self) -> bool:
        """Whether the domain has let this node go."""
        return self._left.is_set()

    def _core(self) -> TerminalCore:
        config = self.config
        unit = VerificationUnit(self.membership.slot, config.evaluations_per_job)
        roles = Roles(
            data=DataNode(self._policies()) if Role.DATA in config.roles else None,
            computes=Role.COMPUTE in config.roles,
            verification=unit if Role.VERIFICATION in config.roles else None,
            aggregates=Role.AGGREGATOR in config.roles,
        )
        sign, check = (lambda report: sign_report(report, self._signing)), self.membership.route_check()
        keeper = VisitKeeper(KeeperConfig(slots=config.slots), roles, sign, check)
        manager = ServiceManager() if Role.TOOLS in config.roles else None
        host = ModelHost(host_descriptor(config.hosting, config.tariff)) if serves(config.roles) else None
        gateway = Gateway() if Role.GATEWAY in config.roles else None
        return TerminalCore(keeper, Reporter(), self.membership.slot, manager, host, gateway)

    def _look(self, core: TerminalCore) -> MachineState:
        slots = self.config.slots if self._computes else 0
        return measures.look(
            self.folder.store,
            flops=self._speeds.flops,
            memory_bytes_per_s=self._speeds.memory_bytes_per_s,
            slots=slots,
            slots_free=max(0, slots - core.keeper.busy_slots()),
        )

    def _sense(self, event: Event) -> None:
        self._sensing.handle(event, self._clock.now_ns())

    def _policies(self) -> dict[DataSetId, Policy]:
        return {DataSetId(f"{self.config.name}/{entry.name}"): entry.policy for entry in self._shelf.list()}

    # --- saying what this node is -----------------------------------------------------------------------------------

    def _describe(self, runner: CoreRunner, fabric: Fabric) -> None:
        config = self.config
        compute = ComputeDescriptor(
            slots=config.slots,
            cores=measures.cores(),
            processor=measures.processor(),
            accelerators=measures.accelerators(),
            memory_bytes_per_s=self._speeds.memory_bytes_per_s,
            memory_bytes=float(min(config.memory_bytes, measures.memory_bytes())),
            storage_bytes=float(self._room_bytes),
            store_bytes=float(self._capacity_bytes),
            flops=self._speeds.flops,
            sandbox=self._sandbox,
            tariff=config.tariff,
        )
        key = public_hex(self._signing)
        descriptor = NodeDescriptor(
            node=self.membership.slot,
            name=config.name,
            operator=self.membership.operator,
            region=config.region,
            roles=config.roles,
            direct=fabric.direct_addresses,
            access=config.access,
            public_key=key,
            data=tuple(self._data.values()),
            compute=compute if self._computes else None,
            verification=VerificationDescriptor(evaluations_per_job=config.evaluations_per_job, public_key=key)
            if Role.VERIFICATION in config.roles
            else None,
            host=host_descriptor(config.hosting, config.tariff) if serves(config.roles) else None,
            bases=self._known_bases,
            version=__version__,
        )
        runner.post(DescriptorChanged(descriptor=descriptor))

    async def _look_at_shelf(self, runner: CoreRunner) -> bool:
        """Describe what is on the shelf if it changed; a data set that cannot be described is left out and said.

        On a thread: drawing private statistics loads libraries for seconds, and leases must be renewed meanwhile.
        """
        if Role.DATA not in self.config.roles:
            return False
        bases, known = self._bases.digests(), self._known_bases
        self._known_bases = bases
        try:
            stamp = self._shelf.index_file.stat().st_mtime_ns
        except FileNotFoundError:
            return bases != known
        if stamp == self._shelf_stamp and time.time_ns() < self._renewal_ns:
            return bases != known
        self._shelf_stamp = stamp
        self._data, faults = await asyncio.to_thread(self._describe_shelf)
        now_ns, due_ns = time.time_ns(), await asyncio.to_thread(self._shelf.renewal_ns)
        self._renewal_ns = now_ns + RENEWAL_S * NS_PER_S
        if due_ns is not None and now_ns < due_ns:
            self._renewal_ns = min(self._renewal_ns, due_ns)
        for name, fault in faults.items():
            _alarm(runner, f"data set {name}"[:64], f"it is not described, and so not offered: {fault}")
        runner.post(PoliciesChanged(policies=self._policies()))
        return True

    def _describe_shelf(self) -> tuple[dict[str, DataDescriptor], dict[str, str]]:
        described: dict[str, DataDescriptor] = {}
        faults: dict[str, str] = {}
        for entry in self._shelf.list():
            try:
                descriptor = self._shelf.descriptor(entry.name, self.config.name)
                described[entry.name] = self._dynamics.with_dynamics(entry.name, descriptor)
            except DaitnError as error:
                self._counters.count("data_sets_not_described")
                faults[entry.name] = error.render()
        return described, faults

    async def _watch_shelf(self, runner: CoreRunner, fabric: Fabric, activations: SiteActivations) -> None:
        while True:
            await asyncio.sleep(SHELF_S)
            if await self._look_at_shelf(runner):
                await asyncio.to_thread(activations.sweep)
                self._describe(runner, fabric)

    async def _watch_room(self, store: ChunkStore, runner: CoreRunner, fabric: Fabric) -> None:
        """Say how much room there is when that has changed enough to matter to whoever plans."""
        while True:
            await asyncio.sleep(ROOM_S)
            room_bytes = await asyncio.to_thread(store.room_bytes)
            capacity_bytes = await asyncio.to_thread(store.capacity_bytes)
            change = max(abs(room_bytes - self._room_bytes), abs(capacity_bytes - self._capacity_bytes))
            if change > ROOM_FRAC * self.config.store_bytes:
                self._room_bytes, self._capacity_bytes = room_bytes, capacity_bytes
                self._describe(runner, fabric)

    async def _measure_sandbox(self, runner: CoreRunner, fabric: Fabric, sandbox: Sandbox) -> None:
        self._sandbox = await sandbox.enforced()
        self._describe(runner, fabric)

    async def _watch_links(self, runner: CoreRunner, fabric: Fabric) -> None:
        fell = False
        async for connected in fabric.links():
            fell = fell or not connected
            if connected:
                for event in attachment_facts(self.membership.slot, fell=fell, now_ns=self._clock.now_ns()):
                    runner.post(event)
                runner.post(Linked())
                fell = False

    async def _watch_described(self, reporter: Reporter) -> None:
        while not reporter.known:
            await asyncio.sleep(0.01)
        self.described.set()


async def _name_jobs(store: ChunkStore, runner: CoreRunner) -> None:
    while True:
        jobs = sorted(JobId(reason) for reason in store.pin_reasons() if not reason.startswith(PIN))
        if len(jobs) > limits.JOBS_HELD:
            jobs = random.sample(jobs, limits.JOBS_HELD)  # others the next time
        runner.post(JobsPinned(jobs=tuple(jobs)))
        await asyncio.sleep(JOBS_PINNED_S)


def _alarm(runner: CoreRunner, name: str, text: str) -> None:
    """Say it here and, by the record plane, to the domain's operator."""
    _log.warning("%s: %s", name, text)
    runner.post(AlarmNoticed(name=name, text=text))


async def _watch_data(watch: DataWatch, sensing: SensingService, folder: Path) -> None:
    """Look at the sources for ever; what is sensed is kept for the site's own eyes."""
    said: Sensed | None = None
    while True:
        await asyncio.to_thread(watch.look)
        now = sensing.view()
        if now != said:
            said = now
            keep_sensed(folder, now)
        await asyncio.sleep(LOOK_S)


async def _sync_often(moving: Moving) -> None:
    while True:
        await asyncio.sleep(SYNC_S)
        await moving.sync()


async def _first(*waits) -> None:  # type: ignore[no-untyped-def]
    """Wait until the first of several ends, and raise what it raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
