"""A small world for the tools' cores: nodes with agents, a manager at the centre, messages with given delays."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from daitn.base.effects import Delivered, Effect, Event, Send, SendFailed, SetTimer, Started, TimerFired
from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.tools.agent import ToolsAgent, settle_own
from daitn.tools.manager import ServiceManager, concerns_manager
from daitn.wire.codec import decode, encode
from daitn.wire.topology_tools import TerminalGathered, TerminalNoticed

START_NS = 1_700_000_000 * NS_PER_S


class ToolsWorld:
    """Agents by node; the centre's is there from the start, with the manager beside it. `round_trip_s(a, b)`: between
    two nodes; every message goes through the real codec."""

    def __init__(self, round_trip_s: Callable[[NodeId, NodeId], float]) -> None:
        self.now_ns = START_NS
        self.agents: dict[NodeId, ToolsAgent] = {}
        self.manager = ServiceManager()
        self.gathered: list[TerminalGathered] = []
        self.performed: list[tuple[NodeId, Effect]] = []
        self.sent: list[tuple[NodeId, NodeId, object]] = []
        self.cut: set[NodeId] = set()
        self._round_trip_s = round_trip_s
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._timers: dict[tuple[NodeId, str], int] = {}
        self.join(CENTER)

    def join(self, node: NodeId) -> None:
        """A node starts; the manager notices."""
        self.agents[node] = ToolsAgent(node)
        if node != CENTER:
            self.notice(node, present=True)
        self.give(node, Started())

    def notice(self, node: NodeId, *, present: bool, left: bool = False) -> None:
        """The topology tells the manager of a node."""
        notice = TerminalNoticed(node=node, present=present, left=left)
        self._perform(CENTER, self.manager.noticed(notice, self.now_ns))

    def give(self, node: NodeId, event: Event) -> None:
        """Hand an event to a node's core, and perform what it wants."""
        if node in self.agents:
            self._perform(node, self._handle(node, event))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end_ns = self.now_ns + seconds_to_ns(seconds)
        while self._heap and self._heap[0][0] <= end_ns:
            self.now_ns, _, action = heapq.heappop(self._heap)
            action()
        self.now_ns = end_ns

    def _handle(self, node: NodeId, event: Event) -> list[Effect]:
        if node == CENTER and concerns_manager(event):
            effects = self.manager.handle(event, self.now_ns)
        else:
            effects = self.agents[node].handle(event, self.now_ns)
        self.manager.check_invariants()
        self.agents[node].check_invariants()
        return effects

    def _perform(self, node: NodeId, effects: list[Effect]) -> None:
        def hear(message) -> list[Effect]:
            if isinstance(message, TerminalGathered):
                self.gathered.append(decode(encode(message)))
                return []
            return self._handle(node, Delivered(sender=node, message=message))

        for effect in settle_own(effects, node, hear):
            match effect:
                case Send(receiver=receiver, message=message):
                    self._send(node, receiver, message)
                case SetTimer(name=name, at_ns=at_ns):
                    self._timers[node, name] = at_ns
                    self._at(at_ns, lambda name=name, at_ns=at_ns: self._fire(node, name, at_ns))
                case _:
                    self.performed.append((node, effect))

    def _send(self, node: NodeId, receiver: NodeId, message) -> None:
        self.sent.append((node, receiver, message))
        if receiver not in self.agents or {node, receiver} & self.cut:
            self._at(self.now_ns + 1000, lambda: self.give(node, SendFailed(receiver=receiver, message=message)))
            return
        copy = decode(encode(message))
        arrive_ns = self.now_ns + seconds_to_ns(self._round_trip_s(node, receiver) / 2)
        self._at(arrive_ns, lambda: self.give(receiver, Delivered(sender=node, message=copy)))

    def _fire(self, node: NodeId, name: str, at_ns: int) -> None:
        if self._timers.get((node, name)) == at_ns:
            del self._timers[node, name]
            self.give(node, TimerFired(name=name))

    def _at(self, moment_ns: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (max(moment_ns, self.now_ns), self._order, action))
