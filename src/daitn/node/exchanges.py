"""Exchanges between visits: finds the partners of a group, under grants, and gives their streams to the child's port.

Of two partners the one with the lower rank opens the stream. Each end shows in its first message for which visit it
speaks and the grant by which it may exchange with the other's visit; each checks the other's against the node that the
stream proves and against its own order. A partner that has not begun yet refuses with `unavailable` and is asked again,
so that nothing foreign waits at a node that knows nothing of it. After that the stream carries parts (`exchange_port`).

How long a visit waits for its partners is bounded, and differs from group to group: where two groups hold the slots
that each other wants, one gives way first and the other goes on.

docs/decisions/0015 tells the whole way of a datum.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from daitn.artifacts.grants import check_exchange_grant
from daitn.base.errors import DaitnError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import DomainId, NodeId, VisitId
from daitn.descriptors.work import Group, TrainWork
from daitn.node.clock import NodeClock
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.fabric.contract import Holder as FabricHolder
from daitn.node.sandbox.exchange_port import ExchangePort
from daitn.wire.center_tools import PartnerRef, VisitOrder
from daitn.wire.data_plane import ExchangeHello, ExchangeRefused, decode_hello, encode_data_plane

OPEN_S: Final = 5.0
"""Longest opening of a stream, and longest wait for its first message."""

AGAIN_FIRST_S: Final = 0.02
AGAIN_MOST_S: Final = 0.5
"""Between two tries to meet a partner that has not begun; doubles from one to the other."""

GATHER_FRAC: Final = 0.25
"""Part of a visit's wall time in which its partners must have begun: they may have a large model to fetch, or wait for
a slot. Up to twice this, by the name of the group."""

LINGER_S: Final = 10.0
"""How long a partner may take, after our last part, to end its side of a stream before that is cut."""

_log = logging.getLogger(__name__)


class LostPartnerError(DaitnError):
    """Another member of the group did not come, is gone, or may not exchange with this visit."""

    kind = "partner"

    def __init__(self, partner: NodeId, what: str) -> None:
        self.partner = partner
        super().__init__(what, todo="the round is lost and will be ordered again", ids={"node": partner})


class Exchanges:
    """See the module's docstring. `center_key` signs the domain's grants."""

    def __init__(self, domain: DomainId, fabric: Fabric, center_key: Ed25519PublicKey, clock: NodeClock) -> None:
        self._domain = domain
        self._fabric = fabric
        self._center_key = center_key
        self._clock = clock
        self._expected: dict[tuple[VisitId, VisitId], _Seat] = {}
        self._lingering: set[asyncio.Task[None]] = set()
        self.refused = 0

    async def start(self) -> None:
        """Accept streams of partners from now on."""
        await self._fabric.accept_streams(self._accept)

    async def stop(self) -> None:
        """Wait for nobody any more."""
        for task in self._lingering:
            task.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)

    @asynccontextmanager
    async def meet(self, order: VisitOrder) -> AsyncIterator[ExchangePort | None]:
        """The port through which the order's child exchanges with its partners; None for work without a group.

        LostPartnerError where one does not come in time or refuses. An error within the context, or its cancellation,
        drops the streams at once, which is how partners learn of it.
        """
        group = order.work.group if isinstance(order.work, TrainWork) else None
        if group is None:
            yield None
            return
        seats = {rank: _Seat(group, rank, ref) for rank, ref in _partners(order, group).items()}
        waiting = {(order.visit, seat.visit): seat for rank, seat in seats.items() if rank < group.rank}
        self._expected |= waiting
        port: ExchangePort | None = None
        try:
            streams = await self._gather(order, group, seats)
            port = ExchangePort(group.rank, streams)
            yield port
            await port.finish()
            for rank, stream in streams.items():
                if rank > group.rank:
                    self._linger(stream)
        except BaseException:
            if port is not None:
                await port.cancel()
            for seat in seats.values():
                if seat.stream is not None:
                    await seat.stream.cancel()
            raise
        finally:
            for key, seat in waiting.items():
                del self._expected[key]
                seat.over.set()

    async def _gather(self, order: VisitOrder, group: Group, seats: dict[int, _Seat]) -> dict[int, Stream]:
        """Streams to all partners by rank."""
        spread = blake3(group.name.encode()).digest()[0] / 255
        tasks = [
            asyncio.ensure_future(self._open(order, seat) if rank > group.rank else seat.taken())
            for rank, seat in seats.items()
        ]
        try:
            async with asyncio.timeout(order.wall_s * GATHER_FRAC * (1 + spread)):
                await asyncio.gather(*tasks)
        except TimeoutError:
            late = [seat for seat in seats.values() if seat.stream is None]
            said = "; ".join(f"{seat.visit} at {seat.node} {seat.said}" for seat in late)
            raise LostPartnerError(late[0].node if late else group.me.node, f"partners did not come: {said}") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return {rank: seat.stream for rank, seat in seats.items() if seat.stream is not None}

    # --- opening ----------------------------------------------------------------------------------------------------

    async def _open(self, order: VisitOrder, seat: _Seat) -> None:
        """Open a stream to a partner, again and again while it has not begun."""
        again_s = AGAIN_FIRST_S
        while True:
            try:
                seat.stream = await self._try(order, seat)
                return
            except UnavailableError as error:
                seat.said = error.what
            except (PeerError, PolicyError) as error:
                raise LostPartnerError(seat.node, f"{seat.node} does not exchange: {error.what}") from None
            await asyncio.sleep(again_s)
            again_s = min(AGAIN_MOST_S, 2 * again_s)

    async def _try(self, order: VisitOrder, seat: _Seat) -> Stream:
        holder = FabricHolder(seat.node, seat.ref.holder.direct)
        stream = await self._fabric.open_stream(holder, f"exchange {seat.visit}", timeout_s=OPEN_S)
        try:
            hello = ExchangeHello(visit=order.visit, partner=seat.visit, grant=seat.ref.grant)
            await stream.send(encode_data_plane(hello))
            answer = await _first_message(stream)
            if isinstance(answer, ExchangeRefused):
                kinds: dict[str, type[DaitnError]] = {"unavailable": UnavailableError, "policy": PolicyError}
                raise kinds.get(answer.blame, PeerError)(answer.what)
            self._check(stream.peer, answer, order.visit, seat)
        except BaseException:
            await stream.cancel()
            raise
        return stream

    # --- accepting --------------------------------------------------------------------------------------------------

    async def _accept(self, peer: NodeId, _tag: str, stream: Stream) -> None:
        """A stream was opened to this node: a partner's, if it can show so."""
        hello = await _first_message(stream)
        try:
            if not isinstance(hello, ExchangeHello):
                raise PeerError(f"{peer} opened an exchange with a refusal")
            seat = self._expected.get((hello.partner, hello.visit))
            if seat is None or seat.stream is not None:
                raise UnavailableError(f"visit {hello.partner[:80]} is not waiting for {hello.visit[:80]} here (now)")
            self._check(peer, hello, hello.partner, seat)
        except DaitnError as error:
            self.refused += not isinstance(error, UnavailableError)
            await stream.send(encode_data_plane(ExchangeRefused(blame=error.kind, what=error.what[:1024])))
            return
        answer = ExchangeHello(visit=hello.partner, partner=hello.visit, grant=seat.ref.grant)
        await stream.send(encode_data_plane(answer))
        seat.take(stream)
        await seat.over.wait()

    def _check(self, peer: NodeId, hello: ExchangeHello, mine: VisitId, seat: _Seat) -> None:
        """PolicyError or PeerError unless this is the partner of the order, with a grant of its own."""
        if (peer, hello.visit, hello.partner) != (seat.node, seat.visit, mine):
            raise PolicyError(f"{peer} speaks for {hello.visit[:80]}, the order names {seat.visit} at {seat.node}")
        check_exchange_grant(
            hello.grant,
            self._center_key,
            requester=peer,
            by=hello.visit,
            visit=mine,
            now_unix_s=self._clock.now_ns() // 1_000_000_000,
            domain=self._domain,
        )

    # --- ending -----------------------------------------------------------------------------------------------------

    def _linger(self, stream: Stream) -> None:
        """A stream that was opened and ended here goes when the partner ends its side too, or after a while."""
        self._spawn(_read_out(stream))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)


class _Seat:
    """Where one partner is waited for."""

    def __init__(self, group: Group, rank: int, ref: PartnerRef) -> None:
        member = group.members[rank]
        self.visit = member.visit
        self.node = member.node
        self.ref = ref
        self.stream: Stream | None = None
        self.said = "has not opened its stream"
        self.over = asyncio.Event()
        self._came = asyncio.Event()

    def take(self, stream: Stream) -> None:
        self.stream = stream
        self._came.set()

    async def taken(self) -> None:
        await self._came.wait()


def _partners(order: VisitOrder, group: Group) -> dict[int, PartnerRef]:
    """References by rank; PeerError where the order contradicts itself."""
    refs = {ref.visit: ref for ref in order.partners}
    found: dict[int, PartnerRef] = {}
    for rank, member in group.others():
        ref = refs.get(member.visit)
        if ref is None or ref.holder.node != member.node:
            raise PeerError(f"the order of {order.visit} does not say how its partner {member.visit} is reached")
        found[rank] = ref
    if group.me.visit != order.visit:
        raise PeerError(f"the order of {order.visit} gives it the place of {group.me.visit}")
    return found


async def _first_message(stream: Stream) -> ExchangeHello | ExchangeRefused:
    """UnavailableError where none comes in time, PeerError where it does not decode."""
    try:
        async with asyncio.timeout(OPEN_S):
            message = await stream.receive()
    except TimeoutError:
        raise UnavailableError(f"{stream.peer} said nothing for {OPEN_S:g} s") from None
    if message is None:
        raise UnavailableError(f"{stream.peer} ended the stream at once")
    return decode_hello(message)


async def _read_out(stream: Stream) -> None:
    with suppress(DaitnError):
        try:
            async with asyncio.timeout(LINGER_S):
                while await stream.receive() is not None:
                    pass
        except TimeoutError:
            await stream.cancel()


def partner_of(order: VisitOrder, rank: int | None) -> NodeId | None:
    """The node that a child means by a rank; None where it names none of its partners."""
    group = order.work.group if isinstance(order.work, TrainWork) else None
    if group is None or rank is None or rank == group.rank or rank >= len(group.members):
        return None
    return group.members[rank].node
