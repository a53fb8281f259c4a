"""Pieces written to a client where they come: framed as the server does it, and never past what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from daitn.node.serving.piece_writer import WAITING_BYTES, PieceWriter


class Connection:
    """A client's connection, its request and its response: what the writer looks at."""

    def __init__(self, version: Any) -> None:
        self.version = version
        self.transport: Any = self
        self.written: list[bytes] = []
        self.waiting, self.closing, self.chunked = 0, False, False

    def enable_chunked_encoding(self) -> None:
        self.chunked = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.mark.parametrize(("version", "framed"), [(HttpVersion11, b"11\r\nseventeen letters\r\n"), (HttpVersion10, b"")])
def test_piece_is_one_write_in_a_chunk_of_its_own_where_the_client_knows_chunks(version: Any, framed: bytes) -> None:
    connection: Any = Connection(version)
    writer = PieceWriter(connection, connection)
    assert connection.chunked is bool(framed)
    assert writer.put(b"seventeen letters")
    assert connection.written == [framed or b"seventeen letters"]


@pytest.mark.parametrize("why", ["slow", "closing", "gone"])
def test_client_that_takes_nothing_is_written_nothing(why: str) -> None:
    connection: Any = Connection(HttpVersion11)
    writer = PieceWriter(connection, connection)
    connection.waiting = WAITING_BYTES + 1 if why == "slow" else 0
    connection.closing = why == "closing"
    connection.transport = None if why == "gone" else connection
    assert not writer.put(b"piece")
    assert connection.written == []
