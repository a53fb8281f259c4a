"""Answers handed to another gateway: by a stream of their own, kept for their owner there, refused from strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.answer_world import MemoryStream

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.descriptors.destinations import Handed, parse_destination, parse_networks
from daitn.descriptors.grant import Holder
from daitn.node.http.problems import HttpError
from daitn.node.serving import later
from daitn.node.serving.handing import Handing
from daitn.node.serving.later import Came, LaterQueries
from daitn.node.serving.later_store import Later, LaterStore
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.webhooks import Webhooks
from daitn.wire.handed import PART_BYTES, AnswerHanded

HERE, THERE, NOBODY = NodeId("n0001"), NodeId("n0002"), NodeId("n0003")
ANSWER = Reply(200, bytes(range(256)) * (PART_BYTES // 100), {"x-daitn-host": "n0009"}, "application/octet-stream")


class Fabric:
    """Streams between gateways, in memory."""

    def __init__(self, node: NodeId, others: dict[NodeId, Fabric]) -> None:
        self.node, self.others = node, others
        self.handler: Any = None
        self.tasks: list[asyncio.Task[None]] = []
        others[node] = self

    async def accept_streams(self, handler: Any, *, word: str = "") -> None:
        assert word == "handed"
        self.handler = handler

    async def open_stream(self, receiver: Any, tag: str, *, timeout_s: float, light: bool = False) -> MemoryStream:
        there = self.others.get(receiver.node)
        if there is None:
            raise UnavailableError(f"{receiver.node} is not there")
        ours, theirs = MemoryStream(receiver.node), MemoryStream(self.node)
        ours.other, theirs.other = theirs, ours
        self.tasks.append(asyncio.create_task(self._attend(there, tag, theirs)))
        return ours

    async def _attend(self, there: Fabric, tag: str, stream: MemoryStream) -> None:
        try:
            await there.handler(self.node, tag, stream)
        except Exception:  # noqa: BLE001  # as a fabric does: the stream ends
            await stream.cancel()


class Gateway:
    """One gateway's late queries."""

    def __init__(self, node: NodeId, folder: Path, others: dict[NodeId, Fabric]) -> None:
        self.now_s, self.tries = 1000.0, 0
        self.counters = Counters()
        self.fabric = Fabric(node, others)
        self.handing = Handing(self.fabric, self.counters, lambda: self.now_s)  # type: ignore[arg-type]
        hooks = Webhooks(folder / f"{node}.key", parse_networks(()), clock=lambda: self.now_s)
        self.later = LaterQueries(
            LaterStore(folder / f"{node}.sqlite"),
            hooks,
            self._answer,
            self.counters,
            lambda: self.now_s,
            self._sleep,
            handing=self.handing,
        )

    async def _answer(self, _: Later) -> Reply:
        return ANSWER

    async def _sleep(self, seconds: float) -> None:
        if seconds == later.SWEEP_S:
            await asyncio.Event().wait()
        self.tries += 1
        self.now_s += seconds
        await asyncio.sleep(0)

    async def take(self, to: str = f"gateway:{THERE}") -> Reply | Refused:
        return await self.later.take(Came("ada", "key", "sides", "", {"x-daitn-answer-to": to}, b"{}"))

    async def handed(self) -> str:
        """Take a query, wait until its answer was handed on; its name."""
        said = await self.take()
        assert isinstance(said, Reply), said
        query: str = msgspec.json.decode(said.body)["query"]
        while (await self.later.fetch("ada", query)).headers.get("x-daitn-posted", "not yet") == "not yet":
            await asyncio.sleep(0)
        return query


def run(folder: Path, story: Callable[[Gateway, Gateway], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        others: dict[NodeId, Fabric] = {}
        here, there = Gateway(HERE, folder, others), Gateway(THERE, folder, others)
        known = (Holder(node=HERE), Holder(node=THERE))
        for one in (here, there):
            one.handing.follow(known)
            await one.later.start()
        try:
            async with asyncio.timeout(20):
                await story(here, there)
        finally:
            for one in (here, there):
                await one.later.stop()

    asyncio.run(all_of_it())


def test_answer_is_fetched_whole_at_the_gateway_that_its_query_named_and_at_no_other_owner_s_word(
    tmp_path: Path,
) -> None:
    async def story(here: Gateway, there: Gateway) -> None:
        query = await here.handed()
        said = await there.later.fetch("ada", query)
        assert (said.status, said.body, said.content_type) == (200, ANSWER.body, ANSWER.content_type)
        assert said.headers["x-daitn-host"] == "n0009"
        assert there.counters.of("answers_handed", "taken") == 1
        assert here.counters.of("later_posted", "done") == 1
        with pytest.raises(HttpError, match="no such query of yours"):
            await there.later.fetch("bob", query)

    run(tmp_path, story)


def test_gateway_that_cannot_be_reached_is_refused_before_and_waited_for_after(tmp_path: Path) -> None:
    async def story(here: Gateway, there: Gateway) -> None:
        refused = await here.take(f"gateway:{NOBODY}")
        assert isinstance(refused, Refused)
        assert (refused.reason, "n0003 is no gateway" in refused.what) == (QueryRefusal.DESTINATION, True)
        taken, there.fabric.handler = there.fabric.handler, None
        query = asyncio.create_task(here.handed())
        while here.tries < 3:
            await asyncio.sleep(0)
        there.fabric.handler = taken
        assert (await there.later.fetch("ada", await query)).status == 200
        assert here.counters.of("later_posted", "again") >= 3

    run(tmp_path, story)


def test_same_answer_twice_is_one_and_a_full_gateway_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(here: Gateway, there: Gateway) -> None:
        query = await here.handed()
        one = await asyncio.to_thread(here.later._store.find, query)
        assert one is not None
        await here.handing.hand(THERE, one)
        with pytest.raises(UnavailableError, match="another query has that name"):
            await here.handing.hand(THERE, one._replace(owner="bob"))
        monkeypatch.setattr(later, "OF_AN_OWNER", 1)
        with pytest.raises(UnavailableError, match="1 answers of that owner are kept"):
            await here.handing.hand(THERE, one._replace(query="later-another"))
        assert there.counters.of("answers_handed", "refused") == 2

    run(tmp_path, story)


@pytest.mark.parametrize("lie", ["stranger", "garbage", "short", "long"])
def test_what_no_gateway_hands_over_or_comes_broken_is_counted_and_not_kept(tmp_path: Path, lie: str) -> None:
    async def story(here: Gateway, there: Gateway) -> None:
        if lie == "stranger":
            there.handing.follow((Holder(node=THERE),))
        handed = AnswerHanded(query="q", owner="ada", model="m", status=200, kind="", bytes=4, kept_s=9.0)
        stream = await here.fabric.open_stream(Holder(node=THERE), "handed 1", timeout_s=1.0)
        with suppress(UnavailableError):  # it may be cut before all is said
            await stream.send(b"\xff" if lie == "garbage" else msgspec.msgpack.encode(handed))
            await stream.send(b"12" if lie == "short" else b"12345")
            await stream.finish()
        with pytest.raises(UnavailableError):
            await stream.receive()
        assert there.counters.of("answers_handed", "not-a-gateway" if lie == "stranger" else "broken") == 1
        with pytest.raises(HttpError):
            await there.later.fetch("ada", "q")

    run(tmp_path, story)


def test_destination_names_a_gateway_by_its_slot() -> None:
    assert parse_destination("gateway:n0007") == Handed(NodeId("n0007"))
    for wrong in ("gateway:", "gateway:ash", "gateway:n0007/x"):
        with pytest.raises(InputError, match="names no gateway"):
            parse_destination(wrong)
