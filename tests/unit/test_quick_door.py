"""The door's quick way: what it answers itself and what it hands over; clients that vanish, are slow, send too much."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import ANSWER, carried
from tests.unit.test_query_engine import make_model, make_route

from daitn.base.ids import DomainId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.serving import ApiKey, TensorSpec
from daitn.node.http.owner_token import OwnerToken
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving import asking, quick_door
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import BODY_BYTES, Door
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused

TOKEN = OwnerToken(address="127.0.0.1:1", domain=DomainId("d"), fingerprint=bytes(32), secret=bytes(32))
INFER = "/v2/models/sides/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}]}).encode()


class World:
    """A door before one host that answers as it is told."""

    def __init__(self) -> None:
        self.engine, self.counters = QueryRouteEngine(), Counters()
        spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
        model = msgspec.structs.replace(make_model(make_route("one")), inputs=(spec,))
        self.engine.follow([model], time.monotonic_ns())
        self.door = Door(self.engine, Asking(self.engine, carried(self.call), self.counters), self.counters)
        digest = digest_of_secret(TOKEN.secret)
        self.keys = [ApiKey(digest=digest, owner=OwnerId("app"), expires_unix_s=time.time() + 60)]
        self.door.take_keys(self.keys)
        self.go = asyncio.Event()
        self.go.set()
        self.asked = self.stopped = 0
        self.answer: QueryAnswer | QueryRefused = ANSWER

    async def call(self, host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        self.asked += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return self.answer

    def add_host(self, name: str) -> None:
        model = self.engine.models[ModelName("sides")]
        both = msgspec.structs.replace(model, routes=(*model.routes, make_route(name)))
        self.engine.follow([both], time.monotonic_ns())

    @property
    def port(self) -> int:
        return int(self.door.address.rpartition(":")[2])


class Client:
    """A connection as a client has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(
        self, path: str = "/v2/models/sides/infer", body: bytes = BODY, *, method: str = "POST", **more: str
    ) -> None:
        headers = {"Host": "gate", "Authorization": f"Bearer {TOKEN}", "Content-Length": str(len(body))}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value != "-")
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body


def run(story: Callable[[World, Callable[[], Awaitable[Client]]], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        world = World()
        await world.door.start("127.0.0.1", 0)
        clients: list[Client] = []

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", world.port)))
            return clients[-1]

        try:
            await story(world, connect)
        finally:
            for client in clients:
                client.writer.close()
            await world.door.stop()

    asyncio.run(all_of_it())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def test_queries_of_one_connection_are_answered_in_order_those_sent_ahead_too() -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        for _ in range(3):
            client.send()
        for _ in range(3):
            status, headers, body = await client.receive()
            assert (status, headers["x-daitn-host"]) == (200, "one")
            assert json.loads(body)["outputs"][0]["data"] == [0.0, 0.0]
        assert world.counters.of("queries_answered") == 3

    run(story)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"path": "/v2/models/side/infer"}, 404, "sides"),
        ({"path": "/v2/models/sides/versions/7/infer"}, 404, "version 1"),
        ({"body": b"{not json"}, 400, "does not decode"),
        ({"body": BODY.replace(b"[1, 2]", b"[1, 3]")}, 400, "takes 12 bytes"),
        ({"Authorization": "Bearer nonsense"}, 401, "opens nothing"),
        ({"Authorization": "-"}, 401, "no key"),
        ({"x_daitn_deadline_ms": "soon"}, 400, "not a number"),
        ({"x_daitn_deadline_ms": "0.0001"}, 503, "are left"),
        ({"x_daitn_min_accuracy": "0.9"}, 422, "was not measured"),
        ({"x_daitn_region": "moon"}, 503, "region moon"),
    ],
)
def test_what_cannot_be_is_refused_alike_by_the_quick_way_and_by_the_general_one(
    change: dict[str, Any], status: int, said: str
) -> None:
    async def story(world: World, connect: Any) -> None:
        quick, general = await connect(), await connect()
        quick.send(**change)
        general.send(**{**change, "path": change.get("path", "/v2/models/sides/infer") + "?general"})
        (quick_status, quick_headers, quick_body), (general_status, general_headers, general_body) = (
            await quick.receive(),
            await general.receive(),
        )
        assert (quick_status, said in json.loads(quick_body)["error"]) == (status, True), quick_body
        assert (general_status, general_body) == (quick_status, quick_body) or "are left" in said
        assert {name for name in quick_headers if name.startswith(("x-", "retry", "www"))} == {
            name for name in general_headers if name.startswith(("x-", "retry", "www"))
        }

    run(story)


@pytest.mark.parametrize(
    "change", [{"path": "/v2", "method": "GET", "body": b""}, {"path": "/v2/models/sides%20/infer"}]
)
def test_anything_else_is_handed_over_with_its_connection(change: dict[str, Any]) -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.send()
        client.send(**change)
        client.send()
        assert (await client.receive())[0] == 200
        assert (await client.receive())[0] in (200, 404)
        assert (await client.receive())[0] == 200

    run(story)


def test_body_in_chunks_is_read_by_the_general_server() -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.send(body=b"", Content_Length="-", Transfer_Encoding="chunked")
        client.writer.write(b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n")
        assert (await client.receive())[0] == 200

    run(story)


@pytest.mark.parametrize("head", [b"nonsense\r\n\r\n", b"POST /v2/models/sides/infer HTTP/1.1\r\nbad header\r\n\r\n"])
def test_what_is_no_http_is_refused_and_closed(head: bytes) -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.writer.write(head)
        assert (await client.receive())[0] == 400

    run(story)


def test_prompt_of_fifty_megabytes_is_refused_before_it_is_read() -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.writer.write(
            f"POST /v2/models/sides/infer HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {50 << 20}\r\n\r\n".encode()
        )
        client.writer.write(bytes(1 << 16))
        status, _, body = await client.receive()
        assert (status, str(BODY_BYTES) in json.loads(body)["error"]) == (413, True)
        assert world.asked == 0

    run(story)


def test_client_that_vanishes_stops_the_work() -> None:
    async def story(world: World, connect: Any) -> None:
        world.go.clear()
        client = await connect()
        client.send()
        await until(lambda: world.asked == 1)
        client.writer.transport.abort()
        await until(lambda: world.stopped == 1)
        assert all(kept.table.under_way == 0 for kept in world.engine._kept.values())

    run(story)


def test_client_that_does_not_read_is_sent_no_more_and_holds_up_nobody() -> None:
    async def story(world: World, connect: Any) -> None:
        from daitn.serving.tensors import tensor_of

        world.answer = QueryAnswer(outputs=(tensor_of("y", np.zeros((1, 400_000), np.float32)),), engine_s=0.001)
        slow, other = await connect(), await connect()
        for _ in range(200):
            slow.send()
        seen, others = -1, 0
        while seen != world.asked - others:  # until nothing of it moves any more
            seen = world.asked - others
            for _ in range(3):
                other.send()
                others += 1
                assert (await other.receive())[0] == 200
        assert seen < 50, "its answers wait for it, and so do its queries"

    run(story)


def test_client_that_reads_late_gets_every_answer() -> None:
    async def story(world: World, connect: Any) -> None:
        from daitn.serving.tensors import tensor_of

        world.answer = QueryAnswer(outputs=(tensor_of("y", np.zeros((1, 400_000), np.float32)),), engine_s=0.001)
        slow, other = await connect(), await connect()
        for _ in range(20):
            slow.send()
        other.send()
        assert (await other.receive())[0] == 200
        for _ in range(20):
            assert (await slow.receive())[0] == 200

    run(story)


def test_many_queries_sent_ahead_that_are_refused_at_once_are_all_answered() -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        for _ in range(600):
            client.send(body=b"", Content_Length="0", Authorization="-")
        for _ in range(600):
            assert (await client.receive())[0] == 401

    run(story)


def test_door_that_closes_answers_what_is_under_way() -> None:
    async def story(world: World, connect: Any) -> None:
        world.go.clear()
        client, idle = await connect(), await connect()
        client.send()
        await until(lambda: world.asked == 1)
        closing = asyncio.create_task(world.door.stop())
        assert await asyncio.wait_for(idle.reader.read(), 5) == b""
        world.go.set()
        assert (await client.receive())[0] == 200
        assert await asyncio.wait_for(client.reader.read(), 5) == b""
        await closing

    run(story)


def test_late_query_goes_on_at_another_host_or_is_stopped_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LATE_LEAST_S", 0.01)

    async def story(world: World, connect: Any) -> None:
        world.go.clear()
        world.add_host("two")
        client, other = await connect(), await connect()
        for _ in range(20):  # each that is answered earns a part of a second copy
            world.engine.begun()
        client.send()
        await until(lambda: world.asked == 2)
        client.writer.transport.abort()
        await until(lambda: world.stopped == 2)
        assert all(kept.table.under_way == 0 for kept in world.engine._kept.values())
        world.go.set()
        other.send()
        assert (await other.receive())[0] == 200

    run(story)


def test_client_that_sends_half_a_query_holds_nothing_and_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_door, "SILENT_S", 0.05)

    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.writer.write(b"POST /v2/models/sides/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nhalf")
        assert await asyncio.wait_for(client.reader.read(), 5) == b""

    run(story)


def test_connection_that_is_to_be_closed_is_closed_after_its_answer() -> None:
    async def story(world: World, connect: Any) -> None:
        client = await connect()
        client.send(Connection="close")
        assert (await client.receive())[0] == 200
        assert await asyncio.wait_for(client.reader.read(), 5) == b""

    run(story)


def test_names_of_models_and_hosts_cannot_make_headers() -> None:
    reply = quick_door.Reply(200, b"", {"x-daitn-offer": "a\r\nSet-Cookie: b"})
    assert b"\r\nSet-Cookie" not in quick_door._encoded(reply, last=False)


@pytest.mark.parametrize("name", ["sides", "no-such"])
@pytest.mark.parametrize("path", ["", "/ready", "/config", "/infer"])
def test_key_for_other_models_is_told_nothing_of_this_one(name: str, path: str) -> None:
    async def check(world: World, _: Callable[[], Awaitable[Client]]) -> None:
        key = msgspec.structs.replace(world.keys[0], terms=KeyTerms(models=(ModelName("other"),)))
        world.door.take_keys([key])
        async with aiohttp.ClientSession(world.door.address, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            method, body = ("POST", BODY) if path == "/infer" else ("GET", None)
            async with client.request(method, f"/v2/models/{name}{path}", data=body) as response:
                assert response.status == 403
                assert await response.json() == {"error": f"this key may not ask '{name}'; it is for other"}
        assert world.asked == 0

    run(check)
