"""Demand into columns: what is asked of the network, as rows of the map that questions and query views find.

Gateways count queries by kind and region; the control centre adds up what they say and speaks for it, since no gateway
knows of the others'. What nobody asks any more leaves the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts_of_things import QUERY_PATTERNS
from daitn.descriptors.query_view import QueryDemand
from daitn.topology.columns import Value
from daitn.topology.describing import believed
from daitn.topology.intake import FactIntake
from daitn.topology.taking import CENTER_SOURCE

KINDS_MOST: Final = 4096
"""Kinds of query in a region that become rows, the most frequent first: what can be asked for must not grow with what a
hostile gateway invents."""


def query_thing(kind: str, region: str) -> str:
    """The name of a kind of query in a region on the map."""
    return f"{kind}@{region}"


def describe_queries(intake: FactIntake, demands: Sequence[QueryDemand], now_ns: int) -> None:
    """Put all that is asked of the network into the columns. O(demands)."""
    table = intake.book[Kind.QUERY]
    kept = sorted(demands, key=lambda one: -(one.asked_per_s or 0.0))[:KINDS_MOST]
    wanted = {query_thing(one.kind, one.region): one for one in kept}
    held = np.flatnonzero(table.alive()).tolist()
    if gone := [row for row in held if table.id_of(row) not in wanted]:
        intake.withdraw(Kind.QUERY, gone)
    for thing, one in wanted.items():
        row = table.add(thing, CENTER_SOURCE)
        identity: dict[str, Value] = {"query_kind": one.kind, "query_region": one.region or None}
        if one.pattern in QUERY_PATTERNS:
            identity["query_pattern"] = one.pattern
        rate: dict[str, Value] = {
            "asked_per_s": one.asked_per_s,
            "asked_per_s_peak": one.asked_per_s_peak,
            "asked_per_s_soon": one.asked_per_s_soon,
            "query_bytes": one.query_bytes,
            "latency_goal_s": one.latency_goal_s,
        }
        for group, values in (("query_identity", identity), ("query_rate", believed(Kind.QUERY, rate))):
            table.note(row, group, values, source=CENTER_SOURCE, generated_ns=now_ns, received_ns=now_ns)
