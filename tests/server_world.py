"""Other servers: our own gateway as one, and a small one that does what it is told, wrong things too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web
from tests.answer_world import MODEL, AnswerWorld
from tests.unit.test_asking import carried

from daitn.base.ids import ArtifactId, DomainId, ModelName, NodeId, OwnerId
from daitn.descriptors.grant import Holder
from daitn.descriptors.pipelines import Pipeline
from daitn.descriptors.serving import ApiKey, ReplicaMeasured, Route, ServedModel, ServingGoal, TensorSpec
from daitn.node.http.owner_token import OwnerToken
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import Door
from daitn.node.serving.openai_door import OpenAiDoor
from daitn.node.serving.switching import Switching
from daitn.node.serving.ways import WayBook
from daitn.serving.tensors import arrays_of, tensors_of
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused

DOUBLE = ModelName("double")
KEY = OwnerToken(address="127.0.0.1:1", domain=DomainId("demo"), fingerprint=b"f" * 32, secret=b"s" * 32)


@asynccontextmanager
async def gateway(
    world: AnswerWorld, pipelines: tuple[Pipeline, ...] = (), switching: Switching | None = None
) -> AsyncIterator[Door]:
    """A gateway's door on loopback; `KEY` opens it. `DOUBLE` doubles its input."""

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        arrays = arrays_of(query.inputs)
        return QueryAnswer(outputs=tensors_of({"y": arrays["x"] * 2}), engine_s=0.001)

    texts = OpenAiDoor(world.engine, world.asking, WayBook(), switching)
    door = Door(world.engine, Asking(world.engine, carried(call), world.counters), world.counters, texts, pipelines)
    door.take_keys(
        [ApiKey(digest=digest_of_secret(KEY.secret), owner=OwnerId("app"), expires_unix_s=time.time() + 1000)]
    )
    await door.start("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.stop()


def add_double(world: AnswerWorld) -> None:
    """A model of tensors beside those of texts."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    route = Route(host=Holder(node=NodeId("t")), measured=ReplicaMeasured(row_s=0.001, batch_rows=8, batch_s=0.002))
    model = ServedModel(
        model=DOUBLE,
        artifact=ArtifactId("d" * 64),
        owner=OwnerId("ada"),
        goal=ServingGoal(),
        inputs=(spec,),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
        routes=(route,),
    )
    world.engine.follow([*world.engine.models.values(), model], time.monotonic_ns())


class Server:
    """A server of both interfaces; `mood` says what it does wrong."""

    def __init__(self) -> None:
        self.mood = ""
        self.plain = False
        """It takes tensors as JSON only."""
        self.address = ""
        self.closed = asyncio.Event()
        self.asked: list[Any] = []

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL}]})

    async def text(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.mood == "500":
            return web.Response(status=500, text="boom")
        if self.mood == "400":
            return web.Response(status=400, text="too many words")
        if self.mood == "redirect":
            raise web.HTTPFound("http://169.254.169.254/")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = [f"w{number} " for number in range(6)] if self.mood != "other words" else ["something ", "else "]
        try:
            for place, word in enumerate(words):
                if place == 3 and self.mood == "hang":
                    await asyncio.sleep(30)
                if place == 3 and self.mood == "cut":
                    return response
                data = b"{garbage" if place == 3 and self.mood == "garbage" else json.dumps(self._piece(word)).encode()
                if place == 3 and self.mood == "long line":
                    data = b"x" * 600_000
                if place == 3 and self.mood == "error":
                    data = b'{"error": {"message": "out of memory"}}'
                await response.write(b": a comment\n\ndata: " + data + b"\n\n")
            await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        except (ConnectionError, asyncio.CancelledError):
            self.closed.set()
            raise
        return response

    def _piece(self, word: str) -> Any:
        return {"choices": [{"delta": {"content": word}, "finish_reason": None}], "usage": None}

    async def embed(self, request: web.Request) -> web.Response:
        count = len((await request.json())["input"])
        rows = [{"index": row, "embedding": [row, 1.0]} for row in reversed(range(count))]
        rows = {"too few": rows[1:], "uneven": [{"index": 0, "embedding": [1.0]}, *rows[:-1]]}.get(self.mood, rows)
        return web.json_response({"data": rows, "usage": {"prompt_tokens": 3}})

    async def about(self, _: web.Request) -> web.Response:
        if self.mood == "says nothing":
            return web.Response(status=404)
        if self.mood == "says garbage":
            return web.Response(body=b"{garbage")
        extensions = [] if self.plain else ["binary_tensor_data"]
        return web.json_response({"name": "small", "version": "1", "extensions": extensions})

    async def metadata(self, _: web.Request) -> web.Response:
        first = 1 if self.mood == "fixed" else -1
        kind = "BYTES" if self.mood == "bytes" else "FP32"
        return web.json_response({"name": DOUBLE, "inputs": [{"name": "x", "datatype": kind, "shape": [first, 2]}]})

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.plain or self.mood.startswith("says"):
            (given,) = json.loads(body)["inputs"]
            values = (np.array(given["data"], "<f4") * 2).tolist()
        else:
            cut = int(request.headers["Inference-Header-Content-Length"])
            (given,) = json.loads(body[:cut])["inputs"]
            values = (np.frombuffer(body[cut:], "<f4") * 2).tolist()
        rows = given["shape"][0]
        if self.mood == "500":
            return web.Response(status=500)
        if self.mood == "400":
            return web.Response(status=400, text="no such thing")
        if self.mood == "garbage":
            return web.Response(body=b"{garbage")
        if self.mood == "hang":
            await asyncio.sleep(30)
        if self.mood == "huge":
            return web.Response(body=b"x" * (33 << 20))
        shape = [rows, 3] if self.mood == "wrong shape" else [rows, 2]
        return web.json_response({"outputs": [{"name": "y", "datatype": "FP32", "shape": shape, "data": values}]})


@asynccontextmanager
async def server(port: int = 0) -> AsyncIterator[Server]:
    """A small server on loopback; port 0: any."""
    one = Server()
    app = web.Application()
    app.router.add_get("/v1/models", one.models)
    app.router.add_post("/v1/chat/completions", one.text)
    app.router.add_post("/v1/embeddings", one.embed)
    app.router.add_get("/v2", one.about)
    app.router.add_get(f"/v2/models/{DOUBLE}", one.metadata)
    app.router.add_post(f"/v2/models/{DOUBLE}/infer", one.infer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    one.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()
