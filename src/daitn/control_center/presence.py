"""Who is there: what the fabric's presence and silence say of nodes, and of the visits they hold.

A node that was killed and one whose link is cut both vanish, but not alike. A process that ends closes its link, so its
presence is gone within milliseconds of its last word; a cut link or a stopped process falls silent first, and the
fabric gives it up seconds later. The leases of a process that has ended have ended with it, so its visits are taken
over at once; in every other case only after the lease. Should that be wrong (a router that closed a congested link), it
costs work and no more, since results are fenced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daitn.base.ids import JobId, NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.job import JobMachine
from daitn.control_center.turn import Turn
from daitn.descriptors.trust import Evidence
from daitn.topology.knowledge_map import KnowledgeMap

CLOSED_S: Final = 1.5
"""A presence that vanishes sooner than this after the node was last heard was given up by the node's end of the link,
not by silence: the fabric gives a silent link up after 2 s at the soonest (`lease_s` of its configuration). Where the
patience is so long that nodes speak more rarely than this, every vanished node counts as cut off."""

OWN_LINK_S: Final = 3.0
"""After the centre's own link was lost, presences that vanish say nothing of their nodes for this long."""


class Presence:
    """See the module's docstring. Nothing of it is durable."""

    def __init__(self, knowledge: KnowledgeMap, jobs: Mapping[JobId, JobMachine]) -> None:
        self._knowledge = knowledge
        self._jobs = jobs
        self._link_lost_ns: int | None = None

    def appeared(self, turn: Turn, node: NodeId) -> None:
        """A node is there, again or at last: what it was asked to do is asked again, so that it says at once what
        became of it."""
        self._knowledge.seen(node)
        for machine in self._jobs.values():
            machine.node_lives(turn, node)
            machine.ask_again(turn, node)

    def vanished(self, turn: Turn, node: NodeId) -> None:
        """The fabric does not see a node any more."""
        facts = self._knowledge.node(node)
        if facts is None:
            return
        closed = self._knowledge.silent_s(facts, turn.now_ns) < CLOSED_S
        self.lost(turn, node, "its presence is gone")
        if closed and not self.own_link_lost(turn):
            facts.ended = True
            for machine in self._jobs.values():
                machine.node_ended(turn, node)

    def lost(self, turn: Turn, node: NodeId, why: str) -> None:
        """A node does not answer any more."""
        facts = self._knowledge.node(node)
        if facts is not None and facts.reachable:
            self._knowledge.vanished(node)
            turn.record_if(self._knowledge.found(node, Evidence.VANISHED, turn.now_ns, why=why))

    def link_lost(self, turn: Turn) -> None:
        """The centre's own link is lost: of those who vanished just before, nobody is known to have ended."""
        self._link_lost_ns = turn.now_ns
        for facts in self._knowledge.nodes():
            facts.ended = False
        for machine in self._jobs.values():
            machine.node_lives(turn, None)

    def own_link_lost(self, turn: Turn) -> bool:
        """Whether the centre's own link was lost a moment ago."""
        lost_ns = self._link_lost_ns
        return lost_ns is not None and ns_to_seconds(turn.now_ns - lost_ns) < OWN_LINK_S
