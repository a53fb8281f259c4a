"""A host's side of queries: one stream from each gateway, many queries on it (`wire.answers`).

A query of tensors is queued where it is read, and told where its batch ended. One of texts is a task of its own: it
waits for a place in its model's engine, and for the gateway's leave before each piece, so that what a slow client does
not take is not made either. A query that nobody wants any more, or whose gateway is gone, is cancelled, and its engine
is free at once. Nothing of a query is logged or kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.descriptors.texts import Generation, Given, TextBatch, check_text_ask, task_of
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.serving.frames import FrameWriter
from daitn.node.serving.text_replica import FullError, TextReplica
from daitn.serving.sealing import HostSecret, OpenedText
from daitn.serving.tensors import tensor_of
from daitn.serving.text_engine import Ended
from daitn.wire.answers import (
    PIECES_MOST,
    STREAM_WORD,
    BatchAnswered,
    MoreWanted,
    NoMoreWanted,
    QueryAsked,
    QueryDone,
    SealedPiece,
    SecretTextAsked,
    TextAsked,
    TextEnded,
    TextPiece,
    TextRefused,
    ToHost,
    decode_to_host,
    encode_frame,
)
from daitn.wire.queries import HostLoad, KeyCall, KeyTold, QueryAnswer, QueryCall, QueryRefused, RefusalReason
from daitn.wire.secret_queries import SEALED_BYTES, SecretPiece

UNDER_WAY: Final = 4096
"""Queries of one gateway under way at a time: beyond what engines and their queues take."""

SECRET_BYTES: Final = SEALED_BYTES - 65_536
"""Vectors or scores of one secret query: what is carried, less their names and what is filled up."""
TEXTS_MANY: Final = 8
"""With so many texts under way for a gateway, their pieces are gathered: a millisecond brings company."""


Tensors = Callable[[NodeId, QueryCall | KeyCall], Awaitable[QueryAnswer | QueryRefused | KeyTold]]
"""Answers a gateway's query of tensors, or tells the key for secret ones."""

Told = Callable[[QueryAnswer | QueryRefused], None]
Beginning = Callable[[NodeId, QueryCall, Told], Callable[[], None]]
"""Begins with a gateway's query of tensors that is not secret and tells its answer once; what is returned stops it."""


class Answering:
    """See the module's docstring. `replicas`: by name, filled by whoever opens them; `tensors`: answers the others,
    those that are not secret by `begin`, where that is given."""

    def __init__(self, fabric: Fabric, counters: Counters, tensors: Tensors, begin: Beginning | None = None) -> None:
        self.tensors, self.begin = tensors, begin
        self.replicas: dict[ModelName, TextReplica] = {}
        self.gateways: frozenset[NodeId] = frozenset()
        self.counters = counters
        self.answered = 0
        self.secret: HostSecret | None = None
        """What opens secret queries; None: nothing does."""
        self._fabric = fabric

    async def start(self) -> None:
        """Accept streams of gateways from now on."""
        await self._fabric.accept_streams(self.attend, word=STREAM_WORD)

    async def attend(self, peer: NodeId, _: str, stream: Stream) -> None:
        """Answer one gateway until its stream ends."""
        if peer not in self.gateways:
            self.counters.count("queries_refused", "not-a-gateway")
            raise PolicyError(f"{peer} is no gateway of this domain, as far as this host was told")
        await _Link(self, stream).run()


class _Link:
    """One gateway's stream."""

    def __init__(self, answering: Answering, stream: Stream) -> None:
        self._all, self._stream = answering, stream
        self._writer = FrameWriter(stream)
        self._credits: dict[int, asyncio.Semaphore] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._begun: dict[int, Callable[[], None]] = {}
        """Queries of tensors under way, and what stops each."""

    async def run(self) -> None:
        writing = asyncio.create_task(self._writer.run())
        over = asyncio.get_running_loop().create_future()
        self._stream.hand_on(self._read, lambda _: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            for stop in self._begun.values():
                stop()
            tasks = [*self._tasks.values(), writing]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, data: bytes) -> None:
        if self._stream.peer not in self._all.gateways:
            raise PolicyError(f"{self._stream.peer} is no gateway of this domain any more")
        for frame in decode_to_host(data):
            self._take(frame)

    def _take(self, frame: ToHost) -> None:
        number = frame.query
        match frame:
            case QueryAsked(call=call):
                if self._is_full(number):
                    busy = f"{self._under_way} queries of this gateway are under way"
                    self._say(number, QueryRefused(reason="busy", what=busy, retry_after_s=1.0))
                elif self._all.begin is None or isinstance(call, KeyCall) or call.sealed is not None:
                    self._tasks[number] = asyncio.create_task(self._query(number, call))
                else:
                    self._begin(self._all.begin, number, call)
            case TextAsked() | SecretTextAsked():
                if self._is_full(number):
                    self._refuse(number, "busy", f"{self._under_way} queries of this gateway are under way", 1.0)
                    return
                self._credits[number] = asyncio.Semaphore(frame.pieces)
                self._tasks[number] = asyncio.create_task(self._answer(frame))
            case MoreWanted(pieces=pieces):
                credit = self._credits.get(number)
                for _ in range(0 if credit is None else min(pieces, PIECES_MOST)):
                    self._credits[number].release()
            case NoMoreWanted():
                if (task := self._tasks.get(number)) is not None:
                    self._all.counters.count("answers_stopped")
                    task.cancel()
                elif (stop := self._begun.pop(number, None)) is not None:
                    self._all.counters.count("answers_stopped")
                    stop()

    @property
    def _under_way(self) -> int:
        return len(self._tasks) + len(self._begun)

    def _is_full(self, number: int) -> bool:
        """Whether another query may not begin."""
        return number in self._tasks or number in self._begun or self._under_way >= UNDER_WAY

    def _begin(self, begin: Beginning, number: int, call: QueryCall) -> None:
        over = False

        def told(answer: QueryAnswer | QueryRefused) -> None:
            nonlocal over
            over = True
            self._begun.pop(number, None)
            if self._writer.free:
                self._say(number, answer)
            else:
                self._tasks[number] = asyncio.create_task(self._say_later(number, answer))

        stop = begin(self._stream.peer, call, told)
        if not over:
            self._begun[number] = stop

    async def _query(self, number: int, call: QueryCall | KeyCall) -> None:
        try:
            answer = await self._all.tensors(self._stream.peer, call)
            await self._writer.room()
            self._say(number, answer)
        finally:
            self._tasks.pop(number, None)

    async def _say_later(self, number: int, answer: QueryAnswer | QueryRefused) -> None:
        try:
            await self._writer.room()
            self._say(number, answer)
        finally:
            self._tasks.pop(number, None)

    def _say(self, number: int, answer: QueryAnswer | QueryRefused | KeyTold) -> None:
        if isinstance(answer, QueryRefused):
            self._all.counters.count("queries_refused", answer.reason)
        alone = self._under_way == (number in self._tasks)
        self._writer.put_now(encode_frame(QueryDone(query=number, answer=answer)), at_once=alone)

    async def _answer(self, frame: TextAsked | SecretTextAsked) -> None:
        replica = self._all.replicas.get(frame.model)
        opened: OpenedText | None = None
        try:
            if replica is None or replica.artifact != frame.artifact or not replica.serving:
                self._refuse(frame.query, "not-served", f"model {frame.model} is not served here")
                return
            if isinstance(frame, SecretTextAsked) and (opened := self._opened(frame)) is None:
                return
            asked = frame.asked if isinstance(frame, TextAsked) else _of(opened).asked
            if task_of(asked) not in replica.engine.tasks:
                raise InputError(f"model {frame.model} does not {task_of(asked).value}")
            check_text_ask(asked)
            async with asyncio.timeout(frame.left_s), replica.place(frame.left_s) as queued_s:
                if isinstance(asked, Generation):
                    given = frame.given if isinstance(frame, TextAsked) else _of(opened).given
                    await self._generate(frame.query, asked, given, replica, queued_s, opened)
                else:
                    await self._batch(frame.query, asked, replica, queued_s, opened)
            self._all.answered += 1
        except InputError as error:
            await self._wrong(frame.query, error, opened)
        except FullError as error:
            self._refuse(frame.query, "busy", error.what, max(0.1, error.wait_s), replica)
        except UnavailableError as error:
            what = error.what if opened is None else "the engine lost it"
            self._refuse(frame.query, "lost", what, 0.0, replica)
        except TimeoutError:
            self._refuse(frame.query, "lost", f"it was not answered within {frame.left_s:.3f} s", 0.0, replica)
        finally:
            self._credits.pop(frame.query, None)
            self._tasks.pop(frame.query, None)
            if replica is not None and not replica.engine.alive:
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(replica.revive())

    def _opened(self, frame: SecretTextAsked) -> OpenedText | None:
        """A secret query; None, and refused, where it is none for this host: another may be able to read it."""
        try:
            if self._all.secret is None:
                raise InputError("this host opens no secret queries")
            return self._all.secret.open_text(frame.sealed, frame.model, frame.artifact)
        except InputError as error:
            self._refuse(frame.query, "not-served", error.render())
            return None

    async def _wrong(self, query: int, error: InputError, opened: OpenedText | None) -> None:
        """What is wrong with what was asked: of a secret query, for its client alone."""
        if opened is None:
            self._refuse(query, "input", error.render())
            return
        await self._seal(query, opened, SecretPiece(at=0, fault=error.render()[:4000]))
        await self._writer.put(TextEnded(query=query, reason="stop"))

    async def _seal(self, query: int, opened: OpenedText, piece: SecretPiece, *, patient: bool = False) -> None:
        number = opened.pieces
        await self._writer.put(SealedPiece(query=query, number=number, data=opened.seal(piece)), patient=patient)

    async def _generate(
        self,
        query: int,
        asked: Generation,
        given: Given,
        replica: TextReplica,
        queued_s: float,
        opened: OpenedText | None,
    ) -> None:
        credit, at = self._credits[query], len(given.text)
        first_s = worked_s = 0.0
        ended: Ended | None = None
        since_s = time.monotonic()
        async with aclosing(replica.engine.generate(asked, given)) as pieces:
            async for piece in pieces:
                took_s = time.monotonic() - since_s
                worked_s += took_s
                if isinstance(piece, Ended):
                    ended = piece
                    break
                if first_s:
                    replica.work.told(max(1, len(piece.tokens)), took_s)
                first_s = first_s or worked_s
                await credit.acquire()
                patient = at > len(given.text) and len(self._credits) >= TEXTS_MANY  # the first piece never waits
                if opened is None:
                    frame = TextPiece(query=query, at=at, tokens=piece.tokens, text=piece.text)
                    await self._writer.put(frame, patient=patient)
                else:
                    said = SecretPiece(at=at, tokens=piece.tokens, text=piece.text)
                    await self._seal(query, opened, said, patient=patient)
                at += len(piece.text)
                since_s = time.monotonic()
        if ended is None:
            raise UnavailableError("the engine ended without saying so")
        if opened is not None:
            await credit.acquire()
            await self._seal(query, opened, SecretPiece(at=at, end=ended.reason))
        end = TextEnded(
            query=query,
            reason=ended.reason,
            prompt_tokens=ended.prompt_tokens,
            tokens=ended.tokens,
            simulated=replica.simulated,
            queued_s=queued_s,
            first_s=first_s,
            engine_s=worked_s,
            load=replica.load(leaving=1),
        )
        await self._writer.put(end)

    async def _batch(
        self, query: int, asked: TextBatch, replica: TextReplica, queued_s: float, opened: OpenedText | None
    ) -> None:
        began_s = time.monotonic()
        made = await replica.engine.batch(asked)
        if opened is not None:
            values = tensor_of("values", made.values)
            if (size := len(values.data) + sum(map(len, made.labels))) > SECRET_BYTES:
                raise InputError(f"the answer has {size} bytes, {SECRET_BYTES} are carried", todo="ask for fewer texts")
            await self._seal(query, opened, SecretPiece(at=0, values=values, labels=made.labels))
            end = TextEnded(
                query=query,
                reason="stop",
                prompt_tokens=made.prompt_tokens,
                simulated=replica.simulated,
                queued_s=queued_s,
                first_s=time.monotonic() - began_s,
                load=replica.load(leaving=1),
            )
            await self._writer.put(end)
            return
        answer = BatchAnswered(
            query=query,
            values=tensor_of("values", made.values),
            labels=made.labels,
            prompt_tokens=made.prompt_tokens,
            simulated=replica.simulated,
            queued_s=queued_s,
            first_s=time.monotonic() - began_s,
            load=replica.load(leaving=1),
        )
        await self._writer.put(answer)

    def _refuse(
        self,
        query: int,
        reason: RefusalReason,
        what: str,
        retry_after_s: float = 0.0,
        replica: TextReplica | None = None,
    ) -> None:
        self._all.counters.count("queries_refused", reason)
        load = HostLoad() if replica is None else replica.load()
        refused = TextRefused(query=query, reason=reason, what=what[:2000], retry_after_s=retry_after_s, load=load)
        self._writer.put_now(encode_frame(refused))


def _of(opened: OpenedText | None) -> OpenedText:
    assert opened is not None
    return opened
