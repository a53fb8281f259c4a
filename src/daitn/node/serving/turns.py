"""Turns at a gateway: as many queries of a model are at its hosts as they can work on; others wait, keys in fair turns.

Queries that wait here cost a host nothing and can still go to whichever is soonest when their turn comes; in a host's
queue they would wait by arrival, and one key could fill it. Whose turn it is follows priorities and weights of keys.
What cannot wait is refused at once, with when to come back; what waits past its deadline was sent to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from daitn.base.ids import ModelName
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.decision.query_route.fairness import FairQueue
from daitn.serving.engine import BATCH_ROWS

AHEAD: Final = 2
"""Batches of an engine whose queries are at its host: one is computed, the next one waits there."""

LEAST: Final = 64
"""Queries that are under way at a time in any case: hosts may batch more than they say."""


Standing = Callable[[str], tuple[float, int]]
"""Weight and rank of a key (`FairQueue.push`)."""


def alike(_: str) -> tuple[float, int]:
    """All keys stand alike."""
    return 1.0, 0


def _batches_of(engines: int) -> int:
    return max(LEAST, AHEAD * BATCH_ROWS * engines)


class Turns:
    """See the module's docstring. `engines`: how many engines answer for a model now; `most_of`: how many queries are
    at hosts at most, of so many engines."""

    def __init__(
        self,
        engines: Callable[[ModelName], int],
        standing: Standing | None = None,
        *,
        most_of: Callable[[int], int] | None = None,
    ) -> None:
        self._engines, self._most_of = engines, most_of or _batches_of
        self._standing = standing or alike
        self._under_way: dict[ModelName, int] = {}
        self._waiting: dict[ModelName, FairQueue[asyncio.Future[None]]] = {}
        self._took_s = 0.01
        """What a query takes, lately."""

    def now(self, model: ModelName) -> bool:
        """Take a turn at once, if there is one that nobody waits for; ended by `done`."""
        under_way = self._under_way.get(model, 0)
        if model in self._waiting or under_way >= self._most(model):
            return False
        self._under_way[model] = under_way + 1
        return True

    async def wait(self, model: ModelName, key: str, left_s: float) -> Refused | None:
        """Wait for a turn; ended by `done`, where it is not refused."""
        queue = self._waiting.setdefault(model, FairQueue())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = queue.push(key, turn, *self._standing(key))
        if number is None:
            mine = queue.waiting(key)
            wait_s = max(0.1, (len(queue) + 1) * self._took_s / self._most(model))
            what = f"{mine} queries of this key wait for {model} already, {len(queue)} in all"
            return Refused(QueryRefusal.BUSY, what, wait_s)
        try:
            async with asyncio.timeout(left_s):
                await turn
        except TimeoutError:
            if not turn.done() or turn.cancelled():
                self._forget(model, number, key)
                what = f"its turn did not come within {left_s:.3f} s: {len(queue)} queries wait for {model}"
                return Refused(QueryRefusal.LATE, what, max(0.1, left_s))
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.done(model, 0.0)
            else:
                self._forget(model, number, key)
            raise
        return None

    def done(self, model: ModelName, took_s: float) -> None:
        """A query that had a turn is over, after so long (0: it was not asked)."""
        if took_s > 0:
            self._took_s += 0.05 * (took_s - self._took_s)
        under_way = self._under_way[model] - 1
        queue = self._waiting.get(model)
        while queue is not None and under_way < self._most(model) and (turn := queue.pop()) is not None:
            if not turn.done():
                turn.set_result(None)
                under_way += 1
        if queue is not None and not len(queue):
            del self._waiting[model]
        if under_way:
            self._under_way[model] = under_way
        else:
            del self._under_way[model]

    def _most(self, model: ModelName) -> int:
        return self._most_of(self._engines(model))

    def _forget(self, model: ModelName, number: int, key: str) -> None:
        queue = self._waiting.get(model)
        if queue is not None:
            queue.remove(number, key)
            if not len(queue):
                del self._waiting[model]
