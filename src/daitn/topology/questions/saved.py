"""Saved questions (DRRT-O): asked again when something they read has changed, and told of when the answer did.

A core without I/O. Of each question it is known which groups of facts it reads; it is evaluated again only when one of
them changed (or time passed, for questions about ages and certainty), at most once in its `every_s`, and one question
a wake-up, so that many of them never hold up the rest for longer than one; one that takes long is a problem that is
solved beside the core. Questions are durable, answers are not:
after a restart the first evaluation is the answer that changes are told from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from daitn.base.effects import Append, Compute, Computed, Effect, Event, Record, SetTimer, Started, TimerFired
from daitn.base.errors import BugError, DaitnError, InputError
from daitn.base.nearest import nearest_known
from daitn.base.units import seconds_to_ns
from daitn.descriptors.question_check import check_question
from daitn.descriptors.questions import Answer, Find, Question
from daitn.descriptors.saved_questions import LOOK_S, AnswerChange, EverySeconds, Moved, QuestionName, SavedAnswer
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.dependence import Read, groups_read, reads_time, stamp
from daitn.topology.questions.putting import MapAnswered, QuestionPut, takes_long

SAVED_MOST: Final = 256
"""Questions saved at a time: each costs a look at its stamps in every wake-up, a few microseconds."""

CHANGES_KEPT: Final = 64
"""Changes of one answer kept for those who watch; who missed more gets the whole answer."""

TIMER: Final = "saved questions"


class QuestionSaved(Record, frozen=True, kw_only=True, tag="question_saved"):
    """Somebody wants to know when an answer changes. Replaces an earlier question of that name."""

    name: QuestionName
    owner: str
    question: Question
    every_s: EverySeconds
    at_ns: int


class QuestionForgotten(Record, frozen=True, kw_only=True, tag="question_forgotten"):
    """Nobody wants to know any more."""

    name: str
    at_ns: int


class SaveAsked(Event, frozen=True, kw_only=True):
    """A question that `SavedQuestions.check` has found right shall be saved."""

    name: str
    owner: str
    question: Question
    every_s: float


class ForgetAsked(Event, frozen=True, kw_only=True):
    """A question shall be forgotten."""

    name: str


class TellChange(Effect, frozen=True, kw_only=True):
    """Tell those who watch this question."""

    name: str
    change: AnswerChange


class _Kept:
    """One saved question at work."""

    def __init__(self, record: QuestionSaved) -> None:
        self.record = record
        self.fault = ""
        self.reads: frozenset[Read] = frozenset()
        self.timed = reads_time(record.question)
        try:
            # Again, since the registry may be another one than when it was saved.
            check_question(record.question)
            self.reads = groups_read(record.question)
        except InputError as error:
            self.fault = str(error)
        self.broken = bool(self.fault)
        """It speaks of what this version does not know: kept, shown with the fault, and not evaluated."""
        self.stamp: tuple[int, ...] | None = None
        self.looked_ns = 0
        self.at_ns = 0
        self.since_ns = 0
        """When the first of this process's answers was made."""
        self.answer: Answer | None = None
        self.changes: deque[AnswerChange] = deque(maxlen=CHANGES_KEPT)


class SavedQuestions:
    """See the module's docstring."""

    def __init__(self, book: FactBook) -> None:
        self._book = book
        self._kept: dict[str, _Kept] = {}
        self._waking = False
        self.evaluations = 0
        """How often a question was evaluated."""

    # --- core -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case SaveAsked(name=name, owner=owner, question=question, every_s=every_s):
                saved = QuestionSaved(name=name, owner=owner, question=question, every_s=every_s, at_ns=now_ns)
                self.apply(saved)
                return [Append(records=(saved,)), *self._look(now_ns)]
            case ForgetAsked(name=name) if name in self._kept:
                forgotten = QuestionForgotten(name=name, at_ns=now_ns)
                self.apply(forgotten)
                return [Append(records=(forgotten,))]
            case Started():
                return self._wake(now_ns)
            case Computed(key=name):
                kept = self._kept.get(name)
                if kept is None or kept.record.at_ns != event.basis:
                    return []  # forgotten, or saved anew, since it was asked
                answer = event.solution.answer if isinstance(event.solution, MapAnswered) else None
                return self._answered(kept, answer, event.fault, now_ns)
            case TimerFired(name=name) if name == TIMER:
                self._waking = False
                return self._look(now_ns)
            case _:
                return []

    def apply(self, record: Record) -> None:
        """One fact."""
        match record:
            case QuestionSaved(name=name):
                self._kept[name] = _Kept(record)
            case QuestionForgotten(name=name):
                self._kept.pop(name, None)
            case _:
                raise BugError(f"saved questions have no rule for {type(record).__name__}")

    def check_invariants(self) -> None:
        """BugError where more is kept than may be."""
        if len(self._kept) > SAVED_MOST:
            raise BugError(f"{len(self._kept)} questions are saved, the limit is {SAVED_MOST}")

    # --- asking -----------------------------------------------------------------------------------------------------

    def check(self, asked: SaveAsked) -> None:
        """InputError unless this question may be saved."""
        if asked.name not in self._kept and len(self._kept) >= SAVED_MOST:
            raise InputError(f"{SAVED_MOST} questions are saved already", todo="forget one: `daitn map forget NAME`")
        check_question(asked.question)

    def saved(self) -> tuple[SavedAnswer, ...]:
        """All saved questions, without their answers."""
        return tuple(_told(kept, None, ()) for kept in self._kept.values())

    def since(self, name: str, after_ns: int) -> SavedAnswer:
        """A question with its changes after a moment (of an earlier `SavedAnswer.at_ns`), or its whole answer where not
        all of them are known. InputError naming the nearest known ones."""
        kept = self._kept.get(name)
        if kept is None:
            todo = nearest_known(name, self._kept) if self._kept else "none is saved: `daitn map save NAME '…'`"
            raise InputError(f"no question is saved as {name[:80]!r}", todo=todo)
        oldest = kept.changes[0].at_ns if len(kept.changes) == CHANGES_KEPT else kept.since_ns
        whole = after_ns < kept.since_ns or (len(kept.changes) == CHANGES_KEPT and after_ns < oldest)
        changes = () if whole else tuple(change for change in kept.changes if change.at_ns > after_ns)
        return _told(kept, kept.answer, changes)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _look(self, now_ns: int) -> list[Effect]:
        """Evaluate the question that has waited longest of those that may have another answer."""
        effects: list[Effect] = []
        for kept in sorted(self._kept.values(), key=lambda one: one.looked_ns):
            if kept.broken or now_ns - kept.looked_ns < seconds_to_ns(kept.record.every_s):
                continue
            current = stamp(self._book, kept.reads)
            if current != kept.stamp or kept.timed:
                effects += self._evaluate(kept, current, now_ns)
                break
        return effects + self._wake(now_ns)

    def _evaluate(self, kept: _Kept, current: tuple[int, ...], now_ns: int) -> list[Effect]:
        self.evaluations += 1
        kept.looked_ns, kept.stamp = now_ns, current
        record = kept.record
        put = QuestionPut(book=self._book, question=record.question, now_ns=now_ns)
        if takes_long(self._book, record.question):
            return [Compute(key=record.name, basis=record.at_ns, problem=put)]
        try:
            return self._answered(kept, put.solve().answer, "", now_ns)
        except DaitnError as error:
            return self._answered(kept, None, str(error), now_ns)

    def _answered(self, kept: _Kept, answer: Answer | None, fault: str, now_ns: int) -> list[Effect]:
        kept.fault = fault
        if answer is None:
            return []  # a terminal that the question names has left, for instance: it may come back
        before, kept.answer = kept.answer, answer
        if before is None:
            kept.since_ns = kept.at_ns = now_ns
            return [TellChange(name=kept.record.name, change=_first(answer, now_ns))]
        change = compare(before, answer, now_ns, figures=not isinstance(kept.record.question, Find))
        if change is None:
            return []
        kept.at_ns = now_ns
        kept.changes.append(change)
        return [TellChange(name=kept.record.name, change=change)]

    def _wake(self, now_ns: int) -> list[Effect]:
        if self._waking or not self._kept:
            return []
        self._waking = True
        return [SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(LOOK_S))]


def compare(before: Answer, now: Answer, at_ns: int, *, figures: bool) -> AnswerChange | None:
    """What changed from one answer to the next; None: nothing. `figures`: whether other values are a change."""
    places = {row.id: place for place, row in enumerate(before.rows, 1)}
    rows = {row.id: row for row in now.rows}
    stayed = [row.id for row in before.rows if row.id in rows]
    order = {name: place for place, name in enumerate(stayed)}
    kept_order = [name for name in rows if name in order]
    shuffled = set(kept_order) - _unmoved([order[name] for name in kept_order], kept_order)
    moved = tuple(
        Moved(id=name, before=places[name], now=place) for place, name in enumerate(rows, 1) if name in shuffled
    )
    old = {row.id: row for row in before.rows}
    changed = tuple(row for row in now.rows if figures and row.id in old and row.values != old[row.id].values)
    change = AnswerChange(
        at_ns=at_ns,
        version=now.version,
        entered=tuple(row for row in now.rows if row.id not in places),
        left=tuple(row.id for row in before.rows if row.id not in rows),
        moved=moved,
        changed=changed,
    )
    return change if change.entered or change.left or change.moved or change.changed else None


def _unmoved(order: list[int], names: list[str]) -> set[str]:
    """The most rows that can be said to have kept their order: a longest increasing subsequence, O(n log n)."""
    from bisect import bisect_left

    ends: list[int] = []
    last: list[int] = []
    previous: list[int] = []
    for place, value in enumerate(order):
        at = bisect_left(ends, value)
        if at == len(ends):
            ends.append(value)
            last.append(place)
        else:
            ends[at], last[at] = value, place
        previous.append(last[at - 1] if at else -1)
    kept: set[str] = set()
    place = last[-1] if last else -1
    while place >= 0:
        kept.add(names[place])
        place = previous[place]
    return kept


def _first(answer: Answer, now_ns: int) -> AnswerChange:
    return AnswerChange(at_ns=now_ns, version=answer.version, entered=answer.rows)


def _told(kept: _Kept, answer: Answer | None, changes: Iterable[AnswerChange]) -> SavedAnswer:
    record = kept.record
    return SavedAnswer(
        name=record.name,
        owner=record.owner,
        question=record.question,
        every_s=record.every_s,
        at_ns=kept.at_ns,
        answer=answer,
        changes=tuple(changes),
        fault=kept.fault,
    )
