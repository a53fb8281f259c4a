"""SQL on the map: what it sees, what it may not do, and how it says what is wrong."""

from __future__ import annotations

import pytest

from daitn.base.errors import InputError, UnavailableError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.sql_answer import ROWS_MOST
from daitn.node.map_sql import MapSql
from daitn.topology.fact_book import FactBook

NOW = 1_000_000 * NS_PER_S


@pytest.fixture
def book() -> FactBook:
    book = FactBook()
    terminals, data = book[Kind.TERMINAL], book[Kind.DATA]
    for number, region in enumerate(["north", "south", None, "gone"]):
        row = terminals.add(f"n{number}", number)
        told = {"source": number, "generated_ns": NOW - number * NS_PER_S, "received_ns": NOW}
        terminals.note(row, "identity", {"name": f"site-{number}", "region": region}, **told)
        terminals.note(row, "reach", {"reachable": number != 1}, **told)
        terminals.note(row, "trust", {"trust": number / 4 if number else None}, deviations={"trust": 0.125}, **told)
        terminals.note(row, "access", {"access_kind": "wifi"}, **told)
        at = data.add(f"site-{number}/records", number)
        data.note(at, "data_identity", {"terminal": row, "schema": "s"}, **told)
        data.note(at, "volume", {"records": 10.0**number}, **told)
    book.remove(Kind.TERMINAL, [3])
    return book


@pytest.fixture
def sql(book):
    asked = MapSql(book, seconds_most=5.0)
    yield asked
    asked.close()


def test_rows_are_the_things_there_are_with_unknown_as_null(sql):
    answer = sql.ask("select id, name, region, trust, reachable, access_kind from terminal order by id", NOW)

    assert answer.rows == (
        ("n0", "site-0", "north", None, True, "wifi"),
        ("n1", "site-1", "south", 0.25, False, "wifi"),
        ("n2", "site-2", None, 0.5, True, "wifi"),
    )
    assert [column.name for column in answer.columns][:2] == ["id", "name"]


def test_ages_and_deviations_are_columns(sql):
    answer = sql.ask("select trust_age_s, trust_deviation, reachable_frac_age_s from terminal where id = 'n2'", NOW)

    assert answer.rows == ((2.0, 0.125, 2.0),)


def test_references_join_by_id(sql):
    answer = sql.ask("select d.id, t.name from data d join terminal t on d.terminal = t.id where records > 1", NOW)

    assert sorted(answer.rows) == [("site-1/records", "site-1"), ("site-2/records", "site-2")]


def test_next_question_sees_what_changed(sql, book):
    assert sql.ask("select count(*) from terminal", NOW).rows == ((3.0,),)
    book[Kind.TERMINAL].add("n9", 9)
    book[Kind.TERMINAL].note(0, "identity", {"region": "a new word"}, source=0, generated_ns=NOW, received_ns=NOW)

    assert sql.ask("select count(*) from terminal", NOW).rows == ((4.0,),)
    assert sql.ask("select id from terminal where region = 'a new word'", NOW).rows == (("n0",),)


def test_star_shows_every_column_and_a_factor_does_not(sql):
    assert len(sql.ask("select * from terminal", NOW).columns) > 100
    assert sql.ask("select trust *2 from terminal where id = 'n1'", NOW).rows == ((0.5,),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select trsut from terminal", "terminal has no column 'trsut'; did you mean trust"),
        ("select t.trsut from terminal t", "did you mean trust"),
        ("select 1 from terminals", "no table 'terminals'; did you mean terminal"),
        ("select 1 from _terminal", "no table '_terminal'"),
        ("selec 1", "cannot be answered|no SELECT"),
        ("select 1; select 2", "2 statements"),
        ("", "0 statements"),
        ("set memory_limit = '90GB'", "no SELECT"),
        ("create table x (y int)", "no SELECT"),
        ("copy terminal to '/tmp/stolen'", "no SELECT"),
        ("attach '/tmp/x.db'", "no SELECT"),
        ("install httpfs", "no SELECT"),
        ("select * from read_text('/etc/passwd')", "disabled by configuration"),
        ("select * from '/etc/passwd'", "no table|cannot be answered"),
        ("select * from read_csv('https://example.org/x.csv')", "cannot be answered"),
        ("select * from arrow_scan(1, 2, 3)", "may not be used"),
        ('select * from "ARROW_SCAN"(1, 2, 3)', "may not be used"),
        ("select getenv('HOME')", "may not be used"),
        ("select " + "1, " * 10_000 + "1", "characters"),
    ],
)
def test_wrong_or_forbidden_question_says_what_is_wrong(sql, text, said):
    with pytest.raises(InputError, match=said):
        sql.ask(text, NOW)
    assert sql.ask("select count(*) from terminal", NOW).rows == ((3.0,),)


def test_question_that_takes_too_long_is_ended_and_the_next_is_answered(book):
    sql = MapSql(book, seconds_most=0.2)
    with pytest.raises(UnavailableError, match=r"longer than 0\.2 s"):
        sql.ask("select sum(a.range * b.range) from range(10000000) a, range(10000000) b", NOW)

    assert sql.ask("select 1", NOW).rows == ((1.0,),)
    sql.close()


def test_answer_is_cut_at_its_limit_and_says_so(sql):
    answer = sql.ask(f"select * from range({ROWS_MOST + 5})", NOW)

    assert (len(answer.rows), answer.more) == (ROWS_MOST, True)
