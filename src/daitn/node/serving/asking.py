"""Asking: one query from its arrival at a gateway to its answer, over as many hosts as it takes in the time it has.

What a model computes is a pure function of the query, so a query may be asked again wherever work was lost; an answer
is given once, since the caller waits here. A host that says busy is believed for this query; one that does not answer
is left out for all. Nothing of a query is logged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from daitn.base import limits
from daitn.base.errors import DaitnError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_routing import Choice, QueryRouteEngine
from daitn.descriptors.serving import NamedTensor, QueryGoal
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused, decode_answer, encode_query

DEADLINE_S: Final = 10.0
"""Time of a query that names none."""

TRIES: Final = 4
"""Hosts one query is sent to at most."""

PATIENCE_LEAST_S: Final = 1.0
PATIENCE_FACTOR: Final = 10.0
"""A host that has not answered after ten times what was predicted, and a second at least, is not waited for."""

WAIT_S: Final = 0.05
"""Between two looks for a host where none answers yet: a lost one is replaced meanwhile."""

Caller = Callable[[NodeId, bytes, float], Awaitable[bytes]]
"""Sends bytes to a host and returns what it says within some seconds; errors as `Fabric.call`."""


class Step(NamedTuple):
    """One host that was asked: what was predicted, and what came."""

    host: NodeId
    why: str
    predicted_s: float
    came: str


class Asked(NamedTuple):
    """How a query ended: the answer, or a refusal; and the way there."""

    outcome: QueryAnswer | Refused
    steps: tuple[Step, ...]
    took_s: float


class Asking:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        call: Caller,
        counters: Counters,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._engine, self._call, self._counters, self._clock_ns = engine, call, counters, clock_ns

    async def ask(self, model: str, inputs: tuple[NamedTensor, ...], rows: int, goal: QueryGoal) -> Asked:
        """The answer to a query, or why there is none."""
        began_ns = self._clock_ns()
        allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
        steps: list[Step] = []
        tried: list[NodeId] = []
        size = sum(len(tensor.data) for tensor in inputs)
        if size > limits.QUERY_BYTES:
            what = f"the query's tensors have {size} bytes, {limits.QUERY_BYTES} are carried"
            return self._end(Refused(QueryRefusal.INPUT, what, offer="fewer rows"), steps, began_ns)
        said: Refused | None = None
        while True:
            now_ns = self._clock_ns()
            left_s = allowed_s - (now_ns - began_ns) / 1e9
            choice = self._engine.choose(model, rows, goal, left_s, now_ns, tried)
            if isinstance(choice, Refused):
                if choice.reason is QueryRefusal.NO_HOST and left_s > WAIT_S:
                    await asyncio.sleep(WAIT_S)
                    continue
                return self._end(choice if said is None or not tried else said, steps, began_ns)
            if steps:
                self._counters.count("queries_retried")
            outcome = await self._ask_one(choice, inputs, rows, left_s)
            came = "answered" if isinstance(outcome, QueryAnswer) else outcome.reason.value
            steps.append(Step(choice.route.host.node, choice.why, choice.predicted_s, came))
            if isinstance(outcome, QueryAnswer) or outcome.reason is QueryRefusal.INPUT:
                return self._end(outcome, steps, began_ns)
            said = outcome
            tried.append(choice.route.host.node)
            if len(tried) >= TRIES:
                return self._end(said, steps, began_ns)

    async def _ask_one(
        self, choice: Choice, inputs: tuple[NamedTensor, ...], rows: int, left_s: float
    ) -> QueryAnswer | Refused:
        host = choice.route.host.node
        call = QueryCall(model=choice.model, artifact=choice.artifact, left_s=max(0.0, left_s), inputs=inputs)
        patience_s = min(left_s, max(PATIENCE_LEAST_S, PATIENCE_FACTOR * choice.predicted_s))
        sent_ns = self._clock_ns()
        try:
            answer = decode_answer(await self._call(host, encode_query(call), patience_s))
        except (UnavailableError, PeerError, PolicyError) as error:
            if (book := self._engine.book(choice)) is not None:
                book.failed(self._clock_ns())
            self._counters.count("hosts_ejected")
            return Refused(QueryRefusal.LOST, f"host {host} gave no answer: {_kind(error)}", 1.0)
        finally:
            self._engine.done(choice)
        now_ns = self._clock_ns()
        book = self._engine.book(choice)
        if isinstance(answer, QueryRefused):
            if book is not None:
                book.refused(answer.wait_s, now_ns)
            reason = QueryRefusal.INPUT if answer.reason == "input" else QueryRefusal.BUSY
            reason = QueryRefusal.LOST if answer.reason == "lost" else reason
            return Refused(reason, answer.what, 0.0 if reason is QueryRefusal.INPUT else max(0.1, answer.retry_after_s))
        if book is not None:
            took_s = (now_ns - sent_ns) / 1e9
            book.answered(rows, took_s, answer.queued_s, answer.engine_s, answer.wait_s, now_ns)
        return answer

    def _end(self, outcome: QueryAnswer | Refused, steps: list[Step], began_ns: int) -> Asked:
        if isinstance(outcome, Refused):
            self._counters.count("queries_not_answered", outcome.reason.value)
        else:
            self._counters.count("queries_answered")
        return Asked(outcome, tuple(steps), (self._clock_ns() - began_ns) / 1e9)


def _kind(error: DaitnError) -> str:
    """Who must act, and what the error says; a host's words about a query are not passed on."""
    return f"{error.kind} ({error.what[:120]})" if isinstance(error, UnavailableError) else error.kind
