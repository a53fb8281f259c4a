"""A host's hands: fetches packages, opens and closes replicas as the host core says, answers gateways' queries.

Only gateways that the control centre named are answered. A query is checked against what the model takes before it is
queued, and is neither logged nor kept; what is learnt from it is time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from daitn.base import limits
from daitn.base.effects import Effect, Event
from daitn.base.errors import DaitnError, InputError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.decision.query_route.slots import LEASE_S, SlotLease
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.offers import Offer, check_offers
from daitn.descriptors.serving import EngineKind, Replica, ReplicaPhase
from daitn.descriptors.stages import Stage
from daitn.node.engines.torch_graph import start_torch_graph
from daitn.node.fabric.contract import Fabric
from daitn.node.moving import Moving
from daitn.node.node_config import NodeConfig
from daitn.node.sandbox.launcher import Limits, Sandbox
from daitn.node.serving.answering import Answering
from daitn.node.serving.host_keys import HostKeys
from daitn.node.serving.host_offer import PIN, engines_of
from daitn.node.serving.offering import Offering
from daitn.node.serving.replica import Answered, ServedReplica, open_replica
from daitn.node.store import ChunkStore
from daitn.serving.batching import Refused
from daitn.serving.engine import Engine
from daitn.serving.sealing import HostSecret
from daitn.serving.tensors import arrays_of, rows_of, tensors_of
from daitn.terminal.fact_reporter import ThingDropped, measured_facts
from daitn.terminal.model_host import DropReplica, LoadReplica, NameGateways, ReplicaChanged
from daitn.wire.center_serving import ServeOrder
from daitn.wire.queries import HostLoad, KeyCall, KeyTold, QueryAnswer, QueryCall, QueryRefused, RefusalReason
from daitn.wire.secret_queries import SEALED_BYTES, SecretOutcome

DRAIN_S: Final = 5.0
"""How long queries that wait at a model that is dropped are still answered."""

QUERY_S: Final = 3600.0
"""Longest a query may be given."""

ENGINE_CPU_S: Final = 365 * 24 * 3600
"""Processor time over the life of an engine, which has no end by itself."""

MEASURE_S: Final = 1.0
"""How often it is measured how the host and its models do."""

FETCH_TRIES: Final = 5
FETCH_WAIT_S: Final = 1.0
"""A package that cannot be fetched is asked for again, each time after twice the wait: its holder may be starting."""

_log = logging.getLogger(__name__)


def open_hosting(
    config: NodeConfig, fabric: Fabric, store: ChunkStore, moving: Moving, tls: Path, post: Callable[[Event], None]
) -> Hosting:
    """The hands of a node's host role."""
    here = config.hosting
    sandbox = Sandbox(Limits(memory_bytes=here.memory_bytes, cpu_s=ENGINE_CPU_S))
    return Hosting(
        fabric,
        store,
        moving,
        sandbox,
        engines=engines_of(here),
        concurrency=here.concurrency,
        memory_bytes=here.memory_bytes,
        name=config.name,
        keys=HostKeys(HostSecret(fabric.node), fabric.node, tls),
        threads=here.threads,
        post=post,
        offers=check_offers(here.offers),
    )


class Hosting:
    """See the module's docstring. `engines`: what runs models, preferred first; `concurrency`: how many of each."""

    def __init__(
        self,
        fabric: Fabric,
        store: ChunkStore,
        moving: Moving,
        sandbox: Sandbox,
        *,
        engines: Sequence[EngineKind],
        concurrency: int,
        threads: int,
        memory_bytes: int,
        name: str,
        post: Callable[[Event], None],
        keys: HostKeys,
        offers: Sequence[Offer] = (),
    ) -> None:
        self._keys = keys
        self._memory_bytes, self._name = memory_bytes, name
        self._answered, self._most_per_s = 0, 0.0
        self._told: set[ModelName] = set()
        self._fabric, self._store, self._moving, self._sandbox = fabric, store, moving, sandbox
        self._concurrency, self._threads = concurrency, threads
        self._post = post
        self._replicas: dict[ModelName, tuple[ArtifactId, ServedReplica]] = {}
        self._loading: dict[ModelName, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._engines = engines
        self._not_for_onnx: set[ArtifactId] = set()
        """Packages that could not be exported here; torch serves them."""
        self.counters = Counters()
        self.address = ""
        self._answering = Answering(fabric, self.counters, self.ask, self.begin)
        self._answering.secret = keys.secret
        self._offering = Offering(offers, self._answering, self.counters, post, sandbox)

    async def start(self) -> None:
        """Answer queries, from now on."""
        await self._answering.start()
        await self._offering.start()
        self._spawn(self._measure_often())

    def perform(self, effect: Effect) -> bool:
        """Do what the host core wants, if it is that."""
        match effect:
            case LoadReplica(order=order):
                self._loading[order.model] = self._spawn(self._load(order))
            case DropReplica(model=model):
                if (task := self._loading.pop(model, None)) is not None:
                    task.cancel()
                if (held := self._replicas.pop(model, None)) is not None:
                    self._spawn(self._drop(model, *held))
            case NameGateways(gateways=gateways, models=models):
                self._answering.gateways = frozenset(gateways)
                wanted = {PIN + model for model in models}
                for reason in self._store.pin_reasons():
                    if reason.startswith(PIN) and reason not in wanted:
                        self._store.unpin_all(reason)
            case _:
                return False
        return True

    async def stop(self) -> None:
        """End every engine."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        held, self._replicas = list(self._replicas.values()), {}
        await asyncio.gather(*(replica.close() for _, replica in held))
        await self._offering.stop()

    # --- replicas ---------------------------------------------------------------------------------------------------

    async def _load(self, order: ServeOrder) -> None:
        try:
            await self._fetch(order)
            self._say(order, ReplicaPhase.WARMING)
            replica = await open_replica(
                lambda: self._make(order.artifact, order.needs.stage),
                self._concurrency,
                lambda why: self._failed(order, why),
            )
            described = max(len(msgspec.msgpack.encode(one)) for one in (replica.inputs, replica.outputs))
            if described > limits.SPECS_BYTES:
                await replica.close()
                raise InputError(
                    f"its inputs or outputs take {described} bytes to describe, {limits.SPECS_BYTES} may be"
                )
        except DaitnError as error:
            self._failed(order, error.what)
            return
        self._replicas[order.model] = (order.artifact, replica)
        self._say(order, ReplicaPhase.SERVING, replica=replica)
        _log.info("model %s is served: one row in %.1f ms", order.model, replica.measured.row_s * 1000)

    async def _fetch(self, order: ServeOrder) -> None:
        wait_s = FETCH_WAIT_S
        for attempt in range(FETCH_TRIES):
            try:
                await self._moving.fetch(order.package, PIN + order.model)
                return
            except UnavailableError:
                if attempt + 1 == FETCH_TRIES:
                    raise
                await asyncio.sleep(wait_s)
                wait_s *= 2

    async def _make(self, artifact: ArtifactId, stage: Stage | None) -> Engine:
        manifest, parts = self._moving.parts_of(artifact)
        payload = self._store.payload_place(artifact).path
        if EngineKind.ONNX_GRAPH in self._engines and artifact not in self._not_for_onnx:
            try:
                return await start_torch_graph(
                    manifest, parts, payload, self._sandbox, threads=self._threads, onnx=True, stage=stage
                )
            except (InputError, UnavailableError) as error:
                self._not_for_onnx.add(artifact)
                _log.warning("package %s is served by torch: %s", artifact[:16], error.what)
        return await start_torch_graph(manifest, parts, payload, self._sandbox, threads=self._threads, stage=stage)

    async def _drop(self, model: ModelName, artifact: ArtifactId, replica: ServedReplica) -> None:
        await replica.close(DRAIN_S)
        if model not in self._replicas and model not in self._loading:
            self._store.unpin(artifact, PIN + model)

    def _failed(self, order: ServeOrder, why: str) -> None:
        self.counters.count("replicas_failed")
        _log.warning("model %s is not served here: %s", order.model, why)
        held = self._replicas.get(order.model)
        if held is not None and held[0] == order.artifact:
            del self._replicas[order.model]
            self._spawn(self._drop(order.model, *held))
        self._say(order, ReplicaPhase.FAILED, why=why)

    def _say(
        self, order: ServeOrder, phase: ReplicaPhase, *, why: str = "", replica: ServedReplica | None = None
    ) -> None:
        said = Replica(model=order.model, artifact=order.artifact, phase=phase, why=why[:1024])
        if replica is not None:
            said = msgspec.structs.replace(
                said, inputs=replica.inputs, outputs=replica.outputs, measured=replica.measured
            )
        self._post(ReplicaChanged(replica=said))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what the map is told -------------------------------------------------------------------------------------

    async def _measure_often(self) -> None:
        """How the host and each model do, every `MEASURE_S`; the fact reporter decides what is worth telling."""
        while True:
            await asyncio.sleep(MEASURE_S)
            for event in self.measure(time.monotonic_ns(), time.time_ns()):
                self._post(event)

    def measure(self, now_ns: int, measured_ns: int) -> list[Event]:
        """Facts of the host and of its models, counted since the last call."""
        rate = self._answered / MEASURE_S
        self._most_per_s = max(self._most_per_s, rate)
        self._answered = 0
        served = {model: replica for model, (_, replica) in self._replicas.items()}
        used = sum(replica.measured.memory_bytes for replica in served.values())
        waits = {model: replica.queue.wait_s(now_ns) for model, replica in served.items()}
        longest_s = max(waits.values(), default=0.0)
        host = {
            "models": len(served),
            "model_memory_free_bytes": max(0, self._memory_bytes - used),
            "queries_per_s": rate,
            "queries_per_s_most": self._most_per_s,
            "queue_s": longest_s,
        }
        events: list[Event] = [measured_facts(self._fabric.node, "hosting", host, measured_ns)]
        for model, replica in served.items():
            measured = replica.measured
            state = {
                "model_bytes": measured.memory_bytes,
                "service_s": replica.queue.expected_s(1),
                "model_load_frac": replica.queue.busy_frac(),
                "model_queue_s": waits[model],
            }
            events.append(measured_facts(f"{self._name}/{model}", "model_state", state, measured_ns))
        for model in self._told - set(served):
            events.append(ThingDropped(kind=Kind.MODEL, thing=f"{self._name}/{model}"))
        self._told = set(served)
        return events

    # --- queries ----------------------------------------------------------------------------------------------------

    async def ask(self, gateway: NodeId, call: QueryCall | KeyCall) -> QueryAnswer | QueryRefused | KeyTold:
        """Answer a query, or say why not. Of a secret one neither its tensors nor what is wrong with them is told."""
        if isinstance(call, KeyCall):
            return KeyTold(statement=self._keys.statement())
        if call.sealed is None:
            return await self._ask(gateway, call)
        try:
            opened = self._keys.secret.open(call.sealed, call.model, call.artifact)
        except InputError as error:
            return _refused("not-served", error.render())
        said = await self._ask(gateway, msgspec.structs.replace(call, inputs=opened.inputs, sealed=None))
        if isinstance(said, QueryAnswer):
            sealed = opened.seal(SecretOutcome(outputs=said.outputs))
            if len(sealed) <= SEALED_BYTES:
                return msgspec.structs.replace(said, outputs=(), sealed=sealed)
            said = _refused("input", f"the answer has {len(sealed)} bytes encrypted, {SEALED_BYTES} are carried")
        if said.reason == "input":
            return QueryAnswer(outputs=(), sealed=opened.seal(SecretOutcome(fault=said.what)), load=said.load)
        return said if said.reason != "lost" else msgspec.structs.replace(said, what="the engine lost it")

    async def _ask(self, gateway: NodeId, call: QueryCall) -> QueryAnswer | QueryRefused:
        came: asyncio.Future[QueryAnswer | QueryRefused] = asyncio.get_running_loop().create_future()
        stop = self.begin(gateway, call, came.set_result)
        try:
            return await came
        finally:
            stop()

    def begin(
        self, gateway: NodeId, call: QueryCall, told: Callable[[QueryAnswer | QueryRefused], None]
    ) -> Callable[[], None]:
        """Begin with a query that is not secret: `told` is called once, perhaps at once, with its answer or why there
        is none. What is returned stops it, if it is under way."""
        held = self._replicas.get(call.model)
        if held is None or held[0] != call.artifact:
            held = self._offering.tensors.get(call.model)
        if held is None or held[0] != call.artifact or not held[1].serving:
            told(_refused("not-served", f"model {call.model} is not served here"))
            return _nothing
        replica, now_s = held[1], time.monotonic()
        slots = replica.slots
        if not (call.lease and slots.began(gateway, call.lease, now_s)) and not slots.took(gateway, now_s):
            what = f"all {slots.slots} places at {call.model} are taken here, or promised to other gateways"
            told(_refused("busy", what, LEASE_S, load=_load(replica, gateway, call)))
            return _nothing

        def ended(came: Answered | Refused | DaitnError) -> None:
            try:
                said = self._said(replica, gateway, call, came)
            finally:
                slots.ended(gateway)
            told(said)

        deadline_ns = time.monotonic_ns() + int(min(call.left_s, QUERY_S) * 1e9)
        try:
            arrays = arrays_of(call.inputs)
            ticket = replica.offer(arrays, rows_of(arrays, replica.inputs), deadline_ns, ended)
        except InputError as error:
            ended(error)
            return _nothing
        if isinstance(ticket, Refused):
            ended(ticket)
            return _nothing

        def stop() -> None:
            if not ticket.over:
                replica.forget(ticket)
                slots.ended(gateway)

        return stop

    def _said(
        self, replica: ServedReplica, gateway: NodeId, call: QueryCall, came: Answered | Refused | DaitnError
    ) -> QueryAnswer | QueryRefused:
        """What a gateway is told of a query that is over."""
        load = _load(replica, gateway, call)
        if isinstance(came, InputError):
            return _refused("input", came.render(), load=load)
        if isinstance(came, DaitnError):
            return _refused("lost", came.what, load=load)
        if isinstance(came, Refused):
            return _refused("busy", came.why, came.retry_after_s, load=load)
        self._answered += 1
        answer = QueryAnswer(
            outputs=tensors_of(came.outputs),
            queued_s=came.queued_s,
            engine_s=came.engine_s,
            batch_frac=came.batch_frac,
            load=load,
        )
        size = sum(len(tensor.data) for tensor in answer.outputs)
        if size > limits.QUERY_BYTES:
            return _refused("input", f"the answer has {size} bytes, {limits.QUERY_BYTES} may be; ask with fewer rows")
        return answer


def _nothing() -> None:
    """Stops what is over."""


def _load(replica: ServedReplica, gateway: NodeId, call: QueryCall) -> HostLoad:
    """How busy a model is here, and the slots that its gateway asked for."""
    lease = SlotLease(0, 0, 0.0) if not call.wanted else replica.slots.lease(gateway, call.wanted, time.monotonic())
    queue = replica.queue
    return HostLoad(
        queries=queue.queries(),
        work_s=min(queue.work_s(time.monotonic_ns()), QUERY_S),
        pace=queue.pace(),
        lease=lease.lease,
        slots=lease.slots,
        lease_s=lease.lasts_s,
    )


def _refused(
    reason: RefusalReason, what: str, retry_after_s: float = 0.0, *, load: HostLoad | None = None
) -> QueryRefused:
    return QueryRefused(reason=reason, what=what[:2000], retry_after_s=retry_after_s, load=load or HostLoad())
