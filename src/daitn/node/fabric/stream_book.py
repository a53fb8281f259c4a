"""The streams of one node: chooses the carrier, opens, accepts and closes."""

from __future__ import annotations

import asyncio
from typing import Final

from daitn.base.errors import InputError, UnavailableError
from daitn.base.names import check_name
from daitn.node.fabric.bulk import LIGHT, STREAM, BulkClient
from daitn.node.fabric.bulk_server import BulkServer
from daitn.node.fabric.contract import STREAM_CREDITS, FabricConfig, FabricCounters, Holder, StreamHandler
from daitn.node.fabric.handoff import Workers
from daitn.node.fabric.link_ledger import LinkLedger
from daitn.node.fabric.pacing import Pacer
from daitn.node.fabric.session import Session
from daitn.node.fabric.streams import TAG_CHARS, StreamEnd, StreamRegister
from daitn.node.fabric.streams_direct import DirectStreams
from daitn.node.fabric.streams_light import LightStreams
from daitn.node.fabric.streams_routed import RoutedStreams

THREADS: Final = 24 * (STREAM_CREDITS + 1)
"""Threads for streams: 24 routed ones with all their credit in flight and a watch each, or 108 direct ones."""


class StreamBook:
    """See `Fabric.open_stream` and `Fabric.accept_streams`."""

    def __init__(
        self,
        config: FabricConfig,
        session: Session,
        server: BulkServer | None,
        client: BulkClient,
        counters: FabricCounters,
        ledger: LinkLedger,
        pacer: Pacer,
    ) -> None:
        self._server = server
        self._counters = counters
        self._workers = Workers("fabric-stream", THREADS)
        self._register = StreamRegister(config.node, counters, ledger, pacer)
        self._direct = DirectStreams(client, self._workers, self._register)
        self._light = LightStreams(client, self._workers, self._register)
        self._routed = RoutedStreams(config, session, self._workers, self._register, counters)

    async def open(self, receiver: Holder, tag: str, timeout_s: float, *, light: bool = False) -> StreamEnd:
        """A stream to `receiver`; the router is tried if a direct one cannot be had."""
        check_name("receiver", receiver.node)
        if len(tag) > TAG_CHARS:
            raise InputError(f"stream tag of {len(tag)} characters is longer than {TAG_CHARS}")
        try:
            async with asyncio.timeout(timeout_s):
                if self._direct.reachable(receiver):
                    try:
                        return await (self._light if light else self._direct).open(receiver, tag)
                    except UnavailableError:
                        self._counters.direct_failed += 1
                return await self._routed.open(receiver.node, tag, timeout_s, light=light)
        except TimeoutError as fault:
            raise UnavailableError(
                f"{receiver.node} did not accept a stream within {timeout_s:g} s", todo="try again later"
            ) from fault

    async def accept(self, handler: StreamHandler, word: str) -> None:
        """Accept streams whose tag begins with `word` with `handler` until the fabric closes."""
        if not self._register.accept_with(handler, word):
            return
        if self._server is not None:
            self._server.streams = {STREAM: self._direct.attend, LIGHT: self._light.attend}
        await self._routed.serve()

    async def close(self) -> None:
        """Fail what is open and end all threads."""
        await self._register.close()
        await self._direct.close()
        await self._routed.close()
        await self._workers.close()
