"""A replica of a model of texts: an engine that answers many at a time, those that must wait, and its revival.

As `replica` is for tensors, but nothing is joined into batches here: an engine of texts does that by itself, token by
token. A query waits for one of the engine's places within its time, or is refused before it has cost anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

from daitn.base.errors import DaitnError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.descriptors.serving import EngineKind, ReplicaMeasured
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask, Turn
from daitn.node.serving.replica import DEATHS, DEATHS_S
from daitn.serving.host_work import HostWork
from daitn.serving.text_engine import Ended, TextEngine
from daitn.wire.queries import HostLoad

WAITING: Final = 256
"""Queries that may wait for a place."""

PROBE_TOKENS: Final = 4
"""Tokens of the continuation by which an engine is warmed up and measured."""

_log = logging.getLogger(__name__)

TextEngineMaker = Callable[[], Awaitable[TextEngine]]


class FullError(UnavailableError):
    """A query may not wait here; nothing was spent on it. `wait_s`: when a place would be free."""

    def __init__(self, what: str, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__(what)


class TextReplica:
    """See the module's docstring; made by `open_text_replica`. `on_failed`: called once, with why it is over."""

    def __init__(
        self,
        artifact: ArtifactId,
        engine: TextEngine,
        measured: ReplicaMeasured,
        make: TextEngineMaker,
        on_failed: Callable[[str], None],
    ) -> None:
        self.artifact, self.engine, self.measured = artifact, engine, measured
        self._make, self._on_failed = make, on_failed
        self._places = asyncio.Semaphore(engine.concurrency)
        self._waiting = 0
        self._under_way = 0
        self.work = HostWork(measured.row_s, token_s_of(measured, engine))
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._reviving = asyncio.Lock()
        self.serving = True

    @property
    def simulated(self) -> bool:
        """Whether nothing is computed here."""
        return self.engine.kind is EngineKind.SIMULATED

    def wait_s(self) -> float:
        """How long a query that comes now would wait."""
        if self._under_way < self.engine.concurrency:
            return 0.0
        return self.work.mean_s * (self._waiting + 1) / self.engine.concurrency

    def load(self, leaving: int = 0) -> HostLoad:
        """What a gateway is told of it, with so many that leave now."""
        under_way = self._under_way - leaving
        work_s = min(1e6, self.work.work_s(under_way, self._waiting))
        return HostLoad(queries=self._waiting + under_way, work_s=work_s, pace=self.work.pace(under_way))

    @asynccontextmanager
    async def place(self, left_s: float) -> AsyncIterator[float]:
        """A place in the engine, and how long it was waited for. FullError where there is none in time."""
        if not self.serving:
            raise FullError("the model is not served here any more", 0.0)
        wait_s = self.wait_s()
        if self._waiting >= WAITING or wait_s > left_s:
            raise FullError(
                f"it would wait {wait_s:.3f} s here behind {self._waiting}, {left_s:.3f} s are left", wait_s
            )
        came_s = time.monotonic()
        self._waiting += 1
        try:
            async with asyncio.timeout(left_s):
                await self._places.acquire()
        except TimeoutError:
            raise FullError("no place was free in its time", self.wait_s()) from None
        finally:
            self._waiting -= 1
        began_s = time.monotonic()
        self._under_way += 1
        try:
            yield began_s - came_s
        finally:
            self._under_way -= 1
            self._places.release()
            self.work.ended(time.monotonic() - began_s)

    async def revive(self) -> None:
        """Another engine in place of one that died; the replica is over where that happens too often."""
        async with self._reviving:
            if self.engine.alive or not self.serving:
                return
            await self.engine.close()
            now_s = time.monotonic()
            self._deaths.append(now_s)
            try:
                if len(self._deaths) == DEATHS and now_s - self._deaths[0] < DEATHS_S:
                    raise UnavailableError(f"its engine died {DEATHS} times within {now_s - self._deaths[0]:.0f} s")
                _log.warning("an engine of texts died and is started anew")
                self.engine = await self._make()
            except DaitnError as error:
                self.serving = False
                self._on_failed(error.what)

    async def close(self) -> None:
        """Take no more queries, end the engine."""
        self.serving = False
        await self.engine.close()


def token_s_of(measured: ReplicaMeasured, engine: TextEngine) -> float:
    """What a token took when the host measured itself; 0 for what continues no texts."""
    if TextTask.GENERATE not in engine.tasks:
        return 0.0
    return max(0.0, measured.batch_s - measured.row_s) / max(1, measured.batch_rows - 1)


async def open_text_replica(
    artifact: ArtifactId, make: TextEngineMaker, on_failed: Callable[[str], None]
) -> TextReplica:
    """A replica, warmed up and measured. Raises as the engine does; then nothing is left."""
    engine = await make()
    try:
        measured = await _measure(engine)
    except BaseException:
        await engine.close()
        raise
    return TextReplica(artifact, engine, measured, make, on_failed)


async def _measure(engine: TextEngine) -> ReplicaMeasured:
    """Ask twice: the first time warms up. A row is the first token, or one text; a batch is `PROBE_TOKENS` of them.

    A continuation is asked as a chat, or as a text where the model knows no chats.
    """
    row_s, batch_s = 0.0, 0.0
    chat = Generation(turns=(Turn(role="user", text="one"),), tokens_most=PROBE_TOKENS)
    for asked in (chat, chat):
        if TextTask.GENERATE in engine.tasks:
            try:
                row_s, batch_s = await _spoken(engine, asked)
            except DaitnError:
                row_s, batch_s = await _spoken(engine, Generation(prompt="one", tokens_most=PROBE_TOKENS))
        else:
            task: Literal["embed", "classify"] = "embed" if TextTask.EMBED in engine.tasks else "classify"
            began_s = time.perf_counter()
            await engine.batch(TextBatch(task=task, texts=("one",)))
            row_s = time.perf_counter() - began_s
            await engine.batch(TextBatch(task=task, texts=("one",) * PROBE_TOKENS))
            batch_s = time.perf_counter() - began_s - row_s
    return ReplicaMeasured(
        engine=engine.kind,
        memory_bytes=engine.memory_bytes(),
        row_s=row_s,
        batch_rows=PROBE_TOKENS,
        batch_s=max(row_s, batch_s),
    )


async def _spoken(engine: TextEngine, asked: Generation) -> tuple[float, float]:
    """Seconds to the first piece of a continuation, and to its end."""
    began_s, first_s = time.perf_counter(), 0.0
    async for piece in engine.generate(asked, Given()):
        if not first_s and not isinstance(piece, Ended):
            first_s = time.perf_counter() - began_s
    took_s = time.perf_counter() - began_s
    return first_s or took_s, took_s
