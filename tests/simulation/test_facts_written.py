"""Every fact of the registry has a writer in the product: a simulated domain is run, and its map is looked at.

What a simulated domain has no hardware, hosts or dates for is named here with the product code that writes it, and that
code is looked at: a fact that nothing would ever tell, or an exception that is none, fails.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.simulation.worlds import load, play

import daitn
from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Fact, Form
from daitn.descriptors.facts import GROUPS
from daitn.topology.fact_book import FactBook

SOURCE = Path(daitn.__file__).parent

ELSEWHERE = {
    "topology/describing.py": {
        *("region", "processor", "accelerator", "window_opens_unix_s", "window_closes_unix_s", "flops_per_joule"),
        *("memory_bytes_per_s", "price_per_hour", "price_per_gb", "newest_unix_s", "median_unix_s", "records_per_s"),
        *("drift", "drift_per_s"),
    },
    "topology/node_facts.py": {
        *("rests_until_unix_s", "bytes_per_s", "energy_source", "battery_frac", "power_watts"),
    },
    "topology/paces.py": {"measured_flops", "measured_memory_bytes_per_s"},
    "topology/describing_units.py": {"terminal", "field", "field_test_records"},
    "topology/knowledge_map.py": {"link_bytes_per_s"},
    "terminal/fact_reporter.py": {"attached"},
    "node/compute_watch.py": {
        *("load_frac", "busy_slots", "free_slots", "wait_s", "memory_free_bytes", "storage_free_bytes"),
        "accelerator_memory_bytes",
    },
    "node/serving/hosting.py": {
        *("models", "model_memory_free_bytes", "queries_per_s", "queries_per_s_most", "queue_s"),
        *("model_load_frac", "model_queue_s"),
    },
    "topology/describing_models.py": {
        *("terminal", "model", "task", "model_accessible", "model_bytes", "service_s", "tokens_per_s", "accuracy"),
        *("field", "field_accuracy"),
    },
    "topology/describing_queries.py": {
        *("query_kind", "query_region", "query_pattern"),
        *("asked_per_s", "asked_per_s_peak", "asked_per_s_soon", "query_bytes", "latency_goal_s"),
    },
}
"""What this domain does not tell, by the file that writes it elsewhere: machines that are measured, links that carried
something, hosts and their queries, dates and changes of data, regions, prices, and visits that went wrong."""

BARS = {"data", "field", "field_records"}
"""Of fields of data sets: written as labels are, under names that `describing` makes."""


def is_told(book: FactBook, group: str, fact: Fact, kind: str) -> bool:
    """Whether any thing of the map has a value of this fact."""
    table = next(table for table in book.tables.values() if table.kind == kind)
    columns = table.group(group)
    if columns is None:
        return False
    values = columns.values[fact.name][: table.high]
    if fact.numeric:
        return bool((~np.isnan(values)).any())
    return bool((values != UNKNOWN_CODE).any() if fact.form in (Form.FLAG, Form.CHOICE) else (values >= 0).any())


def test_every_fact_is_written_by_the_product():
    _, world = play(load())
    knowledge = world.center.knowledge
    knowledge.count_presence(world.now_ns + 10**9)
    silent = {
        fact.name
        for group in GROUPS
        for fact in group.facts
        if not is_told(knowledge.facts, group.name, fact, group.kind)
    }

    assert silent - BARS == set().union(*ELSEWHERE.values()) - BARS
    for file, facts in ELSEWHERE.items():
        text = (SOURCE / file).read_text(encoding="utf-8")
        assert [fact for fact in sorted(facts) if f'"{fact}"' not in text] == [], file
