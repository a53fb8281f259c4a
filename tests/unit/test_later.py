"""Queries that nobody waits for: taken, tried again, kept, posted with a signature; where answers must not go."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.test_asking import carried
from tests.unit.test_quick_door import BODY, TOKEN
from tests.unit.test_quick_door import World as Gate

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.descriptors.destinations import address_fault, parse_destination, parse_networks
from daitn.node.http.problems import HttpError
from daitn.node.serving import later
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import Door
from daitn.node.serving.later import Came, LaterQueries, wait_s
from daitn.node.serving.later_store import Later, LaterStore
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.webhooks import JudgedResolver, Webhooks
from daitn.serving.webhook_signing import verify_webhook

HERE = ("127.0.0.0/8",)
ANSWER = Reply(200, b'{"outputs": []}', {"x-daitn-host": "n0001"})
BUSY = Reply(503, b'{"error": "no host"}', {"Retry-After": "1", "x-daitn-reason": "no-host"})


class World:
    """A gateway's queries, a clock that moves when somebody sleeps, and a model that answers as it is told."""

    def __init__(self, folder: Path, allowed: tuple[str, ...] = HERE) -> None:
        self.folder, self.allowed = folder, allowed
        self.now_s = 1000.0
        self.replies: list[Reply] = []
        self.asked: list[Later] = []
        self.counters = Counters()
        self.hold: asyncio.Event | None = None
        self.later = self.opened()

    def opened(self) -> LaterQueries:
        hooks = Webhooks(self.folder / "signing.key", parse_networks(self.allowed), clock=lambda: self.now_s)
        store = LaterStore(self.folder / "later.sqlite")
        return LaterQueries(store, hooks, self._answer, self.counters, lambda: self.now_s, self._sleep)

    async def restart(self) -> None:
        await self.later.stop()
        self.later = self.opened()
        await self.later.start()

    async def _answer(self, one: Later) -> Reply:
        self.asked.append(one)
        if self.hold is not None:
            await self.hold.wait()
        return self.replies.pop(0) if self.replies else ANSWER

    async def _sleep(self, seconds: float) -> None:
        if seconds == later.SWEEP_S:
            await asyncio.Event().wait()
        self.now_s += seconds
        await asyncio.sleep(0)

    async def take(self, body: bytes = b"{}", owner: str = "ada", **headers: str) -> Reply | Refused:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.later.take(Came(owner, f"key of {owner}", "sides", "", named, body))

    async def name(self, body: bytes = b"{}", **headers: str) -> str:
        said = await self.take(body, **headers)
        assert isinstance(said, Reply), said
        assert said.status == 202
        return str(json.loads(said.body)["query"])

    async def outcome(self, query: str, true: Callable[[Reply], bool] = lambda said: said.status != 202) -> Reply:
        async with asyncio.timeout(10):
            while not true(said := await self.later.fetch("ada", query)):
                await asyncio.sleep(0)
        return said


def run(folder: Path, story: Callable[[World], Awaitable[None]], allowed: tuple[str, ...] = HERE) -> World:
    async def all_of_it() -> World:
        world = World(folder, allowed)
        await world.later.start()
        try:
            await story(world)
        finally:
            await world.later.stop()
        return world

    return asyncio.run(all_of_it())


@asynccontextmanager
async def receiver(*statuses: int, location: str = "") -> Any:
    """A server that says these, then 200; what was posted to it."""
    got: list[tuple[dict[str, str], bytes]] = []
    left = list(statuses)

    async def take(request: web.Request) -> web.Response:
        got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        status = left.pop(0) if left else 200
        return web.Response(status=status, headers={"Location": location} if location else None)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    finally:
        await runner.cleanup()


def test_query_is_acknowledged_answered_kept_and_forgotten_by_its_owner_only(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.hold = asyncio.Event()
        query = await world.name(b"rows")
        assert (await world.later.fetch("ada", query)).status == 202
        world.hold.set()
        said = await world.outcome(query)
        assert (said.status, said.body, said.headers["x-daitn-host"]) == (200, ANSWER.body, "n0001")
        with pytest.raises(HttpError, match="no such query of yours"):
            await world.later.fetch("bob", query)
        await world.later.forget("ada", query)
        with pytest.raises(HttpError, match="no such query of yours"):
            await world.later.fetch("ada", query)

    world = run(tmp_path, story)
    assert [one.asked for one in world.asked] == [b"rows"]
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b'"outputs"' not in files, "what was forgotten is on no disk"


def test_query_without_a_host_is_tried_again_until_its_time_is_over_and_its_last_refusal_is_the_outcome(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        world.replies = [BUSY, BUSY, BUSY]
        assert (await world.outcome(await world.name())).status == 200
        assert len(world.asked) == 4
        assert world.now_s - 1000 >= 3
        world.replies = [BUSY] * 100
        asked = len(world.asked)
        said = await world.outcome(await world.name(x_daitn_within_s="60"))
        assert (said.status, said.headers["x-daitn-reason"]) == (503, "no-host")
        assert 4 <= len(world.asked) - asked <= 10
        world.replies = [Reply(422, b"{}", {"x-daitn-reason": "quality"})]
        asked = len(world.asked)
        assert (await world.outcome(await world.name())).status == 422
        assert len(world.asked) == asked + 1, "what another moment does not change is not tried again"

    run(tmp_path, story)


def test_gateway_that_was_restarted_goes_on_with_what_it_took_and_knows_what_it_answered(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        done = await world.name(b"first")
        await world.outcome(done)
        world.hold = asyncio.Event()
        query = await world.name(b"second")
        while len(world.asked) < 2:
            await asyncio.sleep(0)
        await world.restart()
        world.hold.set()
        assert (await world.outcome(query)).body == ANSWER.body
        assert (await world.later.fetch("ada", done)).status == 200
        assert [one.asked for one in world.asked] == [b"first", b"second", b"second"]

    run(tmp_path, story)


def test_repeated_query_is_the_first_one_and_another_under_its_name_is_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.name(b"rows", idempotency_key="a")
        assert await world.name(b"rows", idempotency_key="a") == first
        await world.outcome(first)
        assert await world.name(b"rows", idempotency_key="a") == first
        with pytest.raises(HttpError, match="was used for another query"):
            await world.take(b"other rows", idempotency_key="a")
        said = await world.take(b"rows", owner="bob", idempotency_key="a")
        assert isinstance(said, Reply)
        assert json.loads(said.body)["query"] != first
        with pytest.raises(InputError, match="200 characters, 128 are read"):
            await world.take(idempotency_key="a" * 200)
        with pytest.raises(InputError, match="x-daitn-within-s is 'nan', not within 0 and 86400"):
            await world.take(x_daitn_within_s="nan")

    world = run(tmp_path, story)
    assert len(world.asked) <= 2


def test_answer_is_posted_signed_and_again_until_it_is_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with receiver(500, 302, location="http://127.0.0.1:1/elsewhere") as (url, got):
            query = await world.name(x_daitn_answer_to=url)
            said = await world.outcome(query, lambda one: one.headers.get("x-daitn-posted") == "done")
            assert said.status == 200
        assert len(got) == 3, "a redirect is not followed"
        assert {headers["webhook-id"] for headers, _ in got} == {query}
        headers, body = got[-1]
        assert (body, headers["x-daitn-status"]) == (ANSWER.body, "200")
        assert "authorization" not in headers
        given = (query, headers["webhook-timestamp"], headers["webhook-signature"])
        now_s = float(headers["webhook-timestamp"])
        assert verify_webhook(*given, body, world.later.key, now_s)
        assert not verify_webhook(*given, body + b" ", world.later.key, now_s)
        assert not verify_webhook("other", *given[1:], body, world.later.key, now_s)
        assert not verify_webhook(*given, body, world.later.key, now_s + 301)
        assert not verify_webhook(query, given[1], "v1a,????", body, world.later.key, now_s)
        again = await world.name(x_daitn_answer_to="http://127.0.0.1:9/nobody")
        kept = await world.outcome(again)
        assert (kept.status, kept.headers["x-daitn-posted"]) == (200, "not yet")
        until_s = float(kept.headers["x-daitn-kept-until"])
        with pytest.raises(HttpError, match="no such query"):
            await world.outcome(again, lambda _: False)
        assert world.now_s >= until_s, "what nobody took is posted again until its time is over"

    run(tmp_path, story)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.5.5", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
        "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "ff02::1", "not an address",
    ],
)  # fmt: skip
def test_nothing_is_posted_to_addresses_that_only_insiders_reach(address: str) -> None:
    assert address_fault(address, "https", ())


def test_only_what_an_operator_lists_is_reached_inside_and_only_https_outside() -> None:
    assert address_fault("93.184.216.34", "https", ()) == ""
    assert "use https" in address_fault("93.184.216.34", "http", ())
    assert address_fault("2606:2800:220:1::1", "https", ()) == ""
    inside = parse_networks(("10.1.0.0/16", "fd00::/8"))
    assert address_fault("10.1.2.3", "http", inside) == ""
    assert address_fault("10.2.2.3", "http", inside)
    assert address_fault("fd00::5", "http", inside) == ""
    with pytest.raises(InputError, match="'ten' is no network"):
        parse_networks(("ten",))
    with pytest.raises(InputError, match="65 networks, the limit is 64"):
        parse_networks(("10.0.0.1",) * 65)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("ftp://example.org/", "is no address"),
        ("https://", "is no address"),
        ("https://user:secret@example.org/", "a user, a password or a fragment"),
        ("https://example.org/#part", "a user, a password or a fragment"),
        ("https://example.org:99999/", "is no address"),
        ("https://example.org/\r\nx: y", "printable ASCII"),
        ("https://example.org/" + "a" * 3000, "up to 2048"),
    ],
)
def test_destination_that_cannot_be_one_is_refused_with_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        parse_destination(url)


def test_query_whose_answer_could_go_nowhere_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for url in ("https://127.0.0.1/", "https://localhost/x", "https://[::1]/", "https://2130706433/"):
            said = await world.take(x_daitn_answer_to=url)
            assert isinstance(said, Refused), url
            assert said.reason is QueryRefusal.DESTINATION

    world = run(tmp_path, story, allowed=())
    assert world.asked == []
    assert world.counters.of("later_refused", "destination") == 4


def test_name_that_stands_for_another_address_when_it_is_connected_to_is_not_posted_to(tmp_path: Path) -> None:
    """Judged is what is connected to: one look cannot be deceived for the next."""

    async def story() -> None:
        resolver = JudgedResolver("https", ())
        with pytest.raises(PolicyError, match=r"localhost cannot be posted to: .* is no address of the world outside"):
            await resolver.resolve("localhost", 443)
        hooks = Webhooks(tmp_path / "signing.key", ())
        to = parse_destination("https://localhost:1/")
        assert to is not None

        async def reached(_: Any) -> None:
            """The first look was deceived."""

        hooks.reach = reached  # type: ignore[method-assign]
        with pytest.raises((PolicyError, UnavailableError)):
            await hooks.post(to, "q", b"", "application/json", {})

    asyncio.run(story())


def test_owner_who_fetches_nothing_is_told_so_and_others_are_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later, "OF_AN_OWNER", 2)

    async def story(world: World) -> None:
        first = await world.name()
        await world.name()
        said = await world.take()
        assert isinstance(said, Refused)
        assert said.reason is QueryRefusal.BUSY
        assert "2 queries of yours are kept here (2 may be)" in said.what
        assert isinstance(await world.take(owner="bob"), Reply)
        await world.later.forget("ada", first)
        assert isinstance(await world.take(), Reply)

    run(tmp_path, story)


def test_door_takes_a_query_for_later_tells_its_answer_and_refuses_what_it_would_refuse_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        gate = Gate()

        def make(answer: Callable[[Later], Awaitable[Reply]]) -> LaterQueries:
            hooks = Webhooks(tmp_path / "signing.key", ())
            return LaterQueries(LaterStore(tmp_path / "later.sqlite"), hooks, answer, gate.counters)

        asking = Asking(gate.engine, carried(gate.call), gate.counters)
        door = Door(gate.engine, asking, gate.counters, later=make)
        await door.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(door.address, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                path = "/v2/models/sides/later"
                async with client.post(path, data=BODY) as said:
                    assert said.status == 401, "its keys are not told yet"
                door.take_keys(gate.keys)
                async with client.post(path, data=BODY) as said:
                    assert said.status == 202
                    where = said.headers["Location"]
                async with asyncio.timeout(10):
                    while True:
                        async with client.get(where) as said:
                            if said.status != 202:
                                break
                assert (said.status, said.headers["x-daitn-host"]) == (200, "one")
                for body, status in ((b"{", 400), (BODY.replace(b"[1, 2]", b"[2, 1]"), 400)):
                    async with client.post(path, data=body) as said:
                        assert said.status == status
                async with client.post("/v2/models/side/later", data=BODY) as said:
                    assert said.status == 404
                async with client.post(path, data=BODY, headers={"x-daitn-sealed": "1"}) as said:
                    assert said.status == 202, "what is sealed is said by the path, not by a client's header"
                async with client.post("/v2/models/sides/secret/later", data=BODY) as said:
                    assert said.status == 404, "this door takes no secret queries"
                async with client.post(path, data=BODY, headers={"x-daitn-answer-to": "https://127.0.0.1/"}) as said:
                    assert (said.status, said.headers["x-daitn-reason"]) == (422, "destination")
                async with client.post(path, data=BODY, headers={"x-daitn-answer-to": "mailto:a"}) as said:
                    assert said.status == 400
                async with client.get("/v2/later/key") as said:
                    assert len((await said.json())["key"]) == 64
                async with client.delete(where) as said:
                    assert said.status == 200
                async with client.get(where) as said:
                    assert said.status == 404
        finally:
            await door.stop()

    asyncio.run(story())


def test_waits_grow_are_spread_and_are_no_shorter_than_was_asked_for() -> None:
    draw = random.Random(1)
    for tries in range(50):
        longest = min(later.WAIT_MOST_S, 2.0**tries)
        assert all(longest / 2 <= wait_s(tries, draw) <= longest for _ in range(20))
    assert wait_s(0, draw, 30.0) == 30.0
    assert wait_s(0, draw, 1e9) == later.WAIT_MOST_S
