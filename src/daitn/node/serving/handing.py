"""Answers handed to another terminal of the domain: from the gateway that was asked to the one where they are fetched.

Which gateways there are, and which can be reached, the centre tells with the routes. The way of an answer is its own: a
stream to that gateway, directly where it listens, else through the router, whichever way query and answer went before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from daitn.base.errors import DaitnError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.descriptors.grant import Holder
from daitn.node.fabric.contract import Fabric, Stream
from daitn.node.fabric.contract import Holder as FabricHolder
from daitn.node.serving.later_store import Later
from daitn.wire.handed import (
    ANSWER_BYTES,
    KEPT_MOST_S,
    PART_BYTES,
    STREAM_WORD,
    AnswerHanded,
    HandedSaid,
    decode_handed,
    decode_handed_said,
)

HAND_S: Final = 30.0
"""Longest handing over of one answer."""

OPEN_S: Final = 5.0

Keeper = Callable[[Later], Awaitable[str]]
"""Keeps an answer that came from elsewhere; why not, or nothing where it is on disk."""


class Handing:
    """See the module's docstring."""

    def __init__(self, fabric: Fabric, counters: Counters, clock: Callable[[], float] = time.time) -> None:
        self._fabric, self._counters, self._clock = fabric, counters, clock
        self._gateways: dict[NodeId, Holder] = {}
        self._keep: Keeper | None = None

    async def start(self, keep: Keeper) -> None:
        """Take what other gateways hand over, from now on."""
        self._keep = keep
        await self._fabric.accept_streams(self.attend, word=STREAM_WORD)

    def follow(self, gateways: Sequence[Holder]) -> None:
        """These are the gateways that can be reached now."""
        self._gateways = {one.node: one for one in gateways}

    def reach(self, node: NodeId) -> None:
        """PolicyError where a node is no gateway that can be reached now."""
        if node not in self._gateways:
            raise PolicyError(f"{node} is no gateway of this domain that can be reached now")

    async def hand(self, node: NodeId, one: Later) -> None:
        """Hand an answer over. UnavailableError where that may go better another time."""
        if node not in self._gateways:
            raise UnavailableError(f"gateway {node} cannot be reached now")
        to = self._gateways[node]
        try:
            async with asyncio.timeout(HAND_S):
                receiver = FabricHolder(node=to.node, direct=tuple(to.direct))
                stream = await self._fabric.open_stream(receiver, STREAM_WORD + " 1", timeout_s=OPEN_S)
                try:
                    said = await self._say(stream, one)
                finally:
                    await stream.cancel()
        except TimeoutError:
            raise UnavailableError(f"gateway {node} did not take it within {HAND_S:g} s") from None
        except PeerError as error:
            raise UnavailableError(f"gateway {node} did not take it: {error.what}") from None
        if not said.taken:
            raise UnavailableError(f"gateway {node} did not take it: {said.what}")

    async def _say(self, stream: Stream, one: Later) -> HandedSaid:
        handed = AnswerHanded(
            query=one.query,
            owner=one.owner,
            model=one.model,
            status=one.status,
            told=one.told,
            kind=one.kind,
            bytes=len(one.answer),
            kept_s=min(KEPT_MOST_S, max(1.0, one.expires_s - self._clock())),
        )
        await stream.send(msgspec.msgpack.encode(handed))
        for start in range(0, len(one.answer), PART_BYTES):
            await stream.send(one.answer[start : start + PART_BYTES])
        said = await stream.receive()
        if said is None:
            raise UnavailableError("it ended the stream")
        return decode_handed_said(said)

    async def attend(self, peer: NodeId, _: str, stream: Stream) -> None:
        """Another gateway hands an answer over."""
        if peer not in self._gateways or self._keep is None:
            self._counters.count("answers_handed", "not-a-gateway")
            raise PolicyError(f"{peer} is no gateway of this domain, as far as this one was told")
        try:
            async with asyncio.timeout(HAND_S):
                one = await self._received(stream)
        except (DaitnError, TimeoutError):
            self._counters.count("answers_handed", "broken")
            raise
        fault = await self._keep(one)
        self._counters.count("answers_handed", "refused" if fault else "taken")
        await stream.send(msgspec.msgpack.encode(HandedSaid(taken=not fault, what=fault)))
        await stream.finish()

    async def _received(self, stream: Stream) -> Later:
        data = await stream.receive()
        if data is None:
            raise PeerError("nothing was handed")
        handed, answer = decode_handed(data), bytearray()
        while len(answer) < handed.bytes:
            part = await stream.receive()
            if not part or len(answer) + len(part) > min(handed.bytes, ANSWER_BYTES):
                raise PeerError(f"{handed.bytes} bytes were to come, {len(answer) + len(part or b'')} did")
            answer += part
        now_s = self._clock()
        return Later(
            query=handed.query,
            owner=handed.owner,
            key="",
            again="",
            digest="",
            model=handed.model,
            version="",
            headers={},
            asked=b"",
            answer_to="",
            asked_s=now_s,
            until_s=now_s,
            expires_s=now_s + handed.kept_s,
            status=handed.status,
            told=handed.told,
            kind=handed.kind,
            answer=bytes(answer),
        )
