"""Credit of a stream: taken without waiting or by arrival, given back by whoever was cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from daitn.node.fabric.credit import Credit


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_credit_goes_to_those_who_wait_by_arrival_and_nobody_passes_by() -> None:
    async def story() -> None:
        credit, came = Credit(1), []
        assert credit.take()
        assert not credit.take()

        async def wait(name: str) -> None:
            await credit.acquire()
            came.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in ("first", "second")]
        await turns()
        credit.release()
        assert not credit.take(), "it is the first one's, who has not run yet"
        await turns()
        assert came == ["first"]
        credit.release()
        credit.release()
        await turns()
        assert came == ["first", "second"]
        assert credit.take()
        assert not credit.take()
        await asyncio.gather(*tasks)

    asyncio.run(story())


def test_credit_of_whoever_was_cancelled_is_the_next_ones() -> None:
    async def story() -> None:
        for after_it_was_given in (False, True):
            credit = Credit(0)
            first, second = asyncio.create_task(credit.acquire()), asyncio.create_task(credit.acquire())
            await turns()
            if after_it_was_given:
                credit.release()
                first.cancel()
            else:
                first.cancel()
                await turns()
                credit.release()
            with suppress(asyncio.CancelledError):
                await first
            async with asyncio.timeout(1):
                await second
            assert not credit.take()

    asyncio.run(story())
