"""Gateway and hosts in one process: streams in memory with the credits of real ones, engines that tests steer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from daitn.base.errors import DaitnError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.grant import Holder
from daitn.descriptors.offers import SimulatedOffer
from daitn.descriptors.serving import EngineKind, ReplicaMeasured, Route, ServedModel, ServingGoal
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask
from daitn.node.engines.simulated import SimulatedEngine
from daitn.node.fabric.contract import STREAM_CREDITS
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.answering import Answering
from daitn.node.serving.telling import Patience, Telling
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.text_replica import TextReplica
from daitn.serving.text_engine import BatchMade, Ended, Said
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused

GATE = NodeId("gate")
MODEL = ModelName("talker")
LIKENESS = ArtifactId("b" * 64)
QUICK = SimulatedOffer(model=MODEL, first_s=0, prompt_token_s=0, token_s=0, jitter_frac=0)


class MemoryStream:
    """One end of a stream; `other` is the other one."""

    other: MemoryStream

    def __init__(self, peer: NodeId) -> None:
        self.peer = peer
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue(STREAM_CREDITS)
        self.gone = asyncio.Event()

    async def send(self, message: bytes, *, on_sent: Callable[[], None] | None = None) -> None:
        await self._or_gone(self.other.arrived.put(bytes(message)))

    def send_now(self, message: bytes) -> bool:
        if self.gone.is_set() or self.other.arrived.full():
            return False
        self.other.arrived.put_nowait(message)
        return True

    async def ready(self) -> None:
        """`send` waits by itself."""

    async def receive(self) -> bytes | None:
        found: bytes | None = await self._or_gone(self.arrived.get())
        return found

    def hand_on(self, take: Callable[[bytes], None], over: Callable[[DaitnError | None], None]) -> None:
        async def carry() -> None:
            try:
                while (message := await self.receive()) is not None:
                    take(message)
                over(None)
            except DaitnError as fault:
                await self.cancel()
                over(fault)

        self.carrying = asyncio.create_task(carry())

    async def finish(self) -> None:
        await self._or_gone(self.other.arrived.put(None))

    async def cancel(self) -> None:
        self.gone.set()
        self.other.gone.set()

    async def _or_gone(self, work: Any) -> Any:
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not self.gone.is_set():
                return task.result()
            raise UnavailableError(f"the stream with {self.peer} was cut")
        finally:
            task.cancel()
            gone.cancel()


class MemoryFabric:
    """Streams from a gateway to hosts."""

    def __init__(self) -> None:
        self.hosts: dict[NodeId, Any] = {}
        self.ends: dict[NodeId, MemoryStream] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def open_stream(self, receiver: Any, tag: str, *, timeout_s: float, light: bool = False) -> MemoryStream:
        if receiver.node not in self.hosts:
            raise UnavailableError(f"{receiver.node} is not there")
        ours, theirs = MemoryStream(receiver.node), MemoryStream(GATE)
        ours.other, theirs.other = theirs, ours
        self.ends[receiver.node] = ours
        self.tasks.append(asyncio.create_task(self._attend(self.hosts[receiver.node], tag, theirs)))
        return ours

    async def _attend(self, handler: Any, tag: str, stream: MemoryStream) -> None:
        try:
            await handler(GATE, tag, stream)
        except Exception:  # noqa: BLE001  # as a fabric does: the stream ends
            await stream.cancel()

    async def cut(self, host: str) -> None:
        """The host is gone."""
        self.hosts.pop(NodeId(host))
        await self.ends[NodeId(host)].cancel()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Spelling:
    """An engine that spells out a text, a word each time `step` allows; counts what it made and who stopped it."""

    kind = EngineKind.SIMULATED
    tasks = (TextTask.GENERATE,)
    concurrency = 4

    def __init__(self, words: int = 20) -> None:
        self.words = [f"w{number} " for number in range(words)]
        self.made = self.stopped = 0
        self.alive = True
        self.step = asyncio.Semaphore(10_000)
        self.given: list[Given] = []

    async def generate(self, asked: Generation, given: Given) -> AsyncGenerator[Said | Ended, None]:
        self.given.append(given)
        try:
            for place in range(len(given.tokens), len(self.words)):
                await self.step.acquire()
                self.made += 1
                yield Said((place,), self.words[place])
            yield Ended("stop", 1, len(self.words))
        except (GeneratorExit, asyncio.CancelledError):
            self.stopped += 1
            raise

    async def batch(self, asked: TextBatch) -> BatchMade:
        raise UnavailableError("no batches")

    def memory_bytes(self) -> int:
        return 0

    async def close(self) -> None:
        self.alive = False


class AnswerWorld:
    """A gateway that asks, and hosts with engines that tests steer."""

    begins = False
    """Whether hosts begin with queries of tensors where they read them."""

    def __init__(self, *, patience: Patience = Patience(stall_s=1.5, first_least_s=1.5)) -> None:  # noqa: B008
        self.fabric = MemoryFabric()
        self.counters = Counters()
        self.host_counters = Counters()
        self.engine = QueryRouteEngine()
        self.links = AnswerLinks(self.fabric)  # type: ignore[arg-type]
        self.asking = TextAsking(self.engine, self.links, self.counters, patience)
        self.routes: list[Route] = []
        self.called: list[QueryCall] = []
        self.hung, self.stopped = False, 0

    async def tensors(self, _: NodeId, call: QueryCall) -> QueryAnswer | QueryRefused:
        """A host's answer to tensors: what came in; hosts that hang are told to by `hung`."""
        self.called.append(call)
        if self.hung:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.stopped += 1
                raise
        return QueryAnswer(outputs=call.inputs, engine_s=0.001)

    def begin(self, node: NodeId, call: QueryCall, told: Callable[[Any], None]) -> Callable[[], Any]:
        """The same, begun with by the host without a task of its own."""
        task = asyncio.ensure_future(self.tensors(node, call))
        task.add_done_callback(lambda done: None if done.cancelled() else told(done.result()))
        return task.cancel

    def add(self, node: str, engine: Any, *, model: ModelName = MODEL, region: str = "") -> Answering:
        """A host, asked in the order of being added."""
        row_s = 0.01 * (1 + len(self.routes))
        measured = ReplicaMeasured(engine=engine.kind, row_s=row_s, batch_rows=4, batch_s=1.015 * row_s)
        begin = self.begin if self.begins else None
        answering = Answering(self.fabric, self.host_counters, self.tensors, begin)  # type: ignore[arg-type]
        answering.gateways = frozenset([GATE])

        async def make() -> Any:
            return engine

        answering.replicas[model] = TextReplica(LIKENESS, engine, measured, make, lambda _: None)
        self.fabric.hosts[NodeId(node)] = answering.attend
        route = Route(host=Holder(node=NodeId(node)), region=region, concurrency=4, measured=measured)
        self.routes.append(route)
        before = self.engine.models.get(model)
        routes = (route,) if before is None else (*before.routes, route)
        others = [one for name, one in self.engine.models.items() if name != model]
        self.engine.follow([*others, served(model, *routes, tasks=tuple(engine.tasks))], time.monotonic_ns())
        return answering

    def in_flight(self) -> int:
        """Queries that the gateway believes under way."""
        return sum(len(kept.table._at) for kept in self.engine._kept.values())

    async def __aenter__(self) -> AnswerWorld:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.links.close()
        await self.fabric.close()


def served(model: ModelName, *routes: Route, tasks: tuple[TextTask, ...] = (TextTask.GENERATE,)) -> ServedModel:
    return ServedModel(
        model=model, artifact=LIKENESS, owner=OwnerId("ada"), goal=ServingGoal(), tasks=tasks, routes=routes
    )


def simulated(**changes: Any) -> SimulatedEngine:
    import msgspec

    return SimulatedEngine(msgspec.structs.replace(QUICK, **changes))


async def whole(telling: Telling) -> str:
    """All pieces together."""
    parts: list[str] = []
    while (text := await telling.next()) is not None:
        parts.append(text)
    return "".join(parts)
