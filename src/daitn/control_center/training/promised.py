"""What one job was promised and has not used yet. Part of a job's state, made of records."""

from __future__ import annotations

from daitn.base.ids import NodeId
from daitn.decision.costs import WARM_S
from daitn.descriptors.job import Phase
from daitn.descriptors.promise import Hold, Promise


class Promised:
    """Seconds of slots by node, and room in the stores there. Nothing is held while the job is paused, nor once it is
    over; a paused job remembers what it had, for when it goes on."""

    def __init__(self) -> None:
        self.left: dict[NodeId, float] = {}
        self.store_bytes = 0
        self.in_force = False
        self._begun: set[NodeId] = set()
        """Where a visit was made already, so that a child has been started."""

    def made(self, promise: Promise) -> None:
        """This much is promised from now on, instead of what was."""
        self.left = {hold.node: hold.seconds for hold in promise.holds}
        self.store_bytes, self.in_force = promise.store_bytes, True

    def used(self, node: NodeId, seconds: float) -> None:
        """A training visit was made."""
        if node in self.left:
            spent_s = max(0.0, seconds) + (0.0 if node in self._begun else WARM_S)
            self.left[node] = max(0.0, self.left[node] - spent_s)
        self._begun.add(node)

    def phased(self, phase: Phase) -> None:
        """The job entered a phase."""
        if phase not in (Phase.QUEUED, Phase.RUNNING):
            self.in_force = False

    def again(self, most_s: dict[NodeId, float]) -> Promise:
        """What is left of the promise, of nodes that are named, and at each no more than that many seconds."""
        cut = {node: min(seconds, most_s[node]) for node, seconds in self.left.items() if node in most_s}
        holds = tuple(Hold(node=node, seconds=seconds) for node, seconds in cut.items() if seconds > 0)
        return Promise(holds=holds, store_bytes=self.store_bytes)
