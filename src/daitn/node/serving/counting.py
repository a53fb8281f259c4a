"""Counts of queries by model, as a gateway tells them to the control centre (query patterns, paper II-B).

Only models that are served are counted: other names are whatever callers send. What was asked is not kept.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from daitn.base import limits
from daitn.base.effects import Event
from daitn.base.ids import ModelName
from daitn.descriptors.latency import bucket_of
from daitn.descriptors.live import ModelOutcomes
from daitn.descriptors.serving import ServedModel
from daitn.node.serving.outcome_book import OutcomeBook
from daitn.terminal.gateway import OutcomesCounted, QueriesCounted
from daitn.wire.center_serving import QueriesOf

COUNT_S: Final = 2.0
"""How often counts are told."""

MISSING_S: Final = 1.0
"""How often it is told at once that queries wait for a model that has no host."""


class QueryCounts:
    """See the module's docstring. `post`: where counts go."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self.outcomes = OutcomeBook()
        self._since = time.time_ns()
        self._told_outcomes: tuple[ModelOutcomes, ...] = ()
        self._counts: dict[ModelName, list[float]] = {}
        self._took: dict[ModelName, dict[int, int]] = {}
        self._since_s = time.monotonic()
        self._told_missing: dict[ModelName, float] = {}

    def asked(self, model: ModelName, size_bytes: int) -> None:
        """A query of a model that is served came."""
        found = self._counts.get(model)
        if found is None:
            found = self._counts[model] = [0, 0.0]
        found[0] += 1
        found[1] += size_bytes

    def ended(self, served: ServedModel, seconds: float | None) -> None:
        """A query was answered so many seconds after it came; None: hosts lost it."""
        self.outcomes.ended(served, answered=seconds is not None)
        took = self._took.setdefault(served.model, {})
        bucket = bucket_of(math.inf if seconds is None else seconds)
        took[bucket] = took.get(bucket, 0) + 1

    def missing(self, model: ModelName) -> None:
        """A query waits, because no host answers for its model: that is told now, and once a second it counts anew, so
        that a model somebody waits for is not taken for one nobody asks."""
        now_s = time.monotonic()
        if now_s - self._told_missing.get(model, -1e9) > MISSING_S:
            if len(self._told_missing) >= limits.MODELS_SERVED:
                self._told_missing.clear()
            if model in self._told_missing:
                self.asked(model, 0)
            self._told_missing[model] = now_s
            self.tell()

    def tell(self) -> None:
        """Tell what was counted since the last time."""
        now_s = time.monotonic()
        counts = tuple(
            QueriesOf(model=model, queries=int(queries), bytes=size, took=self._took.get(model, {}))
            for model in list(self._counts.keys() | self._took.keys())[: limits.MODELS_SERVED]
            for queries, size in [self._counts.get(model, (0, 0.0))]
        )
        seconds, self._since_s = now_s - self._since_s, now_s
        self._counts, self._took = {}, {}
        self._post(QueriesCounted(seconds=seconds, counts=counts))
        outcomes = self.outcomes.told()
        if outcomes or self._told_outcomes:
            self._told_outcomes = outcomes
            self._post(OutcomesCounted(since=self._since, outcomes=outcomes))

    async def tell_often(self) -> None:
        """Tell every `COUNT_S`, until cancelled."""
        while True:
            await asyncio.sleep(COUNT_S)
            self.tell()
