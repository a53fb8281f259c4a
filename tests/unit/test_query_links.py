"""Queries of tensors on a gateway's streams: many at once, stopped when nobody waits, lost with their stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from tests.answer_world import LIKENESS, MODEL, AnswerWorld, simulated

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import NodeId
from daitn.descriptors.grant import Holder
from daitn.node.serving.answering import Answering
from daitn.serving.tensors import tensor_of
from daitn.wire.queries import QueryAnswer, QueryCall

HOST = Holder(node=NodeId("h1"))


def call(number: int = 0, size: int = 2) -> QueryCall:
    inputs = (tensor_of("x", np.full((1, size), number, np.float32)),)
    return QueryCall(model=MODEL, artifact=LIKENESS, left_s=5.0, inputs=inputs)


@pytest.fixture(autouse=True, params=[False, True])
def begins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of answering come to the same."""
    monkeypatch.setattr(AnswerWorld, "begins", request.param)


def run(story: Callable[[AnswerWorld, Answering], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with AnswerWorld() as world:
            await story(world, world.add("h1", simulated()))

    asyncio.run(all_of_it())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def test_many_queries_share_a_stream_and_each_gets_its_own_answer() -> None:
    async def story(world: AnswerWorld, _: Answering) -> None:
        found = await asyncio.gather(*(world.links.query(HOST, call(number), 5.0) for number in range(100)))
        values = [np.frombuffer(one.outputs[0].data, np.float32)[0] for one in found if isinstance(one, QueryAnswer)]
        assert values == list(range(100))

    run(story)


def test_query_that_nobody_waits_for_any_more_is_stopped_at_its_host() -> None:
    async def story(world: AnswerWorld, _: Answering) -> None:
        world.hung = True
        asked = world.links.query(HOST, call(), 5.0)
        await until(lambda: bool(world.called))
        asked.cancel()
        await until(lambda: world.stopped == 1)

    run(story)


def test_host_that_hangs_is_waited_for_no_longer_than_was_said_and_stopped() -> None:
    async def story(world: AnswerWorld, _: Answering) -> None:
        world.hung = True
        with pytest.raises(UnavailableError, match="did not answer within"):
            await world.links.query(HOST, call(), 0.05)
        await until(lambda: world.stopped == 1)

    run(story)


def test_queries_under_way_end_with_their_stream_and_the_next_one_opens_another() -> None:
    async def story(world: AnswerWorld, host: Answering) -> None:
        world.hung = True
        asked = [world.links.query(HOST, call(), 5.0) for _ in range(3)]
        await until(lambda: len(world.called) == 3)
        gateways, host.gateways = host.gateways, frozenset()
        asked.append(world.links.query(HOST, call(), 5.0))  # the host notices who asks
        for one in asked:
            with pytest.raises(UnavailableError):
                await one
        host.gateways, world.hung = gateways, False
        assert isinstance(await world.links.query(HOST, call(), 5.0), QueryAnswer)

    run(story)


def test_query_beyond_what_a_frame_carries_is_the_callers_fault() -> None:
    async def story(world: AnswerWorld, _: Answering) -> None:
        assert isinstance(await world.links.query(HOST, call(), 5.0), QueryAnswer)
        with pytest.raises(InputError, match="are carried"):
            await world.links.query(HOST, call(size=600_000), 5.0)

    run(story)


def test_host_that_is_not_there_is_unavailable() -> None:
    async def story(world: AnswerWorld, _: Answering) -> None:
        with pytest.raises(UnavailableError):
            await world.links.query(Holder(node=NodeId("gone")), call(), 5.0)

    run(story)
