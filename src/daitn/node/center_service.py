"""The owner's door of a control centre: what HTTP asks, done on the core and the store of this node.

Every call is for one owner; a job of somebody else does not exist for them. Whatever the owner sends is checked here
before the core hears of it: the package's manifest and signature, the contract, the request against the contract.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from daitn.artifacts.codec import decode_manifest, encode_manifest
from daitn.artifacts.graph import decode_graph_pair
from daitn.artifacts.layout import artifact_digest, digest_of
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.signatures import verify_parts
from daitn.base import limits
from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, JobId, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.center import ControlCenter
from daitn.control_center.node_records import ShownRecord
from daitn.control_center.training.commands import (
    CancelAsked,
    ChangeAsked,
    PauseAsked,
    ResumeAsked,
    SubmissionReceived,
)
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.records import JobSubmitted
from daitn.decision.facts import PackageFacts
from daitn.descriptors.card import ModelCard
from daitn.descriptors.contract import DataContract, decode_contract
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.job import JobStatus, LogEntry
from daitn.descriptors.job_limits import UNSAID, JobLimits
from daitn.descriptors.links import LinkShown
from daitn.descriptors.request import Request, check_request
from daitn.descriptors.terminals import Role
from daitn.descriptors.view import ViewFollowed
from daitn.learning.numerics.compression import trained_numbers
from daitn.learning.numerics.likeness import shapes_digest, unsound_tensor, weights_digest
from daitn.node.clock import NodeClock
from daitn.node.core_runner import CoreRunner
from daitn.node.fabric.access import ROUTER_NAME
from daitn.node.followed_views import when_told
from daitn.node.http.bodies import FactOnMap, NodeOnMap, ProcessCounters, ToolsShown
from daitn.node.http.model_routes import Deployments
from daitn.node.map_service import MapService
from daitn.node.store import ChunkStore
from daitn.node.tools_shown import links_shown, tools_shown
from daitn.oam.model_card import model_card
from daitn.oam.progress import job_status
from daitn.oam.timeline import render_log
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.oam import Counted

PACKAGE_PIN: Final = "package"
"""Why the store keeps a submitted package."""

FOR_GOOD: Final = ("package", "variants", "method", "privacy")
"Of a request, what no change takes: visits by its method are under way, and sites have booked its privacy."

WATCH_S: Final = 0.05
"""Least time between two statuses of one watcher."""

TokenMaker = Callable[[str, Sequence[str], float], Awaitable[str]]
Expeller = Callable[[NodeId, str], Awaitable[None]]


SHOWN_GROUPS: Final = ("load", "path", "power", "access", "hosting")
"""Facts shown with a node on the map, beside its description: those that change within the hour."""


class CenterService:
    """Implements `OwnerService` on a running core. `make_token` and `expel_node` are the enrolment's; `told` gives what
    the centre and the nodes counted."""

    def __init__(
        self,
        core: ControlCenter,
        runner: CoreRunner,
        store: ChunkStore,
        clock: NodeClock,
        make_token: TokenMaker,
        expel_node: Expeller,
        told: Callable[[], tuple[tuple[NodeId, Counted], ...]],
        questions: MapService,
        models: Deployments,
        limits_of_jobs: JobLimits = UNSAID,
    ) -> None:
        self._core = core
        self._runner = runner
        self._store = store
        self._clock = clock
        self._make_token = make_token
        self._expel = expel_node
        self._changed: dict[JobId, asyncio.Event] = {}
        self._checking = threading.Lock()
        self._told = told
        self.map = questions
        self.models = models
        self._limits = limits_of_jobs
        self.counters = Counters()

    # --- packages ---------------------------------------------------------------------------------------------------

    def missing_chunks(self, chunks: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """Of these, those that are not in the store."""
        return tuple(chunk for chunk, _ in chunks if self._store.locate(ChunkId(chunk)) is None)

    def put_chunk(self, chunk: str, data: bytes) -> None:
        """Keep one chunk loose until its manifest comes; the store may evict it where room is short, so an upload that
        nobody ends costs no more than the room that is free."""
        with self._refusals("chunk"):
            if len(data) > limits.CHUNK_BYTES:
                raise InputError(
                    f"chunk {chunk[:16]} has {len(data)} bytes, the limit is {limits.CHUNK_BYTES}",
                    todo="cut it smaller",
                )
            if (found := digest_of(data)) != chunk:
                raise InputError(
                    f"{len(data)} bytes were sent as chunk {chunk[:16]}, their digest is {found[:16]}",
                    todo="read them again and send that chunk again; if it happens twice, the file has changed",
                )
        self._store.put_bytes(data)

    def put_manifest(self, data: bytes) -> ArtifactId:
        """Check a package and keep it. Nothing stays of a complete one that is refused; of one that lacks chunks, those
        that came stay loose."""
        with self._refusals("manifest"):
            manifest = decode_manifest(data)
            if encode_manifest(manifest) != data:
                raise InputError("the manifest is not in canonical form", todo="send what `encode_manifest` makes")
        with self._refusals("signature"):
            verify_parts(manifest)
        with self._refusals("incomplete"):
            # Before room is taken: a manifest alone may speak of as many bytes as it likes.
            missing = [ref.id[:16] for ref in manifest.all_chunks() if self._store.locate(ChunkId(ref.id)) is None]
            if missing:
                raise _incomplete(missing)
        artifact = artifact_digest(data)
        self._store.pin(artifact, PACKAGE_PIN)
        try:
            with self._store.begin(manifest) as receipt:
                if gone := [want.id[:16] for want in receipt.wants]:  # evicted since
                    raise _incomplete(gone)
                receipt.finish()
            with self._refusals("contract"):
                self._contract(artifact)
            if manifest.kind == "graph":
                with self._refusals("graph"), self._checking:
                    decode_graph_pair(self._store.part(artifact, "graph"))
            with self._refusals("not-finite"), self._store.read_tensor_map(artifact) as tensors:
                if name := unsound_tensor(tensors.manifest.tensors, tensors.payload):
                    raise InputError(
                        f"tensor {name!r} has numbers that are not finite",
                        todo="give weights that are all finite: no training can begin from others",
                        ids={"artifact": artifact},
                    )
        except DaitnError:
            self._store.unpin(artifact, PACKAGE_PIN)
            self._store.release(artifact)
            raise
        return artifact

    @contextmanager
    def _refusals(self, why: str) -> Iterator[None]:
        """Errors about a package become the owner's, and are counted."""
        try:
            yield
        except (InputError, PeerError, PolicyError) as error:
            self.counters.count("packages_refused", why)
            raise InputError(f"package refused: {error.what}", todo=error.todo, ids=error.ids) from None

    def read_artifact(
        self, owner: OwnerId, job: JobId, artifact: ArtifactId
    ) -> tuple[bytes, Iterable[tuple[str, int]]]:
        """Manifest and chunks of a package that is this job's."""
        self._may_read(owner, job, artifact)
        manifest = self._store.manifest(artifact)
        return self._store.manifest_bytes(artifact), [(ref.id, ref.size) for ref in manifest.all_chunks()]

    def read_chunk(self, owner: OwnerId, job: JobId, chunk: str) -> bytes:
        """One chunk of the submitted or the best model."""
        state = self._job(owner, job).state
        for artifact in (state.best, state.request.package):
            place = self._store.locate(ChunkId(chunk), artifact) if self._store.holds(artifact) else None
            if place is not None:
                with place.path.open("rb") as file:
                    file.seek(place.offset)
                    return file.read(place.size)
        raise InputError(f"chunk {chunk[:16]} belongs to no model of job {job} that is here")

    def _may_read(self, owner: OwnerId, job: JobId, artifact: ArtifactId) -> None:
        state = self._job(owner, job).state
        if artifact not in (state.best, state.request.package):
            raise InputError(f"artifact {artifact[:16]} is no model of job {job}", ids={"job": job})
        if not self._store.holds(artifact):
            raise UnavailableError(
                f"the model is still at its sites; the job is {state.phase.value}", todo="wait until it is delivered"
            )

    def _contract(self, artifact: ArtifactId) -> tuple[Manifest, DataContract]:
        manifest = self._store.manifest(artifact)
        return manifest, decode_contract(self._store.part(artifact, "contract"), "the package's contract")

    def _facts(self, artifact: ArtifactId) -> PackageFacts:
        """What is known of a package in the store."""
        if not self._store.holds(artifact):
            raise InputError(f"package {artifact[:16]} is not here", todo="upload it first")
        manifest, contract = self._contract(artifact)
        return PackageFacts(
            contract=contract,
            kind=manifest.kind,
            signer=manifest.signer,
            payload_bytes=manifest.payload_bytes,
            parts_bytes=sum(part.size for part in manifest.parts),
            shapes=shapes_digest(manifest.tensors),
            weights=weights_digest(manifest),
            trained_numbers=trained_numbers(manifest.tensors),
            name=manifest.name,
        )

    def _variant(self, artifact: ArtifactId, submitted: PackageFacts) -> PackageFacts:
        """Another model that can stand in for the submitted one: measured on the same records, allowed to the same
        signer."""
        facts = self._facts(artifact)
        same = {"contract": facts.contract == submitted.contract, "signer": facts.signer == submitted.signer}
        if other := [what for what, is_same in same.items() if not is_same]:
            raise InputError(
                f"variant {facts.name!r} ({artifact[:16]}) has another {' and '.join(other)} than the package",
                todo="pack it with the same contract and sign it with the same key",
            )
        return facts

    # --- jobs -------------------------------------------------------------------------------------------------------

    async def submit(self, owner: OwnerId, request: Request, key: str) -> JobId:
        """Durable when it returns."""
        known = self._core.submitted_before(owner, key) if key else None
        if known is not None:
            if _submitted_request(self._core.jobs[known]) != request:
                raise InputError(f"key {key!r} was used for another request, job {known}", todo="use a new key")
            self._core.counters.count("submissions_repeated")
            return known
        facts = self._facts(request.package)
        check_request(request, facts.contract)
        with self._refusals("variant"):
            variants = {one: self._variant(one, facts) for one in request.variants}
        alive = sum(machine.state.owner == owner and not machine.state.ended for machine in self._core.jobs.values())
        self._limits.check_count(owner, alive)
        self._limits.check_priority(owner, request.priority)
        job = JobId(f"{request.name[:24]}-{secrets.token_hex(4)}")
        self._runner.post(
            SubmissionReceived(
                job=job,
                owner=owner,
                request=request,
                package=facts,
                key=key or secrets.token_hex(8),
                variants=variants,
            )
        )
        self._runner.check_going()
        return job

    async def pause(self, owner: OwnerId, job: JobId) -> JobStatus:
        """No further visits for now."""
        self._job(owner, job)
        self._runner.post(PauseAsked(job=job))
        return self.status(owner, job)

    async def resume(self, owner: OwnerId, job: JobId) -> JobStatus:
        """Go on."""
        self._job(owner, job)
        self._runner.post(ResumeAsked(job=job))
        return self.status(owner, job)

    async def cancel(self, owner: OwnerId, job: JobId) -> JobStatus:
        """End the job."""
        self._job(owner, job)
        self._runner.post(CancelAsked(job=job))
        return self.status(owner, job)

    async def change(self, owner: OwnerId, job: JobId, request: Request) -> JobStatus:
        """Another request for the same package from now on."""
        machine = self._job(owner, job)
        if machine.state.ended:
            raise InputError(f"job {job} has ended as {machine.state.phase.value}", todo="submit a new one")
        for name in FOR_GOOD:
            if getattr(request, name) != getattr(machine.state.request, name):
                raise InputError(f"a running job cannot change its {name}", todo="submit a new job")
        if request.priority != machine.state.request.priority:
            self._limits.check_priority(owner, request.priority)
        check_request(request, machine.state.package.contract)
        self._runner.post(ChangeAsked(job=job, request=request))
        return self.status(owner, job)

    def status(self, owner: OwnerId, job: JobId) -> JobStatus:
        """The job now, as it stands in the journal; UnavailableError where that could not be written."""
        machine = self._job(owner, job)
        return job_status(machine.state, machine.name_of)

    def jobs(self, owner: OwnerId) -> tuple[JobStatus, ...]:
        """The owner's jobs, newest first."""
        self._runner.check_going()
        mine = [machine for machine in self._core.jobs.values() if machine.state.owner == owner]
        return tuple(job_status(machine.state, machine.name_of) for machine in reversed(mine))

    def log(self, owner: OwnerId, job: JobId, start: int) -> tuple[LogEntry, ...]:
        """Log entries from number `start` on."""
        machine = self._job(owner, job)
        return render_log(machine.state, machine.name_of, start)

    def card(self, owner: OwnerId, job: JobId) -> ModelCard:
        """The model card of a job that has ended with a model; InputError for any other."""
        machine = self._job(owner, job)
        return model_card(machine.state, machine.name_of)

    async def watch(self, owner: OwnerId, job: JobId) -> AsyncIterator[JobStatus]:
        """The status now and after each change, until the job has ended."""
        last: JobStatus | None = None
        while True:
            changed = self._changed.setdefault(job, asyncio.Event())
            status = self.status(owner, job)
            if status != last:
                last = status
                yield status
            if self._job(owner, job).state.ended:
                return
            await changed.wait()
            await asyncio.sleep(WATCH_S)

    async def followed(self, owner: OwnerId, job: JobId, since: int, wait_s: float) -> ViewFollowed:
        """What the job's planner was told of its view after a step; see `node.followed_views`."""
        return await when_told(
            lambda: self._job(owner, job).followed(since),
            lambda: self._changed.setdefault(job, asyncio.Event()),
            wait_s,
        )

    def changed(self, job: JobId) -> None:
        """Wake those who watch a job."""
        event = self._changed.pop(job, None)
        if event is not None:
            event.set()

    def _job(self, owner: OwnerId, job: JobId) -> JobMachine:
        self._runner.check_going()
        machine = self._core.jobs.get(job)
        if machine is None or machine.state.owner != owner:
            raise InputError(f"{owner} has no job {job!r}", todo="daitn train list", ids={"job": job})
        return machine

    # --- operators --------------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodeOnMap, ...]:
        """The map for people."""
        return nodes_on_map(self._core.knowledge, self._clock.now_ns())

    def counters_of_all(self) -> tuple[ProcessCounters, ...]:
        """What the centre, every node and every router counted."""
        knowledge = self._core.knowledge
        names = {facts.descriptor.node: facts.descriptor.name for facts in knowledge.nodes()}
        return tuple(
            ProcessCounters(
                node=node,
                name=names.get(node, ROUTER_NAME if node.startswith(f"{ROUTER_NAME}-") else ""),
                counted=counted,
            )
            for node, counted in self._told()
        )

    def links(self) -> tuple[LinkShown, ...]:
        """The book of links."""
        return links_shown(self._core, self._clock.now_ns())

    def tools(self) -> ToolsShown:
        """What the services of the tools layer know."""
        return tools_shown(self._core, self._clock.now_ns())

    async def make_join_token(self, operator: str, roles: Sequence[str], valid_s: float) -> str:
        """A token for `daitn join`."""
        known = {role.value for role in Role}
        unknown = sorted(set(roles) - known)
        if unknown:
            raise InputError(f"no such role: {', '.join(unknown)}", todo=f"roles are {', '.join(sorted(known))}")
        return await self._make_token(operator, roles, valid_s)

    def records(self, after: int) -> tuple[ShownRecord, ...]:
        """What nodes reported beyond a number."""
        return self._core.records.shown(after)

    async def expel(self, node: NodeId, reason: str) -> None:
        """Burn a node's slot and take it off the map."""
        await self._expel(node, reason)


def nodes_on_map(knowledge: KnowledgeMap, now_ns: int) -> tuple[NodeOnMap, ...]:
    """All nodes as an operator sees them."""
    return tuple(
        NodeOnMap(
            descriptor=one.descriptor,
            reachable=one.reachable,
            age_s=knowledge.age_s(one, now_ns),
            trust=knowledge.trust(one, now_ns),
            trust_changes=knowledge.trust_book.changes(one.descriptor.node),
            facts=_facts_of(knowledge, one.row, now_ns),
        )
        for one in knowledge.nodes()
    )


def _facts_of(knowledge: KnowledgeMap, row: int, now_ns: int) -> tuple[FactOnMap, ...]:
    """What is known of a terminal's fast facts."""
    table = knowledge.facts[Kind.TERMINAL]
    found: list[FactOnMap] = []
    for name in SHOWN_GROUPS:
        columns = table.group(name)
        if columns is None or not columns.received_ns[row]:
            continue
        stale = int(columns.received_ns[row]) < table.stale_before_ns
        at = np.asarray([row], np.intp)
        for fact in columns.group.facts:
            age_s = float(table.age_s(name, now_ns, at, fact=fact.name)[0])
            value = table.shown(fact, columns.values[fact.name][row])
            if value is not None:
                found.append(FactOnMap(name=fact.name, value=value, unit=fact.unit, age_s=age_s, stale=stale))
    return tuple(found)


def _incomplete(missing: Sequence[str]) -> InputError:
    return InputError(
        f"{len(missing)} chunks of the package were not uploaded: {', '.join(missing[:5])}",
        todo="upload them, then the manifest",
    )


def _submitted_request(machine: JobMachine) -> Request:
    """The request as it was first submitted."""
    first = machine.state.log[0]
    return first.request if isinstance(first, JobSubmitted) else machine.state.request
