"""Snapshots of the map, now and then: the copy is made between two events of the core, written by another thread."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from daitn.base.metrics import Counters
from daitn.node.clock import NodeClock
from daitn.node.map_store import MapStore
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.map_image import make_image

SNAPSHOT_S: Final = 300.0
"""At most this long until the next one: replaying what came since takes a few seconds at most."""

JOURNAL_BYTES: Final = 256 * 1024 * 1024
"""A journal this large is ended by a snapshot at once: half a minute of reports at 150,000 a second."""

LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


async def keep_snapshots(maps: MapStore, knowledge: KnowledgeMap, clock: NodeClock, counters: Counters) -> None:
    """Write a snapshot at once and then again and again, until cancelled. A disk that is full is counted and said."""
    loop = asyncio.get_running_loop()
    while True:
        generation = maps.begin_generation()
        head, arrays = make_image(knowledge.intake, clock.now_ns())
        try:
            await asyncio.to_thread(maps.write_snapshot, generation, head, arrays)
        except OSError as error:
            counters.count("map_snapshots_not_written")
            _log.warning("a snapshot of the map is not written: %s", error.strerror)
        del head, arrays
        until_s = loop.time() + SNAPSHOT_S
        while loop.time() < until_s and maps.journal_bytes < JOURNAL_BYTES:
            await asyncio.sleep(LOOK_S)
