"""Server-sent events of a job: its status now and after each change, and a line every few seconds that says we live.

    event: status    data: a JobStatus          event: error    data: a Problem
    event: end       the job has ended, or the server stops; only after `end` with `ended` a client need not come back

The stream's source may be slow or silent; it is waited for beside the server's closing, so that stopping a server never
waits for a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec

from daitn.base.errors import DaitnError
from daitn.descriptors.job import FINAL_PHASES, JobStatus
from daitn.node.http.problems import answer_of

ALIVE_S: Final = 10.0
"""Between two signs of life on a quiet stream; proxies cut connections that are silent for a minute."""

WATCHES_PER_TOKEN: Final = 64
"""Streams of one token at a time: each costs a connection, and a browser opens six."""


class Watches:
    """How many streams each token has open."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def begin(self, token_id: str) -> bool:
        """Count one more; False if the token has as many as it may."""
        if self._open.get(token_id, 0) >= WATCHES_PER_TOKEN:
            return False
        self._open[token_id] = self._open.get(token_id, 0) + 1
        return True

    def end(self, token_id: str) -> None:
        """One less."""
        self._open[token_id] -= 1
        if not self._open[token_id]:
            del self._open[token_id]


async def status_events(source: AsyncIterator[JobStatus], closing: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The lines of the stream, until the job ends or `closing` is set."""
    closed = asyncio.create_task(closing.wait())
    upcoming: asyncio.Task[JobStatus] | None = None
    last: JobStatus | None = None
    try:
        while True:
            if upcoming is None:
                upcoming = asyncio.create_task(_next(source))
            waited: set[asyncio.Task[Any]] = {upcoming, closed}
            await asyncio.wait(waited, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if upcoming.done():
                try:
                    last = upcoming.result()
                except StopAsyncIteration:
                    ended = last is not None and last.phase in FINAL_PHASES
                    yield _event("end", msgspec.json.encode({"ended": ended}))
                    return
                except DaitnError as error:
                    yield _event("error", answer_of(error)[1])
                    return
                upcoming = None
                yield _event("status", msgspec.json.encode(last))
            elif closed.done():
                yield _event("end", msgspec.json.encode({"ended": False}))
                return
            else:
                yield b": still here\n\n"
    finally:
        closed.cancel()
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _next(source: AsyncIterator[JobStatus]) -> JobStatus:
    return await anext(source)


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode("ascii") + b"\ndata: " + data + b"\n\n"
