"""Meeting partners: only those an order names, each under a grant; late, foreign and silent ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import make_order
from tests.exchange_world import MemoryStream, stream_pair

from daitn.artifacts.grants import check_exchange_grant, check_grant, issue_grant
from daitn.base.errors import PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, DataSetId, DomainId, GrantId, JobId, NodeId, VisitId
from daitn.descriptors.grant import Grant, Holder
from daitn.descriptors.work import Group, Member, Training, TrainWork
from daitn.node import exchanges as module
from daitn.node.exchanges import Exchanges, LostPartnerError
from daitn.wire.center_tools import PartnerRef, VisitOrder
from daitn.wire.data_plane import ExchangeHello, ExchangeRefused, decode_hello, encode_data_plane

DOMAIN = DomainId("d")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NODES = (NodeId("n0001"), NodeId("n0002"), NodeId("n0003"))
NOW_S = 1_000_000


class StillClock:
    def now_ns(self) -> int:
        return NOW_S * 1_000_000_000


class MemoryFabric:
    """Streams between nodes of one test."""

    def __init__(self, nodes: dict[NodeId, MemoryFabric], node: NodeId) -> None:
        self.node = node
        self.opened = 0
        self._nodes = nodes
        self._tasks: set[asyncio.Future[None]] = set()
        self._handler: Callable[..., Awaitable[None]] | None = None
        nodes[node] = self

    async def accept_streams(self, handler: Callable[..., Awaitable[None]]) -> None:
        self._handler = handler

    async def open_stream(self, receiver: Any, tag: str, *, timeout_s: float) -> MemoryStream:
        self.opened += 1
        other = self._nodes.get(receiver.node)
        if other is None or other._handler is None:
            raise UnavailableError("nobody accepts there")
        ours, theirs = stream_pair()
        ours.peer, theirs.peer = receiver.node, self.node
        task = asyncio.ensure_future(other._handler(self.node, tag, theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ours


def grant_for(order_visit: str, partner: str, node: NodeId, **changes: Any) -> str:
    values: dict[str, Any] = {
        "id": GrantId(f"{order_visit}:{partner}"),
        "domain": DOMAIN,
        "artifact": ArtifactId(""),
        "requester": node,
        "job": JobId("j"),
        "expires_unix_s": NOW_S + 60,
        "visit": VisitId(partner),
        "by": VisitId(order_visit),
    }
    return issue_grant(changes.pop("key", KEY), Grant(**(values | changes)))


def order_for(rank: int, members: int = 2, **grant: Any) -> VisitOrder:
    """The order of one member of group j/1, j/2, …"""
    group = tuple(
        Member(visit=VisitId(f"j/{place + 1}"), node=NODES[place], dataset=DataSetId(f"s{place}/d"))
        for place in range(members)
    )
    mine = group[rank]
    training = Training(batch_size=1, batches=1, learning_rate=0.1)
    work = TrainWork(
        model=ArtifactId("0" * 64),
        dataset=mine.dataset,
        training=training,
        seed=0,
        group=Group(members=group, rank=rank),
    )
    partners = tuple(
        PartnerRef(
            visit=member.visit,
            holder=Holder(node=member.node),
            grant=grant_for(mine.visit, member.visit, mine.node, **grant),
        )
        for place, member in enumerate(group)
        if place != rank
    )
    return make_order(visit=mine.visit, work=work, partners=partners, wall_s=60.0)


async def nodes_of(count: int) -> tuple[list[Exchanges], list[MemoryFabric]]:
    fabrics: dict[NodeId, MemoryFabric] = {}
    made = []
    for node in NODES[:count]:
        one = Exchanges(DOMAIN, MemoryFabric(fabrics, node), KEY.public_key(), StillClock())  # type: ignore[arg-type]
        await one.start()
        made.append(one)
    return made, [fabrics[node] for node in NODES[:count]]


def go(main: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 30))


async def meet(exchanges: Exchanges, order: VisitOrder, both: asyncio.Barrier | None = None) -> str:
    async with exchanges.meet(order) as port:
        assert port is not None
        if both is not None:
            await both.wait()
        return f"{order.visit} met {len(port.room.ranks())}"


@pytest.mark.parametrize("members", [2, 3])
def test_members_of_a_group_meet_whoever_begins_first(members):
    async def main() -> list[str]:
        made, _ = await nodes_of(members)
        both = asyncio.Barrier(members)
        tasks = []
        for rank in range(members):
            tasks.append(asyncio.ensure_future(meet(made[rank], order_for(rank, members), both)))
            for _ in range(20):
                await asyncio.sleep(0)
        return list(await asyncio.gather(*tasks))

    assert go(main()) == [f"j/{rank + 1} met {members - 1}" for rank in range(members)]


def test_work_without_a_group_meets_nobody():
    async def main() -> Any:
        made, _ = await nodes_of(1)
        async with made[0].meet(make_order()) as port:
            return port

    assert go(main()) is None


def test_partner_that_never_comes_is_named_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(module, "GATHER_FRAC", 0.002)

    async def main() -> None:
        made, fabrics = await nodes_of(2)
        with pytest.raises(LostPartnerError, match="did not come") as caught:
            await meet(made[0], order_for(0))
        assert caught.value.partner == NODES[1]
        assert fabrics[0].opened > 1

    go(main())


@pytest.mark.parametrize(
    ("grant", "why"),
    [
        ({"expires_unix_s": NOW_S - 1}, "ended"),
        ({"requester": NODES[2]}, "is for n0003"),
        ({"visit": VisitId("j/9")}, "is asked for"),
        ({"by": VisitId("j/9")}, "is asked for"),
        ({"domain": DomainId("other")}, "domain"),
        ({"key": Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)}, "not signed"),
        ({"visit": VisitId(""), "artifact": ArtifactId("0" * 64)}, "artifact"),
    ],
)
@pytest.mark.parametrize("liar", [0, 1], ids=["opener", "acceptor"])
def test_partner_without_a_grant_that_holds_is_refused(liar, grant, why):
    async def main() -> list[Any]:
        made, _ = await nodes_of(2)
        orders = [order_for(rank, **(grant if rank == liar else {})) for rank in range(2)]
        tasks = [asyncio.ensure_future(meet(made[rank], orders[rank])) for rank in (1, 0)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return [task.exception() for task in done]

    faults = go(main())
    assert any(isinstance(one, LostPartnerError) and why in one.what for one in faults), faults


def test_node_that_speaks_for_a_visit_that_is_not_its_own_is_refused():
    async def main() -> Any:
        made, fabrics = await nodes_of(3)
        waiting = asyncio.ensure_future(meet(made[1], order_for(1)))
        await asyncio.sleep(0)
        stranger = await fabrics[2].open_stream(Holder(node=NODES[1]), "exchange", timeout_s=1)
        hello = ExchangeHello(visit=VisitId("j/1"), partner=VisitId("j/2"), grant=grant_for("j/1", "j/2", NODES[2]))
        await stranger.send(encode_data_plane(hello))
        answer = decode_hello(await stranger.receive() or b"")
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return answer, made[1].refused

    answer, refused = go(main())
    assert isinstance(answer, ExchangeRefused)
    assert answer.blame == "policy"
    assert refused == 1


def test_stream_of_a_visit_nobody_waits_for_is_told_to_come_again():
    async def main() -> Any:
        made, fabrics = await nodes_of(2)
        stream = await fabrics[0].open_stream(Holder(node=NODES[1]), "exchange", timeout_s=1)
        hello = ExchangeHello(visit=VisitId("j/1"), partner=VisitId("j/2"), grant=grant_for("j/1", "j/2", NODES[0]))
        await stream.send(encode_data_plane(hello))
        return decode_hello(await stream.receive() or b""), made[1].refused

    answer, refused = go(main())
    assert isinstance(answer, ExchangeRefused)
    assert answer.blame == "unavailable"
    assert refused == 0


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x81\xa4type\xa5hello", bytes(1000)])
def test_opening_that_does_not_decode_is_the_peers_fault(data):
    with pytest.raises(PeerError, match="does not decode"):
        decode_hello(data)


def test_cancelled_visit_drops_its_streams_at_once():
    async def main() -> bool:
        made, _ = await nodes_of(2)
        both = asyncio.Barrier(3)

        async def stay(rank: int) -> None:
            async with made[rank].meet(order_for(rank)) as port:
                assert port is not None
                streams.append(next(iter(port._streams.values())))
                await both.wait()
                await asyncio.Event().wait()

        streams: list[Any] = []
        tasks = [asyncio.ensure_future(stay(rank)) for rank in range(2)]
        await both.wait()
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        gone = all(stream.cancelled.is_set() for stream in streams)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        return gone

    assert go(main())


def test_order_that_does_not_name_where_a_partner_is_is_refused():
    async def main() -> None:
        made, _ = await nodes_of(1)
        with pytest.raises(PeerError, match="does not say"):
            await meet(made[0], msgspec.structs.replace(order_for(0), partners=()))

    go(main())


# --- grants -------------------------------------------------------------------------------------------------------


def test_grant_for_an_exchange_opens_no_artifact_and_the_other_way_round():
    exchange = grant_for("j/1", "j/2", NODES[0])
    artifact = grant_for("j/1", "", NODES[0], artifact=ArtifactId("a" * 64), by=VisitId(""))

    with pytest.raises(PolicyError, match="for an exchange"):
        check_grant(
            exchange,
            KEY.public_key(),
            requester=NODES[0],
            artifact=ArtifactId(""),
            now_unix_s=NOW_S,
            revoked=(),
        )
    with pytest.raises(PolicyError, match="artifact"):
        check_exchange_grant(
            artifact,
            KEY.public_key(),
            requester=NODES[0],
            by=VisitId("j/1"),
            visit=VisitId("j/2"),
            now_unix_s=NOW_S,
        )


@pytest.mark.parametrize("rank", [2, 7])
def test_group_whose_rank_is_nobodys_does_not_decode(rank):
    group = order_for(0).work.group  # type: ignore[union-attr]
    data = msgspec.msgpack.encode(msgspec.to_builtins(group) | {"rank": rank})
    with pytest.raises(msgspec.ValidationError, match="rank"):
        msgspec.msgpack.decode(data, type=Group)
