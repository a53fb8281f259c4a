"""Paths between terminals: least round trip, or widest at the narrowest link (rustworkx).

Paper II-A: the map knows links, so that ways can be planned over sites and gateways. Edges are the links that were
measured between two terminals and, unless the question says which links may be used, the ways to the domain's router
that were measured of each terminal. `topology.link_graph` is what decisions use, whose cost depends on what is moved;
here the two figures are apart, and any condition on links may be set.

E edges, V terminals with any. Cost: O(E log V), times log E for the widest; most of it is making the graph.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import rustworkx
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.questions import AnswerColumn, AnswerRow, Path
from daitn.topology.questions.matching import matching_rows
from daitn.topology.questions.reading import Reading

ROUTER: Final = -1
"""The vertex of the domain's router."""

ROUTER_ID: Final = "router"


class Edges(NamedTuple):
    """What may be gone over, directed: from, to (rows of terminals, or `ROUTER`), figure and age in seconds; E each."""

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    figure: NDArray[np.float64]
    age_s: NDArray[np.float64]

    def only(self, which: NDArray[Any]) -> Edges:
        """Some of them."""
        return Edges(*(column[which] for column in self))


def find_path(reading: Reading, question: Path) -> tuple[list[AnswerColumn], tuple[AnswerRow, ...], int]:
    """Columns and stops of the best path, from start to end, and how many links it was chosen from.

    Values of a stop: its name, what the link to it has, and what the path up to it has. No stops: there is no path.
    """
    start, end = (reading.row_of(Kind.TERMINAL, name) for name in (question.start, question.end))
    if start == end:
        raise InputError(f"the path begins and ends at {question.start}", todo="name two terminals")
    fact, unit = ("round_trip", "s") if question.by == "round_trip" else ("bandwidth", "bytes/s")
    columns = [AnswerColumn(name="name"), AnswerColumn(name=fact, unit=unit), AnswerColumn(name="path", unit=unit)]
    edges = _edges(reading, question)
    considered = len(edges.figure)
    vertices = np.unique(np.concatenate([edges.begins, edges.ends, [start, end]]))
    first, last = (int(np.searchsorted(vertices, row)) for row in (start, end))
    if question.by == "bandwidth":
        # Of the paths that are as wide as can be, the one with fewest links.
        edges = edges.only(edges.figure >= _widest(vertices, edges, first, last))
    weights = edges.figure if question.by == "round_trip" else np.ones(len(edges.figure))
    graph = _graph(vertices, edges, weights.tolist())
    found = rustworkx.dijkstra_shortest_paths(graph, first, target=last, weight_fn=float)
    if last not in found:
        return columns, (), considered
    return columns, _stops(reading, question, [int(vertices[node]) for node in found[last]], edges), considered


def _edges(reading: Reading, question: Path) -> Edges:
    links = reading.book[Kind.LINK]
    rows = matching_rows(reading, Kind.LINK, question.where)
    width = question.by == "bandwidth"
    edges = Edges(
        links.column("from_terminal")[rows].astype(np.int64),
        links.column("to_terminal")[rows].astype(np.int64),
        links.column("link_bytes_per_s" if width else "link_round_trip_s")[rows].astype(np.float64),
        links.age_s("link_state", reading.now_ns, rows),
    )
    edges = edges.only((edges.begins >= 0) & (edges.ends >= 0))
    if question.where is None:
        terminals = reading.book[Kind.TERMINAL]
        at = np.flatnonzero(terminals.alive() & (terminals.column("reachable") == 1))
        figure = terminals.column("bytes_per_s" if width else "round_trip_s")[at].astype(np.float64)
        age = terminals.age_s("path", reading.now_ns, at)
        router = np.full(len(at), ROUTER)
        both = Edges(np.concatenate([at, router]), np.concatenate([router, at]), np.tile(figure, 2), np.tile(age, 2))
        edges = Edges(*(np.concatenate(pair) for pair in zip(edges, both, strict=True)))
    return edges.only(edges.figure > 0 if width else ~np.isnan(edges.figure))


def _graph(vertices: NDArray[np.int64], edges: Edges, weights: list[float]) -> Any:
    graph: Any = rustworkx.PyDiGraph(multigraph=True)
    graph.add_nodes_from([None] * len(vertices))
    begins, ends = (np.searchsorted(vertices, rows).tolist() for rows in (edges.begins, edges.ends))
    graph.add_edges_from(list(zip(begins, ends, weights, strict=True)))
    return graph


def _widest(vertices: NDArray[np.int64], edges: Edges, first: int, last: int) -> float:
    """The largest bandwidth such that edges as wide lead from first to last, by bisection; infinite where none does."""
    widths = np.unique(edges.figure)
    low, high = 0, len(widths)  # as wide as widths[low - 1] leads there (or low is 0), widths[high] does not
    while low < high:
        middle = (low + high) // 2
        wide = edges.only(edges.figure >= widths[middle])
        if rustworkx.has_path(_graph(vertices, wide, wide.figure.tolist()), first, last):
            low = middle + 1
        else:
            high = middle
    return float(widths[low - 1]) if low else math.inf


def _stops(reading: Reading, question: Path, stops: list[int], edges: Edges) -> tuple[AnswerRow, ...]:
    table = reading.book[Kind.TERMINAL]
    narrow = question.by == "bandwidth"
    along = math.inf if narrow else 0.0
    found: list[AnswerRow] = []
    for place, stop in enumerate(stops):
        figure: float | None = None
        age: float | None = None
        if place:
            between = np.flatnonzero((edges.begins == stops[place - 1]) & (edges.ends == stop))
            best = between[np.argmax(edges.figure[between]) if narrow else np.argmin(edges.figure[between])]
            figure = float(edges.figure[best])
            age = float(edges.age_s[best]) if math.isfinite(edges.age_s[best]) else None
            along = min(along, figure) if narrow else along + figure
        name = ROUTER_ID if stop == ROUTER else table.value(stop, "name")
        so_far = along if math.isfinite(along) else None
        known = ROUTER_ID if stop == ROUTER else table.id_of(stop)
        found.append(AnswerRow(id=known, values=(name, figure, so_far), ages_s=(None, age, age)))
    return tuple(found)
