"""Latest values: what a node tells its overseers about itself, where only the newest counts.

Publishing only replaces a value and wakes the session's thread, so it never waits. Congestion may drop a value; the
newest of each topic is therefore sent again every few seconds and as soon as the link is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import NodeId
from daitn.base.names import check_name
from daitn.node.fabric import keys
from daitn.node.fabric.contract import TELEMETRY_BYTES, TELEMETRY_TOPICS, FabricConfig, FabricCounters
from daitn.node.fabric.handoff import LatestByKey, LoopMailbox, Workers
from daitn.node.fabric.session import Session

REPEAT_S: Final = 5.0
"""How often all newest values are sent again: a reader that missed one knows it this much later."""

DEPTH: Final = 16_384
"""Values waiting at an overseer for its thread: three per slot of the largest domain."""

READER_KEYS: Final = 100_000
"""Distinct (sender, topic) one reader may have unread; more means that it does not read."""


class LatestValues:
    """Both sides of telemetry for one node."""

    def __init__(self, config: FabricConfig, session: Session, workers: Workers, counters: FabricCounters) -> None:
        self._config = config
        self._session = session
        self._workers = workers
        self._counters = counters
        self._values: dict[str, bytes] = {}
        self._unsent: set[str] = set()
        self._readers: list[LatestByKey[tuple[NodeId, str], bytes]] = []
        self._watching = False
        self._arrivals: LoopMailbox[tuple[str, bytes]]
        self._arrivals = LoopMailbox(asyncio.get_running_loop(), lambda value: self._note(*value))

    def publish(self, topic: str, payload: bytes) -> None:
        """See `Fabric.publish_latest`."""
        if len(payload) > TELEMETRY_BYTES:
            raise InputError(f"telemetry of {len(payload)} bytes is larger than {TELEMETRY_BYTES}")
        key = keys.telemetry(self._config.domain, self._config.node, check_name("topic", topic))
        if key not in self._values and len(self._values) >= TELEMETRY_TOPICS:
            raise InputError(f"{self._config.node} publishes more than {TELEMETRY_TOPICS} topics")
        self._values[key] = payload
        self._send(key)

    def repeat(self) -> None:
        """Send all newest values again."""
        for key in self._values:
            self._send(key)

    async def keep_repeating(self) -> None:
        """Repeat until cancelled."""
        while True:
            await asyncio.sleep(REPEAT_S)
            self.repeat()

    async def follow(self) -> AsyncIterator[tuple[NodeId, str, bytes]]:
        """See `Fabric.subscribe_latest`."""
        if self._config.node not in self._config.overseers:
            raise InputError(f"{self._config.node} may not watch telemetry", todo="name it an overseer of the domain")
        reader: LatestByKey[tuple[NodeId, str], bytes] = LatestByKey(READER_KEYS)
        self._readers.append(reader)
        try:
            if not self._watching:
                self._watching = True
                await self._workers.run(self._watch)
            async for (sender, topic), payload in reader.read():
                yield sender, topic, payload
        finally:
            self._readers.remove(reader)

    def close(self) -> None:
        """End all readers."""
        for reader in self._readers:
            reader.close()

    def _send(self, key: str) -> None:
        # One chore per topic at a time: a fast publisher replaces the value, it does not lengthen the queue.
        if key not in self._unsent:
            self._unsent.add(key)
            self._session.soon(lambda: self._send_now(key))

    def _send_now(self, key: str) -> None:
        self._unsent.discard(key)
        self._session.put_latest(key, self._values[key])

    def _watch(self) -> None:
        expression = keys.telemetry(self._config.domain, "*", "*")
        self._session.subscribe(expression, DEPTH, lambda key, payload: self._arrivals.put((key, payload)))

    def _note(self, key: str, payload: bytes) -> None:
        try:
            source = keys.source_of_telemetry(key, self._config.domain)
        except PeerError:
            self._counters.inbox_malformed += 1
            return
        for reader in self._readers:
            if not reader.put(source, payload):
                self._counters.telemetry_dropped += 1
