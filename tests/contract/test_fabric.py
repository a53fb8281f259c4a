"""The fabric's promises (`daitn.node.fabric.contract`), held by every carrier: through the router, and direct."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from blake3 import blake3
from msgspec.structs import replace

from daitn.base.errors import BugError, InputError, NotHeldError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, ArtifactId, ChunkId, GrantId, NodeId
from daitn.node.fabric import calls, telemetry
from daitn.node.fabric.contract import ChunkPlace, ChunkWant, Fabric, FabricConfig, Holder, Plane, Reports, Stream
from daitn.node.fabric.loopback import LoopbackDomain, RouterProcess
from daitn.node.fabric.zenoh_fabric import open_fabric

T = TypeVar("T")
A, B, C = NodeId("n0001"), NodeId("n0002"), NodeId("n0003")
ARTIFACT, GRANT = ArtifactId("a" * 64), GrantId("g1")
DEADLINE_S = 20.0
CHUNK = 256 * 1024


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackDomain]:
    with LoopbackDomain(tmp_path_factory.mktemp("domain")) as domain:
        yield domain


@pytest.fixture(params=["routed", "direct"])
def bulk_host(request: pytest.FixtureRequest) -> str | None:
    return "127.0.0.1" if request.param == "direct" else None


def run(test: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run one test's coroutine under a deadline, and see that it leaves no task behind."""

    async def guarded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            result = await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(guarded())


@asynccontextmanager
async def fabrics(*configs: FabricConfig) -> AsyncIterator[tuple[Fabric, ...]]:
    async with asyncio.TaskGroup() as group:
        managers = [open_fabric(config) for config in configs]
        opening = [group.create_task(manager.__aenter__()) for manager in managers]
    try:
        yield tuple(task.result() for task in opening)
    finally:
        await asyncio.gather(*(manager.__aexit__(None, None, None) for manager in managers))


async def echo(sender: NodeId, payload: bytes) -> bytes:
    return sender.encode() + b":" + payload


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that only a counter shows; the deadline is the test's."""
    while not condition():
        await asyncio.sleep(0.005)


async def follow(source: AsyncIterator[T], wanted: Callable[[T], bool]) -> list[T]:
    """Read until the wanted item; everything read."""
    seen: list[T] = []
    async for item in source:
        seen.append(item)
        if wanted(item):
            return seen
    raise AssertionError(f"ended after {seen}")


# --- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", list(Plane))
def test_call_is_answered_and_its_sender_is_proven(domain: LoopbackDomain, plane: Plane) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(echo, plane=plane)
            assert await a.call(B, b"hello", plane=plane, timeout_s=5) == b"n0001:hello"

    run(test)


def test_call_of_the_largest_message_is_carried_whole(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async def same(_sender: NodeId, payload: bytes) -> bytes:
            return payload

        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(same)
            message = os.urandom(1024 * 1024)
            assert await a.call(B, message, timeout_s=5) == message
            with pytest.raises(InputError, match="larger"):
                await a.call(B, message + b"x", timeout_s=5)

    run(test)


def test_call_to_nobody_is_unavailable_at_once(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            start = time.monotonic()
            with pytest.raises(UnavailableError, match="n0003"):
                await a.call(C, b"", timeout_s=10)
            assert time.monotonic() - start < 5
            assert a.counters.calls_unserved == 1

    run(test)


def test_call_without_answer_times_out(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async def never(_sender: NodeId, _payload: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(never)
            with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
                await a.call(B, b"", timeout_s=0.2)
            assert a.counters.calls_timed_out == 1

    run(test)


def test_handler_errors_reach_the_caller_by_kind(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async def fail(_sender: NodeId, payload: bytes) -> bytes:
            if payload == b"policy":
                raise PolicyError("not for you")
            raise ZeroDivisionError("secret detail")

        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(fail)
            with pytest.raises(PolicyError, match="not for you"):
                await a.call(B, b"policy", timeout_s=5)
            with pytest.raises(PeerError) as caught:
                await a.call(B, b"bug", timeout_s=5)
            assert "secret" not in str(caught.value)
            assert b.counters.handlers_failed == 1

    run(test)


def test_full_inbox_answers_busy_and_recovers(domain: LoopbackDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "INBOX_MESSAGES", 4)

    async def test() -> None:
        release = asyncio.Event()

        async def slow(_sender: NodeId, payload: bytes) -> bytes:
            await release.wait()
            return payload

        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(slow)
            pending = [asyncio.ensure_future(a.call(B, b"x", timeout_s=10)) for _ in range(10)]
            await until(lambda: a.counters.calls_busy == 6)
            release.set()
            results = await asyncio.gather(*pending, return_exceptions=True)
            assert results.count(b"x") == 4
            assert all("busy" in str(result) for result in results if result != b"x")
            assert await a.call(B, b"y", timeout_s=5) == b"y"

    run(test)


def test_second_handler_on_a_plane_is_a_bug(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            await a.serve(echo)
            with pytest.raises(BugError):
                await a.serve(echo)

    run(test)


def test_thousand_calls_at_once_are_all_answered(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(echo)
            answers = await asyncio.gather(*(a.call(B, b"%d" % n, timeout_s=15) for n in range(1000)))
            assert answers == [b"n0001:%d" % n for n in range(1000)]

    run(test)


def test_open_without_router_is_unavailable_with_advice(domain: LoopbackDomain) -> None:
    async def test() -> None:
        nowhere = replace(domain.node(A), routers=("127.0.0.1:1",), open_timeout_s=0.5)
        with pytest.raises(UnavailableError, match="check that the router runs"):
            async with open_fabric(nowhere):
                pass

    run(test)


# --- telemetry and presence ------------------------------------------------------------------------------------------


def test_overseer_sees_the_newest_value(domain: LoopbackDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "REPEAT_S", 0.1)

    async def test() -> None:
        async with fabrics(domain.node(CENTER), domain.node(A)) as (center, a):
            values = center.subscribe_latest()
            await a.publish_latest("load", b"0")
            await follow(values, lambda item: item == (A, "load", b"0"))
            for number in range(1, 500):
                await a.publish_latest("load", b"%d" % number)
            seen = await follow(values, lambda item: item[2] == b"499")
            assert {item[:2] for item in seen} == {(A, "load")}
            numbers = [int(item[2]) for item in seen]
            assert numbers == sorted(numbers)
            await values.aclose()  # type: ignore[attr-defined]

    run(test)


def test_late_overseer_hears_the_last_value(domain: LoopbackDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "REPEAT_S", 0.1)

    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(CENTER)) as (a, center):
            await a.publish_latest("load", b"once")
            await follow(center.subscribe_latest(), lambda item: item == (A, "load", b"once"))

    run(test)


async def hear(source: AsyncIterator[Reports], wanted: bytes) -> list[tuple[NodeId, bytes]]:
    """Read reports until the wanted one; everything read."""
    heard: list[tuple[NodeId, bytes]] = []
    async for reports in source:
        heard += zip(reports.senders, reports.payloads, strict=True)
        if wanted in reports.payloads:
            return heard
    raise AssertionError("the fabric closed")


def test_overseer_hears_each_report_once_and_in_order(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(CENTER), domain.node(A), domain.node(B)) as (center, a, b):
            reports = center.subscribe_reports()
            hearing = asyncio.ensure_future(hear(reports, b"first"))
            while not hearing.done():  # until the subscription has reached the senders' routers, nothing is heard
                await a.report([b"%d" % number for number in range(200)])
                await b.report([b"first"])
                await asyncio.wait([hearing], timeout=0.1)
            hearing = asyncio.ensure_future(hear(reports, b"last"))
            await a.report([b"%d" % number for number in range(200)])
            await b.report([b"other", b"last"])
            heard = await hearing
            from_a = [int(payload) for sender, payload in heard if sender == A]
            assert all(later == (earlier + 1) % 200 for earlier, later in pairwise(from_a))
            assert [payload for sender, payload in heard if sender == B and payload != b"first"] == [b"other", b"last"]
            await reports.aclose()  # type: ignore[attr-defined]

    run(test)


def test_what_a_node_reports_beyond_its_share_is_cut_and_counted_and_costs_nobody_else(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(CENTER), domain.node(A), domain.node(B)) as (center, a, b):
            reports = center.subscribe_reports(lambda _: 10_000.0)
            hearing = asyncio.ensure_future(hear(reports, b"first"))
            while not hearing.done():
                await b.report([b"first"])
                await asyncio.wait([hearing], timeout=0.1)

            await a.report([bytes(5_000)] * 50)
            await a.report([b"seen"])
            heard, cut = 0, 0
            async for batch in reports:
                heard += sum(sender == A for sender in batch.senders)
                cut += batch.cut.get(A, 0)
                assert B not in batch.cut
                if heard + cut == 51:
                    break
            assert 0 < heard <= 8  # two windows of four at most, if the moment between them was met
            assert center.counters.reports_cut == cut
            hearing = asyncio.ensure_future(hear(reports, b"honest"))
            while not hearing.done():
                await b.report([b"honest"])
                await asyncio.wait([hearing], timeout=0.1)
            assert all(sender == B for sender, _ in await hearing)
            await reports.aclose()  # type: ignore[attr-defined]

    run(test)


def test_report_that_is_too_large_is_refused(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            with pytest.raises(InputError, match="larger"):
                await a.report([b"x", bytes(telemetry.TELEMETRY_BYTES + 1)])

    run(test)


def test_presence_tells_who_is_there_comes_and_goes(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(CENTER), domain.node(A)) as (center, _a):
            changes = center.presence()
            await follow(changes, lambda item: item == (A, True))
            async with fabrics(domain.node(B)):
                await follow(changes, lambda item: item == (B, True))
            await follow(changes, lambda item: item == (B, False))
            await changes.aclose()  # type: ignore[attr-defined]

    run(test)


def test_others_see_the_presence_of_overseers_only(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B)) as (a, _b):
            changes = a.presence()
            reading = asyncio.ensure_future(follow(changes, lambda item: item[0] == CENTER))
            async with fabrics(domain.node(CENTER)):
                assert await reading == [(CENTER, True)]
            await changes.aclose()  # type: ignore[attr-defined]

    run(test)


MEMBER = """
import asyncio, pickle, sys
from daitn.node.fabric.zenoh_fabric import open_fabric
async def main():
    async with open_fabric(pickle.load(sys.stdin.buffer)):
        print("open", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def test_killed_process_is_noticed_well_under_a_second(domain: LoopbackDomain) -> None:
    process = subprocess.Popen([sys.executable, "-c", MEMBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(pickle.dumps(domain.node(C)))
        process.stdin.close()
        assert process.stdout.readline() == b"open\n"

        async def test() -> float:
            async with fabrics(domain.node(CENTER)) as (center,):
                changes = center.presence()
                await follow(changes, lambda item: item == (C, True))
                process.kill()
                start = time.monotonic()
                await follow(changes, lambda item: item == (C, False))
                await changes.aclose()  # type: ignore[attr-defined]
                return time.monotonic() - start

        assert run(test) < 0.8
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_router_killed_and_back_everything_stands_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "REPEAT_S", 0.1)
    with LoopbackDomain(tmp_path) as domain:

        async def test() -> float:
            async with fabrics(domain.node(CENTER), domain.node(A), domain.node(B)) as (center, a, b):
                await b.serve(echo)
                links, changes, values = a.links(), center.presence(), center.subscribe_latest()
                await follow(links, lambda up: up)
                await follow(changes, lambda item: item == (B, True))
                await a.publish_latest("load", b"1")
                domain.router.kill()
                await follow(links, lambda up: not up)
                await follow(changes, lambda item: item == (B, False))
                with pytest.raises(UnavailableError):
                    await a.call(B, b"", timeout_s=1)
                await asyncio.to_thread(domain.router.start)
                start = time.monotonic()
                await follow(links, lambda up: up)
                await follow(changes, lambda item: item == (B, True))
                while True:
                    try:
                        assert await a.call(B, b"again", timeout_s=1) == b"n0001:again"
                        break
                    except UnavailableError:
                        await asyncio.sleep(0.01)
                took = time.monotonic() - start
                await follow(values, lambda item: item == (A, "load", b"1"))
                for source in (links, changes, values):
                    await source.aclose()  # type: ignore[attr-defined]
                return took

        assert run(test) < 5


def test_reports_are_heard_again_after_the_router_was_killed(tmp_path: Path) -> None:
    async def test(domain: LoopbackDomain) -> None:
        async with fabrics(domain.node(CENTER), domain.node(A)) as (center, a):
            reports = center.subscribe_reports()

            async def heard(payload: bytes) -> None:
                hearing = asyncio.ensure_future(hear(reports, payload))
                while not hearing.done():
                    await a.report([payload])
                    await asyncio.wait([hearing], timeout=0.1)

            await heard(b"before")
            links = a.links()
            await follow(links, lambda up: up)
            domain.router.kill()
            await follow(links, lambda up: not up)
            await asyncio.to_thread(domain.router.start)
            await heard(b"after")
            for source in (links, reports):
                await source.aclose()  # type: ignore[attr-defined]

    with LoopbackDomain(tmp_path) as domain:
        run(lambda: test(domain))


def test_two_linked_routers_carry_and_one_may_be_lost(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with LoopbackDomain(tmp_path) as domain:
        linked = replace(domain.router.config, port=0, peers=(f"127.0.0.1:{domain.router.port}",))

        async def answered(a: Fabric) -> None:
            while True:
                try:
                    assert await a.call(B, b"!", timeout_s=1) == b"n0001:!"
                    return
                except UnavailableError:
                    await asyncio.sleep(0.01)

        async def test(second: str) -> None:
            both = (f"127.0.0.1:{domain.router.port}", second)
            nodes = replace(domain.node(A), routers=both), replace(domain.node(B), routers=(second,))
            async with fabrics(*nodes) as (a, b):
                await b.serve(echo)
                await answered(a)
                domain.router.kill()
                await answered(a)

        with RouterProcess(linked, tmp_path / "second") as second:
            run(lambda: test(f"127.0.0.1:{second.port}"))


# --- chunks ----------------------------------------------------------------------------------------------------------


class Shelf:
    """A provider over one pack file; may lie, refuse and withhold."""

    def __init__(self, directory: Path, content: bytes, *, chunk: int = CHUNK) -> None:
        self.content = content
        self.pack = directory / "pack"
        self.pack.write_bytes(content)
        self.places: dict[ChunkId, ChunkPlace] = {}
        self.wants: list[ChunkWant] = []
        for offset in range(0, len(content), chunk):
            piece = content[offset : offset + chunk]
            digest = ChunkId(blake3(piece).hexdigest())
            self.places[digest] = ChunkPlace(self.pack, offset, len(piece))
            self.wants.append(ChunkWant(digest, len(piece), offset))
        self.asked: list[tuple[NodeId, str, str]] = []

    def authorise(self, requester: NodeId, grant: GrantId, artifact: ArtifactId) -> None:
        self.asked.append((requester, grant, artifact))
        if grant != GRANT:
            raise PolicyError(f"grant {grant} is not known")

    def locate(self, chunk: ChunkId, artifact: ArtifactId) -> ChunkPlace | None:
        return self.places.get(chunk)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, os.urandom(20 * CHUNK + 12345))


def ignore(_chunk: ChunkId) -> None:
    """For tests that look at the sink instead."""


def holder_of(fabric: Fabric) -> Holder:
    return Holder(fabric.node, fabric.direct_addresses)


def served(
    domain: LoopbackDomain, bulk_host: str | None, body: Callable[[Fabric, Fabric], Awaitable[T]], shelf: Shelf
) -> T:
    async def test() -> T:
        async with fabrics(domain.node(A), domain.node(B, bulk_host=bulk_host)) as (a, b):
            await b.serve_chunks(shelf)
            return await body(a, b)

    return run(test)


def test_chunks_arrive_checked_in_a_file(
    domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf, tmp_path: Path
) -> None:
    async def body(a: Fabric, b: Fabric) -> None:
        told: list[ChunkId] = []
        for _ in range(2):  # the second time over the kept connection
            with (tmp_path / "sink").open("w+b") as sink:
                await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, sink.fileno(), on_chunk=told.append)
            assert (tmp_path / "sink").read_bytes() == shelf.content
        assert sorted(told) == sorted(2 * [want.id for want in shelf.wants])
        assert {ask[0] for ask in shelf.asked} == {A}
        expected = (len(told), 0) if bulk_host else (0, len(told))
        assert (a.counters.chunks_direct, a.counters.chunks_routed) == expected

    served(domain, bulk_host, body, shelf)


def test_chunks_arrive_in_memory(domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf) -> None:
    async def body(a: Fabric, b: Fabric) -> None:
        sink = bytearray(len(shelf.content))
        await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, memoryview(sink), on_chunk=ignore)
        assert bytes(sink) == shelf.content

    served(domain, bulk_host, body, shelf)


def test_wrong_bytes_are_the_peers_fault_and_never_written(
    domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf
) -> None:
    bad = shelf.wants[7]
    with shelf.pack.open("r+b") as pack:
        pack.seek(bad.destination)
        pack.write(b"\0" * 100)

    async def body(a: Fabric, b: Fabric) -> None:
        sink, told = bytearray(len(shelf.content)), list[ChunkId]()
        with pytest.raises(PeerError, match=bad.id[:16]):
            await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, memoryview(sink), on_chunk=told.append)
        assert a.counters.chunks_wrong == 1
        assert bad.id not in told
        assert bytes(sink[bad.destination : bad.destination + bad.size]) == bytes(bad.size)
        for want in shelf.wants:
            if want.id in told:
                end = want.destination + want.size
                assert sink[want.destination : end] == shelf.content[want.destination : end]

    served(domain, bulk_host, body, shelf)


def test_wrong_size_is_the_peers_fault(domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf) -> None:
    want = shelf.wants[0]
    shelf.places[want.id] = ChunkPlace(shelf.pack, 0, want.size - 1)

    async def body(a: Fabric, b: Fabric) -> None:
        with pytest.raises(PeerError):
            await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, [want], memoryview(bytearray(CHUNK)), on_chunk=ignore)
        assert a.counters.chunks_wrong == 1

    served(domain, bulk_host, body, shelf)


def test_missing_chunks_are_unavailable_and_the_rest_is_kept(
    domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf
) -> None:
    lost = {shelf.wants[3].id, shelf.wants[11].id}
    for digest in lost:
        del shelf.places[digest]

    async def body(a: Fabric, b: Fabric) -> None:
        told: list[ChunkId] = []
        sink = memoryview(bytearray(len(shelf.content)))
        with pytest.raises(NotHeldError, match="does not hold 2 of 21"):
            await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, sink, on_chunk=told.append)
        assert set(told) == set(shelf.places)

    served(domain, bulk_host, body, shelf)


def test_unknown_grant_is_refused_by_policy(domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf) -> None:
    async def body(a: Fabric, b: Fabric) -> None:
        sink = memoryview(bytearray(len(shelf.content)))
        with pytest.raises(PolicyError, match="forged"):
            await a.fetch_chunks(holder_of(b), ARTIFACT, GrantId("forged"), shelf.wants, sink, on_chunk=ignore)
        assert b.counters.chunks_served == 0

    served(domain, bulk_host, body, shelf)


def test_cancelled_fetch_writes_nothing_more(domain: LoopbackDomain, bulk_host: str | None, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, os.urandom(400 * 65536), chunk=65536)

    async def body(a: Fabric, b: Fabric) -> None:
        sink, first = bytearray(len(shelf.content)), asyncio.Event()
        told: list[ChunkId] = []

        def on_chunk(chunk: ChunkId) -> None:
            told.append(chunk)
            first.set()

        fetch = a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, memoryview(sink), on_chunk=on_chunk)
        task = asyncio.ensure_future(fetch)
        await first.wait()
        task.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - start < 2
        after = bytes(sink)
        again = [want for want in shelf.wants if want.id not in told]
        assert again
        await asyncio.sleep(0)
        assert bytes(sink) == after
        await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, again, memoryview(sink), on_chunk=told.append)
        assert bytes(sink) == shelf.content

    served(domain, bulk_host, body, shelf)


def test_holder_that_is_not_there_is_unavailable(domain: LoopbackDomain, shelf: Shelf) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            sink = memoryview(bytearray(len(shelf.content)))
            with pytest.raises(UnavailableError):
                await a.fetch_chunks(Holder(C), ARTIFACT, GRANT, shelf.wants, sink, on_chunk=ignore)

    run(test)


@pytest.mark.parametrize("trap", ["nobody", "impostor"])
def test_useless_direct_address_falls_back_to_the_router(domain: LoopbackDomain, shelf: Shelf, trap: str) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B), domain.node(C, bulk_host="127.0.0.1")) as (a, b, c):
            await b.serve_chunks(shelf)
            await c.serve_chunks(shelf)
            address = c.direct_addresses[0] if trap == "impostor" else "127.0.0.1:1"
            sink = bytearray(len(shelf.content))
            await a.fetch_chunks(Holder(B, (address,)), ARTIFACT, GRANT, shelf.wants, memoryview(sink), on_chunk=ignore)
            assert bytes(sink) == shelf.content
            assert (a.counters.direct_failed, c.counters.chunks_served) == (1, 0)

    run(test)


def test_holder_restarted_is_fetched_from_again(domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            port = 0
            for _ in range(2):
                async with fabrics(replace(domain.node(B, bulk_host=bulk_host), bulk_port=port)) as (b,):
                    await b.serve_chunks(shelf)
                    port = int(b.direct_addresses[0].rpartition(":")[2]) if bulk_host else 0
                    sink = bytearray(len(shelf.content))
                    await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, memoryview(sink), on_chunk=ignore)
                    assert bytes(sink) == shelf.content
            assert a.counters.direct_failed == 0

    run(test)


# --- streams ---------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a stream goes."""

    bulk_host: str | None
    light: bool


@pytest.fixture(params=["routed", "direct", "light routed", "light direct"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way("127.0.0.1" if "direct" in request.param else None, "light" in request.param)


def streamed(
    domain: LoopbackDomain,
    way: Way,
    handler: Callable[[NodeId, str, Stream], Awaitable[None]],
    body: Callable[[Fabric, Holder], Awaitable[None]],
) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B, bulk_host=way.bulk_host)) as (a, b):
            await b.accept_streams(handler)
            await body(a, holder_of(b))

    run(test)


def test_stream_carries_messages_both_ways_in_order(domain: LoopbackDomain, way: Way) -> None:
    async def handler(peer: NodeId, tag: str, stream: Stream) -> None:
        await stream.send(f"{peer} {tag}".encode())
        while (message := await stream.receive()) is not None:
            await stream.send(message[::-1])

    async def body(a: Fabric, receiver: Holder) -> None:
        stream = await a.open_stream(receiver, "job/1", timeout_s=5, light=way.light)
        assert await stream.receive() == b"n0001 job/1"
        messages = [os.urandom(size) for size in (0, 1, 100, 70_000, 1_000_000) * 6]

        async def send_all() -> None:
            for message in messages:
                await stream.send(message)
            await stream.finish()

        sending = asyncio.ensure_future(send_all())
        for message in messages:
            assert await stream.receive() == message[::-1]
        assert await stream.receive() is None
        await sending

    streamed(domain, way, handler, body)


def test_stream_hands_messages_on_in_order_and_tells_the_end_once(domain: LoopbackDomain, way: Way) -> None:
    async def handler(_peer: NodeId, _tag: str, stream: Stream) -> None:
        over = asyncio.get_running_loop().create_future()
        stream.hand_on(heard.append, over.set_result)
        assert await over is None
        await stream.send(b"".join(heard))

    heard: list[bytes] = []

    async def body(a: Fabric, receiver: Holder) -> None:
        stream = await a.open_stream(receiver, "handed on", timeout_s=5, light=way.light)
        for number in range(25):
            await stream.send(b"%d " % number)
        await stream.finish()
        assert await stream.receive() == b"".join(b"%d " % number for number in range(25))
        assert await stream.receive() is None

    streamed(domain, way, handler, body)


def test_stream_message_may_be_overwritten_once_it_is_said_to_be_sent(domain: LoopbackDomain, way: Way) -> None:
    async def handler(_peer: NodeId, _tag: str, stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            await stream.send(message)

    async def body(a: Fabric, receiver: Holder) -> None:
        stream = await a.open_stream(receiver, "reused", timeout_s=5, light=way.light)
        memory, target = memoryview(bytearray(500_000)), memoryview(bytearray(600_000))
        for number in range(20):
            memory[:] = bytes([number]) * len(memory)
            sent = asyncio.Event()
            await stream.send(memory, on_sent=sent.set)
            async with asyncio.timeout(10):
                await sent.wait()
            memory[:] = bytes(len(memory))
            size = await stream.receive_into(target)
            assert (size, bytes(target[:size])) == (len(memory), bytes([number]) * len(memory))
        await stream.send(b"large")
        with pytest.raises(PeerError, match="5 bytes"):
            await stream.receive_into(target[:4])
        await stream.finish()
        assert await stream.receive_into(target) is None

    streamed(domain, way, handler, body)


def test_stream_sender_waits_for_a_reader_that_does_not_read(domain: LoopbackDomain, way: Way) -> None:
    read = asyncio.Event()

    async def handler(_peer: NodeId, _tag: str, stream: Stream) -> None:
        await read.wait()
        count = 0
        while await stream.receive() is not None:
            count += 1
        await stream.send(b"%d" % count)

    async def body(a: Fabric, receiver: Holder) -> None:
        stream = await a.open_stream(receiver, "slow", timeout_s=5, light=way.light)
        sent = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.4):
                while True:
                    await stream.send(bytes(100_000))
                    sent += 1
        assert (2 if way == Way(None, light=True) else 8) <= sent <= 32
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.ready()
        assert not stream.send_now(b"what would have to wait")
        read.set()
        await stream.ready()
        assert stream.send_now(b"what need not")
        sent += 1
        await stream.finish()
        assert not stream.send_now(b"nothing more is sent")
        assert await stream.receive() == b"%d" % sent
        assert await stream.receive() is None

    streamed(domain, way, handler, body)


@pytest.mark.parametrize("who", ["opener", "acceptor"])
def test_stream_cancel_is_noticed_at_the_other_end_at_once(domain: LoopbackDomain, way: Way, who: str) -> None:
    accepted: asyncio.Queue[Stream] = asyncio.Queue()
    noticed: asyncio.Queue[float] = asyncio.Queue()
    over = asyncio.Event()

    async def wait_for_the_end(stream: Stream) -> None:
        with pytest.raises(UnavailableError):
            await stream.receive()
        noticed.put_nowait(time.monotonic())

    async def handler(_peer: NodeId, _tag: str, stream: Stream) -> None:
        assert await stream.receive() == b"begin"
        accepted.put_nowait(stream)
        if who == "opener":
            await wait_for_the_end(stream)
        else:
            await over.wait()

    async def body(a: Fabric, receiver: Holder) -> None:
        stream = await a.open_stream(receiver, "cancelled", timeout_s=5, light=way.light)
        await stream.send(b"begin")
        far = await accepted.get()
        if who == "opener":
            start = time.monotonic()
            await stream.cancel()
            took = await noticed.get() - start
        else:
            waiting = asyncio.ensure_future(wait_for_the_end(stream))
            start = time.monotonic()
            await far.cancel()
            await waiting
            took = noticed.get_nowait() - start
            over.set()
        assert took < 0.5
        with pytest.raises(UnavailableError):
            await stream.send(b"late")

    streamed(domain, way, handler, body)


def test_stream_with_a_node_that_closes_is_cut(domain: LoopbackDomain, way: Way) -> None:
    async def handler(_peer: NodeId, _tag: str, stream: Stream) -> None:
        await stream.send(b"here")
        await asyncio.Event().wait()

    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            async with fabrics(domain.node(B, bulk_host=way.bulk_host)) as (b,):
                await b.accept_streams(handler)
                stream = await a.open_stream(holder_of(b), "cut", timeout_s=5)
                assert await stream.receive() == b"here"
            with pytest.raises(UnavailableError):
                await stream.receive()

    run(test)


def test_stream_to_a_node_that_accepts_none_is_refused(domain: LoopbackDomain, way: Way) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B, bulk_host=way.bulk_host)) as (a, b):
            with pytest.raises(UnavailableError):
                await a.open_stream(holder_of(b), "none", timeout_s=2)

    run(test)
