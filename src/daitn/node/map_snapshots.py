"""Snapshots of the map, now and then: copied in steps between the core's events, written by another thread."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from daitn.base.metrics import Counters
from daitn.node.clock import NodeClock
from daitn.node.map_store import MapStore
from daitn.topology.image_making import ImageMaking, make_image
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.map_image import Arrays, ImageHead

SNAPSHOT_S: Final = 300.0
"""At most this long until the next one: replaying what came since takes a few seconds at most."""

JOURNAL_BYTES: Final = 256 * 1024 * 1024
"""A journal this large is ended by a snapshot at once: half a minute of reports at 150,000 a second."""

LOOK_S: Final = 1.0

TRIES: Final = 3
"""Images begun in steps that may be torn because things came or left; the next one is made at once."""

_log = logging.getLogger(__name__)


async def keep_snapshots(maps: MapStore, knowledge: KnowledgeMap, clock: NodeClock, counters: Counters) -> None:
    """Write a snapshot at once and then again and again, until cancelled. A disk that is full is counted and said."""
    loop = asyncio.get_running_loop()
    while True:
        generation, head, arrays = await _take_image(maps, knowledge, clock)
        try:
            await asyncio.to_thread(maps.write_snapshot, generation, head, arrays)
        except OSError as error:
            counters.count("map_snapshots_not_written")
            _log.warning("a snapshot of the map is not written: %s", error.strerror)
        del head, arrays
        until_s = loop.time() + SNAPSHOT_S
        while loop.time() < until_s and maps.journal_bytes < JOURNAL_BYTES:
            await asyncio.sleep(LOOK_S)


async def _take_image(maps: MapStore, knowledge: KnowledgeMap, clock: NodeClock) -> tuple[int, ImageHead, Arrays]:
    """An image, and the generation of entries that belongs to it; others run between the steps of its making."""
    for _ in range(TRIES):
        generation = maps.begin_generation()
        making = ImageMaking(knowledge.intake, clock.now_ns())
        while making.step():
            await asyncio.sleep(0)
        if (image := making.image()) is not None:
            return generation, *image
    return maps.begin_generation(), *make_image(knowledge.intake, clock.now_ns())
