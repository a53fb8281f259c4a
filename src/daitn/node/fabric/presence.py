"""Presence: who is there, as the router sees it, for any number of readers.

One liveliness subscription feeds a book of the nodes present; a reader gets the book first and then changes. When the
link to the router comes back, and now and then, the book is compared with a fresh listing, so that a change that was
lost heals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.node.fabric import keys
from daitn.node.fabric.access import SLOTS_MAX
from daitn.node.fabric.contract import FabricConfig
from daitn.node.fabric.handoff import LatestByKey, LoopMailbox, Workers
from daitn.node.fabric.session import Session

LISTING_S: Final = 5.0
"""Longest wait for the listing of a whole domain."""

CHECK_S: Final = 10.0
"""How often a watched book is compared with a listing; 5,000 tokens are 300 kB."""

_log = logging.getLogger(__name__)


class PresenceBook:
    """The nodes present among those this one may watch."""

    def __init__(self, config: FabricConfig, session: Session, workers: Workers) -> None:
        self._config = config
        self._session = session
        self._workers = workers
        self._present: set[NodeId] = set()
        self._news: set[NodeId] = set()
        self._readers: list[LatestByKey[NodeId, bool]] = []
        self._watching = False
        watched = ("*",) if config.node in config.overseers else config.overseers
        self._expressions = [keys.presence(config.domain, node) for node in watched]
        self._changes: LoopMailbox[tuple[str, bool]]
        self._changes = LoopMailbox(asyncio.get_running_loop(), lambda change: self._note(*change))

    async def show(self) -> None:
        """Show this node as present until the session ends."""
        token = keys.presence(self._config.domain, self._config.node)
        await self._workers.run(lambda: self._session.hold_token(token))

    async def follow(self) -> AsyncIterator[tuple[NodeId, bool]]:
        """See `Fabric.presence`."""
        reader: LatestByKey[NodeId, bool] = LatestByKey(SLOTS_MAX + 1)
        for node in self._present:
            reader.put(node, True)
        self._readers.append(reader)
        try:
            if not self._watching:
                self._watching = True
                for expression in self._expressions:
                    await self._workers.run(lambda keys=expression: self._watch(keys))  # type: ignore[misc]
            async for change in reader.read():
                yield change
        finally:
            self._readers.remove(reader)

    async def reconcile(self) -> None:
        """Compare the book with what the router knows now; without a link there is nothing to compare with."""
        if not self._watching:
            return
        self._news.clear()
        with contextlib.suppress(UnavailableError):
            listings = await asyncio.gather(
                *(self._workers.run(lambda keys=keys: self._list(keys)) for keys in self._expressions)  # type: ignore[misc]
            )
            listed = {keys.node_of_presence(key, self._config.domain) for key in set().union(*listings)}
            # What the subscription told meanwhile is newer than the listing.
            for node in (listed ^ self._present) - self._news:
                self._set(node, node in listed)

    async def keep_checking(self) -> None:
        """Reconcile until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self.reconcile()

    def close(self) -> None:
        """End all readers."""
        for reader in self._readers:
            reader.close()

    def _watch(self, expression: str) -> None:
        self._session.watch_tokens(expression, lambda key, present: self._changes.put((key, present)))

    def _list(self, expression: str) -> set[str]:
        return self._session.list_tokens(expression, LISTING_S)

    def _note(self, key: str, present: bool) -> None:
        try:
            node = keys.node_of_presence(key, self._config.domain)
        except PeerError as fault:
            _log.warning("presence ignored: %s", fault)
            return
        self._news.add(node)
        self._set(node, present)

    def _set(self, node: NodeId, present: bool) -> None:
        if present == (node in self._present):
            return
        (self._present.add if present else self._present.discard)(node)
        for reader in self._readers:
            reader.put(node, present)
