"""Asking for texts: a query from its arrival at a gateway to the end of its answer, over as many hosts as it takes.

A continuation is a function of the query and what is there of it already. Where a host is lost in the middle, another
goes on behind the pieces that were told, by their tokens (`Given`), and the caller sees one text without a gap or a
word twice: each piece says where it begins, and one that does not begin where the text ends is not passed on.

A secret query (`wire.secret_queries`) is asked of the hosts that can read it, and its pieces are passed on as they are.
Where its host is lost in the middle nobody here could say how far it was: its client goes on by itself.

As many are under way as hosts work on, others wait for their turn by weight and priority of their keys (`turns`). Where
the first piece is late, a second host is asked too, within the budget of second copies: whoever says something first
goes on, the other stops.

What a caller does not take is not asked for: an `Answer` has a bounded number of pieces on their way. A caller that is
gone stops the work (`Telling.stop`). Nothing of a query is logged.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.ids import ModelName
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import QueryGoal
from daitn.descriptors.texts import Generation, TextAsk, check_text_ask, text_bytes
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.counting import QueryCounts
from daitn.node.serving.telling import Means, Patience, Telling
from daitn.node.serving.told_text import beginning_of
from daitn.node.serving.turns import Standing, Turns, alike
from daitn.wire.secret_queries import SecretTextQuery

AHEAD_FRAC: Final = 0.125
"""Texts at hosts beyond those that they work on, as a share: no place is empty while the next one is on its way.
What waits longer waits at the gateway, where it has its turn by its key and goes to whichever host is soonest then."""

TURNS_LEAST: Final = 64
"""Texts under way where no host is known: they wait for one."""


class TextAsking:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        links: AnswerLinks,
        counters: Counters,
        patience: Patience = Patience(),  # noqa: B008  # a value
        clock_ns: Callable[[], int] = time.monotonic_ns,
        standing: Standing = alike,
        counts: QueryCounts | None = None,
    ) -> None:
        self.counters, self._engine = counters, engine
        self._counts = counts or QueryCounts(lambda _: None)
        turns = Turns(engine.engines, standing, most_of=_at_hosts)
        self._means = Means(engine, links, counters, patience, clock_ns, turns)
        self._salt = secrets.token_bytes(16)
        self._prefix, self._queries = "t" + secrets.token_hex(4), 0

    async def ask(
        self, model: str, asked: TextAsk | SecretTextQuery, goal: QueryGoal, key: str = "", session: str = ""
    ) -> Telling:
        """Ask; returns when the first piece is there, or it is known that there is none (`Telling.refused`). InputError
        for a query that does not hold together. `key`: who asks; queries of one key wait behind each other;
        `session`: goes where it went before while that is worth it; without one, known by how it begins."""
        if isinstance(asked, Generation) and asked.temperature > 0 and not asked.seed:
            asked = msgspec.structs.replace(asked, seed=secrets.randbelow(2**62) + 1)
        self._queries += 1
        checked = asked if isinstance(asked, SecretTextQuery) else check_text_ask(asked)
        if (name := ModelName(model)) in self._engine.models:
            size = len(checked.data) if isinstance(checked, SecretTextQuery) else text_bytes(checked)
            self._counts.asked(name, size)
        telling = Telling(
            self._means,
            f"{self._prefix}-{self._queries:x}",
            model,
            checked,
            goal,
            session or beginning_of(checked, self._salt),
        )
        try:
            await telling.begin(key)
        except BaseException:
            telling.stop()
            raise
        return telling


def _at_hosts(engines: int) -> int:
    return engines + math.ceil(engines * AHEAD_FRAC) if engines else TURNS_LEAST
