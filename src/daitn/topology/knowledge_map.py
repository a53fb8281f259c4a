"""The knowledge map (G-KRRM): what the network knows of its terminals, with the age of what it knows.

Paper II-A, DRRT layer. Nodes describe themselves; what they can be measured by (transfer rate, seconds per batch,
whether they answer) is measured and kept beside what they say. Consent and identity have a hard age limit: a node not
heard of for `CONSENT_AGE_S` is in no view at all. Every other fact only ages.

What changes fast, and whatever can be asked for, is in columns (`facts`, `topology.columns`): of the nodes, of the
terminals that they report for, of data sets, models, queries and links. `NodeFacts` reads a node's row.

`version` grows with each change that a decision could depend on, so that plans can say what they were made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from daitn.base.effects import Record
from daitn.base.ids import CENTER, DataSetId, NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds
from daitn.descriptors.access import is_open, open_span
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.query_view import QueryDemand
from daitn.descriptors.serving import Replica
from daitn.descriptors.terminals import DataDescriptor, NodeDescriptor, Role
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork
from daitn.topology.columns import FactTable, Value
from daitn.topology.describing import believed, confirm_node, describe_node, forget_node, note_access
from daitn.topology.describing_models import describe_models
from daitn.topology.describing_queries import describe_queries
from daitn.topology.describing_units import describe_tests
from daitn.topology.fact_book import FactBook
from daitn.topology.gathered import GatheredFacts
from daitn.topology.intake import FactIntake
from daitn.topology.link_graph import LinkGraph
from daitn.topology.node_facts import DEFAULT_BYTES_PER_S, NodeFacts
from daitn.topology.paces import VisitPace
from daitn.topology.taking import CENTER_SOURCE
from daitn.topology.trust import EvidenceFound, TrustBook
from daitn.wire.topology_tools import TerminalGathered

__all__ = [
    "CONSENT_AGE_S", "DEFAULT_BYTES_PER_S", "EvidenceFound", "KnowledgeMap", "NodeDescribed", "NodeFacts",
    "NodeRemoved",
]  # fmt: skip

CONSENT_AGE_S: Final = 60.0
"""No decision rests on a policy that was not confirmed for this long; a heartbeat confirms it about every second."""

ROUND_TRIP_MOST_S: Final = 600.0
"""More is no round trip; the registry refuses it."""

STAMP_NS: Final = 10 * NS_PER_S
"""A heartbeat confirms a node's consent and identity at once, and all else that it described at most this often."""

SMOOTHING: Final = 0.3
"""Weight of a new measurement in the running mean."""


class NodeDescribed(Record, frozen=True, kw_only=True, tag="node_described"):
    """A node said what it is."""

    descriptor: NodeDescriptor
    sequence: int


class NodeRemoved(Record, frozen=True, kw_only=True, tag="node_removed"):
    """A node left or was expelled."""

    node: NodeId
    why: str


GAPS: Final = 32
"""Gaps remembered for each node: at four signs of life a lease, the last eight leases."""

GAPS_LEAST: Final = 8
"""Fewer say nothing yet."""

SPREAD: Final = 3 * 1.4826
"""Median absolute deviations beyond the median that still count as usual: three standard deviations of a normal."""

STRETCH_MOST: Final = 5.0
"""A slow site is waited for at most this many times as long as a usual one."""


class KnowledgeMap:
    """See the module's docstring. All calls O(1) but `nodes`, which is O(nodes)."""

    def __init__(self) -> None:
        self.version = 0
        self.trust_book = TrustBook()
        self.facts = FactBook()
        """The columns of everything on the map."""
        self.intake = FactIntake(self.facts)
        """How reports get into them."""
        self.links = LinkGraph(self.facts)
        """Ways between nodes."""
        self.gathered = GatheredFacts()
        self._nodes: dict[NodeId, NodeFacts] = {}
        self._left: set[NodeId] = set()
        """Nodes that left: their ids are never given out again, and a late description must not bring them back. At
        most as many as a domain has slots."""

    def describe(self, descriptor: NodeDescriptor, sequence: int, now_ns: int) -> NodeDescribed | None:
        """Take a description; None where it is not newer than what is held (replayed, reordered), or the node left."""
        known = self._nodes.get(descriptor.node)
        if self.has_left(descriptor.node) or (known is not None and sequence <= known.sequence):
            return None
        self._put(descriptor, sequence, now_ns)
        return NodeDescribed(descriptor=descriptor, sequence=sequence)

    def _put(self, descriptor: NodeDescriptor, sequence: int, now_ns: int) -> None:
        row = describe_node(self.intake, descriptor, now_ns, now_ns)
        known = self._nodes.get(descriptor.node)
        if known is None:
            known = NodeFacts(self.facts[Kind.TERMINAL], row, descriptor, sequence)
            self._nodes[descriptor.node] = known
        known.descriptor, known.sequence, known.ended = descriptor, sequence, False
        known.window_ends_ns = 0
        known.set_confirmed(now_ns)
        known.set_reachable(True, now_ns)
        self._weigh(known, now_ns)
        known.set_accessible(any(data.policy.owners for data in descriptor.data) or descriptor.compute is not None)
        self.version += 1

    def apply(self, record: Record) -> None:
        """Replay: a node from the journal counts as not heard of until it speaks again."""
        match record:
            case NodeDescribed(descriptor=descriptor, sequence=sequence):
                self._put(descriptor, sequence, 0)
                self._nodes[descriptor.node].set_reachable(False, 0)
                self.intake.bounded.clear()
            case NodeRemoved(node=node):
                self._take_off(node)
            case EvidenceFound():
                self.trust_book.apply(record)
            case _:
                pass

    def adopt(self, intake: FactIntake, now_ns: int) -> None:
        """Take over columns that were kept from before a restart: all of them stale until they are confirmed.

        After the journal was replayed: who is on the map, and what each said of itself, is the journal's to say.
        """
        self.intake, self.facts = intake, intake.book
        self.links = LinkGraph(self.facts)
        for node in intake.sources.nodes():
            if node not in self._nodes and node != CENTER:
                forget_node(intake, node)
        for known in self._nodes.values():
            row = describe_node(intake, known.descriptor, 0, 0)
            known.rebind(self.facts[Kind.TERMINAL], row)
            known.set_reachable(False, 0)
            self._weigh(known, now_ns)
        self.intake.bounded.clear()  # they were told when they were made
        self.facts.restarted(now_ns)
        intake.unsynced = {index: 0 for index in range(1, len(intake.sources)) if intake.sources.incarnation[index]}
        self.version += 1

    def remove(self, node: NodeId, why: str) -> NodeRemoved | None:
        """Take a node off the map."""
        if node not in self._nodes:
            return None
        self._take_off(node)
        return NodeRemoved(node=node, why=why)

    def _take_off(self, node: NodeId) -> None:
        self._nodes.pop(node, None)
        self._left.add(node)
        forget_node(self.intake, node)
        self.trust_book.forget(node)
        self.gathered.forget(node)
        self.version += 1

    def has_left(self, node: NodeId) -> bool:
        """Whether the node was taken off the map for good."""
        return node in self._left

    def heard(self, node: NodeId, sequence: int, now_ns: int) -> bool:
        """A heartbeat: whether the map holds that description. Confirms it, and that the node is reachable."""
        known = self._nodes.get(node)
        if known is None or known.sequence != sequence:
            return False
        known.set_confirmed(now_ns)
        self._look_at_window(known, now_ns)
        if now_ns - known.stamped_ns >= STAMP_NS:
            known.stamped_ns = now_ns
            confirm_node(self.intake, known.descriptor, now_ns)
            self._count_presence(known, now_ns)
        self.spoke(node, now_ns)
        return True

    def _look_at_window(self, known: NodeFacts, now_ns: int) -> None:
        """The window of its access that the map speaks of has closed: it speaks of the next one."""
        if now_ns >= known.window_ends_ns:
            access = known.descriptor.access
            note_access(self.facts[Kind.TERMINAL], known.row, access, now_ns, now_ns)
            span = open_span(access, now_ns / NS_PER_S) if access.windows else None
            known.window_ends_ns = math.inf if span is None else span[1] * NS_PER_S

    def spoke(self, node: NodeId, now_ns: int) -> None:
        """Something came from this node."""
        known = self._nodes.get(node)
        if known is not None:
            known.set_spoke(now_ns)
        self.seen(node)

    def silent_s(self, facts: NodeFacts, now_ns: int) -> float:
        """Seconds since anything came from a node."""
        return ns_to_seconds(max(0, now_ns - max(facts.spoke_ns, facts.received_ns)))

    def seen(self, node: NodeId) -> None:
        """Something came from this node, or its presence was seen."""
        known = self._nodes.get(node)
        if known is not None and not known.reachable:
            known.set_reachable(True, known.spoke_ns)
            known.ended = False
            self.version += 1

    def measured_gap(self, node: NodeId, seconds: float) -> None:
        """A visit there gave two signs of life this far apart: what the node's deadlines adapt to."""
        known = self._nodes.get(node)
        if known is not None:
            known.gaps_s = [*known.gaps_s[1 - GAPS :], seconds]

    def patience_with(self, node: NodeId, patience_s: float) -> float:
        """How long to wait for this node: the domain's patience, or longer where its signs of life come slower.

        Four usual gaps, a usual one being at most the median plus three deviations. O(`GAPS`).
        """
        known = self._nodes.get(node)
        if known is None or len(known.gaps_s) < GAPS_LEAST:
            return patience_s
        middle = median(known.gaps_s)
        spread = median(abs(gap - middle) for gap in known.gaps_s)
        return min(STRETCH_MOST * patience_s, max(patience_s, 4 * (middle + SPREAD * spread)))

    def vanished(self, node: NodeId) -> None:
        """The node's presence is gone."""
        known = self._nodes.get(node)
        if known is not None and known.reachable:
            known.set_reachable(False, known.spoke_ns)
            self.version += 1

    def measured_transfer(self, node: NodeId, transfer_bytes: int, seconds: float) -> None:
        """A transfer to this node took so long; small ones say nothing about the rate and are left out."""
        known = self._nodes.get(node)
        if known is not None and transfer_bytes >= 1_000_000 and seconds > 0:
            rate = transfer_bytes / seconds
            known.set_bytes_per_s(known.bytes_per_s + SMOOTHING * (rate - known.bytes_per_s), known.heard_ns)

    def found(
        self, node: NodeId, kind: Evidence, now_ns: int, *, share: float = 1.0, why: str = ""
    ) -> EvidenceFound | None:
        """Something was seen that this node is trusted more or less for; None where it is not on the map, or where the
        same was counted a moment ago."""
        if node not in self._nodes:
            return None
        evidence = self.trust_book.found(node, kind, now_ns, share=share, why=why)
        self.version += evidence is not None
        self._weigh(self._nodes[node], now_ns)
        return evidence

    def rest(self, node: NodeId, until_ns: int) -> None:
        """A visit at this node was lost: it is not asked again for a while."""
        known = self._nodes.get(node)
        if known is not None:
            known.set_cool_until(max(known.cool_until_ns, until_ns))
            self.version += 1

    def table_of(self, group: str) -> FactTable:
        """The table that a group of facts is kept in."""
        return self.facts[group_named(group).kind]

    def measured_round_trip(
        self, node: NodeId, seconds: float, spread_s: float, now_ns: int, *, loss_frac: float = 0.0
    ) -> None:
        """A round trip to this node took so long, give or take, and that share of them was lost."""
        known = self._nodes.get(node)
        if known is not None and 0 <= seconds <= ROUND_TRIP_MOST_S:
            known.set_round_trip_s(seconds, spread_s, loss_frac, now_ns)

    def take_gathered(self, message: TerminalGathered, now_ns: int) -> None:
        """The tools' services know this of a node: kept whole beside the columns, and in them what can be asked for."""
        self.gathered.take(message, now_ns)
        known = self._nodes.get(message.node)
        if known is None:
            return
        if message.place is not None and message.place.error_frac < 1:
            known.set_place(message.place, now_ns)
        if message.machine is not None:
            known.set_power(message.machine, now_ns)
        if message.up_time is not None:
            self._count_presence(known, now_ns)

    def count_presence(self, now_ns: int) -> None:
        """Say of every node in which share of the last days it answered; of those that do not, too. O(nodes)."""
        for known in self._nodes.values():
            self._count_presence(known, now_ns)

    def _count_presence(self, known: NodeFacts, now_ns: int) -> None:
        access = known.descriptor.access
        if (share := self.gathered.reachable_frac(known.descriptor.node, access, now_ns)) is not None:
            known.set_reachable_frac(share)

    def _weigh(self, known: NodeFacts, now_ns: int) -> None:
        """How far a node is trusted now, into the columns."""
        node = known.descriptor.node
        known.set_trust(self.trust_book.score(node, now_ns), self.trust_book.evidence(node, now_ns), now_ns)

    def measured_link(
        self,
        start: NodeId,
        end: NodeId,
        now_ns: int,
        *,
        round_trip_s: float | None = None,
        bytes_per_s: float | None = None,
        loss_frac: float | None = None,
        direct: bool | None = None,
        metered: bool | None = None,
    ) -> None:
        """A link from one node to another was measured; what is None stays as it is known."""
        first, last = self._nodes.get(start), self._nodes.get(end)
        if first is None or last is None or start == end:
            return
        links = self.facts[Kind.LINK]
        row = links.add(f"{start}>{end}", CENTER_SOURCE)
        told: dict[str, Value] = {"from_terminal": first.row, "to_terminal": last.row}
        told |= {name: value for name, value in (("direct", direct), ("link_metered", metered)) if value is not None}
        links.note(row, "link_identity", told, source=CENTER_SOURCE, generated_ns=now_ns, received_ns=now_ns)
        measured = {"link_round_trip_s": round_trip_s, "link_bytes_per_s": bytes_per_s, "link_loss_frac": loss_frac}
        state = believed(Kind.LINK, {name: value for name, value in measured.items() if value is not None})
        links.note(row, "link_state", state, source=CENTER_SOURCE, generated_ns=now_ns, received_ns=now_ns)

    def hosted(self, node: NodeId, replicas: Mapping[str, tuple[Replica, Mapping[str, float]]], now_ns: int) -> None:
        """What a host serves now, by model, with what was measured of its quality."""
        if (facts := self._nodes.get(node)) is not None:
            describe_models(self.intake, facts.descriptor, replicas, now_ns)
            self.version += 1

    def demanded(self, demands: Sequence[QueryDemand], now_ns: int) -> None:
        """What is asked of the network now, all of it, as gateways counted."""
        describe_queries(self.intake, demands, now_ns)

    def measured_visit(self, node: NodeId, pace: VisitPace, now_ns: int) -> None:
        """A visit there has trained: what it says of the node's compute bounds what the node claims."""
        known = self._nodes.get(node)
        if known is None:
            return
        known.set_measured(believed(Kind.TERMINAL, dict(known.paces.take(pace))), now_ns)
        self.intake.bound_claims(known.row)

    def measured_tests(self, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome, now_ns: int) -> None:
        """A verification unit has measured a model: what that says of its test set."""
        describe_tests(self.intake, node, work, outcome, now_ns)

    def node(self, node: NodeId) -> NodeFacts | None:
        """What is known of a node."""
        return self._nodes.get(node)

    def nodes(self) -> tuple[NodeFacts, ...]:
        """All nodes, in the order they joined."""
        return tuple(self._nodes.values())

    def usable(self, facts: NodeFacts, now_ns: int) -> bool:
        """Whether decisions may rest on this node now: reachable, its access there by plan (a node whose window has
        closed may not have been missed yet), and its consent confirmed recently."""
        return self.there(facts, now_ns) and self.age_s(facts, now_ns) <= CONSENT_AGE_S

    def there(self, facts: NodeFacts, now_ns: int) -> bool:
        """Whether something may be sent to this node now: reachable, and its access there by plan."""
        return facts.reachable and is_open(facts.descriptor.access, now_ns / NS_PER_S)

    def age_s(self, facts: NodeFacts, now_ns: int) -> float:
        """Seconds since the node's description was last confirmed."""
        return ns_to_seconds(max(0, now_ns - facts.received_ns))

    def dataset(self, dataset: DataSetId) -> tuple[NodeFacts, DataDescriptor] | None:
        """A data set and the node that holds it."""
        for facts in self._nodes.values():
            for data in facts.descriptor.data:
                if data.dataset == dataset:
                    return facts, data
        return None

    def with_role(self, role: Role) -> tuple[NodeFacts, ...]:
        """Nodes that carry a role."""
        return tuple(facts for facts in self._nodes.values() if role in facts.descriptor.roles)

    def trust(self, facts: NodeFacts, now_ns: int) -> float:
        """How far a node is trusted, in (0, 1): `topology.trust`."""
        return self.trust_book.score(facts.descriptor.node, now_ns)
