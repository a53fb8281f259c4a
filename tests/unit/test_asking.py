"""Asking: over as many hosts as it takes, in the time there is, each once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.unit.test_query_engine import ANY, make_model, make_route

from daitn.base import limits
from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import QueryGoal
from daitn.node.serving.asked_query import Asked, Caller
from daitn.node.serving.asking import Asking
from daitn.serving.tensors import tensor_of
from daitn.wire.queries import HostLoad, QueryAnswer, QueryCall, QueryRefused

INPUTS = (tensor_of("x", np.zeros((1, 2), np.float32)),)
ANSWER = QueryAnswer(outputs=INPUTS, engine_s=0.002)
Call = Callable[[NodeId, QueryCall, float], Awaitable[QueryAnswer | QueryRefused]]


class Carried:
    """What a host, which is a function, will say: as `answer_links.Whole`."""

    def __init__(self, saying: Awaitable[QueryAnswer | QueryRefused]) -> None:
        self._task = asyncio.ensure_future(saying)
        self.done, self.result, self.cancel = self._task.done, self._task.result, self._task.cancel
        self._wake: Callable[[], None] | None = None
        self._task.add_done_callback(lambda _: self._wake and self._wake())

    def call_when_done(self, wake: Callable[[], None] | None) -> None:
        self._wake = wake


def carried(call: Call) -> Caller:
    return lambda host, asked, seconds: Carried(call(host.node, asked, seconds))


class Beginning(Asking):
    """Asks as the quick way does: its first host in the turn in which it is asked, a task for what comes instead."""

    async def ask(self, *asked: Any, **more: Any) -> Asked:
        begun = self.begin(*asked, **more)
        if begun is None:
            return await super().ask(*asked, **more)
        over: asyncio.Future[Asked] = asyncio.get_running_loop().create_future()
        tasks: list[asyncio.Task[None]] = []

        def go_on(rest: Coroutine[Any, Any, Asked]) -> None:
            async def tell() -> None:
                over.set_result(await rest)

            tasks.append(asyncio.create_task(tell()))

        begun.then(over.set_result, go_on)
        try:
            return await over
        finally:
            begun.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True, params=[Asking, Beginning])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of asking come to the same."""
    monkeypatch.setattr(sys.modules[__name__], "Asking", request.param)


def put(call: Call, *nodes: str, goal: QueryGoal = ANY) -> tuple[Asked, Counters]:
    engine, counters = QueryRouteEngine(), Counters()
    engine.follow([make_model(*(make_route(node) for node in nodes))], time.monotonic_ns())
    found = asyncio.run(Asking(engine, carried(call), counters).ask("sides", INPUTS, 1, goal))
    assert all(kept.table.under_way == 0 for kept in engine._kept.values()), "a slot was not given back"
    return found, counters


def test_query_goes_on_at_another_host_when_one_is_lost() -> None:
    asked: list[str] = []

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        asked.append(host)
        if len(asked) == 1:
            raise UnavailableError("nobody there")
        assert query.left_s <= 10
        return ANSWER

    found, counters = put(call, "one", "two")

    assert isinstance(found.outcome, QueryAnswer)
    assert sorted(asked) == ["one", "two"]
    assert [step.came for step in found.steps] == ["lost", "answered"]
    assert counters.shown() == {"queries_answered": 1, "queries_retried": 1, "answers_missing": 1}


def test_busy_hosts_are_believed_and_the_caller_is_told_when_to_come_back() -> None:
    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        return QueryRefused(reason="busy", what="full", retry_after_s=3.0, load=HostLoad(queries=9))

    found, counters = put(call, "one", "two")

    assert isinstance(found.outcome, Refused)
    assert (found.outcome.reason, found.outcome.retry_after_s) == (QueryRefusal.BUSY, 3.0)
    assert len(found.steps) == 2
    assert counters.of("queries_not_answered", "busy") == 1


def test_query_that_nobody_can_answer_is_asked_once() -> None:
    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        return QueryRefused(reason="input", what="index out of range")

    found, _ = put(call, "one", "two")

    assert isinstance(found.outcome, Refused)
    assert found.outcome.reason is QueryRefusal.INPUT
    assert len(found.steps) == 1


def test_host_that_answers_garbage_is_left_out() -> None:
    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        if host == "one":
            raise PeerError("the host's frames do not decode")
        return ANSWER

    found, counters = put(call, "one", "two")

    assert isinstance(found.outcome, QueryAnswer)
    assert counters.of("answers_missing") <= 1


def test_query_waits_for_a_host_within_its_deadline_and_no_longer() -> None:
    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        raise AssertionError("there is nobody to ask")

    found, _ = put(call, goal=QueryGoal(deadline_s=0.12))

    assert isinstance(found.outcome, Refused)
    assert found.outcome.reason is QueryRefusal.NO_HOST
    assert found.took_s < 1


def test_query_too_large_to_be_carried_is_refused_before_anybody_is_asked() -> None:
    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        raise AssertionError("nobody is asked")

    engine = QueryRouteEngine()
    engine.follow([make_model(make_route("one"))], 0)
    large = (tensor_of("x", np.zeros(limits.QUERY_BYTES // 4 + 1, np.float32)),)
    found = asyncio.run(Asking(engine, carried(call), Counters()).ask("sides", large, 1, QueryGoal()))

    assert isinstance(found.outcome, Refused)
    assert str(limits.QUERY_BYTES) in found.outcome.what


def test_late_query_is_sent_to_a_second_host_and_the_first_answer_counts() -> None:
    hung, cancelled = asyncio.Event(), []

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        if not cancelled and not hung.is_set():
            hung.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(host)
                raise
        return ANSWER

    found, counters = put(call, "one", "two")

    assert isinstance(found.outcome, QueryAnswer)
    assert sorted(step.came for step in found.steps) == ["answered", "withdrawn"]
    assert cancelled == [step.host for step in found.steps if step.came == "withdrawn"]
    assert found.host not in cancelled
    assert counters.shown() == {"queries_answered": 1, "queries_hedged": 1}


def test_deadline_of_a_client_that_passes_is_no_fault_of_healthy_hosts() -> None:
    engine, counters = QueryRouteEngine(), Counters()
    engine.follow([make_model(*(make_route(node) for node in ("one", "two", "three", "four")))], time.monotonic_ns())

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        await asyncio.sleep(timeout_s)
        raise UnavailableError("no answer in time")

    async def many() -> list[Asked]:
        asking = Asking(engine, carried(call), counters)
        return await asyncio.gather(*(asking.ask("sides", INPUTS, 1, QueryGoal(deadline_s=0.04)) for _ in range(16)))

    found = asyncio.run(many())

    assert counters.of("hosts_ejected") == counters.of("answers_missing") == 0
    assert counters.of("deadlines_passed") >= 16
    for one in found:
        assert isinstance(one.outcome, Refused)
        assert one.outcome.reason is QueryRefusal.LOST
        assert "its time was over after 0.040 s" in one.outcome.what


def test_second_copies_are_sent_within_a_budget() -> None:
    engine, counters = QueryRouteEngine(), Counters()
    engine.follow([make_model(make_route("one"), make_route("two"))], time.monotonic_ns())
    sent: list[str] = []

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        sent.append(host)
        await asyncio.sleep(0.25)
        return ANSWER

    async def many() -> list[Asked]:
        asking = Asking(engine, carried(call), counters)
        return await asyncio.gather(*(asking.ask("sides", INPUTS, 1, ANY) for _ in range(40)))

    found = asyncio.run(many())

    assert all(isinstance(one.outcome, QueryAnswer) for one in found)
    assert len(sent) - 40 == counters.of("queries_hedged") <= 3, "one in twenty, and one that was saved"


def test_whoever_goes_away_leaves_no_slot_taken() -> None:
    engine = QueryRouteEngine()
    engine.follow([make_model(make_route("one"))], time.monotonic_ns())

    async def call(host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        await asyncio.sleep(60)
        return ANSWER

    async def vanish() -> None:
        asked = asyncio.create_task(Asking(engine, carried(call), Counters()).ask("sides", INPUTS, 1, ANY))
        while not any(kept.table.under_way for kept in engine._kept.values()):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(vanish())

    assert all(kept.table.under_way == 0 for kept in engine._kept.values())
