"""Comparing: now and then a query that was answered is asked of a second host, and both answers are held together.

The caller has the first answer already and waits for nothing. The second host is one that the query could have gone to
by its own goal, and is paid for by the budget of second copies, so nothing is compared where hosts are busy. What was
asked and answered is let go when it is over; counts of pairs of hosts stay (`OutcomeBook.compared`), and the control
centre says whose answers are odd (`decision.answers_compared`). Where it cannot, a verification unit computes the
model, too, and compared queries are asked of that as well (`ServedModel.referee`), where a goal allows its operator,
region and price. Secret queries are read by one host, and are not compared; no more are models of texts, whose words
may be drawn.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from daitn.base import limits
from daitn.base.errors import DaitnError
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import Refused, admissible
from daitn.descriptors.serving import ServedModel
from daitn.node.serving.asked_query import Caller, Coming, Query
from daitn.node.serving.outcome_book import OutcomeBook
from daitn.serving.closeness import answers_alike
from daitn.wire.queries import QueryAnswer, QueryCall

DISPUTED_EVERY: Final = 20
"""The same while hosts differ and a referee is there: that is to be decided soon, and it serves nobody else."""

EVERY: Final = 200
"""Answered queries of a model from one comparison to the next, drawn between a half and one and a half of this: a host
that answers wrongly is found within some thousand queries, and others compute half a percent more."""

AT_ONCE: Final = 16
"""Comparisons under way."""

Held = tuple[NodeId, QueryAnswer]
"""Who answered, and what."""

Again = Coroutine[Any, Any, Held | None]
"""Asks another host the same; who answered and what, or None."""

REFEREE_S: Final = 10.0
"""Longest a unit is waited for."""


class Comparing:
    """See the module's docstring."""

    def __init__(self, book: OutcomeBook, counters: Counters, call: Caller) -> None:
        self._book, self._counters, self._call = book, counters, call
        self._random = random.Random()
        self._left: dict[ModelName, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def due(self, served: ServedModel) -> bool:
        """Whether the query of this model that was just answered is to be asked of another host, too."""
        if not served.routes or (len(served.routes) < 2 and served.referee is None):
            return False
        every = EVERY if served.referee is None else DISPUTED_EVERY
        left = self._left.get(served.model)
        if left is None or left <= 0:
            if len(self._left) >= limits.MODELS_SERVED:
                self._left.clear()
            self._left[served.model] = every // 2 + self._random.randrange(every)
        else:
            self._left[served.model] = min(left, 2 * every) - 1
        return left == 0 and len(self._tasks) < AT_ONCE

    def begin(self, served: ServedModel, host: NodeId, answer: QueryAnswer, again: Again, query: Query) -> None:
        """Hold `host`'s answer together with what `again` brings, and what a referee says to the query."""
        task = asyncio.get_running_loop().create_task(self._compare(served, host, answer, again, query))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self, served: ServedModel, host: NodeId, answer: QueryAnswer, again: Again, query: Query
    ) -> None:
        found = ((host, answer), await again, await self._of_referee(query, served))
        for (one, said), (other, beside) in itertools.combinations([held for held in found if held is not None], 2):
            same = answers_alike(said.outputs, beside.outputs)
            if same:
                self._counters.count("answers_compared")
            else:
                self._counters.count("answers_unlike")
            self._book.compared(served, one, other, same=same)

    async def _of_referee(self, query: Query, served: ServedModel) -> Held | None:
        """What a verification unit computes, if there is one and the query's goal allows it. It is no host of the
        model: nothing is learnt of its pace."""
        if served.referee is None:
            return None
        goal = msgspec.structs.replace(query.goal, deadline_s=None)
        if isinstance(admissible(msgspec.structs.replace(served, routes=(served.referee,)), goal), Refused):
            return None
        call = QueryCall(model=served.model, artifact=served.artifact, left_s=REFEREE_S, inputs=query.inputs)
        coming = self._call(served.referee.host, call, REFEREE_S)
        try:
            await _known(coming)
            answer = coming.result()
        except asyncio.CancelledError:
            coming.cancel()
            raise
        except DaitnError:
            return None
        return (served.referee.host.node, answer) if isinstance(answer, QueryAnswer) else None


async def _known(coming: Coming) -> None:
    """Until it is known what comes."""
    if coming.done():
        return
    some: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    coming.call_when_done(lambda: None if some.done() else some.set_result(None))
    try:
        await some
    finally:
        coming.call_when_done(None)
