"""The simulated fabric: messages in virtual time, with seeded loss, duplication, delay, and cuts of one way or both.

Messages go through the real codec, so that what could not travel does not travel here either.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from daitn.base.effects import Message
from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.scenario.spec import FaultSpec
from daitn.wire.codec import decode, encode


class SimulatedNetwork:
    """See the module's docstring. A star: everything crosses the router, so a cut concerns one node's link."""

    def __init__(self, faults: FaultSpec, rng: random.Random) -> None:
        self._faults = faults
        self._rng = rng
        self.cut_up: set[NodeId] = set()
        """Nodes whose messages do not reach the router."""
        self.cut_down: set[NodeId] = set()
        """Nodes that the router's messages do not reach."""
        self.router_down = False
        self.slow: dict[NodeId, float] = {}
        """Nodes whose link is slow, and how many times as slow."""
        self.faulty = True
        self.sent = self.lost = self.doubled = 0

    def linked(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether a message could pass from one to the other now."""
        return not self.router_down and sender not in self.cut_up and receiver not in self.cut_down

    def slowness(self, *nodes: NodeId) -> float:
        """How many times as slow as usual something is that passes these nodes' links."""
        return max((self.slow.get(node, 1.0) for node in nodes), default=1.0)

    def restore_speed(self, node: NodeId) -> None:
        """A node's link is as fast as usual again."""
        self.slow.pop(node, None)

    def send(self, sender: NodeId, receiver: NodeId, message: Message, deliver: Callable[[int, Message], None]) -> None:
        """Call `deliver(delay in ns, message)` for each copy that will arrive: none, one or two."""
        self.sent += 1
        if not self.linked(sender, receiver) or (self.faulty and self._rng.random() < self._faults.loss):
            self.lost += 1
            return
        copies = 1
        if self.faulty and self._rng.random() < self._faults.duplicate:
            self.doubled += 1
            copies = 2
        data = encode(message)
        for _ in range(copies):
            deliver(round(self.delay_ns() * self.slowness(sender, receiver)), decode(data))

    def report(self, sender: NodeId, receiver: NodeId, deliver: Callable[[int], None]) -> None:
        """Call `deliver(delay in ns)` for a report that will arrive: it is never doubled and never said to be lost."""
        self.sent += 1
        if not self.linked(sender, receiver) or (self.faulty and self._rng.random() < self._faults.loss):
            self.lost += 1
            return
        deliver(round(self.delay_ns() * self.slowness(sender, receiver)))

    def delay_ns(self) -> int:
        """One way through the router, at least a microsecond."""
        delay_s = self._faults.delay_s * (0.5 + self._rng.random())
        if self.faulty and self._rng.random() < self._faults.slow:
            delay_s *= 1 + 99 * self._rng.random()
        return max(1_000, seconds_to_ns(delay_s))
