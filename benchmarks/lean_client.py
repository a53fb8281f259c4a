"""A client of HTTP that costs little, so that what is measured is the server: one request, encoded once, sent again as
soon as it was answered, on some connections. 40 µs of a core for a request; a general client takes ten times that."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from benchmarks.serving_world import BODY, Asked

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class _Connection(asyncio.Protocol):
    """Asks again and again until `over_s`."""

    def __init__(
        self,
        request: bytes,
        over_s: float,
        found: list[Asked],
        ended: asyncio.Future[None],
        is_right: Callable[[bytes], bool],
    ) -> None:
        self._request, self._over_s, self._found, self._ended = request, over_s, found, ended
        self._is_right = is_right
        self._buffer = b""
        self._began_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(_END)
        if not found or len(rest) < _length_of(head):
            return
        now_s = time.perf_counter()
        status = int(head[9:12])
        right = status == 200 and self._is_right(rest)
        self._found.append(Asked(self._began_s, now_s - self._began_s, status, right))
        self._buffer = b""
        if now_s < self._over_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffer or exc is not None:
            self._found.append(Asked(self._began_s, 0.0, 0, False))
        if not self._ended.done():
            self._ended.set_result(None)


def _length_of(head: bytes) -> int:
    lower = head.lower()
    place = lower.index(_LENGTH) + len(_LENGTH)
    return int(lower[place:].split(b"\r\n", 1)[0])


def _is_row(body: bytes) -> bool:
    return len(json.loads(body)["outputs"][0]["data"]) == 2


async def ask_leanly(
    url: str,
    key: str,
    seconds: float,
    connections: int,
    body: bytes = BODY,
    is_right: Callable[[bytes], bool] = _is_row,
) -> list[Asked]:
    """Queries from so many connections for some seconds, each asking as soon as it was answered; one at least."""
    place = urlsplit(url)
    head = (
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode("ascii") + body
    loop = asyncio.get_running_loop()
    found: list[Asked] = []
    over_s = time.perf_counter() + seconds
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    assert place.hostname is not None
    assert place.port is not None
    for end in ends:
        make = functools.partial(_Connection, request, over_s, found, end, is_right)
        await loop.create_connection(make, place.hostname, place.port)
    await asyncio.gather(*ends)
    return found
