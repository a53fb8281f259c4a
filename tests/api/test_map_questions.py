"""Questions on the map through a real server, as an operator's program and the command line ask them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.owner_world import Door

from daitn.base.errors import InputError, PolicyError
from daitn.cli.main import run
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.questions import Find
from daitn.sdk.map_questions import MapQuestions, read_question
from daitn.sdk.network import connect


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as door:
        yield door


@pytest.fixture
def asking(door: Door) -> Iterator[MapQuestions]:
    with connect(door.token("op", "operate")) as network:
        yield network.map


def test_typed_text_and_sql_questions_find_the_same_nodes(asking):
    typed = asking.ask(Find(kind=Kind.TERMINAL, where=None))
    text = asking.ask("terminal where holds_data top 10 by name")
    sql = asking.sql("select name from terminal where holds_data order by name desc")

    assert typed.matched == 3
    assert [row.values[0] for row in text.rows] == ["h2", "h1"]
    assert sql.rows == (("h2",), ("h1",))
    assert asking.ask("data where terminal.name = h1").rows[0].id == "h1/lesions"


def test_wrong_questions_name_the_nearest_known(asking):
    with pytest.raises(InputError, match="did you mean region"):
        asking.ask("terminal where regoin = north")
    with pytest.raises(InputError, match="did you mean region"):
        asking.sql("select regoin from terminal")
    asking.save("best", "terminal")
    with pytest.raises(InputError, match="did you mean best"):
        next(asking.watch("bets"))
    with pytest.raises(InputError, match="no name of a question"):
        asking.save("Best Of", "terminal")


def test_who_only_trains_may_not_ask(door):
    with connect(door.token("alice")) as network, pytest.raises(PolicyError, match="operate"):
        network.map.ask("terminal")


def test_explanation_says_which_condition_does_not_hold(asking):
    said = asking.explain("terminal where holds_data and verifies", "v1")

    assert (said.inside, said.matches) == (False, False)
    assert [(clause.text, clause.holds) for clause in said.clauses] == [("holds_data", False), ("verifies", True)]


def test_watcher_is_told_who_left(door, asking):
    asking.save("data-nodes", "terminal where holds_data", every_s=0.25)
    watching = asking.watch("data-nodes")
    first = next(watching)

    told = []
    thread = threading.Thread(target=lambda: told.append(next(watching)))
    thread.start()
    node = first.answer.rows[0].id
    door.on_loop(lambda: door.service.center.knowledge.remove(node, "test"))
    thread.join(20)

    assert [row.id for row in first.answer.rows] == ["n-h1", "n-h2"]
    assert [change.left for change in told[0].changes] == [(node,)]
    asking.forget("data-nodes")
    assert asking.saved() == ()


def test_commands_ask_explain_save_and_watch(door, monkeypatch, capsysbinary):
    monkeypatch.setenv("DAITN_TOKEN", door.token("op", "operate"))

    def said(*arguments: str) -> tuple[int, str]:
        code = run(["map", *arguments])
        return code, capsysbinary.readouterr().out.decode()

    assert said("ask", "terminal where holds_data top 1", "--json")[0] == 0
    assert "2 found among 3" in said("ask", "terminal where holds_data")[1]
    assert "h1" in said("sql", "select name from terminal order by name limit 1")[1]
    code, text = said("explain", "v1", "--question", "terminal where holds_data")
    assert (code, "1 condition does not hold" in text) == (0, True)
    assert said("save", "all", "terminal", "--every", "1s")[0] == 0
    assert "terminal top 50" in said("saved")[1]
    code, text = said("sql", "select nam from terminal", "--json")
    assert (code, "did you mean name" in json.loads(text)["error"]["todo"]) == (2, True)
    assert said("forget", "all")[0] == 0
    assert said("forget", "all")[0] == 2
    assert "lesions" in said()[1]


def test_question_as_json_is_read_or_refused():
    assert read_question('{"ask": "find", "kind": "terminal"}') == Find(kind=Kind.TERMINAL)
    with pytest.raises(InputError, match="no JSON of one"):
        read_question('{"ask": "find", "kind": "terminals"}')
