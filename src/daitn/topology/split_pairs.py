"""Pairs of data and compute between which a model would be cut: which there are, and what holds of both sites."""

from __future__ import annotations

import msgspec

from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import DataDescriptor, Role
from daitn.descriptors.view import Candidate
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.node_facts import NodeFacts


def partners_for(
    knowledge: KnowledgeMap, facts: NodeFacts, data: DataDescriptor, now_ns: int
) -> tuple[list[NodeFacts], str]:
    """Where the middle of a model can be computed while its front and back are with this data. Else why not."""
    if facts.descriptor.compute is None or Role.COMPUTE not in facts.descriptor.roles:
        return [], "its site has no compute, not even for the front of a model"
    allowed = data.policy.compute_operators
    found = [
        other
        for other in knowledge.with_role(Role.COMPUTE)
        if other.descriptor.compute is not None
        and other.descriptor.node != facts.descriptor.node
        and knowledge.usable(other, now_ns)
        and ("*" in allowed or other.descriptor.operator in allowed)
    ]
    return found, "" if found else "no compute site that may be given activations is reachable"


def cut_between(
    candidate: Candidate, knowledge: KnowledgeMap, home: NodeFacts, partner: NodeFacts, now_ns: int
) -> Candidate:
    """The candidate as split learning sees it: see `Candidate.split`. Bandwidth is what was measured between the two
    where anything was, else the less of what each has."""
    mine, theirs = home.descriptor.compute, partner.descriptor.compute
    assert mine is not None
    assert theirs is not None
    measured = knowledge.gathered.rate_bytes_per_s(partner.descriptor.node, home.descriptor.node)
    return msgspec.structs.replace(
        candidate,
        split=True,
        streamed=False,
        data_flops=home.flops,
        wait_s=max(home.wait_s(now_ns), partner.wait_s(now_ns)),
        memory_bytes=min(mine.memory_bytes, theirs.memory_bytes),
        slots=min(mine.slots, theirs.slots),
        bytes_per_s=measured or min(home.bytes_per_s, partner.bytes_per_s),
        tariff=_both(mine.tariff, theirs.tariff),
    )


def _both(one: Tariff, other: Tariff) -> Tariff:
    """What visits at both sites are charged; not stated where one of them does not state it."""

    def total(first: float | None, second: float | None) -> float | None:
        return None if first is None or second is None else first + second

    return Tariff(
        price_per_hour=total(one.price_per_hour, other.price_per_hour),
        price_per_gigabyte=(one.price_per_gigabyte or 0.0) + (other.price_per_gigabyte or 0.0),
        watts=total(one.watts, other.watts),
    )
