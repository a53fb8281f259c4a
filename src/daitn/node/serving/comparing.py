"""Comparing: now and then a query that was answered is asked of a second host, and both answers are held together.

The caller has the first answer already and waits for nothing. The second host is one that the query could have gone to
by its own goal, and is paid for by the budget of second copies, so nothing is compared where hosts are busy. What was
asked and answered is let go when it is over; counts of pairs of hosts stay (`OutcomeBook.compared`), and the control
centre says whose answers are odd (`decision.answers_compared`). Secret queries are read by one host, and are not
compared; no more are models of texts, whose words may be drawn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Final

from daitn.base import limits
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.descriptors.serving import ServedModel
from daitn.node.serving.outcome_book import OutcomeBook
from daitn.serving.closeness import answers_alike
from daitn.wire.queries import QueryAnswer

EVERY: Final = 200
"""Answered queries of a model from one comparison to the next, drawn between a half and one and a half of this: a host
that answers wrongly is found within some thousand queries, and others compute half a percent more."""

AT_ONCE: Final = 16
"""Comparisons under way."""

Again = Coroutine[Any, Any, tuple[NodeId, QueryAnswer] | None]
"""Asks another host the same; who answered and what, or None."""


class Comparing:
    """See the module's docstring."""

    def __init__(self, book: OutcomeBook, counters: Counters) -> None:
        self._book, self._counters = book, counters
        self._random = random.Random()
        self._left: dict[ModelName, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def due(self, served: ServedModel) -> bool:
        """Whether the query of this model that was just answered is to be asked of another host, too."""
        if len(served.routes) < 2:
            return False
        left = self._left.get(served.model)
        if left is None or left <= 0:
            if len(self._left) >= limits.MODELS_SERVED:
                self._left.clear()
            self._left[served.model] = EVERY // 2 + self._random.randrange(EVERY)
        else:
            self._left[served.model] = left - 1
        return left == 0 and len(self._tasks) < AT_ONCE

    def begin(self, served: ServedModel, host: NodeId, answer: QueryAnswer, again: Again) -> None:
        """Hold `host`'s answer together with what `again` brings."""
        task = asyncio.get_running_loop().create_task(self._compare(served, host, answer, again))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, served: ServedModel, host: NodeId, answer: QueryAnswer, again: Again) -> None:
        found = await again
        if found is None:
            return
        other, said = found
        same = answers_alike(answer.outputs, said.outputs)
        if same:
            self._counters.count("answers_compared")
        else:
            self._counters.count("answers_unlike")
        self._book.compared(served, host, other, same=same)
