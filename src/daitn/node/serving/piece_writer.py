"""Pieces of an answer on their way to a client: each is written in the turn of the loop in which its host said it.

The general server's way to write is a coroutine: whoever waits for the next piece is woken for it, one turn later, with
a timer and a future for each. Here what reads the host's stream writes to the client's connection, as long as that
takes what it is given; where it does not, or the client is gone, the coroutine is woken and waits, or ends, as ever.
"""

from __future__ import annotations

from typing import Final

from aiohttp import HttpVersion11, web

WAITING_BYTES: Final = 32 * 1024
"""Bytes that may wait in a client's connection before its pieces wait, too: below the mark at which the server itself
holds a writer up (64 KiB), so that nothing is ever written past that."""


class PieceWriter:
    """Of one response; made before it is prepared."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._chunked = request.version >= HttpVersion11
        if self._chunked:
            response.enable_chunked_encoding()

    def put(self, data: bytes) -> bool:
        """Write a piece; False, and nothing is written, where the client takes them slower than they come or is gone.

        Not before something was written by the response itself, which sends the head."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > WAITING_BYTES:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return True
