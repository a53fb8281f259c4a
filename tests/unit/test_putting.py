"""Questions read beside whatever changes the map: right, or made again, or refused with a reason."""

from __future__ import annotations

import threading

import pytest

from daitn.base.errors import InputError, UnavailableError
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.putting import AT_ONCE_ROWS, TRIES, QuestionPut, found_beside, takes_long

NOW = 1_000_000 * NS_PER_S


def book_of(things: int) -> FactBook:
    book = FactBook()
    for number in range(things):
        row = book[Kind.TERMINAL].add(f"t{number}", 1)
        book[Kind.TERMINAL].note(row, "trust", {"trust": 0.5}, source=1, generated_ns=NOW, received_ns=NOW)
    return book


def test_only_questions_on_large_tables_take_long():
    large = book_of(AT_ONCE_ROWS + 1)

    assert takes_long(large, parse_question("terminal"))
    assert not takes_long(large, parse_question("model"))
    assert not takes_long(book_of(10), parse_question("terminal"))


def test_reading_is_made_again_while_things_come():
    book, reads = book_of(3), []

    def read() -> int:
        reads.append(1)
        if len(reads) < 3:
            book[Kind.TERMINAL].add(f"new{len(reads)}", 1)
        return len(reads)

    assert found_beside(book, read) == 3


def test_reading_that_fails_because_rows_moved_is_made_again_and_one_that_fails_by_itself_is_not():
    book, reads = book_of(3), []

    def read() -> str:
        reads.append(1)
        if len(reads) == 1:
            book[Kind.TERMINAL].add("new", 1)
            raise ValueError("operands could not be broadcast together with shapes (3,) (4,)")
        return "read"

    def wrong() -> str:
        reads.append(1)
        raise InputError("no such thing")

    assert found_beside(book, read) == "read"
    before = len(reads)
    with pytest.raises(InputError):
        found_beside(book, wrong)
    assert len(reads) == before + 1


def test_map_that_never_holds_still_is_unavailable():
    book, reads = book_of(1), []

    def read() -> None:
        reads.append(1)
        book[Kind.TERMINAL].add(f"new{len(reads)}", 1)

    with pytest.raises(UnavailableError, match="ask again"):
        found_beside(book, read)
    assert len(reads) == TRIES


def test_answers_hold_together_while_another_thread_changes_values_and_things():
    book = book_of(400)
    table = book[Kind.TERMINAL]
    done = threading.Event()

    def change() -> None:
        for number in range(3000):
            row = number % 400
            table.note(row, "trust", {"trust": number % 100 / 100}, source=1, generated_ns=NOW, received_ns=NOW)
            if number % 50 == 0:
                table.remove([table.add(f"guest{number}", 1)])
        done.set()

    changing = threading.Thread(target=change)
    changing.start()
    answers = 0
    while not done.is_set() or not answers:
        try:
            put = QuestionPut(book=book, question=parse_question("terminal where trust >= 0 top 500"), now_ns=NOW)
            answer = put.solve().answer
        except UnavailableError:
            continue
        answers += 1
        ids = [row.id for row in answer.rows]
        assert len(set(ids)) == len(ids)
        assert {f"t{number}" for number in range(400)} <= set(ids)
    changing.join()
    assert answers
