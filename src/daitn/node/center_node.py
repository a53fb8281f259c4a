"""A control centre as a process: fabric, journal, store, the centre's core, the owners' endpoint and the enrolment.

Started from the folder that `daitn init` made. Everything it knows is in its journal: killed at any moment and started
again, it takes up every job where it was, and no visit is accepted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from daitn.artifacts.grants import issue_grant
from daitn.artifacts.itineraries import sign_itinerary
from daitn.artifacts.signatures import load_key, public_hex, verify_report
from daitn.base import limits
from daitn.base.effects import Effect, LinkBroken
from daitn.base.errors import BugError, DaitnError
from daitn.base.ids import CENTER, NodeId, OperatorId
from daitn.control_center.center import ControlCenter
from daitn.control_center.config import CenterConfig, CenterTools, Member
from daitn.control_center.fact_desk import MapDamaged, ReportsArrived
from daitn.control_center.inference.commands import KeysListed, SubmitAgain, TryVersion
from daitn.control_center.inference.records import DEPLOYMENT_RECORDS
from daitn.control_center.node_records import NodeRecorded
from daitn.control_center.training.commands import (
    FetchModel,
    JobChanged,
    ModelFetched,
    ModelNotFetched,
    NodeExpelled,
    RetireSlot,
)
from daitn.control_center.training.records import JOB_RECORDS, ExperienceGained
from daitn.descriptors.access import Access
from daitn.node.center_service import CenterService
from daitn.node.clock import NodeClock
from daitn.node.core_runner import CoreRunner
from daitn.node.counting import fabric_counts, hear_counters
from daitn.node.deployment_service import DeploymentService
from daitn.node.domain_folder import DomainConfig, DomainFolder
from daitn.node.enrolment import NetworkSettings
from daitn.node.enrolment_server import EnrolmentConfig, EnrolmentServer, serve_enrolment
from daitn.node.fabric.contract import Fabric, FabricConfig
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.http.api import create_app
from daitn.node.http.server import OwnerServer
from daitn.node.http.tokens import Scope, TokenBook
from daitn.node.journal import Journal
from daitn.node.map_service import QUESTION_RECORDS, MapService
from daitn.node.map_snapshots import keep_snapshots
from daitn.node.map_store import MapStore
from daitn.node.moving import Moving, lacking_of
from daitn.node.neighbours import Neighbours
from daitn.node.retraining import train_on
from daitn.node.slot_book import SlotBook, SlotState, SqliteSlotBook
from daitn.node.store import ChunkStore
from daitn.node.tools_watch import LinkWatch
from daitn.oam.collection import Collection, DomainCounters, prefixed
from daitn.topology.knowledge_map import KnowledgeMap, NodeDescribed, NodeRemoved
from daitn.topology.map_entries import KeepMapEntry
from daitn.topology.trust import EvidenceFound
from daitn.wire.oam import Counted

STREAM: Final = "center"
SYNC_S: Final = 2.0
KEYS_S: Final = 1.0
"""How often the book of tokens is read for gateways: a revoked key opens their doors so much longer at most."""
CENTER_RECORDS: Final = (
    *(*JOB_RECORDS, *DEPLOYMENT_RECORDS, *QUESTION_RECORDS),
    *(ExperienceGained, NodeDescribed, NodeRemoved, EvidenceFound, NodeRecorded),
)

_log = logging.getLogger(__name__)


class CenterNode:
    """See the module's docstring."""

    def __init__(self, folder: Path) -> None:
        self.folder = DomainFolder(folder)
        self.config: DomainConfig = self.folder.load()
        self._clock = NodeClock()
        self._key = load_key(self.folder.center / "grants.key")
        self.ready = asyncio.Event()
        """Set once owners and nodes are answered."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; an error of core or journal is raised."""
        config = self.config
        certificate, key, authority = self.folder.renew_center()
        fabric_config = FabricConfig(
            domain=config.domain,
            node=CENTER,
            certificate=certificate,
            key=key,
            authority=authority,
            routers=(config.router,),
            bulk_host=config.host,
        )
        store = await asyncio.to_thread(ChunkStore, self.folder.center / "store", config.store_bytes)
        journal = Journal(config.database or self.folder.center / "journal.sqlite", CENTER_RECORDS)
        try:
            async with open_fabric(fabric_config) as fabric:
                await self._serve(fabric, store, journal, stop)
        finally:
            store.close()
            journal.close()

    async def _serve(self, fabric: Fabric, store: ChunkStore, journal: Journal, stop: asyncio.Event) -> None:
        config = self.config
        moving = Moving(config.domain, fabric, store, self._key.public_key(), self._clock)
        book = SqliteSlotBook(self.folder.center / "slots.sqlite", slots=config.slots)
        tools = CenterTools(
            issue=lambda grant: issue_grant(self._key, grant),
            sign_route=lambda route: sign_itinerary(self._key, route),
            verify=_holds,
            member=lambda node: _member(book, node),
        )
        core = ControlCenter(config_of(config, tuple(fabric.direct_addresses)), tools)
        told = DomainCounters()

        def perform(effect: Effect) -> None:
            match effect:
                case JobChanged(job=job):
                    service.changed(job)
                case FetchModel():
                    runner.spawn(self._fetch(runner, moving, effect))
                case SubmitAgain() | TryVersion():
                    runner.spawn(train_on(runner, service, models, effect))
                case KeepMapEntry(entry=entry):
                    maps.append(entry)
                case RetireSlot(node=node):
                    told.forget(node)
                    runner.spawn(asyncio.to_thread(book.leave, node))
                case _ if links.perform(effect):
                    pass
                case _:
                    raise BugError(f"a control centre has no way to perform {type(effect).__name__}")

        runner = CoreRunner(core, journal, STREAM, fabric, self._clock, perform)
        maps = MapStore(self.folder.center / "map", runner.counters.count)
        links = LinkWatch(fabric, runner.post, runner.spawn)
        async with self._enrolment(book) as enrolment:

            async def make_token(operator: str, roles: Sequence[str], valid_s: float) -> str:
                return await asyncio.to_thread(
                    enrolment.make_token, OperatorId(operator), tuple(roles), hours=valid_s / 3600
                )

            async def expel(node: NodeId, reason: str) -> None:
                await asyncio.to_thread(book.burn, node)
                told.forget(node)
                runner.post(NodeExpelled(node=node, reason=reason))

            def counted() -> tuple[tuple[NodeId, Counted], ...]:
                told.take(CENTER, collection.counted())
                return told.all()

            restored = runner.restore()
            self._clock.not_before(runner.written_ns)
            core.knowledge.adopt(await asyncio.to_thread(maps.load), self._clock.now_ns())
            neighbours = Neighbours(self.folder.neighbours)
            facts, views = core.knowledge.facts, config.views
            questions = MapService(facts, journal, self._clock, runner.fail, neighbours, views)
            models = DeploymentService(core, runner, store, self._clock)
            service = CenterService(
                core, runner, store, self._clock, make_token, expel, counted, questions, models, config.jobs
            )
            _log.info("restored %d records", restored)
            await moving.start()
            await runner.start()
            for what in maps.damages:
                runner.post(MapDamaged(what=what))
            questions.start()
            links.start(Access())
            runner.spawn(_sync_often(moving))
            runner.spawn(_watch_link(runner, fabric))
            runner.spawn(neighbours.keep_renewed(lambda fault: _log.warning("neighbour: %s", fault)))
            runner.spawn(_hear_reports(runner, fabric, core.knowledge))
            runner.spawn(keep_snapshots(maps, core.knowledge, self._clock, runner.counters))
            tokens = self.token_book()
            app = create_app(service, tokens)
            runner.spawn(_watch_keys(runner, tokens))
            collection = Collection(
                time.time(),
                *(
                    core.counters,
                    runner.counters,
                    moving.counters,
                    service.counters,
                    models.counters,
                    enrolment.counters,
                    app.counters,
                ),
            )
            collection.add(lambda: fabric_counts(fabric.counters))
            collection.add(lambda: prefixed("store", store.snapshot().counts))
            collection.add(lambda: prefixed("tools", core.tools.counts()))
            runner.spawn(hear_counters(fabric, told, runner.counters))
            server = OwnerServer(
                app,
                certificate=self.folder.center / "server.crt",
                key=self.folder.center / "server.key",
                host=config.host,
                port=config.api_port,
            )
            await server.start()
            self.ready.set()
            try:
                await self._until(stop, runner)
            finally:
                await server.stop()
                questions.stop()
                await runner.stop()
                maps.close()
                tokens.close()
                book.close()

    def _enrolment(self, book: SlotBook) -> AbstractAsyncContextManager[EnrolmentServer]:
        config = self.config
        network = NetworkSettings(routers=(config.router,), center_key=public_hex(self._key))
        settings = EnrolmentConfig(network=network, host=config.host, port=config.enrol_port)
        return serve_enrolment(settings, self.folder.load_authority(), book, self.folder.center)

    def token_book(self) -> TokenBook:
        """Owners' tokens of this domain."""
        authority = self.folder.load_authority()
        return TokenBook(
            self.folder.center / "tokens.sqlite",
            address=f"{self.config.host}:{self.config.api_port}",
            domain=self.config.domain,
            authority_pem=authority.certificate_pem,
        )

    async def _until(self, stop: asyncio.Event, runner: CoreRunner) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        runner.failed.add_done_callback(lambda _: stopping.cancel())
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        if runner.failed.done():
            runner.failed.result()

    async def _fetch(self, runner: CoreRunner, moving: Moving, effect: FetchModel) -> None:
        artifact = effect.model.artifact
        try:
            await moving.fetch(effect.model, f"job {effect.job}")
        except DaitnError as error:
            runner.post(ModelNotFetched(job=effect.job, artifact=artifact, what=error.what, lacking=lacking_of(error)))
        else:
            runner.post(ModelFetched(job=effect.job, artifact=artifact))


def config_of(config: DomainConfig, direct: tuple[str, ...] = ()) -> CenterConfig:
    """What a domain's folder says, as its centre's core takes it. `direct`: where its bulk data are fetched."""
    return CenterConfig(
        domain=config.domain,
        patience_s=config.patience_s,
        running_jobs=config.jobs.running,
        running_jobs_per_owner=config.jobs.running_per_owner,
        report_bytes_per_s=config.report_bytes_per_s,
        views=config.views,
        damping=config.damping,
        direct=direct,
        askers=tuple(NodeId(node) for node in config.askers),
    )


def _holds(key: str, report: bytes, signature: str) -> bool:
    """Whether a report's signature is that key's."""
    try:
        verify_report(report, signature, key)
    except DaitnError:
        return False
    return True


def _member(book: SlotBook, node: NodeId) -> Member | None:
    """Who holds a slot now; a read of one row."""
    for slot in book.slots():
        if slot.node == node and slot.state is SlotState.TAKEN:
            return Member(name=slot.name, operator=slot.operator, roles=slot.roles)
    return None


async def _watch_keys(runner: CoreRunner, tokens: TokenBook) -> None:
    """Which keys may ask models: another process may have made or revoked one."""
    while True:
        try:
            keys = await asyncio.to_thread(tokens.keys, Scope.ASK, limits.GATEWAY_KEYS)
        except DaitnError as error:  # the book is locked or its disk is full: what gateways know holds until then
            _log.warning("keys cannot be listed: %s", error)
        else:
            runner.post(KeysListed(keys=keys))
        await asyncio.sleep(KEYS_S)


async def _watch_link(runner: CoreRunner, fabric: Fabric) -> None:
    async for connected in fabric.links():
        if not connected:
            runner.post(LinkBroken())


async def _hear_reports(runner: CoreRunner, fabric: Fabric, knowledge: KnowledgeMap) -> None:
    """What nodes report of what changes fast: into the map, as many at once as have arrived, of each as much as its
    share."""
    async for reports in fabric.subscribe_reports(lambda node: knowledge.intake.share_bytes_per_s(node)):
        runner.post(ReportsArrived(senders=reports.senders, payloads=reports.payloads, cut=reports.cut))


async def _sync_often(moving: Moving) -> None:
    """Packages and finished models survive a power cut a few seconds after they came."""
    while True:
        await asyncio.sleep(SYNC_S)
        await moving.sync()
