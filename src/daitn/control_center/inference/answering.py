"""Which replicas of a model answer now, as gateways are told: what hosts said last beside what was placed."""

from __future__ import annotations

from collections.abc import Mapping

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.control_center.inference.deployed import Deployed
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import Replica, ReplicaPhase, Route, ServedModel, TensorSpec
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.node_facts import NodeFacts

Observed = Mapping[NodeId, Mapping[ModelName, Replica]]
"""What each host said last."""


def said_of(observed: Observed, node: NodeId, model: ModelName, artifact: ArtifactId) -> Replica | None:
    """What a host said last of a model, if it speaks of this package."""
    replica = observed.get(node, {}).get(model)
    return replica if replica is not None and replica.artifact == artifact else None


def routed(name: ModelName, model: Deployed, knowledge: KnowledgeMap, observed: Observed, now_ns: int) -> list[NodeId]:
    """Hosts that queries may be sent to, of those whose access is there by plan: those that stay; those that leave only
    until all that stay answer."""
    able: list[NodeId] = []
    for node in model.placed:
        facts, replica = knowledge.node(node), said_of(observed, node, name, model.artifact)
        there = facts is not None and knowledge.there(facts, now_ns)
        if there and replica is not None and replica.phase is ReplicaPhase.SERVING:
            able.append(node)
    staying = [node for node in able if node not in model.leaving]
    return staying if len(staying) == len(model.staying) else able


def served_model(
    name: ModelName, model: Deployed, knowledge: KnowledgeMap, observed: Observed, now_ns: int
) -> ServedModel:
    """A model with the replicas that answer now."""
    routes: list[Route] = []
    referee: Route | None = None
    inputs = model.needs.inputs
    outputs: tuple[TensorSpec, ...] = ()
    for node in routed(name, model, knowledge, observed, now_ns):
        facts, replica = knowledge.node(node), said_of(observed, node, name, model.artifact)
        if facts is None or replica is None:
            continue
        inputs, outputs = replica.inputs, replica.outputs
        routes.append(_route(facts, replica))
    if model.referee is not None:
        facts, replica = knowledge.node(model.referee), said_of(observed, model.referee, name, model.artifact)
        if facts is not None and facts.reachable and replica is not None and replica.phase is ReplicaPhase.SERVING:
            referee = _route(facts, replica)
    return ServedModel(
        model=name,
        artifact=model.artifact,
        owner=model.owner,
        goal=model.goal,
        inputs=inputs,
        outputs=outputs,
        quality=model.quality,
        stage=model.needs.stage,
        canary=model.canary,
        temperature=model.temperature,
        threshold=model.threshold,
        routes=tuple(routes),
        referee=referee,
    )


def _route(facts: NodeFacts, replica: Replica) -> Route:
    offered = facts.descriptor.host
    return Route(
        host=Holder(node=facts.descriptor.node, direct=facts.descriptor.direct),
        region=facts.descriptor.region,
        operator=facts.descriptor.operator,
        price_per_hour=None if offered is None else offered.tariff.price_per_hour,
        concurrency=1 if offered is None else offered.concurrency,
        measured=replica.measured,
    )
