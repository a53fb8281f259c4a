"""The map as people see it: what changes fast, with its age."""

from __future__ import annotations

import io
import math

from rich.console import Console
from tests.builders import START_NS, make_site

from daitn.base.ids import CENTER, NodeId
from daitn.base.units import NS_PER_S
from daitn.cli.alarms import alarm_table, alarms_of
from daitn.cli.render import fast_facts
from daitn.control_center.node_records import NodeRecorded, NodeRecords
from daitn.descriptors.fact_kinds import Kind
from daitn.node.center_service import nodes_on_map
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.oam_records import Alarm


def made() -> KnowledgeMap:
    """A node with two of three slots free, a third busy, five seconds ago."""
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    row = knowledge.node(NodeId("n0001")).row
    load = {"load_frac": 1 / 3, "busy_slots": 1, "free_slots": 2, "wait_s": None}
    knowledge.facts[Kind.TERMINAL].note(
        row, "load", load, source=1, generated_ns=START_NS - 5 * NS_PER_S, received_ns=START_NS
    )
    return knowledge


def test_load_is_shown_with_its_age():
    (node,) = nodes_on_map(made(), START_NS)

    assert fast_facts(node) == "2 of 3 slots free, 33% busy, 5.0 s ago"
    assert {"load_frac", "busy_slots", "free_slots", "access_kind"} <= {fact.name for fact in node.facts}
    assert all(math.isfinite(fact.age_s) for fact in node.facts)


def test_what_was_not_confirmed_since_the_centre_began_is_said_to_be_so():
    knowledge = made()
    knowledge.facts.restarted(START_NS + 1)

    (node,) = nodes_on_map(knowledge, START_NS + NS_PER_S)

    assert fast_facts(node).endswith("6.0 s ago, not confirmed since the centre began")


def test_alarms_are_shown_with_who_and_what():
    records = NodeRecords()
    alarm = Alarm(name="facts n0001 negative", text="n0001 reported load [odd] and it is negative", raised_ns=START_NS)
    records.apply(NodeRecorded(node=CENTER, since_ns=1, first=1, entries=(alarm,), at_ns=START_NS))
    found = alarms_of(records.shown())
    told = io.StringIO()

    Console(file=told, width=160).print(alarm_table(found))

    assert "n0001 reported load [odd] and it is negative" in told.getvalue()
    assert alarm_table(alarms_of(())) == "no alarms"


def test_measured_link_is_shown():
    knowledge = made()
    node = NodeId("n0001")
    knowledge.measured_round_trip(node, 0.0125, 0.001, START_NS)
    knowledge.measured_transfer(node, 10_000_000, 0.1)
    knowledge.measured_round_trip(node, -1.0, 0.001, START_NS)

    (shown,) = nodes_on_map(knowledge, START_NS)

    assert "12.5 ms away, 65.0 MB/s" in fast_facts(shown)
