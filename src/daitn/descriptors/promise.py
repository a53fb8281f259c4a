"""Promises: what a job that was admitted may count on at each site, so that it is promised to nobody else."""

from __future__ import annotations

import msgspec

from daitn.base.ids import NodeId


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one slot at a node, to be had at any time before the job's deadline."""

    node: NodeId
    seconds: float


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What one job holds: time of slots, and room for its model in the store of each node it holds time at."""

    holds: tuple[Hold, ...] = ()
    store_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Of all nodes together."""
        return sum(hold.seconds for hold in self.holds)
