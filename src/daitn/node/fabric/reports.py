"""Reports: what nodes tell overseers about things that change fast, many a second, each once.

Unlike latest values they are neither kept nor repeated: a batch is sent as it is given, what the link cannot carry is
dropped, and what arrives is handed on many at a time, since a step of Python for each would cost more than all the rest
(measured: 2.6 microseconds to receive one in a small batch, 1.5 in a large one).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import NodeId
from daitn.node.fabric import keys
from daitn.node.fabric.contract import REPORTS_AT_ONCE, TELEMETRY_BYTES, FabricConfig, FabricCounters, Reports
from daitn.node.fabric.handoff import LoopMailbox, Workers
from daitn.node.fabric.report_shares import ReportShares, ShareOf
from daitn.node.fabric.session import Session

DEPTH: Final = 65_536
"""Reports waiting at an overseer for its thread: a third of a second of the most that a router was seen to carry."""

BATCHES: Final = 64
"""Batches one reader may have unread; beyond it the oldest is dropped and counted."""

SENDERS: Final = 16_384
"""Keys whose sender is remembered: three times the slots of the largest domain."""


class ReportLane:
    """Both sides of reports for one node."""

    def __init__(self, config: FabricConfig, session: Session, workers: Workers, counters: FabricCounters) -> None:
        self._config = config
        self._session = session
        self._workers = workers
        self._counters = counters
        self._key = keys.report(config.domain, config.node)
        self._senders: dict[str, NodeId] = {}
        self._readers: list[_Reader] = []
        self._watching = False
        self._shares: ReportShares | None = None
        self._arrivals: LoopMailbox[Reports]
        self._arrivals = LoopMailbox(asyncio.get_running_loop(), self._note)

    def send(self, payloads: Sequence[bytes]) -> None:
        """See `Fabric.report`."""
        if payloads and (largest := max(map(len, payloads))) > TELEMETRY_BYTES:
            raise InputError(f"a report of {largest} bytes is larger than {TELEMETRY_BYTES}")
        self._session.soon(lambda: self._session.put_reports(self._key, payloads))

    async def follow(self, share_of: ShareOf | None = None) -> AsyncIterator[Reports]:
        """See `Fabric.subscribe_reports`."""
        if self._config.node not in self._config.overseers:
            raise InputError(f"{self._config.node} may not read reports", todo="name it an overseer of the domain")
        if share_of is not None:
            self._shares = ReportShares(share_of)
        reader = _Reader()
        self._readers.append(reader)
        try:
            if not self._watching:
                self._watching = True
                expression = keys.report(self._config.domain, "*")
                await self._workers.run(
                    lambda: self._session.subscribe_reports(expression, DEPTH, REPORTS_AT_ONCE, self._receive)
                )
            async for reports in reader.read():
                yield reports
        finally:
            self._readers.remove(reader)

    def close(self) -> None:
        """End all readers."""
        for reader in self._readers:
            reader.close()

    def _receive(self, names: list[str], payloads: list[bytes]) -> None:
        """On the session's thread: who sent each. The router has seen to it that a key's sender is the link's."""
        known = self._senders
        try:
            senders = [known[name] for name in names]
        except KeyError:
            senders, payloads = self._learn(names, payloads)
        shares = self._shares
        if shares is None:
            self._arrivals.put(Reports(senders, payloads))
            return
        senders, payloads, cut = shares.within(senders, payloads, time.monotonic())
        self._arrivals.put(Reports(senders, payloads, cut))

    def _learn(self, names: list[str], payloads: list[bytes]) -> tuple[list[NodeId], list[bytes]]:
        if len(self._senders) > SENDERS:
            self._senders.clear()
        senders: list[NodeId] = []
        kept: list[bytes] = []
        for name, payload in zip(names, payloads, strict=True):
            try:
                sender = self._senders.get(name) or keys.source_of_report(name, self._config.domain)
            except PeerError:
                self._counters.inbox_malformed += 1
                continue
            self._senders[name] = sender
            senders.append(sender)
            kept.append(payload)
        return senders, kept

    def _note(self, reports: Reports) -> None:
        self._counters.reports_cut += sum(reports.cut.values())
        for reader in self._readers:
            self._counters.reports_dropped += reader.put(reports)


class _Reader:
    """Batches one reader has not read yet, the newest `BATCHES` of them."""

    def __init__(self) -> None:
        self._unread: deque[Reports] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, reports: Reports) -> int:
        """Add a batch; how many reports were dropped for it."""
        self._unread.append(reports)
        self._changed.set()
        return len(self._unread.popleft().payloads) if len(self._unread) > BATCHES else 0

    def close(self) -> None:
        """End the iteration once all is read."""
        self._closed = True
        self._changed.set()

    async def read(self) -> AsyncIterator[Reports]:
        """Each batch in order."""
        while True:
            await self._changed.wait()
            while self._unread:
                yield self._unread.popleft()
            if self._closed:
                return
            self._changed.clear()
