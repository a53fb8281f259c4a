"""Alarms come when they were set for, or up to a tick later, unless they were called off."""

from __future__ import annotations

import asyncio

from daitn.node.serving.alarms import TICK_S, Alarms


def test_alarms_ring_in_their_order_never_early_and_those_called_off_never() -> None:
    async def story() -> None:
        loop, alarms, rung = asyncio.get_running_loop(), Alarms(), list[tuple[str, float]]()
        began_s = loop.time()
        over: asyncio.Future[None] = loop.create_future()

        def ring(name: str) -> None:
            rung.append((name, loop.time() - began_s))
            if name == "last":
                over.set_result(None)

        alarms.set(0.03, lambda: ring("last"))
        alarms.set(0.01, lambda: ring("first"))  # before the one that the timer was for
        off = alarms.set(0.005, lambda: ring("never"))
        alarms.set(0.02, lambda: alarms.off(also_off))
        also_off = alarms.set(0.025, lambda: ring("never"))
        alarms.off(off)
        alarms.off(off)  # twice is no error
        async with asyncio.timeout(10):
            await over
        assert [name for name, _ in rung] == ["first", "last"]
        assert all(at_s >= due_s - TICK_S / 2 for (_, at_s), due_s in zip(rung, (0.01, 0.03), strict=True))
        assert len(alarms) == 0

    asyncio.run(story())


def test_alarm_that_is_set_by_one_that_rings_comes_too() -> None:
    async def story() -> None:
        alarms, over = Alarms(), asyncio.get_running_loop().create_future()
        alarms.set(0.001, lambda: alarms.set(0.0, lambda: over.set_result(None)) and None)
        async with asyncio.timeout(10):
            await over

    asyncio.run(story())


def test_those_called_off_are_forgotten_with_their_tick() -> None:
    async def story() -> None:
        alarms, over = Alarms(), asyncio.get_running_loop().create_future()
        for _ in range(1000):
            alarms.off(alarms.set(60.0, lambda: None))
        assert len(alarms) == 0
        alarms.set(0.001, lambda: over.set_result(None))
        async with asyncio.timeout(10):
            await over
        assert len(alarms._ticks) == 0, "empty ticks wait for a minute"

    asyncio.run(story())
