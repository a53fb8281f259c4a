"""A replica: one model's engines at this host behind one queue.

Each engine has a task that takes the next batch whenever the engine is free. A batch that the model fails on is tried
again query by query, so that one bad query costs no other its answer. An engine that died is started anew; one that
dies `DEATHS` times within `DEATHS_S` takes the replica out of service, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from daitn.base.errors import DaitnError, InputError, PeerError, UnavailableError
from daitn.decision.query_route.slots import SlotBook
from daitn.descriptors.serving import ReplicaMeasured, TensorSpec
from daitn.serving.batching import QUEUE_QUERIES, BatchQueue, Refused, Waiting
from daitn.serving.engine import BATCH_ROWS, Engine, Warmed, warm_up
from daitn.serving.tensors import Arrays, cut_rows, join_rows

DEATHS: Final = 3
DEATHS_S: Final = 60.0
"""So many deaths of engines within this time are no accident."""

_log = logging.getLogger(__name__)

EngineMaker = Callable[[], Awaitable[Engine]]


class Answered(NamedTuple):
    """A query's outputs, how long it waited, how long its batch took in the engine, and what share of it it was."""

    outputs: Arrays
    queued_s: float
    engine_s: float
    batch_frac: float = 1.0


class Ticket:
    """Of one query in the queue: `ended` is called once with what came of it, unless nobody waits any more."""

    __slots__ = ("_ended", "over")

    def __init__(self, ended: Callable[[Answered | DaitnError], None]) -> None:
        self._ended = ended
        self.over = False

    def end(self, came: Answered | DaitnError) -> None:
        """That came of it."""
        if self.over:
            return
        self.over = True
        try:
            self._ended(came)
        except Exception:  # noqa: BLE001  # a bug of whoever waits is not the engine's, nor other queries'
            _log.exception("what came of a query could not be told")


class ServedReplica:
    """See the module's docstring; made by `open_replica`. `on_failed`: called once, with why it is out of service."""

    def __init__(
        self, engines: list[Engine], warmed: Warmed, make: EngineMaker, on_failed: Callable[[str], None]
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = engines[0].inputs
        self.outputs = warmed.outputs
        self.measured: ReplicaMeasured = warmed.measured
        self.queue: BatchQueue[Ticket] = BatchQueue(
            rows_most=engines[0].rows_most,
            engines=len(engines),
            row_s=warmed.measured.row_s,
            batch_rows=warmed.measured.batch_rows,
            batch_s=warmed.measured.batch_s,
        )
        self.slots = SlotBook(QUEUE_QUERIES + len(engines) * BATCH_ROWS)
        """Whose turn it is: places in the queue and in the engines, leased to gateways."""
        self._make = make
        self._on_failed = on_failed
        self._arrived = asyncio.Event()
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._closed = False
        self._tasks = [asyncio.create_task(self._work(engine)) for engine in engines]

    @property
    def serving(self) -> bool:
        """Whether queries are taken."""
        return not self._closed

    def offer(
        self, arrays: Arrays, rows: int, deadline_ns: int, ended: Callable[[Answered | DaitnError], None]
    ) -> Ticket | Refused:
        """Queue a query; `ended` is called in the turn of the loop in which its answer comes, with an InputError where
        the model fails on it, an UnavailableError where the engine was lost or the deadline passed while it waited."""
        if self._closed:
            return Refused("the model is not served here any more", 0.0)
        now_ns, ticket = time.monotonic_ns(), Ticket(ended)
        refused = self.queue.offer(Waiting(arrays, rows, now_ns, deadline_ns, ticket), now_ns)
        if refused is not None:
            return refused
        self._arrived.set()
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for it any more; it may be over."""
        if not ticket.over:
            ticket.over = True
            self.queue.remove(ticket)

    async def infer(self, arrays: Arrays, rows: int, deadline_ns: int) -> Answered | Refused:
        """Queue a query and wait for its answer; raises what `offer` tells."""
        came: asyncio.Future[Answered | DaitnError] = asyncio.get_running_loop().create_future()
        ticket = self.offer(arrays, rows, deadline_ns, came.set_result)
        if isinstance(ticket, Refused):
            return ticket
        try:
            found = await came
        finally:
            self.forget(ticket)
        if isinstance(found, DaitnError):
            raise found
        return found

    async def close(self, drain_s: float = 0.0) -> None:
        """Take no more queries, let those that wait or are computed be answered for `drain_s`, end the engines."""
        self._closed = True
        if drain_s and self.queue.queries():
            deadline = time.monotonic() + drain_s
            while self.queue.queries() and time.monotonic() < deadline and any(not task.done() for task in self._tasks):
                await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while batch := self.queue.take():
            self._fail(batch, UnavailableError("the model is not served here any more"))

    async def _work(self, engine: Engine) -> None:
        try:
            while True:
                self._fail(self.queue.drop_late(time.monotonic_ns()), UnavailableError("it waited past its deadline"))
                batch = self.queue.take()
                if not batch:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                await self._run(engine, batch)
                if not engine.alive:
                    engine = await self._revive(engine)
        except DaitnError as error:
            self._out_of_service(error.what)
        finally:
            await engine.close()

    async def _run(self, engine: Engine, batch: list[Waiting[Ticket]]) -> None:
        rows = [query.rows for query in batch]
        begun_ns = time.monotonic_ns()
        number = self.queue.begun(sum(rows), begun_ns, len(batch))
        took_s: float | None = None
        came: list[Answered | DaitnError] = []
        try:
            outputs = cut_rows(await engine.infer(join_rows([query.arrays for query in batch])), rows)
            took_s = (time.monotonic_ns() - begun_ns) / 1e9
            came += [
                Answered(own, (begun_ns - query.arrived_ns) / 1e9, took_s, query.rows / sum(rows))
                for query, own in zip(batch, outputs, strict=True)
            ]
        except InputError as error:
            came += [error] if len(batch) == 1 else []
        except (UnavailableError, PeerError) as error:
            came += [UnavailableError(error.what, todo=error.todo)] * len(batch)
        except asyncio.CancelledError:
            self._fail(batch, UnavailableError("the host stopped serving the model"))
            raise
        finally:
            self.queue.ended(number, sum(rows), took_s)
        if not came:
            for query in batch:
                if engine.alive:
                    await self._run(engine, [query])
                else:
                    self._fail([query], UnavailableError("the engine was lost at this"))
        elif len(self.queue) and engine.alive:
            # Others wait for the engine: it goes on before these are told.
            asyncio.get_running_loop().call_soon(_tell, batch, came)
        else:
            _tell(batch, came)

    async def _revive(self, engine: Engine) -> Engine:
        """Another engine in place of one that died; UnavailableError where that happens too often."""
        await engine.close()
        now_s = time.monotonic()
        self._deaths.append(now_s)
        if len(self._deaths) == DEATHS and now_s - self._deaths[0] < DEATHS_S:
            raise UnavailableError(f"its engine died {DEATHS} times within {now_s - self._deaths[0]:.0f} s")
        _log.warning("an engine died and is started anew")
        return await self._make()

    def _out_of_service(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            while batch := self.queue.take():
                self._fail(batch, UnavailableError(f"the model is out of service here: {why}"))
            self._on_failed(why)

    def _fail(self, batch: list[Waiting[Ticket]], error: DaitnError) -> None:
        _tell(batch, [error] * len(batch))


def _tell(batch: Sequence[Waiting[Ticket]], came: Sequence[Answered | DaitnError]) -> None:
    for query, one in zip(batch, came, strict=True):
        query.ticket.end(one)


async def open_replica(make: EngineMaker, engines: int, on_failed: Callable[[str], None]) -> ServedReplica:
    """A replica with so many engines, warmed up. Raises as the engine does; then nothing is left."""
    made: list[Engine] = []
    try:
        for _ in range(max(1, engines)):
            made.append(await make())
        warmed = await warm_up(made[0])
    except BaseException:
        for engine in made:
            await engine.close()
        raise
    return ServedReplica(made, warmed, make, on_failed)
