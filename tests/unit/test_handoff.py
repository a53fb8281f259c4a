"""Threads for blocking calls: a job that its caller bounds is begun in this turn; faults and closing are told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from daitn.base.errors import UnavailableError
from daitn.node.fabric.handoff import Workers


def test_job_that_is_begun_goes_before_those_that_wait_for_a_thread() -> None:
    async def check() -> None:
        workers, go_on, order = Workers("test", 1), threading.Event(), []
        busy = asyncio.ensure_future(workers.run(lambda: go_on.wait(10)))
        waiting = asyncio.ensure_future(workers.run(lambda: order.append("waited")))
        await asyncio.sleep(0)
        begun = workers.begin(lambda: order.append("begun"))
        go_on.set()
        await asyncio.gather(busy, waiting, begun)
        assert order == ["begun", "waited"]
        await workers.close()

    asyncio.run(check())


def test_fault_of_a_job_is_raised_where_it_is_awaited_and_closed_threads_take_none() -> None:
    async def check() -> None:
        workers = Workers("test", 2)
        with pytest.raises(ZeroDivisionError):
            await workers.begin(lambda: 1 // 0)
        assert await workers.begin(lambda: 7) == 7
        await workers.close()
        with pytest.raises(UnavailableError, match="closed"):
            workers.begin(lambda: 7)
        with pytest.raises(UnavailableError, match="closed"):
            await workers.run(lambda: 7)

    asyncio.run(check())
