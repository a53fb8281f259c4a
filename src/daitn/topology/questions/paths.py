"""Paths between terminals over measured links: least round trip, or widest at the narrowest link (rustworkx).

Paper II-A: the map knows links, so that routes can be planned over sites and gateways. L links, V terminals with links.
Cost: O(L log V), of which most is making the graph (about 1 s for a million links).
"""

from __future__ import annotations

import math

import numpy as np
import rustworkx

from daitn.base.errors import InputError
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.questions import AnswerColumn, AnswerRow, Path
from daitn.topology.questions.matching import matching_rows
from daitn.topology.questions.reading import Reading

FACTS = {"round_trip": "link_round_trip_s", "bandwidth": "link_bytes_per_s"}


def find_path(reading: Reading, question: Path) -> tuple[list[AnswerColumn], tuple[AnswerRow, ...], int]:
    """Columns and stops of the best path, from start to end, and how many links it was chosen from.

    Values of a stop: its name, what the link to it has, and what the path up to it has. No stops: there is no path.
    """
    start, end = (reading.row_of(Kind.TERMINAL, name) for name in (question.start, question.end))
    links = reading.book[Kind.LINK]
    rows = matching_rows(reading, Kind.LINK, question.where)
    fact = FACTS[question.by]
    begins, ends = links.column("from_terminal")[rows], links.column("to_terminal")[rows]
    measured = np.asarray(links.column(fact)[rows], np.float64)
    usable = ~np.isnan(measured) & (begins >= 0) & (ends >= 0)
    if question.by == "bandwidth":
        usable &= measured > 0
    begins, ends, measured, rows = begins[usable], ends[usable], measured[usable], rows[usable]
    unit = "s" if question.by == "round_trip" else "bytes/s"
    columns = [AnswerColumn(name="name"), AnswerColumn(name=fact, unit=unit), AnswerColumn(name="path", unit=unit)]
    if start == end:
        raise InputError(f"the path begins and ends at {question.start}", todo="name two terminals")
    terminals = np.unique(np.concatenate([begins, ends, [start, end]]))
    nodes = {int(row): place for place, row in enumerate(terminals)}
    graph: rustworkx.PyDiGraph[None, int] = rustworkx.PyDiGraph(multigraph=True)
    graph.add_nodes_from([None] * len(terminals))
    edges = zip(np.searchsorted(terminals, begins).tolist(), np.searchsorted(terminals, ends).tolist(), strict=True)
    if question.by == "bandwidth":
        # Links at least as wide as the widest bottleneck: found by adding them from the widest on.
        least = _widest(graph.num_nodes(), list(edges), measured, nodes[start], nodes[end])
        keep = np.flatnonzero(measured >= least)
        edges = zip(
            np.searchsorted(terminals, begins[keep]).tolist(),
            np.searchsorted(terminals, ends[keep]).tolist(),
            strict=True,
        )
        begins, ends, measured, rows = begins[keep], ends[keep], measured[keep], rows[keep]
    graph.add_edges_from([(one, other, place) for place, (one, other) in enumerate(edges)])
    # Of paths as wide, that with fewest links.
    weight = (lambda place: float(measured[place])) if question.by == "round_trip" else (lambda _: 1.0)
    found = rustworkx.dijkstra_shortest_paths(graph, nodes[start], target=nodes[end], weight_fn=weight)
    if nodes[end] not in found:
        return columns, (), len(rows)
    stops = [int(terminals[node]) for node in found[nodes[end]]]
    return columns, _stops(reading, question, stops, begins, ends, measured, rows), len(rows)


def _stops(
    reading: Reading,
    question: Path,
    stops: list[int],
    begins: np.ndarray,
    ends: np.ndarray,
    measured: np.ndarray,
    rows: np.ndarray,
) -> tuple[AnswerRow, ...]:
    table, links = reading.book[Kind.TERMINAL], reading.book[Kind.LINK]
    group = "link_state"
    along = 0.0 if question.by == "round_trip" else math.inf
    found: list[AnswerRow] = []
    for place, stop in enumerate(stops):
        link: float | None = None
        age: float | None = None
        if place:
            between = np.flatnonzero((begins == stops[place - 1]) & (ends == stop))
            best = between[
                np.argmin(measured[between]) if question.by == "round_trip" else np.argmax(measured[between])
            ]
            link = float(measured[best])
            age = float(links.age_s(group, reading.now_ns, rows[best : best + 1])[0])
            along = along + link if question.by == "round_trip" else min(along, link)
        name = table.value(stop, "name")
        so_far = along if math.isfinite(along) else None
        found.append(AnswerRow(id=table.id_of(stop), values=(name, link, so_far), ages_s=(None, age, age)))
    return tuple(found)


def _widest(nodes: int, edges: list[tuple[int, int]], measured: np.ndarray, start: int, end: int) -> float:
    """The largest bandwidth such that links as wide lead from start to end: bisection over the links' bandwidths."""
    widths = np.unique(measured)
    low, high = 0, len(widths)  # widths[low - 1] leads there (or low is 0), widths[high] does not
    while low < high:
        middle = (low + high) // 2
        wide = np.flatnonzero(measured >= widths[middle])
        graph: rustworkx.PyDiGraph[None, None] = rustworkx.PyDiGraph(multigraph=True)
        graph.add_nodes_from([None] * nodes)
        graph.add_edges_from_no_data([edges[place] for place in wide])
        if rustworkx.has_path(graph, start, end):
            low = middle + 1
        else:
            high = middle
    return float(widths[low - 1]) if low else math.inf
