"""Saved questions: evaluated when what they read changed, and what is told of a changed answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.base.effects import Append, Compute, SetTimer, Started, TimerFired, computed
from daitn.base.errors import InputError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.questions import Answer, AnswerRow, Compare, Find, Measure
from daitn.descriptors.saved_questions import Moved
from daitn.topology.fact_book import FactBook
from daitn.topology.questions import putting
from daitn.topology.questions.dependence import groups_read, reads_time
from daitn.topology.questions.saved import (
    CHANGES_KEPT,
    TIMER,
    ForgetAsked,
    SaveAsked,
    SavedQuestions,
    TellChange,
    compare,
)

START = 1_000_000 * NS_PER_S


class World:
    """A book, the core on it, and a clock."""

    def __init__(self) -> None:
        self.book = FactBook()
        self.core = SavedQuestions(self.book)
        self.now = START
        for number in range(4):
            self.book[Kind.TERMINAL].add(f"t{number}", 1)

    def note(self, row, group, **values):
        told = {"source": 1, "generated_ns": self.now, "received_ns": self.now}
        self.book[Kind.TERMINAL].note(row, group, values, **told)

    def save(self, text, name="best", every_s=1.0):
        asked = SaveAsked(name=name, owner="ann", question=parse_question(text), every_s=every_s)
        self.core.check(asked)
        return self.core.handle(asked, self.now)

    def later(self, seconds=1.0):
        self.now += int(seconds * NS_PER_S)
        return [e.change for e in self.core.handle(TimerFired(name=TIMER), self.now) if isinstance(e, TellChange)]


def test_question_that_takes_long_is_solved_beside_the_core_and_told_of_when_it_is(world, monkeypatch):
    monkeypatch.setattr(putting, "AT_ONCE_ROWS", 3)
    kept, problem, timer = world.save(BEST)
    assert (type(kept), type(problem), type(timer)) == (Append, Compute, SetTimer)
    assert world.core.since("best", 0).answer is None

    (told,) = world.core.handle(computed(problem), world.now)

    assert [row.id for row in told.change.entered] == ["t3", "t2"]
    assert [row.id for row in world.core.since("best", 0).answer.rows] == ["t3", "t2"]


@pytest.mark.parametrize("then", ["forgotten", "saved anew"])
def test_answer_to_a_question_that_is_not_saved_any_more_is_dropped(world, monkeypatch, then):
    monkeypatch.setattr(putting, "AT_ONCE_ROWS", 3)
    _, problem, _ = world.save(BEST)
    world.now += 1
    if then == "forgotten":
        world.core.handle(ForgetAsked(name="best"), world.now)
    else:
        world.save("terminal where not reachable")

    assert world.core.handle(computed(problem), world.now) == []


def test_question_that_finds_nothing_to_read_is_told_with_its_fault(world, monkeypatch):
    monkeypatch.setattr(putting, "AT_ONCE_ROWS", 3)
    _, problem, _ = world.save("terminal nearest to t9")

    assert world.core.handle(computed(problem), world.now) == []

    assert "no terminal 't9'" in world.core.since("best", 0).fault


BEST = "terminal where reachable score trust top 2"


@pytest.fixture
def world() -> World:
    world = World()
    for row in range(4):
        world.note(row, "reach", reachable=True)
        world.note(row, "trust", trust=row / 10)
    return world


def test_saved_question_is_kept_evaluated_and_looked_at_again(world):
    kept, changed, timer = world.save(BEST)

    assert isinstance(kept, Append)
    assert isinstance(timer, SetTimer)
    assert [row.id for row in changed.change.entered] == ["t3", "t2"]


def test_nothing_is_evaluated_while_nothing_that_is_read_changed(world):
    world.save(BEST)
    world.note(0, "load", load_frac=0.5)

    assert world.later() == []
    assert world.core.evaluations == 1


def test_change_tells_who_entered_and_left_and_moved(world):
    world.save(BEST)
    world.note(1, "trust", trust=0.9)

    (change,) = world.later()

    assert [row.id for row in change.entered] == ["t1"]
    assert change.left == ("t2",)
    assert change.moved == ()
    world.note(3, "trust", trust=1.0)
    (change,) = world.later()
    assert (change.entered, change.left) == ((), ())
    assert len(change.moved) == 1


def test_change_of_values_that_changes_no_row_is_not_told(world):
    world.save(BEST)
    world.note(3, "trust", trust=0.95)

    assert world.later() == []
    assert world.core.evaluations == 2


def test_question_is_evaluated_at_most_as_often_as_asked(world):
    world.save(BEST, every_s=10.0)
    world.note(1, "trust", trust=0.9)

    assert world.later(5.0) == []
    assert len(world.later(5.0)) == 1


def test_summary_tells_figures_that_changed(world):
    world.save("summarise terminal by reachable count")
    world.note(1, "reach", reachable=False)

    (change,) = world.later()

    assert [row.id for row in change.entered] == ["no"]
    assert [(row.id, row.values) for row in change.changed] == [("yes", (3.0,))]


def test_question_about_ages_is_evaluated_as_time_passes(world):
    world.save("terminal where age_of(trust) <= 3s")

    assert world.later(2.0) == []
    (change,) = world.later(2.0)
    assert change.left == ("t0", "t1", "t2", "t3")


def test_restart_keeps_questions_and_begins_with_whole_answers(world):
    (kept, *_) = world.save(BEST)
    (record,) = msgspec.msgpack.decode(msgspec.msgpack.encode(kept.records), type=tuple[type(kept.records[0]), ...])
    again = SavedQuestions(world.book)
    again.apply(record)

    (timer,) = again.handle(Started(), world.now)
    again.handle(TimerFired(name=timer.name), world.now + NS_PER_S)

    told = again.since("best", world.now)
    assert [row.id for row in told.answer.rows] == ["t3", "t2"]
    assert told.changes == ()
    assert told.at_ns > world.now


def test_watcher_gets_changes_since_it_looked_or_the_whole_answer(world):
    world.save(BEST)
    first = world.core.since("best", 0)
    world.note(1, "trust", trust=0.9)
    world.later()

    assert first.changes == ()
    assert [change.left for change in world.core.since("best", first.at_ns).changes] == [("t2",)]
    for number in range(CHANGES_KEPT + 1):
        world.note(1, "trust", trust=0.0 if number % 2 else 0.9)
        world.note(2, "trust", trust=0.9 if number % 2 else 0.0)
        world.later()
    assert world.core.since("best", first.at_ns).changes == ()


def test_question_about_a_terminal_that_left_says_so_and_comes_back(world):
    for row in range(4):
        world.note(row, "place", position_x_s=row / 10, position_y_s=0.0, position_z_s=0.0, position_height_s=0.0)
    world.save("terminal nearest to t0 top 2")
    world.book.remove(Kind.TERMINAL, [0])
    assert world.later() == []
    assert "no terminal 't0'" in world.core.since("best", 0).fault

    world.book[Kind.TERMINAL].add("t0", 1)
    world.note(0, "place", position_x_s=0.0, position_y_s=0.0, position_z_s=0.0, position_height_s=0.0)
    world.later()
    assert world.core.since("best", 0).fault == ""


def test_question_of_a_version_with_other_facts_is_kept_with_its_fault(world):
    (kept, *_) = world.save(BEST)
    gone = Compare(measure=Measure(fact="fact_of_another_version"), by=">", value=1.0)
    record = msgspec.structs.replace(kept.records[0], question=Find(kind=Kind.TERMINAL, where=gone))
    again = SavedQuestions(world.book)

    again.apply(record)
    again.handle(Started(), world.now)
    again.handle(TimerFired(name=TIMER), world.now + NS_PER_S)

    assert "no fact 'fact_of_another_version'" in again.since("best", 0).fault
    assert again.evaluations == 0


def test_forgotten_question_is_gone_and_its_name_near_others(world):
    world.save(BEST)
    with pytest.raises(InputError, match="did you mean best"):
        world.core.since("bets", 0)
    world.core.handle(ForgetAsked(name="best"), world.now)
    assert world.core.saved() == ()


def test_groups_read_follow_references_and_relations():
    question = parse_question(
        "data where terminal.trust > 0.5 and some data_field (field = a) and within 5ms of (accelerators > 0) "
        "score records"
    )

    read = groups_read(question)

    assert {(kind.value, group) for kind, group in read} == {
        ("data", ""),
        ("data", "data_identity"),
        ("data", "volume"),
        ("data_field", ""),
        ("data_field", "data_field"),
        ("terminal", ""),
        ("terminal", "capacity"),
        ("terminal", "place"),
        ("terminal", "trust"),
    }
    assert not reads_time(question)
    assert reads_time(parse_question("terminal where surely trust > 0.5"))


@given(st.lists(st.integers(0, 8), unique=True), st.lists(st.integers(0, 8), unique=True))
def test_change_applied_to_the_answer_before_gives_the_answer_now(before, now):
    def answer(ids):
        rows = tuple(AnswerRow(id=str(one), values=()) for one in ids)
        return Answer(version=1, made_at_unix_s=0.0, columns=(), rows=rows, matched=len(rows), considered=9)

    change = compare(answer(before), answer(now), 1, figures=False)

    if change is None:
        assert before == now
        return
    moved = {one.id for one in change.moved}
    kept = [str(one) for one in before if str(one) not in change.left and str(one) not in moved]
    placed = {row.id for row in change.entered} | moved
    rebuilt = [str(one) if str(one) in placed else kept.pop(0) for one in now]
    assert rebuilt == [str(one) for one in now]
    assert all(Moved(id=one.id, before=before.index(int(one.id)) + 1, now=one.now) == one for one in change.moved)
