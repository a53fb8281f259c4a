"""The tools' desk: the services' manager integrated in the control centre, or the door to one that is its own process.

Paper II-A gives both: control commands for gathering are handled by service managers in the tools layer, or the
orchestrator manages the services by itself. Here the control centre carries a manager of its own and uses it as long as
no node with the role `tools` is there; when one comes, terminals are told to speak with that, and what it gathers comes
by messages; when it goes, they come back. The core is the same, so nothing that is decided depends on which it is.
The desk also carries the centre's own half of the services: the centre has links and a place like every node.
"""

from __future__ import annotations

from daitn.base.effects import Delivered, Effect, Event, Message, PeerAppeared, PeerVanished
from daitn.base.ids import CENTER, NodeId
from daitn.control_center.turn import Turn
from daitn.descriptors.places import RoundTrip
from daitn.descriptors.terminals import Role
from daitn.tools.agent import ToolsAgent, concerns_tools, settle_own
from daitn.tools.manager import MESSAGES as MANAGER_MESSAGES
from daitn.tools.manager import ServiceManager, concerns_manager
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.topology_tools import TerminalGathered, TerminalNoticed, ToolsAt


class ToolsDesk:
    """See the module's docstring."""

    def __init__(self, knowledge: KnowledgeMap) -> None:
        self.agent = ToolsAgent(CENTER)
        self.manager = ServiceManager()
        self.managed_by = CENTER
        self._knowledge = knowledge
        self._gathered_refused = 0

    def counts(self) -> dict[str, int]:
        """What was refused, lost and dropped here, by the declared names."""
        here = {"gathered_refused": self._gathered_refused, "reports_dropped": self.manager.dropped}
        return self.agent.counts() | here

    def minds(self, event: Event) -> bool:
        """Whether an event is for the tools alone."""
        if isinstance(event, Delivered) and isinstance(event.message, TerminalGathered):
            return True
        return concerns_tools(event) or (concerns_manager(event) and not _is_notice(event))

    def handle(self, turn: Turn, event: Event) -> None:
        """One event that `minds` says yes to, or one that concerns others too (presence, the start)."""
        match event:
            case Delivered(sender=sender, message=TerminalGathered() as gathered):
                if sender in (CENTER, self.managed_by):
                    self._gathered(turn, gathered)
                else:
                    self._gathered_refused += 1
            case Delivered(message=message) if isinstance(message, MANAGER_MESSAGES):
                if self.managed_by != CENTER and isinstance(event, Delivered):
                    # Taken all the same, so that nothing waits for it.
                    turn.send(event.sender, ToolsAt(node=self.managed_by))
                self._perform(turn, self.manager.handle(event, turn.now_ns))
            case PeerAppeared(node=node):
                self._appeared(turn, node)
            case PeerVanished(node=node):
                self.noticed(turn, node, present=False)
            case _:
                self._perform(turn, self.agent.handle(event, turn.now_ns))

    def described(self, turn: Turn, node: NodeId) -> None:
        """A terminal described itself anew: it may be one that manages the services."""
        if node != self.managed_by:
            self._appeared(turn, node)

    def _appeared(self, turn: Turn, node: NodeId) -> None:
        facts = self._knowledge.node(node)
        self.noticed(turn, node, present=True)
        if facts is not None and Role.TOOLS in facts.descriptor.roles and self.managed_by == CENTER:
            self._manage_at(turn, node)
        else:
            turn.send(node, ToolsAt(node=self.managed_by))

    def noticed(self, turn: Turn, node: NodeId, *, present: bool, left: bool = False) -> None:
        """A terminal came, is seen again, is not seen any more, or left."""
        notice = TerminalNoticed(node=node, present=present, left=left)
        self._perform(turn, self.manager.noticed(notice, turn.now_ns))
        if self.managed_by == CENTER:
            return
        if node == self.managed_by and not present:
            self._manage_at(turn, self._other_manager(node))
        elif node == self.managed_by:
            self._introduce(turn)  # it is back: its memory may not be
        else:
            turn.send(self.managed_by, notice)

    def _manage_at(self, turn: Turn, node: NodeId) -> None:
        self.managed_by = node
        here = [facts.descriptor.node for facts in self._knowledge.nodes() if facts.reachable]
        for one in here:
            turn.send(one, ToolsAt(node=node))
        self._perform(turn, self.agent.handle(Delivered(sender=CENTER, message=ToolsAt(node=node)), turn.now_ns))
        if node != CENTER:
            self._introduce(turn)

    def _introduce(self, turn: Turn) -> None:
        """The manager hears who is there, and that it is the one."""
        turn.send(self.managed_by, ToolsAt(node=self.managed_by))
        for facts in self._knowledge.nodes():
            notice = TerminalNoticed(node=facts.descriptor.node, present=facts.reachable)
            turn.send(self.managed_by, notice)

    def _other_manager(self, gone: NodeId) -> NodeId:
        others = [
            facts.descriptor.node
            for facts in self._knowledge.with_role(Role.TOOLS)
            if facts.reachable and facts.descriptor.node != gone
        ]
        return others[0] if others else CENTER

    def _gathered(self, turn: Turn, gathered: TerminalGathered) -> None:
        node = gathered.node
        # Its presence is told before it has described itself, and not again while it stays.
        early = gathered.up_time is not None and not self._knowledge.has_left(node)
        if node != CENTER and self._knowledge.node(node) is None and not early:
            return
        self._knowledge.take_gathered(gathered, turn.now_ns)
        for way in gathered.round_trips or ():
            self._measured(turn, node, way)

    def _measured(self, turn: Turn, node: NodeId, way: RoundTrip) -> None:
        """A way that was measured, into the map's columns: to the centre it is the terminal's own, else a link."""
        if CENTER in (node, way.peer):
            terminal = way.peer if node == CENTER else node
            self._knowledge.measured_round_trip(
                terminal, way.seconds, way.spread_s, turn.now_ns, loss_frac=way.lost_frac
            )
            return
        ends = [self._knowledge.node(one) for one in (node, way.peer)]
        self._knowledge.measured_link(
            node,
            way.peer,
            turn.now_ns,
            round_trip_s=way.seconds,
            bytes_per_s=way.bytes_per_s or None,
            loss_frac=way.lost_frac,
            direct=way.direct,
            metered=any(one is not None and one.descriptor.access.metered for one in ends),
        )

    def _perform(self, turn: Turn, effects: list[Effect]) -> None:
        """Effects of the desk's cores; what they say to the centre is said here and now."""
        for effect in settle_own(effects, CENTER, lambda message: self._to_self(turn, message)):
            turn.perform(effect)

    def _to_self(self, turn: Turn, message: Message) -> list[Effect]:
        event = Delivered(sender=CENTER, message=message)
        if isinstance(message, TerminalGathered):
            self._gathered(turn, message)
            return []
        if isinstance(message, MANAGER_MESSAGES):
            return self.manager.handle(event, turn.now_ns)
        return self.agent.handle(event, turn.now_ns)


def _is_notice(event: Event) -> bool:
    """Of terminals' coming and going the centre tells, and is told nothing."""
    return isinstance(event, Delivered) and isinstance(event.message, TerminalNoticed)
