"""The door's quick way: HTTP/1.1 for the one request that comes thousands of times a second, `POST …/infer`.

A general server spends more on a request than all that is done with it here. So connections are read here while they
send nothing but plain queries, and handed over, with what they sent, to the general server at the first request that
is anything else: another path or method, a body in chunks, `Expect`, escapes in the path, a header that needs thought.
It never comes back, and nothing is decided here that the general server would decide otherwise: what is read is a
narrow part of RFC 9112, and doubt is handed over.

One request of a connection is worked on at a time; further ones that were sent ahead wait, and beyond `AHEAD_BYTES`
nothing more is read. A client that goes away cancels its query; one that does not read its answer is sent no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

HEAD_BYTES: Final = 16 * 1024
"""Longest head read here; a longer one is the general server's to refuse."""

AHEAD_BYTES: Final = 64 * 1024
"""What a client may send ahead of its answers."""

LINGER_S: Final = 2.0
"""How long what a client still sends is read and dropped, once it was refused."""

SILENT_S: Final = 75.0
"""A connection that sends nothing for so long is closed, in the middle of a request too."""

_PATH: Final = b"/v2/models/"
_INFER: Final = b"/infer"
_LEFT: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"))
"""Headers that make a request the general server's."""


class Reply(NamedTuple):
    """What is answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    content_type: str = "application/json"


class Plain(NamedTuple):
    """A query as it was read: names of headers in lower case."""

    model: str
    version: str
    headers: Mapping[str, str]
    body: bytes


class Ways(NamedTuple):
    """What a door does with what is read."""

    begin: Callable[[Plain, Callable[[Reply], None]], Callable[[], None]]
    """Begins with a query and tells once what is answered, perhaps before it returns; what is returned stops it. Never
    raises."""
    general: Callable[[], asyncio.Protocol]
    """Makes the protocol that takes a connection over."""
    most: int
    """Bytes of the largest body."""
    too_large: Callable[[], Reply]
    """What is said to a larger one."""


_REASONS: Final = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found",
    413: b"Content Too Large", 422: b"Unprocessable Content", 429: b"Too Many Requests",
    500: b"Internal Server Error", 503: b"Service Unavailable",
}  # fmt: skip


_IN_A_LINE: Final = dict.fromkeys((0, 10, 13), " ")
"""What would end a header, or begin another."""


_NOTHING: Final[tuple[str, str, dict[str, str], int]] = ("", "", {}, 0)


class QuickProtocol(asyncio.Protocol):
    """See the module's docstring. `ways`: what answers, and what takes over; `open_`: connections that are open."""

    def __init__(self, ways: Ways, open_: set[QuickProtocol]) -> None:
        self._begin, self._general, self._most, self._too_large = ways
        self._open = open_
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._stop: Callable[[], None] | None = None
        """Stops what is under way."""
        self._busy = self._written = self._going = False
        """Whether a query is under way, or its answer is not taken; whether that is written; whether `_go_on` runs."""
        self._over: asyncio.Future[None] | None = None
        """Of whoever waits for the end of what is under way."""
        self._taken: asyncio.Protocol | None = None
        self._writable = True
        self._closing = self._dropping = False
        self._heard_s = 0.0
        self._head, self._found = b"", _NOTHING
        """The last head, and what was read in it: most clients send the same one with every query."""
        self._timer: asyncio.TimerHandle | None = None
        self._need = 0
        """Bytes that the request at the front of the buffer has in all; 0: not known yet."""

    # --- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)
        self._heard_s = self._loop.time()
        self._timer = self._loop.call_later(SILENT_S, self._look)

    def data_received(self, data: bytes) -> None:
        """It sent something."""
        if self._dropping:
            return
        self._buffer += data
        self._heard_s = self._loop.time()
        if not self._busy:
            if len(self._buffer) >= self._need:
                self._go_on()
        elif len(self._buffer) > AHEAD_BYTES:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """It does not read its answers."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        if self._busy and self._written:
            self._end()
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has gone: nobody waits for what a host would compute for it."""
        self._forget()
        self._closing = True
        self.abort()

    # --- requests ---------------------------------------------------------------------------------------------------

    def close(self) -> asyncio.Future[None] | None:
        """Take no more requests; the end of what is under way, if anything is."""
        self._closing = True
        if not self._busy:
            self._transport.close()
            return None
        if self._over is None:
            self._over = self._loop.create_future()
        return self._over

    def abort(self) -> None:
        """Stop what is under way."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
        if self._busy:
            self._end()

    def _go_on(self) -> None:
        """Begin with what is at the front of the buffer, until something is under way or more has to come."""
        if self._going:
            return
        self._going = True
        try:
            while not self._busy and self._taken is None and not self._transport.is_closing() and self._next():
                pass
        finally:
            self._going = False

    def _next(self) -> bool:
        """Begin with the request at the front of the buffer, if all of it is there; whether it was."""
        end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES + 4)
        if end < 0:
            if len(self._buffer) > HEAD_BYTES:
                self._hand_over()
            return False
        head = bytes(self._buffer[:end])
        found = self._found if head == self._head else _read_head(head)
        if found is None:
            self._hand_over()
            return False
        self._head, self._found = head, found
        model, version, headers, length = found
        if length > self._most:
            self._turn_away()
            return False
        self._need = end + 4 + length
        if len(self._buffer) < self._need:
            return False
        body = bytes(self._buffer[end + 4 : self._need])
        del self._buffer[: self._need]
        self._need = 0
        if headers.get("connection", "").lower() == "close":
            self._closing = True
        self._busy, self._written = True, False
        stop = self._begin(Plain(model, version, headers, body), self._told)
        if self._busy and not self._written:
            self._stop = stop
        return True

    def _told(self, reply: Reply) -> None:
        """What is answered."""
        self._stop = None
        if self._transport.is_closing():
            if self._busy:
                self._end()
            return
        self._transport.write(_encoded(reply, last=self._closing))
        self._written = True
        if self._writable:
            self._end()
            self._go_on()

    def _end(self) -> None:
        """The request at hand is over."""
        self._busy = False
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self._closing:
            self._transport.close()
            return
        self._heard_s = self._loop.time()
        self._transport.resume_reading()

    def _turn_away(self) -> None:
        """A body too large to be read: said at once, not after 50 megabytes; what still comes is dropped for a while,
        since a connection that is closed with bytes unread takes its answer with it."""
        self._closing = self._dropping = True
        self._buffer.clear()
        self._transport.write(_encoded(self._too_large(), last=True))
        self._loop.call_later(LINGER_S, self._transport.close)

    def _hand_over(self) -> None:
        self._forget()
        self._taken = self._general()
        self._transport.set_protocol(self._taken)
        self._taken.connection_made(self._transport)
        self._taken.data_received(bytes(self._buffer))
        self._buffer.clear()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._heard_s
        if not self._busy and silent_s >= SILENT_S:
            self._transport.close()
            return
        self._timer = self._loop.call_later(max(1.0, SILENT_S - silent_s), self._look)

    def _forget(self) -> None:
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()


def _read_head(head: bytes) -> tuple[str, str, dict[str, str], int] | None:
    """Model, version, headers and length of the body of a plain query; None for anything else."""
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or words[0] != b"POST" or words[2] != b"HTTP/1.1" or not head.isascii():
        return None
    path = words[1]
    if not path.startswith(_PATH) or not path.endswith(_INFER) or b"%" in path or b"?" in path or b"#" in path:
        return None
    parts = path[len(_PATH) : -len(_INFER)].split(b"/")
    if not parts[0] or not (len(parts) == 1 or (len(parts) == 3 and parts[1] == b"versions" and parts[2])):
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line or b"\0" in line:
            return None
        name = name.lower()
        word = name.decode("ascii")
        if name in _LEFT or word in headers:
            return None
        headers[word] = value.strip().decode("ascii")
    length = headers.get("content-length", "")
    if not length.isdigit() or len(length) > 12 or "host" not in headers:
        return None
    return parts[0].decode("ascii"), parts[2].decode("ascii") if len(parts) == 3 else "", headers, int(length)


def _encoded(reply: Reply, *, last: bool) -> bytes:
    head = [
        b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
        % (reply.status, _REASONS.get(reply.status, b""), reply.content_type.encode("ascii"), len(reply.body))
    ]
    for name, value in reply.headers.items():
        line = value if value.isprintable() else value.translate(_IN_A_LINE)
        head.append(f"{name}: {line}\r\n".encode("latin-1", "replace"))
    if last:
        head.append(b"Connection: close\r\n")
    head += [b"\r\n", reply.body]
    return b"".join(head)
