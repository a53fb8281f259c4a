"""Texts that nobody waits for: answered whole when hosts can, as at once, by the same store, tries and destinations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.answer_world import MODEL, AnswerWorld, simulated
from tests.server_world import KEY, add_double
from tests.unit.test_asking import carried
from tests.unit.test_later import HERE, receiver

from daitn.base.ids import OwnerId
from daitn.descriptors.destinations import parse_networks
from daitn.descriptors.serving import ApiKey
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import Door
from daitn.node.serving.later import LaterQueries
from daitn.node.serving.later_store import Later, LaterStore
from daitn.node.serving.openai_door import OpenAiDoor
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.ways import WayBook
from daitn.node.serving.webhooks import Webhooks

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 20}
TEXT = {"model": MODEL, "prompt": "hello", "temperature": 0, "max_tokens": 20}
VECTORS = {"model": MODEL, "input": ["a", "b"]}


class Client:
    """Whoever asks, at a gateway that may be started anew."""

    def __init__(self, world: AnswerWorld, folder: Path) -> None:
        self.world, self._folder = world, folder
        self.tried = asyncio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[aiohttp.ClientSession]:
        world = self.world

        async def sleep(seconds: float) -> None:
            if seconds > 20:  # the sweep
                await asyncio.Event().wait()
            self.tried.set()
            await asyncio.sleep(0.01)

        def make(answer: Callable[[Later], Awaitable[Reply]]) -> LaterQueries:
            hooks = Webhooks(self._folder / "signing.key", parse_networks(HERE))
            store = LaterStore(self._folder / "later.sqlite")
            return LaterQueries(store, hooks, answer, world.counters, sleep=sleep)

        texts = OpenAiDoor(world.engine, world.asking, WayBook())
        asking = Asking(world.engine, carried(world.tensors), world.counters)  # type: ignore[arg-type]
        door = Door(world.engine, asking, world.counters, texts, later=make)
        digest = digest_of_secret(KEY.secret)
        door.take_keys([ApiKey(digest=digest, owner=OwnerId("app"), expires_unix_s=2e9)])
        await door.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(door.address, headers={"Authorization": f"Bearer {KEY}"}) as client:
                yield client
        finally:
            await door.stop()


def run(folder: Path, story: Callable[[Client], Awaitable[None]]) -> AnswerWorld:
    async def all_of_it() -> AnswerWorld:
        async with asyncio.timeout(30), AnswerWorld() as world:
            await story(Client(world, folder))
        return world

    return asyncio.run(all_of_it())


async def post(client: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(path, json=body, headers=named) as said:
        return said.status, await said.json(content_type=None), said.headers


async def outcome(client: aiohttp.ClientSession, where: str) -> tuple[int, Any, Any]:
    while True:
        async with client.get(where) as said:
            if said.status != 202:
                return said.status, await said.json(content_type=None), said.headers
        await asyncio.sleep(0.005)


def told(body: Any) -> Any:
    """A body without what differs from answer to answer."""
    return {name: value for name, value in body.items() if name not in ("id", "created")}


@pytest.mark.parametrize(
    ("path", "body"), [("chat/completions", CHAT), ("completions", TEXT), ("embeddings", VECTORS)], ids=str
)
def test_text_asked_for_later_is_answered_as_at_once(tmp_path: Path, path: str, body: Any) -> None:
    async def story(client: Client) -> None:
        client.world.add("host", simulated(width=8))
        async with client.opened() as session:
            _, at_once, _ = await post(session, f"/v1/{path}", body)
            status, said, headers = await post(session, f"/v1/{path}/later", body)
            assert (status, said["state"]) == (202, "under way")
            status, later, headers = await outcome(session, headers["Location"])
            assert (status, headers["x-daitn-host"], headers["x-daitn-simulated"]) == (200, "host", "1")
            assert told(later) == told(at_once)

    run(tmp_path, story)


def test_text_is_tried_again_until_a_host_is_there_also_by_a_gateway_that_was_restarted_and_posted(
    tmp_path: Path,
) -> None:
    async def story(client: Client) -> None:
        client.world.add("host", simulated())
        await client.world.fabric.close()
        attend = client.world.fabric.hosts.pop("host")  # type: ignore[call-overload]
        async with receiver() as (address, got):
            async with client.opened() as session:
                _, said, _ = await post(session, "/v1/chat/completions/later", CHAT, x_daitn_answer_to=address)
                await client.tried.wait()
            client.world.fabric.hosts["host"] = attend  # type: ignore[index]
            async with client.opened() as session:
                status, later, _ = await outcome(session, f"/v2/later/{said['query']}")
                assert (status, len(later["choices"][0]["message"]["content"].split()) > 0) == (200, True)
                async with asyncio.timeout(10):
                    while not got:
                        await asyncio.sleep(0.005)
            headers, body = got[0]
            assert (json.loads(body), headers["x-daitn-status"]) == (later, "200")

    world = run(tmp_path, story)
    assert world.counters.of("later_tried_again") >= 1


def test_what_would_be_refused_at_once_is_not_taken_for_later(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        client.world.add("host", simulated())
        add_double(client.world)
        async with client.opened() as session:
            for path, body, status, what in (
                ("chat/completions", CHAT | {"stream": True}, 400, "nobody waits for pieces"),
                ("chat/completions", CHAT | {"tools": [{}]}, 400, "tools: not served here"),
                ("completions", {"model": MODEL}, 400, "does not decode"),
                ("completions", TEXT | {"model": "talkre"}, 404, "talker"),
                ("embeddings", VECTORS | {"model": "double"}, 400, "does not embed: it takes tensors"),
                ("completions", TEXT | {"daitn": {"speed": 1}}, 400, "daitn.speed"),
            ):
                found, said, _ = await post(session, f"/v1/{path}/later", body)
                assert (found, what in said["error"]["message"]) == (status, True), said
            status, said, _ = await post(session, "/v2/models/double/later", CHAT, x_daitn_text="chat")
            assert status == 400, "what is a text is said by the path, not by a client's header"
            status, said, headers = await post(session, "/v1/embeddings/later", VECTORS | {"dimensions": 3})
            assert status == 202
            status, said, _ = await outcome(session, headers["Location"])
            assert (status, "dimensions is 3" in said["error"]["message"]) == (400, True)

    run(tmp_path, story)


def test_what_was_asked_and_answered_is_in_no_file_once_it_is_answered_or_forgotten(tmp_path: Path) -> None:
    store = LaterStore(tmp_path / "later.sqlite")

    def held(word: bytes) -> bool:
        return any(word in path.read_bytes() for path in tmp_path.iterdir())

    asked, answer = b"Xylander has scurvy" * 9, b"give him lemons" * 9
    store.add(Later("q", "ada", "k", "", "d", "m", "", {}, asked, "", 1.0, 2.0, 3.0))
    assert held(b"Xylander"), "it is on disk before it is acknowledged"
    store.answered("q", 200, {}, "text", answer, 5.0)
    assert (held(b"Xylander"), held(b"lemons")) == (False, True)
    store.forget("q")
    assert not held(b"lemons")
    store.add(Later("r", "ada", "k", "", "d", "m", "", {}, asked, "", 1.0, 2.0, 3.0))
    assert store.expire(4.0) == ["r"]
    assert not held(b"Xylander")
    store.close()
