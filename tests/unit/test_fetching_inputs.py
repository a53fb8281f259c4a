"""Inputs of a visit: several are fetched at a time, never too many, and the first that fails ends the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from tests.builders import make_order

from daitn.base.errors import UnavailableError
from daitn.base.ids import ArtifactId
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.node.visit_worker import FETCHES_AT_ONCE, VisitWorker
from daitn.terminal.work import FetchInputs, InputsArrived, InputsFailed
from daitn.wire.center_tools import InputRef

INPUTS = tuple(InputRef(artifact=ArtifactId(f"u{n}"), holders=(), grant="g") for n in range(10))


class Moving:
    """Fetches that end when told to; counts those under way."""

    def __init__(self, failing: str = "") -> None:
        self.under_way = self.most = self.done = self.cancelled = 0
        self._failing = failing

    async def fetch(self, wanted: InputRef, _pin: str, **_: Any) -> int:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            if wanted.artifact == self._failing:
                raise UnavailableError("gone")
            if self._failing:
                await asyncio.Event().wait()
            self.done += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        return 7


def fetched(moving: Moving) -> list[Any]:
    """What the worker says of a visit with ten inputs."""
    said: list[Any] = []
    worker = VisitWorker(None, moving, None, None, None, None, None, said.append)  # type: ignore[arg-type]
    work = AggregateWork(updates=(UpdateRef(model=ArtifactId("u0"), weight=1.0),))

    async def run() -> None:
        worker.perform(FetchInputs(order=make_order(work=work, inputs=INPUTS)))
        async with asyncio.timeout(20):
            while not said:
                await asyncio.sleep(0)

    asyncio.run(run())
    return said


def test_several_inputs_are_fetched_at_a_time_and_no_more_than_that():
    moving = Moving()
    (said,) = fetched(moving)

    assert isinstance(said, InputsArrived)
    assert said.fetched_bytes == 70
    assert (moving.done, moving.most) == (10, FETCHES_AT_ONCE)


def test_first_input_that_fails_ends_the_visit_and_the_other_fetches():
    moving = Moving(failing="u1")
    (said,) = fetched(moving)

    assert isinstance(said, InputsFailed)
    assert (said.what, said.blame) == ("gone", "unavailable")
    assert moving.under_way == 0
    assert moving.done == 0
    assert moving.cancelled >= FETCHES_AT_ONCE - 1


def test_visit_without_inputs_begins_at_once():
    said: list[Any] = []
    worker = VisitWorker(None, SimpleNamespace(), None, None, None, None, None, said.append)  # type: ignore[arg-type]

    async def run() -> None:
        worker.perform(FetchInputs(order=make_order(inputs=())))
        async with asyncio.timeout(20):
            while not said:
                await asyncio.sleep(0)

    asyncio.run(run())
    assert [type(one) for one in said] == [InputsArrived]
