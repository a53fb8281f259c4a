"""Sources: the nodes that report facts, each with its incarnation, its messages counted, and its share.

A source is known by its index; the control centre is 0 (`CENTER_SOURCE`). Sequences begin anew with each *incarnation*,
the moment at which a node's process began: what an earlier one sent is refused, so a recording cannot be played back.

Each source may report `SHARE_LEAST` records a second and `SHARE_PER_THING` more for every thing it speaks for, with two
seconds' worth at once; what is beyond is refused without being looked at, and nobody else's share is touched.

S sources, B records in a batch. All vector operations: O(B + S).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import PeerError
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S

SHARE_LEAST: Final = 256.0
"""Records a second that any node may report: all groups of a terminal and ten data sets ten times over."""

SHARE_PER_THING: Final = 4.0
"""Records a second more for each thing: its three fast groups once a second, and one to spare."""

BURST_S: Final = 2.0
"""Seconds' worth of share that may come at once, as after a cut link."""

SOURCES_MOST: Final = 100_000
"""Nodes that have ever reported; slots are never given out again, and a domain has at most some thousands."""


class SourceBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._nodes: list[NodeId] = []
        self._indices: dict[NodeId, int] = {}
        self.incarnation = np.zeros(64, np.uint64)
        """Millisecond of Unix time at which the process that reports now began; 0: none has."""
        self.sequence = np.zeros(64, np.uint32)
        """The newest message of each."""
        self.dropped = np.zeros(64, np.int64)
        """Messages that were sent and did not arrive, counted by gaps."""
        self.things = np.zeros(64, np.int64)
        """Things each speaks for: what its share is made of."""
        self._allowance = np.zeros(64)
        self._refilled_ns = 0
        self.add(CENTER)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: NodeId) -> int:
        """The index of a node, new or known."""
        index = self._indices.get(node)
        if index is None:
            if len(self._nodes) >= SOURCES_MOST:
                raise PeerError(f"the map knows {SOURCES_MOST} sources and takes no more")
            index = self._indices[node] = len(self._nodes)
            self._nodes.append(node)
            if index >= len(self.incarnation):
                for name in ("incarnation", "sequence", "dropped", "things", "_allowance"):
                    array = getattr(self, name)
                    setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
            self._allowance[index] = SHARE_LEAST * BURST_S
        return index

    def find(self, node: NodeId) -> int:
        """The index of a node, -1 for one that is not known."""
        return self._indices.get(node, -1)

    def find_many(self, nodes: list[NodeId]) -> NDArray[np.int32]:
        """Indices of many nodes, -1 for those not known: O(B)."""
        find = self._indices.get
        return np.fromiter((find(node, -1) for node in nodes), np.int32, len(nodes))

    def node(self, index: int) -> NodeId:
        """Which node has this index."""
        return self._nodes[index]

    def nodes(self) -> tuple[NodeId, ...]:
        """All of them, by index."""
        return tuple(self._nodes)

    def begin(self, index: int, incarnation: int) -> bool:
        """A process of this source has begun; False where it is not newer than the one known."""
        if incarnation <= self.incarnation[index]:
            return False
        self.incarnation[index] = incarnation
        self.sequence[index] = 0
        return True

    def count_messages(self, source: NDArray[np.int32], sequence: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Count gaps in the sequences of messages that arrived, in any order; sources of which some are missing."""
        size = len(self._nodes)
        newer = sequence > self.sequence[source]
        if not newer.all():
            source, sequence = source[newer], sequence[newer]
        if not len(source):
            return np.zeros(0, np.intp)
        newest = self.sequence[:size].astype(np.int64)
        before = newest.copy()
        np.maximum.at(newest, source, sequence.astype(np.int64))
        missing = np.maximum(0, newest - before - np.bincount(source, minlength=size))
        self.dropped[:size] += missing
        self.sequence[:size] = newest
        return np.flatnonzero(missing)

    def records_per_s(self, index: int) -> float:
        """How many records a second this source may report; -1: one that is not known."""
        return SHARE_LEAST + SHARE_PER_THING * (float(self.things[index]) if index >= 0 else 0.0)

    def admit(self, source: NDArray[np.int32], now_ns: int) -> NDArray[np.bool_] | None:
        """Which records, in the order of the batch, are within their sources' shares; None for all of them."""
        size = len(self._nodes)
        rate = SHARE_LEAST + SHARE_PER_THING * self.things[:size]
        rate[0] = np.inf  # the centre itself
        passed_s = max(0, now_ns - self._refilled_ns) / NS_PER_S if self._refilled_ns else BURST_S
        self._refilled_ns = now_ns
        if passed_s > 0:
            allowance = np.minimum(BURST_S * rate, self._allowance[:size] + passed_s * rate)
            self._allowance[:size] = allowance
        asked = np.bincount(source, minlength=size)
        over = asked > self._allowance[:size]
        if not over.any():
            self._allowance[:size] -= asked
            return None
        admitted = np.ones(len(source), np.bool_)
        for index in np.flatnonzero(over):
            places = np.flatnonzero(source == index)
            admitted[places[int(self._allowance[index]) :]] = False
        self._allowance[:size] = np.maximum(0.0, self._allowance[:size] - asked)
        return admitted
