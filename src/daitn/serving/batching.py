"""The queue before a model's engines: bounded, fair by arrival, joined into batches without waiting for more.

A batch is whatever waits at the moment an engine is free: under light load a query is computed at once and alone, under
heavy load batches grow by themselves, and nothing ever waits for company. Only queries whose sides agree (all but the
rows) are joined; the oldest query decides which. What has missed its deadline is dropped before it costs anything.

Bounded twice, by queries and by rows, and a query is refused at once where its wait would outlast its deadline: what is
refused has cost nothing, and whoever asked can still go elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Generic, NamedTuple, TypeVar

from daitn.serving.engine import BATCH_ROWS
from daitn.serving.tensors import Arrays, shape_key

QUEUE_QUERIES: Final = 512
"""Queries of one model that may wait: at the 2 ms of a small model they are a second, which no goal allows for more."""

QUEUE_ROWS: Final = 65_536
"""Rows that may wait."""

PACES: Final = (0.01, 100.0)
"""Paces that are told: beyond, something is broken and not slow."""

SMOOTHING: Final = 0.1
"""Weight of the newest batch in what is learnt of the time of one."""

T = TypeVar("T")


class Waiting(NamedTuple, Generic[T]):
    """A query in the queue."""

    arrays: Arrays
    rows: int
    arrived_ns: int
    deadline_ns: int
    ticket: T
    """Whoever waits for it."""


class Refused(NamedTuple):
    """Why a query may not wait, and when to come back. Nothing was spent on it."""

    why: str
    retry_after_s: float


class BatchQueue(Generic[T]):
    """See the module's docstring. `rows_most`: of one batch; `engines`: how many batches run at a time.

    `row_s` and `batch_s` (of `batch_rows`): as warming up measured them; what is observed afterwards counts for more.
    """

    def __init__(
        self,
        *,
        rows_most: int,
        engines: int,
        row_s: float,
        batch_rows: int,
        batch_s: float,
        queries_most: int = QUEUE_QUERIES,
        queue_rows_most: int = QUEUE_ROWS,
    ) -> None:
        self._rows_most = min(rows_most, BATCH_ROWS)
        self._single_most = rows_most
        self._engines = max(1, engines)
        self._each_s = max(0.0, batch_s - row_s) / max(1, batch_rows - 1)
        self._base_s = max(0.0, row_s - self._each_s)
        self._waiting: deque[Waiting[T]] = deque()
        self._rows = 0
        self._running: dict[int, tuple[int, float, int]] = {}
        """Batches that run: since when, for how long as expected, and how many queries they are."""
        self._numbers = 0
        self._factor = 1.0
        self._queries_most, self._queue_rows_most = queries_most, queue_rows_most

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def expected_s(self, rows: int) -> float:
        """How long some rows take in an engine: begin, and each row, by what was measured and observed."""
        batches = -(-rows // self._rows_most)
        return self._factor * (batches * self._base_s + rows * self._each_s)

    def wait_s(self, now_ns: int) -> float:
        """How long a query that comes now would wait."""
        if not self._waiting and len(self._running) < self._engines:
            return 0.0
        return self.work_s(now_ns) / self._engines

    def work_s(self, now_ns: int) -> float:
        """How long one engine alone would work on what is here."""
        running = sum(max(0.0, until_s - (now_ns - begun) / 1e9) for begun, until_s, _ in self._running.values())
        return running + self.expected_s(self._rows) if self._rows else running

    def queries(self) -> int:
        """Queries that wait or are computed."""
        return len(self._waiting) + sum(count for _, _, count in self._running.values())

    def pace(self) -> float:
        """How many times as long as when it warmed up a batch takes now; 1 until some were observed."""
        return min(max(self._factor, PACES[0]), PACES[1])

    def busy_frac(self) -> float:
        """Share of the engines that compute now."""
        return min(1.0, len(self._running) / self._engines)

    def offer(self, query: Waiting[T], now_ns: int) -> Refused | None:
        """Take a query, or say why not."""
        wait_s = self.wait_s(now_ns)
        if query.rows > self._single_most:
            return Refused(f"the query has {query.rows} rows, the model takes {self._single_most}", 0.0)
        if len(self._waiting) >= self._queries_most or self._rows + query.rows > self._queue_rows_most:
            return Refused(f"{len(self._waiting)} queries with {self._rows} rows wait already, the limit", wait_s)
        needed_s = wait_s + self.expected_s(query.rows)
        left_s = (query.deadline_ns - now_ns) / 1e9
        if needed_s > left_s:
            return Refused(f"it would take {needed_s:.3f} s here, {left_s:.3f} s are left", max(0.0, wait_s))
        self._waiting.append(query)
        self._rows += query.rows
        return None

    def drop_late(self, now_ns: int) -> list[Waiting[T]]:
        """Take out whatever has missed its deadline."""
        late = [query for query in self._waiting if query.deadline_ns <= now_ns]
        if late:
            self._waiting = deque(query for query in self._waiting if query.deadline_ns > now_ns)
            self._rows -= sum(query.rows for query in late)
        return late

    def take(self) -> list[Waiting[T]]:
        """The next batch: the oldest query and those behind it that fit to it, in order; empty if nothing waits."""
        if not self._waiting:
            return []
        first = self._waiting.popleft()
        batch, rows, key = [first], first.rows, shape_key(first.arrays)
        passed: deque[Waiting[T]] = deque()
        while self._waiting and rows < self._rows_most:
            query = self._waiting.popleft()
            if rows + query.rows <= self._rows_most and shape_key(query.arrays) == key:
                batch.append(query)
                rows += query.rows
            else:
                passed.append(query)
        self._waiting.extendleft(reversed(passed))
        self._rows -= rows
        return batch

    def remove(self, ticket: Any) -> None:
        """Whoever waited for it has gone."""
        for query in self._waiting:
            if query.ticket is ticket:
                self._waiting.remove(query)
                self._rows -= query.rows
                return

    def begun(self, rows: int, now_ns: int, queries: int = 1) -> int:
        """A batch of so many queries begins; the number by which it ends."""
        self._numbers += 1
        self._running[self._numbers] = (now_ns, self.expected_s(rows), queries)
        return self._numbers

    def ended(self, number: int, rows: int, took_s: float | None) -> None:
        """A batch is over; `took_s` None: it failed, and teaches nothing about time."""
        self._running.pop(number, None)
        planned = self.expected_s(rows) / self._factor
        if took_s is not None and planned > 0:
            self._factor += SMOOTHING * (took_s / planned - self._factor)
