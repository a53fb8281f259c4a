"""Turns at a gateway: keys share what hosts can do, and what cannot wait is refused in time with nothing spent."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.ids import ModelName
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.decision.query_route.fairness import FairQueue
from daitn.node.serving.turns import LEAST, Turns

MODEL = ModelName("m")


def test_key_that_sends_little_is_next_however_much_another_one_sends() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.push("much", f"much {number}")
    for _ in range(100):
        queue.pop()
    for number in range(3):
        queue.push("little", f"little {number}")

    served = [queue.pop() for _ in range(7)]
    assert [one for one in served if one is not None and one.startswith("little")] == [
        "little 0",
        "little 1",
        "little 2",
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["push", "push", "pop", "remove"])), max_size=200))
def test_busy_keys_are_served_alike_in_their_own_order_and_nothing_is_lost_or_doubled(
    story: list[tuple[str, str]],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: dict[str, list[tuple[int, int]]] = {key: [] for key in "abcd"}
    for count, (key, what) in enumerate(story):
        if what == "push":
            number = queue.push(key, (key, count))
            assert number is not None
            waiting[key].append((number, count))
        elif what == "remove" and waiting[key]:
            queue.remove(waiting[key].pop(len(waiting[key]) // 2)[0], key)
        elif what == "pop":
            found = queue.pop()
            if found is None:
                assert not any(waiting.values())
            else:
                assert waiting[found[0]].pop(0)[1] == found[1]
        assert len(queue) == sum(map(len, waiting.values()))
        assert all(queue.waiting(one) == len(waiting[one]) for one in "abcd")
    served: list[str] = []
    while (found := queue.pop()) is not None:
        served.append(found[0])
        assert waiting[found[0]].pop(0)[1] == found[1]
    assert not any(waiting.values())


def test_queue_is_bounded_for_each_key_and_in_all() -> None:
    queue: FairQueue[int] = FairQueue(per_key=2, most=3)

    assert [queue.push("a", 0) is None for _ in range(3)] == [False, False, True]
    assert [queue.push("b", 0) is None for _ in range(2)] == [False, True]


def test_queries_beyond_what_hosts_can_do_take_turns() -> None:
    async def story() -> None:
        turns = Turns(lambda _: 1)
        assert all(turns.now(MODEL) for _ in range(LEAST))
        assert not turns.now(MODEL)
        order: list[str] = []

        async def one(key: str) -> None:
            assert await turns.wait(MODEL, key, 5.0) is None
            order.append(key)

        tasks = [asyncio.create_task(one(key)) for key in ("much", "much", "much", "little")]
        await asyncio.sleep(0)
        for _ in range(LEAST + 4):
            turns.done(MODEL, 0.01)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert order.index("little") <= 1
        assert turns.now(MODEL)

    asyncio.run(story())


def test_turn_that_does_not_come_in_time_is_refused_and_leaves_nothing_behind() -> None:
    async def story() -> None:
        turns = Turns(lambda _: 1)
        assert all(turns.now(MODEL) for _ in range(LEAST))
        late = await turns.wait(MODEL, "a", 0.01)
        assert isinstance(late, Refused)
        assert late.reason is QueryRefusal.LATE
        gone = asyncio.create_task(turns.wait(MODEL, "a", 5.0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        for _ in range(LEAST):
            turns.done(MODEL, 0.01)
        assert turns._under_way == {}
        assert turns._waiting == {}

    asyncio.run(story())


def test_key_with_too_many_waiting_is_told_when_to_come_back() -> None:
    async def story() -> None:
        turns = Turns(lambda _: 1)
        assert all(turns.now(MODEL) for _ in range(LEAST))
        waiting = [asyncio.create_task(turns.wait(MODEL, "a", 5.0)) for _ in range(1024)]
        await asyncio.sleep(0)
        refused = await turns.wait(MODEL, "a", 5.0)
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.retry_after_s > 0) == (QueryRefusal.BUSY, True)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(story())
