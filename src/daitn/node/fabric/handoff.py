"""Between threads and the event loop: how results of blocking work reach asyncio with one wake-up per batch.

The carriers below block (bounded channels, TLS sockets), the node above is asyncio. `LoopMailbox` carries items from
any thread to a function on the loop, in order; `Workers` runs blocking calls on threads of its own; `LatestByKey` is
what a slow reader reads from: the newest value per key, never a growing queue. The loop's default executor is not used,
because name resolution and file access of others share it and its size is not ours to choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Generic, TypeVar

from daitn.base.errors import UnavailableError

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LoopMailbox(Generic[T]):
    """Items put by any thread are given to `deliver` on the loop, in order; one wake-up per batch.

    Unbounded by itself: whoever puts is bounded (requests in hand, workers, chunks in flight).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[T], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._woken = False

    def put(self, item: T) -> None:
        """Hand over `item`; dropped if the loop is closed."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to deliver to
                self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Deliver now what was put so far; on the loop only."""
        # Cleared first: an item appended after this line wakes the loop again, one before it is found below.
        self._woken = False
        while self._items:
            self._deliver(self._items.popleft())


class Workers:
    """At most `limit` daemon threads for blocking calls, started when needed; results come back in batches."""

    def __init__(self, name: str, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._limit = limit
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[object], Callable[[], object]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._free = asyncio.Semaphore(limit)
        self._closed = False
        self._done: LoopMailbox[tuple[asyncio.Future[object], object, BaseException | None]]
        self._done = LoopMailbox(self._loop, self._finish)

    async def run(self, job: Callable[[], T]) -> T:
        """The result of `job`, run on a thread; waits for one if all are busy.

        A cancelled wait abandons the job: it runs to its own end and its result is dropped. UnavailableError if closed.
        """
        async with self._free:
            return await self.begin(job)

    def begin(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """As `run`, of a job that its caller holds to a bound: a thread is woken for it in this turn of the loop. Where
        all are busy it waits for one before those that wait in `run`."""
        if self._closed:
            raise UnavailableError("the fabric is closed")
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._limit:
            self._start_thread()
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((future, job))  # type: ignore[arg-type]
        return future

    async def run_to_end(self, job: Callable[[], T], stop: Callable[[], None]) -> T:
        """Like `run`, but a cancelled wait calls `stop()` and returns only when `job` has ended."""
        task = asyncio.ensure_future(self.run(job))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait([task])
            with contextlib.suppress(Exception):
                task.exception()
            raise

    async def close(self) -> None:
        """Take no more jobs and wait for the threads, whose jobs others have interrupted."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        await join_threads(self._threads)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            future, job = entry
            try:
                self._done.put((future, job(), None))
            except BaseException as fault:  # noqa: BLE001 - it is the job's result and is raised where it is awaited
                self._done.put((future, None, fault))

    def _finish(self, entry: tuple[asyncio.Future[object], object, BaseException | None]) -> None:
        future, result, fault = entry
        self._busy -= 1
        if future.done():
            return
        if fault is None:
            future.set_result(result)
        else:
            future.set_exception(fault)


class LatestByKey(Generic[K, V]):
    """The newest value per key for one reader: bounded by the number of keys, whatever the speed of the writer."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._values: dict[K, V] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, key: K, value: V) -> bool:
        """Set the value of `key`; False if it was dropped because there are too many keys unread."""
        if key not in self._values and len(self._values) >= self._max_keys:
            return False
        self._values[key] = value
        self._changed.set()
        return True

    def close(self) -> None:
        """End the reader's iteration once it has read what is there."""
        self._closed = True
        self._changed.set()

    async def read(self) -> AsyncIterator[tuple[K, V]]:
        """Each changed key with its newest value, in the order in which the keys first changed."""
        while True:
            await self._changed.wait()
            while self._values:
                key = next(iter(self._values))
                yield key, self._values.pop(key)
            if self._closed:
                return
            self._changed.clear()


async def join_threads(threads: list[threading.Thread], *, timeout_s: float = 5.0) -> None:
    """Wait for threads that were told to end, without holding up the loop; gives up after `timeout_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    for thread in threads:
        while thread.is_alive() and loop.time() < deadline:
            await asyncio.sleep(0.002)
