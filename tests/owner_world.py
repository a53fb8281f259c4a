"""A domain in one process for tests of the owner's side: the real control centre, terminals that answer by script.

The centre is driven directly with messages made here: no fabric and no torch. Orders are answered at once, or
kept until `answer` where a test wants to look at a visit under way. Signatures are real.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import named

from daitn.artifacts.codec import artifact_id, complete_manifest, decode_manifest, encode_manifest
from daitn.artifacts.layout import TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest
from daitn.artifacts.package import write_package
from daitn.artifacts.signatures import public_hex, sign_parts, sign_report, verify_parts, verify_report
from daitn.base.effects import Delivered, Effect, Event, Record, Send, SetTimer, Started, TimerFired
from daitn.base.errors import DaitnError, InputError, PolicyError
from daitn.base.ids import CENTER, ArtifactId, DataSetId, DomainId, JobId, NodeId, OperatorId, OwnerId
from daitn.control_center.center import ControlCenter
from daitn.control_center.config import CenterConfig, CenterTools, Member
from daitn.control_center.training.commands import (
    CancelAsked,
    ChangeAsked,
    FetchModel,
    JobChanged,
    ModelFetched,
    PauseAsked,
    ResumeAsked,
    SubmissionReceived,
)
from daitn.control_center.training.job_state import JobState
from daitn.decision.facts import PackageFacts
from daitn.descriptors.card import ModelCard
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
    decode_contract,
)
from daitn.descriptors.job import JobStatus, LogEntry
from daitn.descriptors.links import LinkShown
from daitn.descriptors.policy import PolicySummary
from daitn.descriptors.request import Request, check_request, parse_target
from daitn.descriptors.terminals import (
    ComputeDescriptor,
    DataDescriptor,
    Histogram,
    NodeDescriptor,
    Quality,
    Role,
    VerificationDescriptor,
)
from daitn.descriptors.view import ViewFollowed
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Measurement,
    Outcome,
    ShareOutcome,
    ShareWork,
    TrainOutcome,
    TrainWork,
)
from daitn.node.center_service import nodes_on_map
from daitn.node.clock import NodeClock
from daitn.node.deployment_service import DeploymentService
from daitn.node.followed_views import when_told
from daitn.node.http.api import create_app
from daitn.node.http.bodies import NodeOnMap, ProcessCounters, ToolsShown
from daitn.node.http.server import OwnerServer
from daitn.node.http.tokens import TokenBook
from daitn.node.map_service import MapService
from daitn.node.pki import create_authority, write_private, write_public
from daitn.node.tools_shown import links_shown, tools_shown
from daitn.oam.model_card import model_card
from daitn.oam.progress import job_status
from daitn.oam.timeline import render_log
from daitn.wire.center_tools import VisitOrder, VisitPhase, VisitProgress, VisitReport, VisitResult, encode_report
from daitn.wire.oam import Counted
from daitn.wire.topology_tools import Describe

T = TypeVar("T")

CONTRACT = DataContract(
    name="lesions",
    columns=(
        NumberColumn(name="size", unit="mm"),
        NumberColumn(name="depth", unit="mm"),
        CategoryColumn(name="diagnosis", values=("benign", "malignant")),
    ),
    inputs=(NumbersInput(name="features", columns=("size", "depth"), center=(10.0, 5.0), scale=(4.0, 2.0)),),
    task=Classification(label="diagnosis"),
)

ACCURACY = (0.55, 0.80, 0.97)
"""What the verification unit measures before any visit, after the first verification, and later."""


def make_policy(**changes: object) -> PolicySummary:
    """A policy that agrees to all; `changes` narrow it."""
    everybody: dict[str, object] = {
        "owners": ("*",),
        "purposes": ("*",),
        "methods": ("*",),
        "raw_records": "stay",
        "compute_operators": (),
        "sample_frac": 0.2,
        "verification_operators": ("*",),
        "signers": (),
    }
    return PolicySummary(**(everybody | changes))  # type: ignore[arg-type]


def make_request(package: ArtifactId, **changes: object) -> Request:
    """A request with every default; `changes` are its point."""
    values: dict[str, object] = {
        "name": "lesions",
        "package": package,
        "purpose": "diagnosis-support",
        "targets": (parse_target("accuracy >= 0.95"),),
        "deadline_s": 600.0,
    }
    return Request(**(values | changes))  # type: ignore[arg-type]


class MemoryJournal:
    """Keeps records no longer than the test."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, stream: str, records: Sequence[Record], *, time_ns: int) -> None:
        self.records += records

    def entries(self, stream: str) -> Iterator[Any]:
        return iter(())


class MemoryService:
    """An `OwnerService` on the real control centre. `hold`: keep orders until `answer` is called."""

    def __init__(self, *, hold: bool = False, policy: PolicySummary | None = None) -> None:
        self.hold = hold
        self.orders: list[tuple[NodeId, VisitOrder]] = []
        self.keys: dict[NodeId, Ed25519PrivateKey] = {}
        self.chunks: dict[str, bytes] = {}
        self.manifests: dict[ArtifactId, bytes] = {}
        self.expelled: list[tuple[NodeId, str]] = []
        self.members: dict[NodeId, Member] = {}
        tools = CenterTools(
            issue=lambda grant: f"grant {grant.id}", sign_route=named, verify=_holds, member=self.members.get
        )
        self.center = ControlCenter(CenterConfig(domain=DomainId("clinic")), tools)
        self.map = MapService(self.center.knowledge.facts, MemoryJournal(), NodeClock(), lambda error: None)  # type: ignore[arg-type]
        self.models = DeploymentService(self.center, None, None, NodeClock())  # type: ignore[arg-type]
        self._changed: dict[JobId, asyncio.Condition] = {}
        self._following: dict[JobId, list[asyncio.Event]] = {}
        self._measured = 0
        self.overfits = True
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._handle(Started())
        for name, roles in (("h1", "data"), ("h2", "data"), ("v1", "verification")):
            self._join(name, roles, policy or make_policy())

    # --- the world of the centre --------------------------------------------------------------------------------------

    def _join(self, name: str, role: str, policy: PolicySummary) -> None:
        node = NodeId(f"n-{name}")
        key = self.keys[node] = Ed25519PrivateKey.generate()
        data = DataDescriptor(
            dataset=DataSetId(f"{name}/lesions"),
            version="v1",
            contract_name=CONTRACT.name,
            columns=CONTRACT.columns,
            group="",
            fields=(),
            records=400,
            groups=400,
            labels=Histogram(counts={"benign": 250, "malignant": 150}),
            field_counts=None,
            quality=Quality(),
            record_bytes=16,
            policy=policy,
        )
        is_data = role == "data"
        descriptor = NodeDescriptor(
            node=node,
            name=name,
            operator=OperatorId(f"operator-{name}"),
            roles=(Role.DATA, Role.COMPUTE) if is_data else (Role.VERIFICATION, Role.AGGREGATOR),
            public_key=public_hex(key),
            data=(data,) if is_data else (),
            compute=ComputeDescriptor(slots=1, cores=2, memory_bytes=8e9, storage_bytes=1e11, flops=1e10),
            verification=None
            if is_data
            else VerificationDescriptor(evaluations_per_job=20, public_key=public_hex(key)),
        )
        roles = tuple(one.value for one in descriptor.roles)
        self.members[node] = Member(name=name, operator=descriptor.operator, roles=roles)
        self._handle(Delivered(sender=node, message=Describe(sequence=1, generated_unix_s=0.0, descriptor=descriptor)))

    def _handle(self, event: Event) -> None:
        for effect in self.center.handle(event, time.time_ns()):
            self._perform(effect)
        self.center.check_invariants()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(receiver=node, message=VisitOrder() as order):
                self.orders.append((node, order))
                if not self.hold:
                    asyncio.get_running_loop().call_soon(self._answer_held)
            case FetchModel(job=job, model=model):
                event = ModelFetched(job=job, artifact=model.artifact)
                asyncio.get_running_loop().call_soon(self._handle, event)
            case JobChanged(job=job):
                asyncio.get_running_loop().create_task(self._tell(job))
            case SetTimer(name=name, at_ns=at_ns) if name.startswith("job "):
                if (old := self._timers.pop(name, None)) is not None:
                    old.cancel()
                delay_s = max(0.0, (at_ns - time.time_ns()) / 1e9)
                loop = asyncio.get_running_loop()
                self._timers[name] = loop.call_later(delay_s, self._handle, TimerFired(name=name))
            case _:
                pass

    async def _tell(self, job: JobId) -> None:
        condition = self._changed.setdefault(job, asyncio.Condition())
        async with condition:
            condition.notify_all()
        for event in self._following.pop(job, []):
            event.set()

    def _answer_held(self) -> None:
        if not self.hold and self.orders:
            self.answer()

    def report_progress(self, done: int, of: int, loss: float) -> None:
        """The site of the oldest unanswered order says how far it is."""
        node, order = self.orders[0]
        progress = VisitProgress(
            visit=order.visit,
            fence=order.fence,
            phase=VisitPhase.WORKING,
            done=done,
            of=of,
            loss=loss,  # type: ignore[arg-type]
        )
        self._handle(Delivered(sender=node, message=progress))

    def answer(self) -> None:
        """The site of the oldest unanswered order is done."""
        node, order = self.orders.pop(0)
        report = VisitReport(visit=order.visit, fence=order.fence, work=order.work, outcome=self._outcome(order))
        signature = sign_report(encode_report(report), self.keys[node])
        self._handle(Delivered(sender=node, message=VisitResult(report=report, signature=signature)))

    def _outcome(self, order: VisitOrder) -> Outcome:
        match order.work:
            case ShareWork(dataset=dataset):
                return ShareOutcome(artifact=ArtifactId(digest_of(dataset.encode())), records=80, data_version="v1")
            case EvaluateWork(model=model, measurements=names):
                value = ACCURACY[min(self._measured, len(ACCURACY) - 1)]
                self._measured += 1
                figures = tuple(
                    Measurement(name=name, value=value, low=value - 0.03, high=value + 0.02, records=160)
                    for name in names
                )
                return EvaluateOutcome(
                    model=model,
                    measurements=figures,
                    test_set="t1",
                    evaluations_left=20 - self._measured,
                    seconds=0.01,
                    overfits=self.overfits,
                    batch_seconds=0.001,
                )
            case TrainWork(model=model, training=training):
                return TrainOutcome(
                    model=self._successor(model, order),
                    batches=training.batches,
                    records=320,
                    loss_first=0.7,
                    loss_last=0.4,
                    update_norm=1.0,
                    data_version="v1",
                    seconds=0.02,
                    fetch_s=0.001,
                    fetched_bytes=640,
                )
            case AggregateWork(updates=updates):
                return AggregateOutcome(model=self._successor(updates[0].model, order), seconds=0.01)

    def _successor(self, model: ArtifactId, order: VisitOrder) -> ArtifactId:
        """The same tensors with another lineage: a new artifact, as training makes one."""
        manifest = decode_manifest(self.manifests[model])
        lineage = Lineage(job=order.job, visit=order.visit, parents=(model,))
        data = encode_manifest(msgspec.structs.replace(manifest, lineage=lineage))
        artifact = artifact_id(data)
        self.manifests[artifact] = data
        return artifact

    # --- OwnerService -------------------------------------------------------------------------------------------------

    def counters_of_all(self) -> tuple[ProcessCounters, ...]:
        counted = Counted(since_unix_s=1.0, counts=self.center.counters.snapshot())
        return (ProcessCounters(node=CENTER, name="", counted=counted),)

    def missing_chunks(self, chunks: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        return tuple(chunk for chunk, _ in chunks if chunk not in self.chunks)

    def put_chunk(self, chunk: str, data: bytes) -> None:
        if digest_of(data) != chunk:
            raise InputError(f"chunk {chunk} has another digest", ids={"chunk": chunk})
        self.chunks[chunk] = data

    def put_manifest(self, data: bytes) -> ArtifactId:
        manifest = decode_manifest(data)
        missing = [ref.id for ref in manifest.all_chunks() if ref.id not in self.chunks]
        if missing:
            raise InputError(f"{len(missing)} chunks of the package are not here", todo="upload them first")
        verify_parts(manifest)
        artifact = artifact_id(data)
        self.manifests[artifact] = data
        return artifact

    def read_artifact(
        self, owner: OwnerId, job: JobId, artifact: ArtifactId
    ) -> tuple[bytes, Iterable[tuple[str, int]]]:
        state = self._state(owner, job)
        if artifact not in (state.request.package, state.best):
            raise InputError(f"job {job} gives out no artifact {artifact}", ids={"artifact": artifact})
        data = self.manifests[artifact]
        return data, [(ref.id, ref.size) for ref in decode_manifest(data).all_chunks()]

    def read_chunk(self, owner: OwnerId, job: JobId, chunk: str) -> bytes:
        self._state(owner, job)
        if chunk not in self.chunks:
            raise InputError(f"there is no chunk {chunk}", ids={"chunk": chunk})
        return self.chunks[chunk]

    async def submit(self, owner: OwnerId, request: Request, key: str) -> JobId:
        known = self.center.submitted_before(owner, key) if key else None
        if known is not None:
            return known
        data = self.manifests.get(request.package)
        if data is None:
            raise InputError(
                f"package {request.package} is not here", todo="upload it", ids={"package": request.package}
            )
        check_request(request, decode_contract(self._part(decode_manifest(data), "contract")))
        job = JobId(f"j{len(self.center.jobs) + 1}")
        variants = {one: self._facts(one) for one in request.variants}
        facts = self._facts(request.package)
        event = SubmissionReceived(job=job, owner=owner, request=request, package=facts, key=key, variants=variants)
        self._handle(event)
        return job

    def _facts(self, package: ArtifactId) -> PackageFacts:
        manifest = decode_manifest(self.manifests[package])
        return PackageFacts(
            contract=decode_contract(self._part(manifest, "contract")),
            kind=manifest.kind,
            signer=manifest.signer,
            payload_bytes=manifest.payload_bytes,
            parts_bytes=sum(part.size for part in manifest.parts),
            name=manifest.name,
        )

    async def pause(self, owner: OwnerId, job: JobId) -> JobStatus:
        self._state(owner, job)
        self._handle(PauseAsked(job=job))
        return self.status(owner, job)

    async def resume(self, owner: OwnerId, job: JobId) -> JobStatus:
        self._state(owner, job)
        self._handle(ResumeAsked(job=job))
        return self.status(owner, job)

    async def cancel(self, owner: OwnerId, job: JobId) -> JobStatus:
        self._state(owner, job)
        self._handle(CancelAsked(job=job))
        return self.status(owner, job)

    async def change(self, owner: OwnerId, job: JobId, request: Request) -> JobStatus:
        check_request(request, self._state(owner, job).package.contract)
        self._handle(ChangeAsked(job=job, request=request))
        return self.status(owner, job)

    def status(self, owner: OwnerId, job: JobId) -> JobStatus:
        return job_status(self._state(owner, job), self._name)

    def jobs(self, owner: OwnerId) -> tuple[JobStatus, ...]:
        mine = [machine.state for machine in self.center.jobs.values() if machine.state.owner == owner]
        return tuple(job_status(state, self._name) for state in reversed(mine))

    def log(self, owner: OwnerId, job: JobId, start: int) -> tuple[LogEntry, ...]:
        return render_log(self._state(owner, job), self._name, start)

    def card(self, owner: OwnerId, job: JobId) -> ModelCard:
        return model_card(self._state(owner, job), self._name)

    async def watch(self, owner: OwnerId, job: JobId) -> AsyncIterator[JobStatus]:
        condition = self._changed.setdefault(job, asyncio.Condition())
        while True:
            status = self.status(owner, job)
            yield status
            if status.ended_unix_s is not None:
                return
            async with condition:
                await condition.wait_for(lambda seen=status: self.status(owner, job) != seen)  # type: ignore[misc]

    async def followed(self, owner: OwnerId, job: JobId, since: int, wait_s: float) -> ViewFollowed:
        self._state(owner, job)

        def changed() -> asyncio.Event:
            event = asyncio.Event()
            self._following.setdefault(job, []).append(event)
            return event

        return await when_told(lambda: self.center.jobs[job].followed(since), changed, wait_s)

    def nodes(self) -> tuple[NodeOnMap, ...]:
        return nodes_on_map(self.center.knowledge, time.time_ns())

    def links(self) -> tuple[LinkShown, ...]:
        return links_shown(self.center, time.time_ns())

    def tools(self) -> ToolsShown:
        return tools_shown(self.center, time.time_ns())

    async def make_join_token(self, operator: str, roles: Sequence[str], valid_s: float) -> str:
        if operator == "stranger":
            raise PolicyError("strangers may not join")
        return f"daitn-join1.{operator}.{'-'.join(roles)}"

    async def expel(self, node: NodeId, reason: str) -> None:
        self.expelled.append((node, reason))

    def _part(self, manifest: Manifest, name: str) -> bytes:
        part = manifest.part(name)
        assert part is not None
        return b"".join(self.chunks[ref.id] for ref in part.chunks)

    def _state(self, owner: OwnerId, job: JobId) -> JobState:
        machine = self.center.jobs.get(job)
        if machine is None or machine.state.owner != owner:
            raise InputError(f"there is no job {job}", todo="`daitn train list` shows yours", ids={"job": job})
        return machine.state

    def _name(self, node: NodeId) -> str:
        facts = self.center.knowledge.node(node)
        return facts.descriptor.name if facts is not None else node


def _holds(key: str, data: bytes, signature: str) -> bool:
    try:
        verify_report(data, signature, key)
    except DaitnError:
        return False
    return True


def write_package_dir(folder: Path) -> Path:
    """The package of `make_package` as a directory, signed by another key."""
    weights = bytes(range(64))
    parts, manifest = _sign_package(weights)
    write_package(folder, manifest, parts, {"weight": weights})
    return folder


def make_package() -> tuple[bytes, dict[str, bytes]]:
    """Manifest bytes and chunks of a signed package: a contract, a graph nobody here opens, and one tensor."""
    weights = bytes(range(64))
    parts, manifest = _sign_package(weights)
    chunks = {digest_of(data): data for data in (*parts.values(), weights)}
    return encode_manifest(manifest), chunks


def _sign_package(weights: bytes) -> tuple[dict[str, bytes], Manifest]:
    parts = {"contract": msgspec.json.encode(CONTRACT), "graph": b"a graph"}
    layout = plan_layout([TensorSpec(name="weight", dtype="float32", shape=(4, 4))])
    draft = Manifest(
        kind="graph", name="lesions", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    return parts, sign_parts(complete_manifest(draft, parts, {"weight": weights}), Ed25519PrivateKey.generate())


def put_package(service: MemoryService) -> ArtifactId:
    """Upload `make_package` straight into the service."""
    manifest, chunks = make_package()
    for chunk, data in chunks.items():
        service.put_chunk(chunk, data)
    return service.put_manifest(manifest)


class Door:
    """A real HTTPS server in front of a `MemoryService`, on its own thread; a context manager."""

    def __init__(self, folder: Path, *, hold: bool = False, policy: PolicySummary | None = None) -> None:
        self._folder = folder
        self._hold, self._policy = hold, policy
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self.seconds_to_ready = 0.0

    def __enter__(self) -> Door:
        self.authority = create_authority(self._folder / "authority", DomainId("clinic"))
        certificate, key = self.authority.issue_server("owner door")
        write_public(self._folder / "door.crt", certificate)
        write_private(self._folder / "door.key", key)
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self.tokens.close()

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self.service = MemoryService(hold=self._hold, policy=self._policy)
        self.tokens = TokenBook(
            self._folder / "tokens.sqlite",
            address="127.0.0.1:1",
            domain=DomainId("clinic"),
            authority_pem=self.authority.certificate_pem,
        )
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _start(self, port: int = 0) -> None:
        began = time.perf_counter()
        self.app = create_app(self.service, self.tokens)
        certificate, key = self._folder / "door.crt", self._folder / "door.key"
        self._server = OwnerServer(self.app, certificate=certificate, key=key, port=port)
        self.port = await self._server.start()
        self.tokens.address = f"127.0.0.1:{self.port}"
        self.seconds_to_ready = time.perf_counter() - began

    def restart(self) -> None:
        """Stop the server and start another on the same port; the service lives on."""

        async def again() -> None:
            await self._server.stop()
            await self._start(self.port)

        asyncio.run_coroutine_threadsafe(again(), self._loop).result(20)

    def token(self, owner: str = "alice", *scopes: str) -> str:
        """A fresh token of `owner`, for training unless `scopes` say otherwise."""
        return self.tokens.create(owner, scopes or ("train",))

    def on_loop(self, call: Callable[[], T]) -> T:
        """Run `call` where the service lives, and return what it returns."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def answer_until(self, done: Callable[[], bool], most: int = 200) -> None:
        """Let sites answer held orders until `done`."""
        for _ in range(most):
            if self.on_loop(done):
                return
            self.on_loop(self.service.answer)
        raise AssertionError(f"{most} answers were not enough")
