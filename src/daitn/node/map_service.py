"""Questions on a control centre's map: asked once, in SQL, explained, or saved and watched.

Questions in the typed form are answered on the event loop, between two events of the core, where the map is small; on a
worker thread where it is large (`topology.questions.putting`). SQL reads the columns as they were when it was asked, on
a worker thread. The core of saved questions runs here, with a stream of its own in the centre's journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from daitn.base.effects import Append, Compute, Computed, Effect, Event, Record, SetTimer, Started, TimerFired, replay
from daitn.base.errors import BugError, InputError
from daitn.base.units import ns_to_seconds
from daitn.descriptors.question_check import check_question
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.questions import Answer, Explanation, Find, Question
from daitn.descriptors.saved_questions import SavedAnswer
from daitn.descriptors.sql_answer import SqlAnswer
from daitn.node.clock import NodeClock
from daitn.node.computing import Computing
from daitn.node.journal import Journal
from daitn.node.map_sql import MapSql
from daitn.node.neighbours import Neighbours
from daitn.node.view_following import ViewFollowing
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.explaining import explain
from daitn.topology.questions.putting import QuestionPut, found_beside, takes_long
from daitn.topology.questions.saved import (
    ForgetAsked,
    QuestionForgotten,
    QuestionSaved,
    SaveAsked,
    SavedQuestions,
    TellChange,
)
from daitn.topology.view_updates import ViewUpdates

STREAM: Final = "questions"
QUESTION_RECORDS: Final = (QuestionSaved, QuestionForgotten)

WAIT_MOST_S: Final = 20.0
"""Longest wait of one watcher's call: below what proxies allow."""


class MapService:
    """See the module's docstring. `failed` is told of an error that must stop the node; `updates`: how views that
    others hold are kept up to date."""

    def __init__(
        self,
        book: FactBook,
        journal: Journal,
        clock: NodeClock,
        failed: Callable[[BaseException], None],
        neighbours: Neighbours | None = None,
        updates: ViewUpdates | None = None,
    ) -> None:
        self._book = book
        self._neighbours = neighbours
        self._journal = journal
        self._clock = clock
        self._failed = failed
        self.views = ViewFollowing(book, clock, updates)
        """Query views that others hold."""
        self._sql = MapSql(book)
        self._saved = SavedQuestions(book)
        self._changed: dict[str, asyncio.Event] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._computing = Computing(self._solved, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up the questions that are saved in the journal."""
        records: list[Record] = [entry.record for entry in self._journal.entries(STREAM)]
        replay(self._saved, records)
        self._post(Started())

    def stop(self) -> None:
        """Forget timers, let the database go."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._computing.stop()
        self._sql.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _solved(self, event: Computed) -> None:
        self._post(event)
        if event.solution is None:
            self._wake(event.key)  # whoever waits sees the fault

    def _post(self, event: Event) -> None:
        try:
            for effect in self._saved.handle(event, self._clock.now_ns()):
                self._perform(effect)
        except Exception as error:
            self._failed(error)
            raise

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Append(records=records):
                self._journal.append(STREAM, records, time_ns=self._clock.now_ns())
            case SetTimer(name=name, at_ns=at_ns):
                delay_s = max(0.0, ns_to_seconds(at_ns - self._clock.now_ns()))
                self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self._fire, name)
            case Compute():
                self._computing.begin(effect)
            case TellChange(name=name):
                self._wake(name)
            case _:
                raise BugError(f"the map's service has no way to perform {type(effect).__name__}")

    def _wake(self, name: str) -> None:
        if (waiting := self._changed.pop(name, None)) is not None:
            waiting.set()

    def _fire(self, name: str) -> None:
        self._timers.pop(name, None)
        self._post(TimerFired(name=name))

    # --- asking -----------------------------------------------------------------------------------------------------

    async def ask(self, question: Question | str, of: str = "") -> Answer:
        """The answer now; text is parsed. `of`: a neighbour, whose map is asked instead. InputError naming what is
        wrong and the nearest known."""
        asked = _checked(question)
        if of:
            if self._neighbours is None:
                raise InputError(f"this domain has no neighbour {of[:80]!r}", todo="it has none at all")
            return await self._neighbours.ask(of, asked)
        put = QuestionPut(book=self._book, question=asked, now_ns=self._clock.now_ns())
        if not takes_long(self._book, asked):
            return put.solve().answer
        return (await asyncio.to_thread(put.solve)).answer

    async def explain(self, question: Question | str, thing: str) -> Explanation:
        """Why a thing is or is not in an answer."""
        asked = _checked(question)
        if not isinstance(asked, Find):
            raise InputError("only answers that list things can be explained", todo="ask as `terminal where …`")
        now_ns = self._clock.now_ns()
        if not takes_long(self._book, asked):
            return explain(self._book, asked, thing, now_ns)
        return await asyncio.to_thread(found_beside, self._book, lambda: explain(self._book, asked, thing, now_ns))

    async def sql(self, sql: str) -> SqlAnswer:
        """The answer to a SELECT. Columns are taken here, between two events; the question runs beside the core."""
        laid_out = self._sql.prepare(sql, self._clock.now_ns())
        return await asyncio.to_thread(self._sql.run, laid_out)

    # --- saved ------------------------------------------------------------------------------------------------------

    async def save(self, name: str, owner: str, question: Question | str, every_s: float) -> SavedAnswer:
        """Save a question, in place of an earlier one of that name; durable when it returns, with its first answer."""
        asked = SaveAsked(name=name, owner=owner, question=_read(question), every_s=every_s)
        self._saved.check(asked)
        self._post(asked)
        told = self._saved.since(name, 0)
        return await self.watch(name, 0, WAIT_MOST_S) if told.answer is None and not told.fault else told

    def forget(self, name: str) -> None:
        """Forget a saved question. InputError where there is none."""
        self._saved.since(name, 0)
        self._post(ForgetAsked(name=name))
        self._wake(name)

    def saved(self) -> tuple[SavedAnswer, ...]:
        """All saved questions."""
        return self._saved.saved()

    async def watch(self, name: str, after_ns: int, wait_s: float) -> SavedAnswer:
        """A saved question once its answer is another than at `after_ns`, or as it is when the wait is over."""
        told = self._saved.since(name, after_ns)
        if told.at_ns > after_ns or not wait_s > 0:  # NaN is no time to wait
            return told
        waiting = self._changed.setdefault(name, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting.wait(), min(wait_s, WAIT_MOST_S))
        return self._saved.since(name, after_ns)


def _read(question: Question | str) -> Question:
    return parse_question(question) if isinstance(question, str) else question


def _checked(question: Question | str) -> Question:
    asked = _read(question)
    check_question(asked)
    return asked
