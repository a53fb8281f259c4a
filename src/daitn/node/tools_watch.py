"""The tools' watch: what the fabric and the machine of a node show, told to its core; and what the core wants done to
links, done.

Links are looked at when the fabric says that there is another, and now and then for what they carried; the machine
every few seconds. Nothing here decides anything (`daitn.tools`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from daitn.base.effects import Effect, Event
from daitn.base.errors import DaitnError
from daitn.descriptors.access import Access
from daitn.descriptors.machine import MachineState
from daitn.node.child_pool import ChildPool, PooledChild
from daitn.node.fabric.contract import Fabric, Holder
from daitn.tools.link_keeper import AccessChanged
from daitn.tools.service import (
    ChildEnded,
    ChildMeasured,
    ChildStarted,
    CloseLinks,
    LinksSeen,
    MachineMeasured,
    OpenLink,
    PaceLinks,
    TransferEnded,
)

GATHER_S: Final = 0.05
"""Links that are made together are told together."""

FIGURES_S: Final = 2.0
"""How often links are looked at for what they carried, and for connections that died while idle."""

MACHINE_S: Final = 2.0
"""How often the machine and what runs on it are looked at."""

_log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class LinkWatch:
    """Between a fabric and the core of its node. `post` hands an event to the core, `spawn` runs something beside."""

    def __init__(self, fabric: Fabric, post: Callable[[Event], None], spawn: Spawn) -> None:
        self._fabric = fabric
        self._post = post
        self._spawn = spawn

    def start(self, access: Access) -> None:
        """Say how the network is reached, and watch until the node stops."""
        self._post(AccessChanged(access=access, direct=tuple(self._fabric.direct_addresses)))
        self._spawn(self._watch())
        self._spawn(self._look_often())

    def perform(self, effect: Effect) -> bool:
        """Begin what an effect asks for, if it is one of links."""
        match effect:
            case OpenLink(peer=peer, direct=direct):
                self._spawn(self._open(Holder(peer, direct)))
            case CloseLinks(peer=peer):
                self._fabric.drop_links(peer)
            case PaceLinks(bytes_per_s=bytes_per_s):
                self._fabric.pace_links(bytes_per_s)
            case _:
                return False
        return True

    async def _watch(self) -> None:
        async for news in self._fabric.link_news():
            if news is None:
                await asyncio.sleep(GATHER_S)
                self._look()
            else:
                ended = TransferEnded(
                    peer=news.peer, direct=news.direct, moved_bytes=news.moved_bytes, seconds=news.seconds
                )
                self._post(ended)

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_S)
            self._look()

    def _look(self) -> None:
        now = self._fabric.link_states()
        self._post(LinksSeen(links=now.links, carried_bytes=now.carried_bytes))

    async def _open(self, holder: Holder) -> None:
        try:
            await self._fabric.warm_link(holder)
        except DaitnError as error:
            _log.info("no direct link to %s: %s", holder.node, error.what)


class MachineWatch:
    """Between a machine and the core of its node. `look` gives the machine now; it is called on a thread."""

    def __init__(
        self, look: Callable[[], MachineState], children: ChildPool, post: Callable[[Event], None], spawn: Spawn
    ) -> None:
        self._look = look
        self._children = children
        self._post = post
        self._spawn = spawn
        self._known: dict[int, PooledChild] = {}
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Watch until the node stops."""
        self._children.on_change = self._changed.set
        self._spawn(self._watch())

    async def _watch(self) -> None:
        while True:
            self._post(MachineMeasured(machine=await asyncio.to_thread(self._look)))
            self._look_at_children()
            try:
                async with asyncio.timeout(MACHINE_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()
            await asyncio.sleep(GATHER_S)

    def _look_at_children(self) -> None:
        now = {child.pid: child for child in self._children.running()}
        for pid in self._known.keys() - now.keys():
            self._post(ChildEnded(pid=pid))
        for pid in now.keys() - self._known.keys():
            self._post(ChildStarted(pid=pid, job=now[pid].job, use=now[pid].use))
        self._known = now
        for pid, child in now.items():
            self._post(
                ChildMeasured(pid=pid, busy=child.busy, memory_bytes=float(child.memory_bytes), cpu_s=child.cpu_s)
            )
