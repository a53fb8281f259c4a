"""Groups of real sandboxed children that train in lock step: equal models, and what a death does to the others."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from sandbox_world import (
    Slow,
    Small,
    child_of,
    make_table,
    output_of,
    package_of,
    payload_of,
    read_tensor,
    run_clean,
    run_training,
    setup_of,
    train_work,
)
from tests.exchange_world import stream_pair

from daitn.artifacts.manifest import TravellingState
from daitn.base.ids import DataSetId, NodeId, VisitId
from daitn.descriptors.work import Group, Member, TrainWork
from daitn.node.sandbox.answers import plan_run
from daitn.node.sandbox.exchange_port import ExchangePort
from daitn.node.sandbox.protocol import FailReason, Finished
from daitn.node.sandbox.visits import ChildHandle, VisitError

DATASETS = (DataSetId("site/points"), DataSetId("other/points"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("small"), 90)


def work_of(rank: int, batches: int = 12, **more: Any) -> TrainWork:
    members = tuple(
        Member(visit=VisitId(f"j/{place}"), node=NodeId(f"n{place}"), dataset=dataset)
        for place, dataset in enumerate(DATASETS)
    )
    group = Group(members=members, rank=rank)
    return msgspec.structs.replace(train_work(batches, **more), dataset=DATASETS[rank], group=group)


def ports() -> tuple[ExchangePort, ExchangePort]:
    a, b = stream_pair()
    return ExchangePort(0, {1: a}), ExchangePort(1, {0: b})


async def member(
    child: ChildHandle, package: Any, work: TrainWork, port: ExchangePort, change: Any = None
) -> tuple[Finished, dict[str, np.ndarray]]:
    """One member's run, ended as a visit ends it."""
    run = plan_run(work, package.layout.entries, package.layout.payload_bytes, TravellingState())
    with payload_of(package, change) as payload, output_of(run.output_bytes) as output:
        try:
            finished = await child.run(run, payload, output, exchange=port)
        except BaseException:
            await port.cancel()
            raise
        await port.finish()
        return finished, {entry.name: read_tensor(output, entry) for entry in run.output}


async def pair(stack: AsyncExitStack, package: Any, tables: tuple[Path, Path]) -> list[ChildHandle]:
    children = []
    for table, dataset in zip(tables, DATASETS, strict=True):
        setup = setup_of(package)
        assert setup.table is not None
        setup = msgspec.structs.replace(setup, table=msgspec.structs.replace(setup.table, dataset=dataset))
        children.append(await stack.enter_async_context(child_of(setup, table)))
    return children


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_children_in_lock_step_end_with_the_same_bytes(table: Path, small_table: Path, optimizer: str) -> None:
    async def main() -> None:
        package = package_of(Small)
        async with AsyncExitStack() as stack:
            children = await pair(stack, package, (table, small_table))
            rates = {"optimizer": optimizer, "learning_rate": 0.01}
            both = ports()
            found = await asyncio.gather(
                *(member(children[rank], package, work_of(rank, **rates), both[rank]) for rank in range(2))
            )
            (first, mine), (second, theirs) = found
            assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
            assert any(not np.array_equal(mine[n], t.numpy()) for n, t in package.tensors.items())
            assert first.state == second.state
            assert [cursor.dataset for cursor in first.state.cursors] == list(DATASETS)
            assert first.state.records == 2 * 12 * 16
            alone, other = await run_training(children[0], package, train_work(12, **rates))
            assert any(not np.array_equal(mine[name], other[name]) for name in mine), "the partner changed nothing"
            assert alone.state.steps == first.state.steps

    run_clean(main)


def test_child_whose_partner_is_killed_says_so_and_stays_warm(table: Path, small_table: Path) -> None:
    async def main() -> None:
        package = package_of(Slow)
        async with AsyncExitStack() as stack:
            children = await pair(stack, package, (table, small_table))
            both = ports()
            runs = [
                asyncio.ensure_future(member(children[rank], package, work_of(rank, 400), both[rank]))
                for rank in range(2)
            ]
            while both[0].moved_bytes < 4_000_000:
                await asyncio.sleep(0.01)
            os.kill(children[1].pid, signal.SIGKILL)
            faults = await asyncio.gather(*runs, return_exceptions=True)
            assert all(isinstance(one, VisitError) for one in faults)
            mine, theirs = (one.failed for one in faults if isinstance(one, VisitError))
            assert (mine.reason, mine.partner) == (FailReason.PARTNER, 1)
            assert theirs.reason is FailReason.KILLED
            assert children[0].alive
            finished, _ = await run_training(children[0], package, train_work(1))
            assert finished.state.steps == 1

    run_clean(main)


def test_member_whose_own_numbers_break_is_at_fault_and_its_partner_names_it(table: Path, small_table: Path) -> None:
    async def main() -> None:
        package = package_of(Small)

        def poison(_name: str, array: np.ndarray) -> np.ndarray:
            return array * np.float32(np.nan)

        async with AsyncExitStack() as stack:
            children = await pair(stack, package, (table, small_table))
            both = ports()
            faults = await asyncio.gather(
                member(children[0], package, work_of(0), both[0]),
                member(children[1], package, work_of(1), both[1], poison),
                return_exceptions=True,
            )
            assert all(isinstance(one, VisitError) for one in faults), faults
            mine, theirs = (one.failed for one in faults if isinstance(one, VisitError))
            assert theirs.reason is FailReason.NOT_FINITE
            assert (mine.reason, mine.partner) == (FailReason.PARTNER, 1)

    run_clean(main)


def test_partner_that_falls_silent_ends_with_the_wall_time(table: Path) -> None:
    async def main() -> None:
        package = package_of(Small)
        setup = setup_of(package)
        async with child_of(setup, table) as child:
            port = ExchangePort(0, {1: stream_pair()[0]})
            run = plan_run(work_of(0), package.layout.entries, package.layout.payload_bytes, TravellingState())
            with payload_of(package) as payload, output_of(run.output_bytes) as output:
                with pytest.raises(VisitError) as caught:
                    await child.run(run, payload, output, wall_s=1.0, exchange=port)
                await port.cancel()
            assert caught.value.failed.reason is FailReason.WALL_TIME

    run_clean(main)


def test_exchange_ends_when_its_run_is_cancelled(table: Path) -> None:
    async def main() -> None:
        package = package_of(Small)
        async with child_of(setup_of(package), table) as child:
            mine, theirs = stream_pair()
            port = ExchangePort(0, {1: mine})
            run = plan_run(work_of(0), package.layout.entries, package.layout.payload_bytes, TravellingState())
            with payload_of(package) as payload, output_of(run.output_bytes) as output:
                running = asyncio.ensure_future(child.run(run, payload, output, exchange=port))
                await theirs.receive()
                child.cancel()
                with pytest.raises(VisitError) as caught:
                    await running
                await port.cancel()
            assert caught.value.failed.reason is FailReason.CANCELLED
            assert child.alive

    run_clean(main)
