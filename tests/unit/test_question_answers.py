"""Answers whose form the plain model does not cover: paths, summaries, nearest, shown facts, explanations."""

from __future__ import annotations

import math

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.base.errors import InputError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.answering import answer_question, distinct
from daitn.topology.questions.explaining import explain

NOW = 1_000_000 * NS_PER_S
TOLD = {"source": 1, "generated_ns": NOW - 3 * NS_PER_S, "received_ns": NOW}

links_between = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)), max_size=12
)


def book_of(links, terminals=5):
    book = FactBook()
    for number in range(terminals):
        book[Kind.TERMINAL].add(f"t{number}", 1)
    for place, (start, end, trip, width) in enumerate(links):
        row = book[Kind.LINK].add(f"l{place}", 1)
        book[Kind.LINK].note(row, "link_identity", {"from_terminal": start, "to_terminal": end}, **TOLD)
        state = {"link_round_trip_s": trip / 8, "link_bytes_per_s": width * 1e6}
        book[Kind.LINK].note(row, "link_state", state, **TOLD)
    return book


def ask(book, text):
    return answer_question(book, parse_question(text), NOW)


@given(links_between)
def test_path_of_least_round_trip_is_as_long_as_a_plain_search_finds(links):
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(5))
    graph.add_weighted_edges_from((start, end, trip / 8) for start, end, trip, _ in links)

    rows = ask(book_of(links), "path from t0 to t4").rows

    if networkx.has_path(graph, 0, 4):
        assert rows[-1].values[2] == networkx.shortest_path_length(graph, 0, 4, weight="weight")
        assert (rows[0].id, rows[-1].id) == ("t0", "t4")
        assert math.isclose(sum(row.values[1] for row in rows[1:]), rows[-1].values[2])
    else:
        assert rows == ()


@given(links_between)
def test_widest_path_has_the_widest_bottleneck(links):
    best = 0
    for width in range(1, 10):
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(5))
        graph.add_edges_from((start, end) for start, end, _, wide in links if wide >= width)
        best = width if networkx.has_path(graph, 0, 4) else best

    rows = ask(book_of(links), "path from t0 to t4 by bandwidth").rows

    assert (rows[-1].values[2] if rows else 0) == best * 1e6


def test_path_goes_by_the_router_unless_the_links_are_named():
    book = book_of([])
    for row in (0, 4):
        book[Kind.TERMINAL].note(row, "reach", {"reachable": True}, **TOLD)
        book[Kind.TERMINAL].note(row, "path", {"round_trip_s": 0.25}, **TOLD)

    assert [(row.id, row.values[2]) for row in ask(book, "path from t0 to t4").rows] == [
        ("t0", 0.0),
        ("router", 0.25),
        ("t4", 0.5),
    ]
    assert ask(book, "path from t0 to t4 where direct").rows == ()
    with pytest.raises(InputError, match="two terminals"):
        ask(book, "path from t0 to t0")
    with pytest.raises(InputError, match="did you mean t0"):
        ask(book, "path from t00 to t4")


def test_summary_counts_sums_and_takes_quantiles_by_category():
    book = book_of([])
    for row, (region, trust) in enumerate([("a", 0.5), ("a", 1.0), ("b", 0.25), ("a", None)]):
        book[Kind.TERMINAL].note(row, "identity", {"region": region}, **TOLD)
        book[Kind.TERMINAL].note(row, "trust", {"trust": trust}, **TOLD)

    answer = ask(book, "summarise terminal by region count, count(trust), sum(trust), mean(trust), quantile(1, trust)")

    assert [(row.id, row.values) for row in answer.rows] == [
        ("a", (3.0, 2.0, 1.5, 0.75, 1.0)),
        ("", (1.0, 0.0, None, None, None)),
        ("b", (1.0, 1.0, 0.25, 0.25, 0.25)),
    ]
    assert [column.name for column in answer.columns][-1] == "quantile(1, trust)"


def test_nearest_by_position_and_by_measured_round_trip():
    book = book_of([(0, 2, 1, 1), (0, 1, 8, 1), (0, 1, 2, 1)])
    for row in range(4):
        place = {"position_x_s": row / 8, "position_y_s": 0.0, "position_z_s": 0.0, "position_height_s": 0.0}
        book[Kind.TERMINAL].note(row, "place", place, **TOLD)

    by_place = ask(book, "terminal nearest to t0 top 3")
    by_link = ask(book, "terminal nearest to t0 by round_trip top 3")

    assert [(row.id, row.values[-1]) for row in by_place.rows] == [("t0", 0.0), ("t1", 0.125), ("t2", 0.25)]
    assert [(row.id, row.values[-1]) for row in by_link.rows] == [("t0", 0.0), ("t2", 0.125), ("t1", 0.25)]


def test_row_shows_values_ages_deviations_and_what_is_stale():
    book = book_of([])
    book[Kind.TERMINAL].note(0, "trust", {"trust": 0.5}, deviations={"trust": 0.125}, **TOLD)
    book.restarted(NOW + 1)
    book[Kind.TERMINAL].note(1, "trust", {"trust": 0.25}, source=1, generated_ns=NOW, received_ns=NOW + 2)

    first, second = ask(book, "terminal where trust > 0 show region").rows

    assert (first.values, first.ages_s, first.deviations) == ((None, None, 0.5), (None, None, 3.0), (None, None, 0.125))
    assert (first.stale, second.stale) == (True, False)


def test_explanation_of_one_that_matches_and_is_not_among_the_best():
    book = book_of([])
    for row in range(5):
        book[Kind.TERMINAL].note(row, "trust", {"trust": row / 8}, **TOLD)
    question = parse_question("terminal where trust >= 0.125 and not trust > 0.75 score raw trust top 2")

    said = explain(book, question, "t1", NOW)

    assert (said.inside, said.matches, said.rank, said.matched, said.limit) == (False, True, 4, 4, 2)
    assert (said.value, said.last_inside, said.ordered_by) == (0.125, 0.375, "score")
    assert [(clause.text, clause.holds, clause.value, clause.age_s) for clause in said.clauses] == [
        ("trust >= 0.125", True, 0.125, 3.0),
        ("not trust > 0.75", True, 0.125, 3.0),
    ]
    assert explain(book, question, "t4", NOW).inside
    assert explain(book, question, "t0", NOW).rank is None


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros(0, np.int32),
        np.array([7], np.int32),
        np.array([-1, 5, 5, -1, 3], np.int32),
        np.array([255, 0, 1, 255], np.uint8),
        np.array([-(2**31), 2**31 - 1, 0], np.int32),
        np.array([2.0, 1.0, 2.0]),
    ],
)
def test_distinct_codes_are_those_that_sorting_finds(codes):
    unique, group = distinct(codes)
    expected, places = np.unique(codes, return_inverse=True)

    assert unique.tolist() == expected.tolist()
    assert group.tolist() == places.tolist()
    assert unique.dtype == codes.dtype
