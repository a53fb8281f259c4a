"""Hosts as admission and placement see them: what the map knows of them, beside what they have been given."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.deployed import Deployed
from daitn.decision.hosting import HostView
from daitn.descriptors.terminals import Role
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.node_facts import NodeFacts


def hosting(knowledge: KnowledgeMap) -> tuple[NodeFacts, ...]:
    """All terminals that serve models."""
    return tuple(facts for facts in knowledge.with_role(Role.HOST) if facts.descriptor.host is not None)


def host_views(
    knowledge: KnowledgeMap,
    models: Mapping[ModelName, Deployed],
    besides: Collection[ModelName],
    gateways: Collection[NodeId],
    nodes: Collection[NodeFacts] | None = None,
) -> list[HostView]:
    """All hosts, or those of `nodes` that can have models loaded, with the memory they have beside models other than
    `besides`. O(hosts × (models + gateways))."""
    views: list[HostView] = []
    carried = {node for name in besides if name in models for node in models[name].placed}
    for facts in hosting(knowledge) if nodes is None else nodes:
        descriptor, offered = facts.descriptor, facts.descriptor.host
        if offered is None:
            continue
        promised = sum(
            model.needs.memory_bytes
            for name, model in models.items()
            if name not in besides and descriptor.node in model.carriers
        )
        ways = [knowledge.gathered.round_trip_s(descriptor.node, gateway) for gateway in gateways]
        views.append(
            HostView(
                node=descriptor.node,
                name=descriptor.name,
                region=descriptor.region,
                operator=descriptor.operator,
                offered=offered,
                memory_left_bytes=max(0, offered.memory_bytes - promised),
                # A host that carries the model and vanished a moment ago is waited for, not planned without.
                reachable=facts.reachable or descriptor.node in carried,
                path_s=min((way for way in ways if way is not None), default=None),
            )
        )
    return views
