"""The tools layer for people: the book of links, and what the services know of each node."""

from __future__ import annotations

from typing import Final

import numpy as np

from daitn.base.ids import CENTER, NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.center import ControlCenter
from daitn.descriptors.access import Access
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.links import LinkShown
from daitn.node.http.bodies import NodeTools, ToolsShown
from daitn.topology.knowledge_map import KnowledgeMap

AHEAD_S: Final = 3600.0
"""How far ahead availability is shown."""


def links_shown(core: ControlCenter, now_ns: int) -> tuple[LinkShown, ...]:
    """Every link of the domain, as its nodes said last."""
    nodes = core.knowledge.nodes()
    access = {one.descriptor.node: one.descriptor.access for one in nodes}
    reachable = [one.descriptor.node for one in nodes if one.reachable]
    return core.knowledge.gathered.links(access, reachable, now_ns)


def tools_shown(core: ControlCenter, now_ns: int) -> ToolsShown:
    """What the services know of the centre and of each node on the map."""
    named: list[tuple[NodeId, str, Access]] = [(CENTER, "center", Access())]
    named += [(one.descriptor.node, one.descriptor.name, one.descriptor.access) for one in core.knowledge.nodes()]
    return ToolsShown(managed_by=core.tools.managed_by, nodes=tuple(_node_tools(core, *one, now_ns) for one in named))


def _node_tools(core: ControlCenter, node: NodeId, name: str, access: Access, now_ns: int) -> NodeTools:
    facts = core.knowledge.gathered
    known = facts.node(node)
    load_frac, slots_free, load_age_s = _load(core.knowledge, node, now_ns)
    return NodeTools(
        node=node,
        name=name,
        place=known.place if known.place is not None and known.place.error_frac < 1 else None,
        round_trips=tuple(known.round_trips.values()),
        to_center_s=facts.round_trip_s(node, CENTER),
        carried_bytes=known.carried_bytes,
        probe_bytes=known.probe_bytes,
        access=access,
        availability=facts.availability_over(node, access, now_ns, AHEAD_S),
        machine=known.machine,
        machine_age_s=ns_to_seconds(max(0, now_ns - known.machine_ns)) if known.machine is not None else 0.0,
        load_frac=load_frac,
        slots_free=None if slots_free is None else round(slots_free),
        load_age_s=load_age_s,
        processes=known.processes,
    )


def _load(knowledge: KnowledgeMap, node: NodeId, now_ns: int) -> tuple[float | None, float | None, float | None]:
    """How busy a node said it is, how many more visits it would take, and how long ago that was; None: it does not
    say."""
    table = knowledge.facts[Kind.TERMINAL]
    row = table.row_of(node)
    if row is None:
        return None, None, None
    load_frac, slots_free = (table.value(row, name) for name in ("load_frac", "free_slots"))
    if load_frac is None or slots_free is None:
        return None, None, None
    return float(load_frac), float(slots_free), float(table.age_s("load", now_ns, np.array([row]))[0])
