"""Ways through the graph of links: nearest for little, widest for much, and none where there is none."""

from __future__ import annotations

import pytest

from daitn.descriptors.fact_kinds import Kind
from daitn.topology.fact_book import FactBook
from daitn.topology.link_graph import STAR, LinkGraph

STAMPS = {"source": 0, "generated_ns": 1, "received_ns": 1}


def book_of(*links: tuple[int, int, float, float], metered: tuple[int, ...] = ()) -> FactBook:
    """Four terminals, and links (from, to, round trip, bytes per second)."""
    book = FactBook()
    for number in range(4):
        book[Kind.TERMINAL].add(f"t{number}", number)
    for place, (start, end, round_trip_s, bytes_per_s) in enumerate(links):
        table = book[Kind.LINK]
        row = table.add(f"{start}-{end}", 0)
        ends = {"from_terminal": start, "to_terminal": end, "link_metered": place in metered}
        table.note(row, "link_identity", ends, **STAMPS)
        state = {"link_round_trip_s": round_trip_s, "link_bytes_per_s": bytes_per_s}
        table.note(row, "link_state", state, **STAMPS)
    return book


NEAR_AND_WIDE = ((0, 1, 0.01, 1e6), (0, 2, 0.2, 1e9), (2, 1, 0.2, 1e9))


def test_little_goes_by_the_nearest_and_much_by_the_widest():
    graph = LinkGraph(book_of(*NEAR_AND_WIDE))

    letter, model = graph.way(0, 1, 100), graph.way(0, 1, 1e9)

    assert letter is not None
    assert model is not None
    assert (letter.rows, model.rows) == ((0, 1), (0, 2, 1))
    assert model.seconds == pytest.approx(0.2 + 2.0)
    assert model.bytes_per_s == 1e9


def test_links_are_directed_and_what_is_not_reached_has_no_way():
    graph = LinkGraph(book_of(*NEAR_AND_WIDE))

    assert graph.way(1, 0) is None
    assert graph.way(0, 3) is None
    assert set(graph.seconds_from(0)) == {0, 1, 2}
    assert graph.seconds_from(3) == {}


def test_metered_links_are_left_out_where_they_must_be():
    graph = LinkGraph(book_of(*NEAR_AND_WIDE, metered=(0,)))

    assert graph.way(0, 1, metered=False).rows == (0, 2, 1)
    assert graph.way(0, 1).metered


def test_terminals_meet_at_the_star_and_changes_are_followed():
    book = book_of()
    graph = LinkGraph(book)
    assert graph.way(0, 1) is None
    for row, round_trip_s in ((0, 0.02), (1, 0.06)):
        book[Kind.TERMINAL].note(row, "reach", {"reachable": True}, **STAMPS)
        book[Kind.TERMINAL].note(row, "path", {"round_trip_s": round_trip_s}, **STAMPS)

    way = graph.way(0, 1)
    assert way is not None
    assert (way.rows, way.one_way_s) == ((0, STAR, 1), pytest.approx(0.04))
    book[Kind.TERMINAL].note(1, "reach", {"reachable": False}, **STAMPS)
    assert graph.way(0, 1) is None


def test_loss_narrows_a_link():
    book = book_of((0, 1, 0.01, 1e6))
    book[Kind.LINK].note(0, "link_state", {"link_loss_frac": 0.5}, **STAMPS)

    assert LinkGraph(book).way(0, 1).bytes_per_s == pytest.approx(5e5)
