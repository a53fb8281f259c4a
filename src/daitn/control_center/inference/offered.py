"""Models that hosts bring by themselves, as gateways are told of them (`descriptors.offers`).

Nothing of it is a fact of the journal: a host says what it offers for as long as it is there. Hosts that offer the same
under the same name are replicas of one model; where two offer different things under one name, the one that more hosts
offer is served and the other is counted. A name that a provider deployed is the provider's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from daitn.base import limits
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import Replica, ReplicaPhase, Route, ServedModel, ServingGoal
from daitn.topology.knowledge_map import KnowledgeMap


class OfferedModels:
    """See the module's docstring."""

    def __init__(self, knowledge: KnowledgeMap, counters: Counters) -> None:
        self._knowledge, self._counters = knowledge, counters
        self._told: dict[NodeId, dict[ModelName, Replica]] = {}

    def take(self, node: NodeId, replicas: Collection[Replica]) -> bool:
        """What a host offers now; whether that is new."""
        told = {replica.model: replica for replica in replicas}
        if told == self._told.get(node, {}):
            return False
        before = self._told.get(node, {})
        self._told[node] = told
        for name, replica in told.items():
            likeness = self._likeness(name)
            if likeness not in (None, replica.artifact) and before.get(name) != replica:
                self._counters.count("offers_unlike")
        return True

    def forget(self, node: NodeId) -> None:
        """The host is gone."""
        self._told.pop(node, None)

    def names(self) -> set[ModelName]:
        """All that is offered."""
        return {name for told in self._told.values() for name in told}

    def served(self, besides: Collection[ModelName], most: int, now_ns: int) -> tuple[ServedModel, ...]:
        """Every offered model that is not among `besides`, by name, `most` of them."""
        names = sorted(self.names().difference(besides))
        return tuple(self._model(name, now_ns) for name in names[: max(0, most)])

    def _model(self, name: ModelName, now_ns: int) -> ServedModel:
        likeness = self._likeness(name)
        routes: list[Route] = []
        owner, first = OwnerId(""), None
        for node in sorted(self._told):
            replica, facts = self._told[node].get(name), self._knowledge.node(node)
            if replica is None or replica.artifact != likeness or facts is None:
                continue
            first = first or replica
            owner = owner or OwnerId(facts.descriptor.operator)
            if not self._knowledge.there(facts, now_ns) or replica.phase is not ReplicaPhase.SERVING:
                continue
            first = replica
            offered = facts.descriptor.host
            routes.append(
                Route(
                    host=Holder(node=node, direct=facts.descriptor.direct),
                    region=facts.descriptor.region,
                    operator=facts.descriptor.operator,
                    price_per_hour=None if offered is None else offered.tariff.price_per_hour,
                    concurrency=max(1, replica.concurrency),
                    measured=replica.measured,
                )
            )
        return ServedModel(
            model=name,
            artifact=ArtifactId("") if likeness is None else likeness,
            owner=owner,
            goal=ServingGoal(),
            inputs=() if first is None else first.inputs,
            outputs=() if first is None else first.outputs,
            tasks=() if first is None else first.tasks,
            routes=tuple(routes[: limits.HOSTS_PER_MODEL]),
        )

    def _likeness(self, name: ModelName) -> ArtifactId | None:
        """What most hosts mean by a name; of equals, the first by digest."""
        found = Counter(told[name].artifact for told in self._told.values() if name in told)
        return min(found, key=lambda one: (-found[one], one), default=None)
