"""What the fabric promises of links: the ledger shows what exists, whatever carries it, and what it carried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.contract.test_fabric import (
    ARTIFACT,
    GRANT,
    A,
    B,
    Shelf,
    bulk_host,
    domain,
    echo,
    fabrics,
    holder_of,
    ignore,
    run,
    shelf,
    until,
)

from daitn.base.ids import NodeId
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.fabric.loopback import LoopbackDomain

__all__ = ["bulk_host", "domain", "shelf"]


def kinds(fabric: Fabric) -> list[str]:
    """The links a fabric shows, each as kind and peer."""
    return sorted(f"{one.kind.value} {one.peer}" for one in fabric.link_states().links)


SESSIONS = ["control router", "data router"]


async def fetch(a: Fabric, b: Fabric, shelf: Shelf) -> None:
    """All of a shelf, into memory."""
    sink = memoryview(bytearray(len(shelf.content)))
    await a.fetch_chunks(holder_of(b), ARTIFACT, GRANT, shelf.wants, sink, on_chunk=ignore)


def test_links_are_the_two_sessions_and_count_what_they_carry(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B)) as (a, b):
            await b.serve(echo)
            assert kinds(a) == kinds(b) == SESSIONS
            before = a.link_states().carried_bytes
            await a.call(B, bytes(10_000), timeout_s=5)
            assert 20_000 < a.link_states().carried_bytes - before < 21_000

    run(test)


def test_fetch_shows_the_link_it_took_and_how_much_came(
    domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf
) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B, bulk_host=bulk_host)) as (a, b):
            await b.serve_chunks(shelf)
            news = a.link_news()
            assert await anext(news) is None
            await fetch(a, b, shelf)
            seen = [one async for one in _until_transfer(news)]
            assert (seen[-1].peer, seen[-1].direct, seen[-1].moved_bytes) == (
                B,
                bulk_host is not None,
                len(shelf.content),
            )
            expected = [*SESSIONS, f"chunks {B}"] if bulk_host else SESSIONS
            assert kinds(a) == sorted(expected)
            if bulk_host:
                (link,) = [one for one in a.link_states().links if one.direct]
                assert link.opened_here
                assert link.address == b.direct_addresses[0]
                assert link.received_bytes >= len(shelf.content)
                assert link.round_trip_s is not None
                assert 0 < link.round_trip_s < 1
                (served,) = [one for one in b.link_states().links if one.direct]
                assert (served.peer, served.opened_here, served.address) == (A, False, "")
                a.drop_links(B)
                await until(lambda: kinds(a) == kinds(b) == SESSIONS)

    run(test)


async def _until_transfer(news: AsyncIterator) -> AsyncIterator:
    async for one in news:
        if one is not None:
            yield one
            return


def test_link_to_a_peer_that_is_gone_is_not_shown(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A)) as (a,):
            async with fabrics(domain.node(B, bulk_host="127.0.0.1")) as (b,):
                await a.warm_link(holder_of(b))
                assert kinds(a) == sorted([*SESSIONS, f"chunks {B}"])
                await until(lambda: kinds(b) == sorted([*SESSIONS, f"chunks {A}"]))
            await until(lambda: kinds(a) == SESSIONS)

    run(test)


def test_stream_is_a_link_as_long_as_it_lasts(domain: LoopbackDomain, bulk_host: str | None) -> None:
    async def test() -> None:
        async def take(_peer: NodeId, _tag: str, stream: Stream) -> None:
            while await stream.receive() is not None:
                pass

        async with fabrics(domain.node(A), domain.node(B, bulk_host=bulk_host)) as (a, b):
            await b.accept_streams(take)
            stream = await a.open_stream(holder_of(b), "t", timeout_s=5)
            links = [one for one in a.link_states().links if one.kind == "stream"]
            assert {one.peer for one in links} == {B}
            assert {one.direct for one in links} == {bulk_host is not None}
            await stream.send(b"x" * 1000)
            await stream.finish()
            assert await stream.receive() is None
            await until(lambda: kinds(a) == kinds(b) == SESSIONS)

    run(test)


def test_paced_bulk_keeps_to_its_rate_and_calls_do_not_wait(
    domain: LoopbackDomain, bulk_host: str | None, shelf: Shelf
) -> None:
    async def test() -> None:
        async with fabrics(domain.node(A), domain.node(B, bulk_host=bulk_host)) as (a, b):
            await b.serve_chunks(shelf)
            await b.serve(echo)
            rate = 2_000_000.0
            a.pace_links(rate)
            began = time.monotonic()
            fetching = asyncio.ensure_future(fetch(a, b, shelf))
            await a.call(B, b"quick", timeout_s=5)
            assert time.monotonic() - began < 0.5
            await fetching
            took_s = time.monotonic() - began
            least_s = (len(shelf.content) - shelf.wants[0].size) / rate
            assert least_s * 0.95 < took_s < least_s * 2 + 1

    run(test)


def test_router_that_is_gone_takes_the_sessions_off_the_book(tmp_path: Path) -> None:
    async def test(own: LoopbackDomain) -> None:
        async with fabrics(own.node(A)) as (a,):
            assert kinds(a) == SESSIONS
            before = {one.number for one in a.link_states().links}
            await asyncio.to_thread(own.router.kill)
            await until(lambda: kinds(a) == [])
            await asyncio.to_thread(own.router.start)
            await until(lambda: kinds(a) == SESSIONS)
            assert not before & {one.number for one in a.link_states().links}

    with LoopbackDomain(tmp_path) as own:
        run(lambda: test(own))
