"""A deployed model as the deployment desk keeps it: what its provider wants, where it was placed, where it failed."""

from __future__ import annotations

from collections import deque
from typing import Final

from daitn.base.ids import NodeId
from daitn.control_center.inference.records import ModelDeployed, ReplicaTaken
from daitn.descriptors.serving import Replica, ReplicaPhase

TAKEN_KEPT: Final = 32
"""Replicas taken away that are remembered for people, newest last."""


class Deployed:
    """See the module's docstring. `placed`: since when, by host."""

    def __init__(self, record: ModelDeployed, placed: dict[NodeId, int]) -> None:
        self.owner = record.owner
        self.artifact = record.artifact
        self.goal = record.goal
        self.needs = record.needs
        self.quality = record.quality
        self.deployed_ns = record.at_ns
        self.placed = dict(placed)
        self.failed: dict[NodeId, str] = {}
        """Hosts that could not serve this package, and why; they are not asked again until it is deployed anew."""
        self.taken: deque[ReplicaTaken] = deque(maxlen=TAKEN_KEPT)
        self.replacements = 0

    def take(self, record: ReplicaTaken) -> None:
        """A host is not to serve it any more."""
        self.placed.pop(record.node, None)
        self.taken.append(record)
        self.replacements += 1
        if record.failed:
            self.failed[record.node] = record.why

    def too_slow(self, replica: Replica) -> str:
        """Why a replica that was warmed up cannot keep the goal, whatever the load; empty if it can."""
        if replica.phase is not ReplicaPhase.SERVING:
            return ""
        for target in self.goal.latency:
            if replica.measured.row_s > target.most_s:
                return f"{target}: one row takes {replica.measured.row_s * 1000:.1f} ms in the engine, measured alone"
        return ""
