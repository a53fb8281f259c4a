"""Counting in a process: what it counted is told to the centre as telemetry, and kept in its folder.

Telemetry may drop and is repeated by the fabric; the file is written beside and renamed, and without fsync, because
after a power cut its process counts from zero anyway.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.errors import DaitnError
from daitn.base.metrics import Count, Counters
from daitn.node.fabric.contract import Fabric, FabricCounters
from daitn.oam.collection import FILE, Collection, DomainCounters, prefixed
from daitn.wire.oam import TOPIC, Counted, decode_counted, encode_counted

COUNT_S: Final = 2.0
"""How often counters are looked at; they are told and written only where one has grown."""

_log = logging.getLogger(__name__)


def fabric_counts(counters: FabricCounters) -> tuple[Count, ...]:
    """The fabric's counters under their declared names."""
    return prefixed("fabric", msgspec.structs.asdict(counters))


async def keep_told(collection: Collection, fabric: Fabric, folder: Path) -> None:
    """Tell the centre what was counted, and keep it in the node's folder, whenever something has grown; for ever."""
    last: Counted | None = None
    while True:
        counted = collection.counted()
        if counted != last:
            last = counted
            await fabric.publish_latest(TOPIC, encode_counted(counted))
            write_counters(folder, counted)
        await asyncio.sleep(COUNT_S)


async def hear_counters(fabric: Fabric, domain: DomainCounters, counters: Counters) -> None:
    """Take what nodes tell, until the fabric closes; what does not decode is counted, said and passed over."""
    async for node, topic, payload in fabric.subscribe_latest():
        if topic != TOPIC:
            continue
        try:
            domain.take(node, decode_counted(payload))
        except DaitnError as error:
            counters.count("messages_undecodable")
            _log.warning("%s: %s", node, error)


def write_counters(folder: Path, counted: Counted) -> None:
    """Replace the file of counters in a node's folder; a disk that is full costs the file and no more."""
    beside = folder / f".{FILE}.new"
    try:
        beside.write_bytes(msgspec.json.encode(counted))
        os.replace(beside, folder / FILE)
    except OSError as error:
        _log.warning("counters are not written: %s", error.strerror)
