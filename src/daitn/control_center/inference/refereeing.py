"""Refereeing: where two hosts of a model differ and nobody can say who is wrong, a verification unit computes it, too.

The unit loads the package as a host does, and answers no caller: gateways ask it the queries that they compare
(`node.serving.comparing`), where a query's own goal allows its operator, region and price. So it is a third voice, and
`decision.answers_compared` decides as with three hosts. It is chosen among units that nobody runs who runs one of those
that differ, that the provider's goal allows, and that have the memory. It goes when the question is settled, when it
differs from both, or after `REFEREE_S`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.base.units import seconds_to_ns
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.host_views import host_views
from daitn.decision.answers_compared import Pairs, unlike
from daitn.decision.hosting import admit
from daitn.descriptors.serving import ENGINES_FOR, Replica, ReplicaPhase
from daitn.descriptors.terminals import Role
from daitn.topology.knowledge_map import KnowledgeMap

REFEREE_S: Final = 3600.0
"""How long a unit keeps a model for this: hosts that are asked so little that this decides nothing are only named."""

Differ = Collection[tuple[NodeId, NodeId]]
"""Pairs of hosts that nobody can decide between."""


class Replicas(Protocol):
    """The deployment desk."""

    def replica(self, node: NodeId, model: ModelName) -> Replica | None:
        """What a node said last of a model."""
        ...


class Refereeing:
    """See the module's docstring. Nothing is durable: after a restart hosts are compared anew."""

    def __init__(self, models: Mapping[ModelName, Deployed], knowledge: KnowledgeMap, replicas: Replicas) -> None:
        self._models, self._knowledge, self._replicas = models, knowledge, replicas
        self._since_ns: dict[ArtifactId, int] = {}
        self._left_out: dict[ArtifactId, set[NodeId]] = {}
        """Units that could not, or did not, decide."""

    def forget(self, served: Collection[ArtifactId]) -> None:
        """Packages that are deployed no longer are forgotten."""
        self._since_ns = {artifact: at for artifact, at in self._since_ns.items() if artifact in served}
        self._left_out = {artifact: nodes for artifact, nodes in self._left_out.items() if artifact in served}

    def look(self, name: ModelName, differ: Differ, pairs: Pairs, now_ns: int) -> NodeId | None:
        """Name a referee where one is wanted, or let one go; who is let go. The model's referee is another one then."""
        model = self._models[name]
        before = model.referee
        if before is not None and differ and not self._is_over(name, model, before, differ, pairs, now_ns):
            return None
        model.referee = self._chosen(model, differ, now_ns) if differ else None
        self._since_ns[model.artifact] = now_ns
        return before

    def _is_over(
        self, name: ModelName, model: Deployed, unit: NodeId, differ: Differ, pairs: Pairs, now_ns: int
    ) -> bool:
        """Whether a unit cannot decide, or not any more; unless it is only away, it is left out from then on."""
        replica, facts = self._replicas.replica(unit, name), self._knowledge.node(unit)
        failed = replica is not None and replica.phase is ReplicaPhase.FAILED
        if facts is None or not facts.reachable:
            return True
        against_both = any(all(_differ(pairs, unit, host) for host in pair) for pair in differ)
        late = now_ns - self._since_ns.get(model.artifact, now_ns) >= seconds_to_ns(REFEREE_S)
        if failed or against_both or late:
            self._left_out.setdefault(model.artifact, set()).add(unit)
            return True
        return False

    def _chosen(self, model: Deployed, differ: Differ, now_ns: int) -> NodeId | None:
        units = {facts.descriptor.node: facts for facts in self._knowledge.with_role(Role.VERIFICATION)}
        views = host_views(self._knowledge, self._models, (), (), units.values())
        able = admit(model.needs, model.goal, model.owner, views, {}, engines=ENGINES_FOR[model.needs.kind]).candidates
        hosts = [self._knowledge.node(node) for pair in differ for node in pair]
        theirs = {facts.descriptor.operator for facts in hosts if facts is not None}
        left_out = self._left_out.get(model.artifact, set()) | set(model.placed) | set(model.failed)
        free = [node for node in able if node not in left_out and units[node].descriptor.operator not in theirs]
        return min(free, key=lambda node: (-self._knowledge.trust_book.score(node, now_ns), node), default=None)


def _differ(pairs: Pairs, one: NodeId, other: NodeId) -> bool:
    pair = pairs.get((min(one, other), max(one, other)))
    return pair is not None and unlike(pair)
