"""Questions answered beside whatever changes the map: on another thread, from the columns themselves.

A copy of the columns that a question reads takes as long as answering it, so none is made. Single values are written
whole, and an answer that has one fact of a moment before another says nothing that a report a millisecond later would
not. What has to hold still is which row means which thing: where things came or left meanwhile, the answer is thrown
away and made again. numpy lets go of the interpreter in most of what takes long, so events go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from daitn.base.effects import Problem, Solution
from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.questions import Answer, Question
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.answering import answer_question
from daitn.topology.questions.dependence import groups_read

AT_ONCE_ROWS: Final = 20_000
"""Rows of the largest table that a question reads up to which it is answered at once: a millisecond."""

TRIES: Final = 5
"""Times an answer is made at most. One takes some ten milliseconds at a million things; they come less often."""

Found = TypeVar("Found")


class MapAnswered(Solution, frozen=True, kw_only=True):
    """What the map says."""

    answer: Answer


class QuestionPut(Problem, frozen=True, kw_only=True):
    """What does the map say to this question? Reads the map as it is while it is solved."""

    book: FactBook
    question: Question
    now_ns: int

    def solve(self) -> MapAnswered:
        """InputError for a question that is wrong, UnavailableError where the map does not hold still."""
        return MapAnswered(
            answer=found_beside(self.book, lambda: answer_question(self.book, self.question, self.now_ns))
        )


def takes_long(book: FactBook, question: Question) -> bool:
    """Whether a question, which has been checked, is better answered beside the core."""
    return any(book[kind].high > AT_ONCE_ROWS for kind, _ in groups_read(question))


def found_beside(book: FactBook, read: Callable[[], Found]) -> Found:
    """What `read` finds on the map while another thread may change it; UnavailableError where things come or leave
    each time it is tried."""
    for _ in range(TRIES):
        before = _mark(book)
        try:
            found = read()
        except (InputError, ValueError, IndexError, KeyError, RuntimeError):
            # Columns of two lengths, a row that is free by now: no fault where things came or left meanwhile.
            if _mark(book) == before:
                raise
            continue
        if _mark(book) == before:
            return found
    raise UnavailableError(
        f"things came or left {TRIES} times while the map was being read", todo="ask again in a moment"
    )


def _mark(book: FactBook) -> tuple[int, ...]:
    return tuple(table.roster_version for table in book.tables.values())
