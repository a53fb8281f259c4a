"""Streams of small messages: a peer that breaks the rules, a socket that takes little, ends that are over."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.node.fabric.contract import STREAM_CREDITS, STREAM_MESSAGE_BYTES, FabricCounters
from daitn.node.fabric.link_ledger import LinkLedger
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.streams import StreamRegister
from daitn.node.fabric.streams_direct import ACCEPTED, CREDIT, DATA, FINISH
from daitn.node.fabric.streams_light import LightStream
from daitn.node.fabric.tls import HEADER


class BareLink:
    """A link without encryption: what a `tls.Link` does, on one end of a pair of sockets."""

    peer = NodeId("n0002")
    pending = 0

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.entry = self
        self.carried = 0

    def sent(self, count: int) -> None:
        self.carried += count

    received = sent

    def unblock(self) -> int:
        self._end.setblocking(False)
        return self._end.fileno()

    def send_some(self, data: Any) -> int:
        try:
            return self._end.send(data)
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None

    def receive_some(self) -> bytes:
        try:
            return self._end.recv(16 * 1024)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None

    def end_sending(self) -> None:
        self._end.shutdown(socket.SHUT_WR)

    def interrupt(self) -> None:
        self._end.close()

    close = interrupt


def frame(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


async def meet() -> tuple[LightStream, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    register = StreamRegister(NodeId("n0001"), FabricCounters(), LinkLedger(), Pacer())
    end = LightStream("s", BareLink(ours), register)  # type: ignore[arg-type]
    end.begin(frame(ACCEPTED))
    assert await asyncio.get_running_loop().sock_recv(theirs, 100) == frame(ACCEPTED)
    return end, theirs


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (frame(3), "kind 3"),
        (HEADER.pack(DATA, STREAM_MESSAGE_BYTES + 1), "kind 7"),
        (frame(FINISH, b"x"), "kind 8"),
        (frame(CREDIT, b"x"), "kind 9"),
        (frame(CREDIT, b"\x00\x01"), "took 1 messages, 0 were sent"),
        (frame(DATA, b"x") * (STREAM_CREDITS + 1), "more messages than it was allowed"),
        (frame(FINISH) + frame(DATA), "more messages than it was allowed"),
    ],
)
def test_peer_that_breaks_the_rules_is_cut_off(sent: bytes, said: str) -> None:
    async def test() -> None:
        end, theirs = await meet()
        theirs.send(sent)
        with pytest.raises(UnavailableError, match=said):
            await _receive_for_ever(end)
        theirs.close()

    asyncio.run(test())


def test_frames_in_any_pieces_are_put_together() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        for byte in frame(DATA, b"one") + frame(DATA) + frame(DATA, b"three") + frame(FINISH):
            await loop.sock_sendall(theirs, bytes([byte]))
            await asyncio.sleep(0)
        assert [await end.receive() for _ in range(4)] == [b"one", b"", b"three", None]
        await end.cancel()
        theirs.close()

    asyncio.run(test())


def test_large_message_goes_as_the_socket_takes_it() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        message = bytes(range(256)) * 8192
        await end.send(message)
        await end.send(b"small")
        await end.finish()
        found = b""
        while len(found) < len(message) + 20:
            found += await loop.sock_recv(theirs, 1 << 20)
        assert found == frame(DATA, message) + frame(DATA, b"small") + frame(FINISH)
        await end.cancel()
        theirs.close()

    asyncio.run(test())


def test_message_is_handed_on_where_it_is_read_those_that_wait_first_and_the_end_is_told_once() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        told: list[Any] = []
        await loop.sock_sendall(theirs, frame(DATA, b"early") * 2)
        await _until(lambda: len(end._arrived) == 2)
        end.hand_on(told.append, lambda fault: told.append(("over", fault)))
        assert told == [b"early"] * 2
        await loop.sock_sendall(theirs, frame(DATA, b"x") * (STREAM_CREDITS // 2 - 2) + frame(FINISH))
        await _until(lambda: told[-1] == ("over", None))
        assert told[2:-1] == [b"x"] * (STREAM_CREDITS // 2 - 2)
        assert await loop.sock_recv(theirs, 100) == frame(CREDIT, (STREAM_CREDITS // 2).to_bytes(2, "big"))
        await end.cancel()
        assert told.count(("over", None)) == 1
        theirs.close()

    asyncio.run(test())


@pytest.mark.parametrize("how", ["wrong", "cut", "before"])
def test_stream_whose_taker_finds_a_message_wrong_or_that_is_cut_is_over_with_its_fault(how: str) -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        told: list[Any] = []

        def take(message: bytes) -> None:
            told.append(message)
            raise PeerError("no such frame")

        if how == "before":
            await end.cancel()
        end.hand_on(take, told.append)
        if how == "wrong":
            await loop.sock_sendall(theirs, frame(DATA, b"one") + frame(DATA, b"two"))
        theirs.shutdown(socket.SHUT_WR)
        await _until(lambda: told and isinstance(told[-1], UnavailableError))
        assert told[:-1] == ([b"one"] if how == "wrong" else [])
        assert {"wrong": "no such frame", "cut": "was cut", "before": "was cancelled"}[how] in str(told[-1])
        with pytest.raises(UnavailableError):
            await end.send(b"late")
        theirs.close()

    asyncio.run(test())


def test_credit_is_told_when_half_of_it_was_taken() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, frame(DATA, b"x") * STREAM_CREDITS)
        for _ in range(STREAM_CREDITS // 2):
            await end.receive()
        assert await loop.sock_recv(theirs, 100) == frame(CREDIT, (STREAM_CREDITS // 2).to_bytes(2, "big"))
        await end.cancel()
        theirs.close()

    asyncio.run(test())


def test_end_that_is_over_closes_when_the_other_one_has() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, frame(DATA, b"last") + frame(FINISH))
        assert [await end.receive(), await end.receive()] == [b"last", None]
        await end.finish()
        assert await loop.sock_recv(theirs, 100) == frame(FINISH)
        assert await loop.sock_recv(theirs, 100) == b""
        assert not end.closed.is_set()
        theirs.close()
        await _until(end.closed.is_set)

    asyncio.run(test())


def test_paced_stream_holds_its_messages_back() -> None:
    async def test() -> None:
        end, theirs = await meet()
        loop = asyncio.get_running_loop()
        end._pacer.bytes_per_s = 10_000.0
        began_s = loop.time()
        for _ in range(3):
            await end.send(b"x" * 1000)
        found = b""
        while len(found) < 3 * 1005:
            found += await loop.sock_recv(theirs, 1 << 16)
        assert loop.time() - began_s >= 0.19
        await end.cancel()
        theirs.close()

    asyncio.run(test())


async def _receive_for_ever(end: LightStream) -> None:
    async with asyncio.timeout(5):
        while True:
            if await end.receive() is None:
                await end._changed.wait()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)
