"""The graph of sites and gateways with the links between them, and the best ways through it.

Vertices are terminals (by row) and the router star (`STAR`), through which every terminal is reached whose `path` was
measured; edges are the rows of kind `link` that were measured, and the star's. An edge costs half its round trip and
the bytes over its bandwidth, so the best way depends on how much is moved: a letter goes by the nearest, a model by the
widest. Lost messages are sent again, which divides the bandwidth by the share that arrives.

Graph and shortest paths are rustworkx's (Dijkstra, O(E log V)); it is built again when links have changed, O(E).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import rustworkx

from daitn.descriptors.fact_kinds import Kind
from daitn.topology.fact_book import FactBook

STAR: Final = -1
"""The vertex of the domain's router and centre."""

UNMEASURED_BYTES_PER_S: Final = 50e6
"""Bandwidth of a link of which only the round trip was measured: half of a 1 Gbit/s link, as elsewhere."""


class Hop(msgspec.Struct, frozen=True):
    """One edge: half its round trip, its bandwidth as it arrives, and whether it costs somebody."""

    one_way_s: float
    bytes_per_s: float
    metered: bool = False

    def seconds(self, moved_bytes: float) -> float:
        """How long so many bytes take over it."""
        return self.one_way_s + moved_bytes / self.bytes_per_s


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A way from one terminal to another: rows (and `STAR`) in order, ends included."""

    rows: tuple[int, ...]
    seconds: float
    one_way_s: float
    bytes_per_s: float
    """Of the narrowest hop."""
    metered: bool


class LinkGraph:
    """See the module's docstring."""

    def __init__(self, book: FactBook) -> None:
        self._book = book
        self._graph: Any = rustworkx.PyDiGraph()
        self._vertices: dict[int, int] = {}
        self._rows: list[int] = []
        self._built: tuple[int, ...] = ()

    def way(self, start: int, end: int, moved_bytes: float = 0.0, *, metered: bool = True) -> Way | None:
        """The fastest way for so many bytes; None where there is none. `metered`: whether such links may be used."""
        self._build()
        if start not in self._vertices or end not in self._vertices:
            return None
        graph = self._graph if metered else self._unmetered()

        def cost(hop: Hop) -> float:
            return hop.seconds(moved_bytes)

        first, last = self._vertices[start], self._vertices[end]
        paths = rustworkx.dijkstra_shortest_paths(graph, first, target=last, weight_fn=cost)
        if first == last:
            return Way(rows=(start,), seconds=0.0, one_way_s=0.0, bytes_per_s=float("inf"), metered=False)
        if last not in paths:
            return None
        places = list(paths[last])
        hops = [min(graph.get_all_edge_data(one, other), key=cost) for one, other in pairwise(places)]
        return Way(
            rows=tuple(self._rows[place] for place in places),
            seconds=sum(map(cost, hops)),
            one_way_s=sum(hop.one_way_s for hop in hops),
            bytes_per_s=min(hop.bytes_per_s for hop in hops),
            metered=any(hop.metered for hop in hops),
        )

    def seconds_from(self, start: int, moved_bytes: float = 0.0) -> dict[int, float]:
        """How long so many bytes take from a terminal to every other that is reached: O(E log V)."""
        self._build()
        if start not in self._vertices:
            return {}
        first = self._vertices[start]
        lengths = rustworkx.dijkstra_shortest_path_lengths(self._graph, first, lambda hop: hop.seconds(moved_bytes))
        found = {self._rows[place]: float(seconds) for place, seconds in lengths.items()}
        found.pop(STAR, None)
        return {start: 0.0, **found}

    def _build(self) -> None:
        links, terminals = self._book[Kind.LINK], self._book[Kind.TERMINAL]
        built = (
            links.version,
            len(terminals),
            *(terminals.changes(group) for group in ("reach", "path", "access")),
        )
        if built == self._built:
            return
        self._built = built
        edges = [*self._measured_links(), *self._star()]
        vertices = sorted({row for one, other, _ in edges for row in (one, other)})
        self._graph = rustworkx.PyDiGraph()
        self._graph.add_nodes_from(vertices)
        self._rows = vertices
        self._vertices = {row: place for place, row in enumerate(vertices)}
        self._graph.add_edges_from([(self._vertices[one], self._vertices[other], hop) for one, other, hop in edges])

    def _measured_links(self) -> list[tuple[int, int, Hop]]:
        links = self._book[Kind.LINK]
        start, end = links.column("from_terminal"), links.column("to_terminal")
        round_trip, width = links.column("link_round_trip_s"), links.column("link_bytes_per_s")
        loss, metered = links.column("link_loss_frac"), links.column("link_metered")
        known = np.flatnonzero(links.alive() & (start >= 0) & (end >= 0) & ~np.isnan(round_trip))
        return [
            (int(start[row]), int(end[row]), _hop(round_trip[row], width[row], loss[row], metered[row] == 1))
            for row in known
        ]

    def _star(self) -> list[tuple[int, int, Hop]]:
        terminals = self._book[Kind.TERMINAL]
        round_trip, width = terminals.column("round_trip_s"), terminals.column("bytes_per_s")
        loss, metered = terminals.column("loss_frac"), terminals.column("metered")
        reachable = terminals.column("reachable") == 1
        edges: list[tuple[int, int, Hop]] = []
        for row in np.flatnonzero(terminals.alive() & reachable & ~np.isnan(round_trip)).tolist():
            hop = _hop(round_trip[row], width[row], loss[row], metered[row] == 1)
            edges += [(row, STAR, hop), (STAR, row, hop)]
        return edges

    def _unmetered(self) -> Any:
        kept: Any = rustworkx.PyDiGraph()
        kept.add_nodes_from(self._rows)
        kept.add_edges_from([edge for edge in self._graph.weighted_edge_list() if not edge[2].metered])
        return kept


def _hop(round_trip_s: float, bytes_per_s: float, loss_frac: float, metered: bool) -> Hop:
    width = float(bytes_per_s) if bytes_per_s == bytes_per_s and bytes_per_s > 0 else UNMEASURED_BYTES_PER_S
    arrives = 1.0 - min(0.99, float(loss_frac)) if loss_frac == loss_frac else 1.0
    return Hop(float(round_trip_s) / 2, width * arrives, bool(metered))
