"""What a cut of a model into stages is made from: the hosts there are, with what the map has measured of them (II-B).

A host is asked by the gateways of the domain; its way is the shortest that is known from any of them. Hosts that the
provider or their own policy rules out are no candidates, as for any model (`decision.hosting.admit`). What a stage
takes of memory beside its tensors is given: engines are the node's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from daitn.base.ids import ModelName, NodeId, OwnerId
from daitn.control_center.inference.commands import StagePlanned
from daitn.decision.hosting import HostCondition, HostView, admit
from daitn.decision.staging import NoCut, StageHost, cut_stages
from daitn.descriptors.serving import ENGINES_FOR, ModelNeeds, ServingGoal
from daitn.descriptors.stages import SplitAsked, Stage, check_stages
from daitn.topology.knowledge_map import KnowledgeMap

ASIDE = ("memory", "replicas", "quality")
"""Conditions that are not asked of one host here: each stage needs less, and has a host of its own."""


def plan_stages(
    name: ModelName,
    owner: OwnerId,
    needs: ModelNeeds,
    goal: ServingGoal,
    split: SplitAsked,
    hosts: Sequence[HostView],
    knowledge: KnowledgeMap,
    gateways: Collection[NodeId],
    *,
    base_bytes: int,
    copies: int,
) -> tuple[StagePlanned, ...] | tuple[HostCondition, ...]:
    """The stages, each with its host; or the conditions that fail. A stage takes `base_bytes` and `copies` times its
    tensors. InputError where their names cannot be."""
    small = msgspec.structs.replace(needs, memory_bytes=base_bytes)
    admission = admit(small, goal, owner, hosts, {}, engines=ENGINES_FOR[needs.kind])
    if failed := tuple(one for one in admission.failed() if one.code not in ASIDE):
        return failed
    able = [_host(host, knowledge, gateways) for host in hosts if host.node in admission.candidates]
    found = cut_stages(split.profile, able, stages=split.stages, base_bytes=base_bytes, copies=copies)
    if isinstance(found, NoCut):
        return (HostCondition(code="stages", required=found.required, available=found.available, met=False),)
    stages = tuple(
        Stage(model=name, number=number, of=len(found), begin=one.begin, end=one.end)
        for number, one in enumerate(found, 1)
    )
    check_stages(stages)
    return tuple(
        StagePlanned(
            needs=msgspec.structs.replace(
                needs,
                memory_bytes=base_bytes + copies * one.weight_bytes,
                inputs=needs.inputs if one.begin is None else (),
                stage=stage,
            ),
            node=one.node,
            why=f"stage {stage.number} of {stage.of}: {one.seconds * 1000:.1f} ms of computing and moving for a query",
        )
        for stage, one in zip(stages, found, strict=True)
    )


def _host(view: HostView, knowledge: KnowledgeMap, gateways: Collection[NodeId]) -> StageHost:
    facts = knowledge.node(view.node)
    ways = [knowledge.gathered.round_trip_s(view.node, gateway) for gateway in gateways]
    return StageHost(
        node=view.node,
        memory_bytes=view.memory_left_bytes,
        flops=0.0 if facts is None else facts.flops,
        bytes_per_s=1e6 if facts is None else facts.bytes_per_s,
        way_s=min((one for one in ways if one is not None), default=0.0),
    )
