"""A replica: answers from batches, bad queries apart from good ones, engines that die."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.serving import EngineKind, TensorSpec
from daitn.node.serving.replica import Answered, ServedReplica, open_replica
from daitn.serving.batching import Refused
from daitn.serving.tensors import Arrays


class Doubling:
    """An engine in memory that doubles; fails on -1, dies on -2."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)
    rows_most = 100
    kind = EngineKind.TORCH_GRAPH

    def __init__(self) -> None:
        self.alive = True
        self.batches: list[int] = []
        self.gate: asyncio.Event | None = None

    def example(self, rows: int) -> Arrays:
        return {"x": np.zeros((rows, 1), np.float32)}

    async def infer(self, batch: Arrays) -> Arrays:
        if self.gate is not None:
            await self.gate.wait()
        values = batch["x"]
        if (values == -2).any():
            self.alive = False
            raise UnavailableError("the engine died")
        if (values == -1).any():
            raise InputError("minus one")
        self.batches.append(len(values))
        return {"y": values * 2}

    def memory_bytes(self) -> int:
        return 1

    async def close(self) -> None:
        self.alive = False


async def ask(replica: ServedReplica, value: float, left_s: float = 10.0) -> object:
    arrays = {"x": np.full((1, 1), value, np.float32)}
    found = await replica.infer(arrays, 1, time.monotonic_ns() + int(left_s * 1e9))
    return float(found.outputs["y"][0, 0]) if isinstance(found, Answered) else found


def run(check) -> list[str]:  # type: ignore[no-untyped-def]
    """Run `check(replica, engines)`; what the replica said when it went out of service."""
    said: list[str] = []

    async def whole() -> None:
        engines: list[Doubling] = []

        async def make() -> Doubling:
            engines.append(Doubling())
            return engines[-1]

        replica = await open_replica(make, 1, said.append)
        try:
            await check(replica, engines)
        finally:
            await replica.close()
        assert not any(engine.alive for engine in engines)

    asyncio.run(whole())
    return said


def test_queries_that_come_together_are_one_batch() -> None:
    async def check(replica: ServedReplica, engines: list[Doubling]) -> None:
        engines[0].batches.clear()
        engines[0].gate = asyncio.Event()
        first = asyncio.create_task(ask(replica, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(ask(replica, value)) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        engines[0].gate.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
        assert len(engines[0].batches) <= 2

    assert run(check) == []


def test_query_the_model_fails_on_costs_no_other_its_answer() -> None:
    async def check(replica: ServedReplica, engines: list[Doubling]) -> None:
        answers = await asyncio.gather(*(ask(replica, value) for value in (1, -1, 3)), return_exceptions=True)
        assert answers[0] == 2
        assert isinstance(answers[1], InputError)
        assert answers[2] == 6

    assert run(check) == []


def test_engine_that_died_is_replaced_and_one_that_dies_again_and_again_ends_the_replica() -> None:
    async def check(replica: ServedReplica, engines: list[Doubling]) -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await ask(replica, -2)
            assert await ask(replica, 5) == 10
        with pytest.raises(UnavailableError):
            await ask(replica, -2)
        while replica.serving:
            await asyncio.sleep(0)

    (why,) = run(check)
    assert "died 3 times" in why


def test_closed_replica_refuses_and_what_waited_is_told() -> None:
    async def check(replica: ServedReplica, engines: list[Doubling]) -> None:
        engines[0].gate = asyncio.Event()
        waiting = [asyncio.create_task(ask(replica, value)) for value in (1, 2)]
        await asyncio.sleep(0)
        await replica.close()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, UnavailableError) for one in told)
        assert "not served" in (await ask(replica, 1)).why  # type: ignore[attr-defined]

    assert run(check) == []


def test_engine_goes_on_before_others_are_told_and_survives_what_they_make_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check(replica: ServedReplica, engines: list[Doubling]) -> None:
        engines[0].gate = asyncio.Event()
        told: list[tuple[float, int]] = []
        over = asyncio.Event()

        def ended(came: object) -> None:
            assert isinstance(came, Answered)
            told.append((float(came.outputs["y"][0, 0]), len(engines[0].batches) - measured))
            if len(told) == 2:
                over.set()
            raise RuntimeError("a bug of whoever waits")

        measured = len(engines[0].batches)
        late_ns = time.monotonic_ns() + int(10e9)
        replica.offer({"x": np.full((1, 1), 1, np.float32)}, 1, late_ns, ended)
        for _ in range(3):
            await asyncio.sleep(0)
        replica.offer({"x": np.full((1, 1), 2, np.float32)}, 1, late_ns, ended)
        forgotten = replica.offer({"x": np.full((1, 1), 3, np.float32)}, 1, late_ns, ended)
        assert not isinstance(forgotten, Refused)
        replica.forget(forgotten)
        engines[0].gate.set()
        await over.wait()
        assert sorted(told) == [(2.0, 2), (4.0, 2)], "the second batch was computed when the first one was told"
        assert await ask(replica, 4) == 8.0
        assert caplog.text.count("could not be told") == 2

    run(check)
