"""What a node with compute measures of it, and tells the map as facts: how busy it is, what it has, how fast it is.

Paper II-A, tools layer: sites report what decisions rest on. Load and the wait for a slot are measured every second;
what the machine has, every minute, and its speed anew, where no visit is here that either could disturb. What of it is
worth telling is the fact reporter's to decide, by how near it is to changing a decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from daitn.base.effects import Event
from daitn.base.ids import NodeId
from daitn.node import measures
from daitn.node.clock import NodeClock
from daitn.node.node_config import NodeConfig
from daitn.node.store import ChunkStore
from daitn.terminal.fact_reporter import FactsMeasured, measured_facts
from daitn.terminal.visit_keeper import VisitKeeper

LOAD_S: Final = 1.0
"""How often load is measured: as often as it could be told."""

CAPACITY_LOOKS: Final = 60
"""Looks at the load between two at what the machine has, with its speed: 50 ms of one core a minute."""

SPEED_FRAC: Final = 0.2
"""A speed that moved by less than this is what it was: a measurement of some milliseconds differs by as much."""


class Speeds:
    """How fast the node computes and copies, as it measured last; 0 before it did."""

    def __init__(self) -> None:
        self.flops = self.memory_bytes_per_s = 0.0

    async def measure(self) -> None:
        """Measure both, aside."""
        self.flops = _settled(self.flops, await asyncio.to_thread(measures.measure_flops))
        rate = await asyncio.to_thread(measures.measure_memory_rate)
        self.memory_bytes_per_s = _settled(self.memory_bytes_per_s, rate)


class ComputeWatch:
    """See the module's docstring."""

    def __init__(
        self,
        slot: NodeId,
        config: NodeConfig,
        store: ChunkStore,
        keeper: VisitKeeper,
        speeds: Speeds,
        clock: NodeClock,
    ) -> None:
        self._speeds = speeds
        self._slot = slot
        self._config = config
        self._store = store
        self._keeper = keeper
        self._clock = clock

    async def run(self, post: Callable[[Event], None]) -> None:
        """Measure and tell, for ever."""
        looks = 0
        while True:
            room_bytes = await asyncio.to_thread(self._store.room_bytes)
            post(self.load(room_bytes))
            if looks % CAPACITY_LOOKS == 0:
                if looks and not self._keeper.snapshot():
                    await self._speeds.measure()
                post(self.capacity(room_bytes))
            looks += 1
            await asyncio.sleep(LOAD_S)

    def load(self, room_bytes: int) -> FactsMeasured:
        """How busy the node is."""
        slots, busy, now_ns = self._config.slots, self._keeper.busy_slots(), self._clock.now_ns()
        given_bytes = self._config.memory_bytes * max(0, slots - busy)
        values = {
            "load_frac": measures.busy_frac(),
            "busy_slots": busy,
            "free_slots": max(0, slots - busy),
            "wait_s": self._keeper.wait_s(now_ns),
            "memory_free_bytes": min(measures.memory_free_bytes(), given_bytes),
            "storage_free_bytes": room_bytes,
        }
        return measured_facts(self._slot, "load", values, now_ns)

    def capacity(self, room_bytes: int) -> FactsMeasured:
        """What its compute facility has, and how fast it was when it was measured last."""
        values = {
            "cores": measures.cores(),
            "slots": self._config.slots,
            "memory_bytes": min(self._config.memory_bytes, measures.memory_bytes()),
            "storage_bytes": room_bytes,
            "accelerators": len(measures.accelerators()),
            "flops": self._speeds.flops,
            "memory_bytes_per_s": self._speeds.memory_bytes_per_s,
        }
        if (card_bytes := measures.accelerator_memory_bytes()) is not None:
            values["accelerator_memory_bytes"] = card_bytes
        return measured_facts(self._slot, "capacity", values, self._clock.now_ns())


def _settled(before: float, now: float) -> float:
    return now if abs(now - before) > SPEED_FRAC * before else before
