"""What a piece of a streamed answer costs a gateway: 100 streams at once, beside a bare proxy of the same pieces.

Ours: gateway, host and router as processes, the simulated language model at the host (a token each 20 ms in each of 100
answers). The bare proxy: an aiohttp server that hands on, chunk by chunk, what a mock back end of the same pace says;
three processes too. Both are asked by the same client, which counts pieces. Measure: pieces by the processor seconds of
the process in the middle.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

import daitn
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

STREAMS = 100
TOKENS = 64
TOKEN_S = 0.02
OFFER = f"""
[[offer]]
engine = "simulated"
model = "talker"
first_s = {TOKEN_S}
token_s = {TOKEN_S}
load_frac = 0.0
words_most = 100000
concurrency = {STREAMS + 28}
"""
ASKED = json.dumps(
    {"model": "talker", "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "hello"}]}
).encode()
_PIECE = (
    b'data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"talker","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
_MARK = b"data: {"
_STOPPED = b'"finish_reason":"stop"'
"""The simulated model draws how long each answer is; one in some 1,600 is shorter than what is asked for."""

_KEPT = 512
"""Bytes of what came last that are looked at again: more than the last two events."""


class Heard(NamedTuple):
    """What a client heard in all, and what the process in the middle took for it."""

    pieces: int
    answers: int
    broken: int
    processor_s: float


class _Reader(asyncio.Protocol):
    """One stream: how many pieces came, and whether they are all there are."""

    def __init__(self, request: bytes, ended: asyncio.Future[tuple[int, bool]]) -> None:
        self._request, self._ended = request, ended
        self._pieces, self._last = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        whole = self._last + data
        self._pieces += whole.count(_MARK) - self._last.count(_MARK)
        self._last = whole[-_KEPT:]
        if b"data: [DONE]" in whole:
            self._finish(self._pieces >= TOKENS or _STOPPED in whole)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._finish(False)

    def _finish(self, whole: bool) -> None:
        if not self._ended.done():
            self._ended.set_result((self._pieces, whole))


async def listen(url: str, key: str, seconds: float, pid: int) -> Heard:
    """Streams one after the other on each of `STREAMS` connections, for some seconds."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    address, port = place.hostname, place.port
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(ASKED)}\r\n\r\n"
    )
    request = head.encode("ascii") + ASKED
    loop = asyncio.get_running_loop()
    found: list[tuple[int, bool]] = []

    async def go_on(until_s: float) -> None:
        while loop.time() < until_s:
            ended: asyncio.Future[tuple[int, bool]] = loop.create_future()
            make = functools.partial(_Reader, request, ended)
            await loop.create_connection(make, address, port)
            found.append(await ended)

    await asyncio.gather(*(go_on(loop.time() + 0.1) for _ in range(STREAMS)))
    found.clear()
    before_s = processor_s(pid)
    await asyncio.gather(*(go_on(loop.time() + seconds) for _ in range(STREAMS)))
    took_s = processor_s(pid) - before_s
    pieces = sum(count for count, _ in found)
    broken = sum(not whole for _, whole in found)
    return Heard(pieces, len(found), broken, took_s)


def processor_s(pid: int) -> float:
    """Processor time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(
    pipe: Connection,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    close: Callable[[web.Application], Awaitable[None]] | None = None,
) -> None:
    """A server of chats in a process of its own: its address goes through the pipe, and whatever comes back ends it."""

    async def run() -> None:
        app = web.Application()
        if close is not None:
            app.on_cleanup.append(close)
        app.router.add_post("/v1/chat/completions", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    asyncio.run(run())


def serve_mock(pipe: Connection) -> None:
    """A back end that says the same pieces at the same pace."""

    async def talk(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(TOKENS):
                await asyncio.sleep(TOKEN_S)
                await response.write(_PIECE)
            await response.write(_PIECE + b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    serve(pipe, talk)


def serve_proxy(pipe: Connection, upstream: str) -> None:
    """A proxy that does nothing but hand on, chunk by chunk, what comes in chunks, and whole what comes whole."""
    sessions: list[aiohttp.ClientSession] = []

    async def close(_: web.Application) -> None:
        for session in sessions:
            await session.close()

    async def hand_on(request: web.Request) -> web.StreamResponse:
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        body = await request.read()
        async with sessions[0].post(upstream + "/v1/chat/completions", data=body) as answer:
            if answer.content_type != "text/event-stream":
                return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            with suppress(ConnectionError):
                async for data in answer.content.iter_any():
                    await response.write(data)
                await response.write_eof()
            return response

    serve(pipe, hand_on, close)


def of_bare_proxy(seconds: float) -> Heard:
    """The bare proxy's figures."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe(), spawn.Pipe()]
    mock = spawn.Process(target=serve_mock, args=(pipes[0][1],))
    mock.start()
    pipes[0][1].close()  # ours alone would keep it open after a server that died
    proxy: Any = None
    try:
        proxy = spawn.Process(target=serve_proxy, args=(pipes[1][1], pipes[0][0].recv()))
        proxy.start()
        pipes[1][1].close()
        return asyncio.run(listen(pipes[1][0].recv(), "none", seconds, proxy.pid))
    finally:
        for process, (ours, _) in ((proxy, pipes[1]), (mock, pipes[0])):
            if process is not None:
                ours.send("over")
                process.join(10)
                process.kill()


def of_gateway(seconds: float) -> Heard:
    """Our gateway's figures, its host reached directly."""
    with tempfile.TemporaryDirectory(prefix="daitn-streams-") as folder:
        offers = Path(folder) / "offers.toml"
        offers.write_text(OFFER, encoding="utf-8")
        with LocalDomain(Path(folder) / "domain", "streams", patience_s=2.0) as domain:
            domain.start()
            said = domain.join_all(
                [
                    NodeSpec(name="h0", operator="h0", roles=(Role.HOST,), direct="127.0.0.1", offers=str(offers)),
                    NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,)),
                ]
            )
            with daitn.connect(domain.operator_token()) as operator:
                key = operator.make_owner_token("app", ("ask",))
            url = said["gate"]["queries"]
            asyncio.run(_until_told(url, key))
            return asyncio.run(listen(url, key, seconds, domain.processes.pid("gate")))


async def _until_told(url: str, key: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        while True:
            async with session.post(url + "/v1/chat/completions", data=ASKED) as answer:
                if answer.status == 200 and b"[DONE]" in await answer.read():
                    return
            await asyncio.sleep(0.1)


def figures(seconds: float) -> dict[str, float]:
    """Both, and the ratio."""
    found: dict[str, float] = {}
    for name, heard in (("proxy", of_bare_proxy(seconds)), ("streams", of_gateway(seconds))):
        if heard.broken or not heard.pieces:
            raise AssertionError(f"{name}: {heard.broken} of {heard.answers} answers were not whole")
        found[f"{name}_pieces_per_core_s"] = heard.pieces / max(heard.processor_s, 0.01)
        found[f"{name}_pieces_per_s"] = heard.pieces / seconds
    found["streams_ratio"] = found["streams_pieces_per_core_s"] / found["proxy_pieces_per_core_s"]
    return found


if __name__ == "__main__":
    print(json.dumps(figures(4.0)))
