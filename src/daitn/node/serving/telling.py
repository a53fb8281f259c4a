"""Telling a text: from its turn at a gateway to the end of its answer, over as many hosts as it takes.

See `text_asking`, which begins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice, QueryRouteEngine, TextAnswered
from daitn.descriptors.serving import EngineKind, QueryGoal, ServedModel
from daitn.descriptors.texts import TextAsk, TextTask
from daitn.node.serving.answer_links import Answer, AnswerLinks, Taker
from daitn.node.serving.asked_query import LATE_LEAST_S, TIME_OVER_S, TRIES, Asked, Step
from daitn.node.serving.asking import WAIT_S
from daitn.node.serving.told_text import Piece, ToldText
from daitn.node.serving.turns import Turns
from daitn.wire.answers import BatchAnswered, OfText, SealedPiece, TextEnded, TextPiece, TextRefused
from daitn.wire.queries import QueryAnswer
from daitn.wire.secret_queries import SecretTextQuery

DEADLINE_S: Final = 300.0
"""Time of a query that names none: a long answer of a slow model."""

STALL_S: Final = 10.0
"""A host that says nothing for so long in the middle of an answer is not waited for."""

FIRST_LEAST_S: Final = 5.0
FIRST_FACTOR: Final = 10.0
"""Nor one whose first piece takes ten times what was predicted, and this at least: prompts differ in length."""

NO_ANSWER: Final = (UnavailableError, PeerError, PolicyError, TimeoutError)


class Patience(NamedTuple):
    """How long a host is waited for."""

    stall_s: float = STALL_S
    first_least_s: float = FIRST_LEAST_S


class Means(NamedTuple):
    """What a text needs of its gateway."""

    engine: QueryRouteEngine
    links: AnswerLinks
    counters: Counters
    patience: Patience
    clock_ns: Callable[[], int]
    turns: Turns


class _Copy(NamedTuple):
    """A text at one host."""

    choice: Choice
    answer: Answer
    sent_ns: int
    given: int
    """Tokens that it was given by name."""


class Telling:
    """An answer under way. Ended by its end, by a refusal, or by `stop`."""

    def __init__(
        self,
        means: Means,
        query: str,
        model: str,
        asked: TextAsk | SecretTextQuery,
        goal: QueryGoal,
        session: str = "",
    ) -> None:
        self._means, self.query, self.model, self._asked, self._goal = means, query, model, asked, goal
        self._session = session
        self._began_ns = means.clock_ns()
        self._allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
        self._told = ToldText(asked)
        self._copy: _Copy | None = None
        """Who answers; asked beside it may be one more until either has said something."""
        self._choice: Choice | None = None
        """The last one who was asked, or who answers."""
        self._open: list[Choice] = []
        self._first_ns = 0
        self._first: OfText | None = None
        self._tried: list[NodeId] = []
        self._said: Refused | None = None
        self._has_turn = False
        self.steps: list[Step] = []
        self.refused: Refused | None = None
        """Why there is no answer, or no more of it."""
        self.ended: TextEnded | None = None
        self.batch: BatchAnswered | None = None

    @property
    def host(self) -> str:
        """Who answers, the last one where several did."""
        return "" if self._choice is None else str(self._choice.route.host.node)

    @property
    def price(self) -> float | None:
        """What the host states for it, with an answer of the longest that was asked for; None: nothing."""
        return None if self._choice is None else self._choice.price

    @property
    def tokens(self) -> int:
        """Of prompt and answer as the engine counted them; of an answer that broke off, those that were told."""
        if self.ended is not None:
            return self.ended.prompt_tokens + self.ended.tokens
        return self._told.tokens if self.batch is None else self.batch.prompt_tokens

    @property
    def simulated(self) -> bool:
        """Whether what answers computes nothing."""
        return self._choice is not None and self._choice.route.measured.engine is EngineKind.SIMULATED

    @property
    def asked(self) -> Asked:
        """The way, as that of any other query; without the answer."""
        answered = self.ended is not None or self.batch is not None
        missing = self.refused or Refused(QueryRefusal.LOST, "whoever asked has gone", 0.0)
        outcome = QueryAnswer(outputs=()) if answered else missing
        steps = [*self.steps, *(Step(choice, "answering") for choice in self._open)]
        return Asked(self.query, outcome, tuple(steps), self.took_s)

    @property
    def took_s(self) -> float:
        """Since it was asked."""
        return (self._means.clock_ns() - self._began_ns) / 1e9

    async def begin(self, key: str) -> None:
        """Until the first piece, or the end; after its turn among what `key` and others ask."""
        turns, name = self._means.turns, ModelName(self.model)
        if name in self._means.engine.models:
            refused = None
            if not turns.now(name):
                self._means.counters.count("queries_waited")
                refused = await turns.wait(name, key, self._left_s())
            self._has_turn = refused is None
            if refused is not None:
                self._refuse(refused)
                return
        self._first = await self._frame()

    async def next(self, tell: Callable[[str], bool] | None = None) -> str | None:
        """The next piece of text, never empty; None after the end: see `ended`, `batch` and `refused`.

        `tell` is given those that come while it is waited here, each where it is read, and says whether it took it:
        what it took is not returned."""
        while isinstance(frame := await self._piece(tell), TextPiece):
            if frame.text:
                return frame.text
        return None

    async def next_sealed(self, tell: Callable[[bytes], bool] | None = None) -> bytes | None:
        """The next piece of a secret query; None after the end, `tell` as `next`."""
        frame = await self._piece(tell)
        return frame.data if isinstance(frame, SealedPiece) else None

    async def _piece(self, tell: Callable[[Any], bool] | None) -> Piece | None:
        """What is to be told next; None after the end, which is noted."""
        frame, self._first = self._first or await self._frame(tell), None
        match frame:
            case TextEnded():
                self.ended = frame
            case BatchAnswered():
                self.batch = frame
            case TextPiece() | SealedPiece():
                return frame
            case _:
                pass
        return None

    def stop(self) -> None:
        """Whoever asked has gone, or has all: the host stops its work. May be called again."""
        if self._open:
            self._broke_off()
        if self._copy is not None:
            self._copy.answer.stop()
            self._copy = None
        for choice in [*self._open]:
            self._means.engine.withdrawn(choice)
            self._close(choice, "withdrawn")
        self._leave()

    # --- the way ----------------------------------------------------------------------------------------------------

    async def _frame(self, tell: Callable[[Any], bool] | None = None) -> OfText | None:
        """What comes next, from whichever host; None where there is nothing more to come."""
        if self.ended is not None or self.batch is not None or self.refused is not None:
            return None
        taker = None if tell is None else self._taker(tell)
        while True:
            if self._copy is None and not await self._choose():
                self._refuse(self._said or Refused(QueryRefusal.LOST, "no host answered", 1.0))
                return None
            copy = self._copy
            assert copy is not None
            try:
                if self._told.at or self._first_ns:
                    frame = await copy.answer.next(self._patience_s(copy), max(0.001, self._left_s()), taker)
                else:
                    copy, frame = await self._first_of(copy)
                if isinstance(frame, TextPiece | SealedPiece):
                    self._told.check(frame)
                    self._note(frame)
                    return frame
            except NO_ANSWER as error:
                self._lost(self._copy or copy, error)
                continue
            if isinstance(frame, TextRefused):
                self._refused_by_host(copy, frame)
                if frame.reason == "input":
                    self._refuse(self._said or Refused(QueryRefusal.INPUT, frame.what))
                    return None
                continue
            self._ended_by_host(copy, frame)
            return frame

    def _left_s(self) -> float:
        return self._allowed_s - self.took_s

    def _patience_s(self, copy: _Copy) -> float:
        patience = self._means.patience
        waited_s = max(patience.first_least_s, FIRST_FACTOR * copy.choice.first_s)
        return patience.stall_s if self._told.at else waited_s

    async def _first_of(self, copy: _Copy) -> tuple[_Copy, OfText]:
        """What is said first, and by whom: where the first host is late a second one is asked too. Errors as
        `Answer.next`, of `_copy`."""
        late_s, patience_s = max(copy.choice.late_s, LATE_LEAST_S), self._patience_s(copy)
        if late_s >= patience_s:
            return copy, await copy.answer.next(patience_s, max(0.001, self._left_s()))
        try:
            return copy, await copy.answer.next(late_s, max(0.001, self._left_s()))
        except TimeoutError:
            if self._left_s() <= TIME_OVER_S:
                raise
        second = await self._second()
        copies = [copy] if second is None else [copy, second]
        left_s = max(0.001, self._left_s())
        waits = {asyncio.ensure_future(one.answer.next(self._patience_s(one) - late_s * (one is copy), left_s)): one
                 for one in copies}  # fmt: skip
        try:
            while True:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in done:
                    self._copy = one = waits.pop(wait)
                    if waits and isinstance(error := wait.exception(), NO_ANSWER):
                        self._lost(one, error)
                    elif waits and error is None and isinstance(found := wait.result(), TextRefused):
                        self._refused_by_host(one, found)
                        if found.reason == "input":
                            return one, found
                    else:
                        self._choice = one.choice
                        return one, wait.result()
        finally:
            for wait, one in waits.items():
                if not wait.cancel() and not wait.cancelled():
                    wait.exception()
                one.answer.stop()
                self._means.engine.withdrawn(one.choice)
                self._close(one.choice, "withdrawn")

    async def _second(self) -> _Copy | None:
        """A second copy of a query whose first host is late, at another one; None where that may or can not be."""
        engine = self._means.engine
        if len(self._tried) >= TRIES or not engine.may_hedge():
            return None
        choice = self._choice_of(engine.models.get(ModelName(self.model)))
        if isinstance(choice, Refused):
            return None
        self._means.counters.count("queries_hedged")
        return await self._send(choice)

    async def _choose(self) -> bool:
        """Ask the next host; False where there is none, with the reason in `_said`."""
        engine = self._means.engine
        if isinstance(self._asked, SecretTextQuery) and self._told.at:
            return False
        while True:
            left_s = self._left_s()
            if left_s <= 0:
                self._said = self._said or Refused(QueryRefusal.LATE, "its time was over", 0.0, "a later deadline")
                return False
            served, task = engine.models.get(ModelName(self.model)), self._told.task
            if served is not None and served.routes and task not in served.tasks:
                does = ", ".join(served.tasks) or "takes tensors"
                self._said = Refused(QueryRefusal.INPUT, f"model {self.model} does not {task.value}: it {does}")
                return False
            if len(self._tried) >= TRIES:
                return False
            choice = self._choice_of(served)
            if isinstance(choice, Refused):
                if choice.reason is QueryRefusal.NO_HOST and left_s > WAIT_S:
                    await asyncio.sleep(WAIT_S)
                    continue
                self._said = self._said if self._tried and self._said is not None else choice
                return False
            if self.steps:
                self._means.counters.count("answers_resumed" if self._told.at else "queries_retried")
            else:
                engine.begun()
            if (copy := await self._send(choice)) is not None:
                self._copy = copy
                return True
            if self._said is not None and self._said.reason is QueryRefusal.INPUT:
                return False

    def _choice_of(self, served: ServedModel | None) -> Choice | Refused:
        left_out = self._tried
        if isinstance(self._asked, SecretTextQuery) and served is not None:
            others = [route.host.node for route in served.routes if route.host.node not in self._asked.capsules]
            left_out = [*others, *self._tried]
            if served.routes and len(others) >= len(served.routes):
                what = f"none of the hosts that the query was encrypted for serves {self.model} now; fetch keys again"
                return Refused(QueryRefusal.LOST, what, 1.0)
        return self._means.engine.choose(
            self.model, 1, self._goal, self._left_s(), self._means.clock_ns(), left_out,
            session=self._session, units=self._told.units, text=self._told.size,
        )  # fmt: skip

    async def _send(self, choice: Choice) -> _Copy | None:
        """The query at its host; None where that cannot be, with the reason in `_said`."""
        links, host, left_s = self._means.links, choice.route.host, self._left_s()
        self._choice = choice
        self._open.append(choice)
        self._tried.append(host.node)
        sent_ns = self._means.clock_ns()
        try:
            if isinstance(self._asked, SecretTextQuery):
                part = self._asked.part_for(host.node)
                answer = await links.ask_secret(host, choice.model, choice.artifact, part, left_s)
            else:
                answer = await links.ask(host, choice.model, choice.artifact, self._asked, self._told.given, left_s)
        except InputError as error:
            self._means.engine.withdrawn(choice)
            self._said = Refused(QueryRefusal.INPUT, error.render())
            self._close(choice, QueryRefusal.INPUT.value)
            return None
        except (UnavailableError, PeerError, PolicyError) as error:
            self._missing(choice, error)
            return None
        return _Copy(choice, answer, sent_ns, self._told.ids)

    def _taker(self, tell: Callable[[Any], bool]) -> Taker:
        """Has pieces told where they are read."""

        def take(piece: Piece) -> bool:
            self._told.check(piece)
            said = piece.text if isinstance(piece, TextPiece) else piece.data
            if said and not tell(said):
                return False
            self._note(piece)
            return True

        return take

    def _note(self, piece: Piece) -> None:
        self._first_ns = self._first_ns or self._means.clock_ns()
        self._told.note(piece)

    # --- what came of a host ----------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        self._means.counters.count("queries_not_answered", refused.reason.value)
        self.refused = refused
        self._leave()

    def _leave(self) -> None:
        """It is over: the next one has its turn."""
        if self._has_turn:
            self._has_turn = False
            self._means.turns.done(ModelName(self.model), self.took_s if self.refused is None else 0.0)

    def _lost(self, copy: _Copy, error: BaseException) -> None:
        """A host said nothing, or what cannot be, or the query's own time was over."""
        copy.answer.stop()
        self._copy = None
        if isinstance(error, TimeoutError) and self._left_s() <= TIME_OVER_S:
            self._overdue(copy)
        else:
            self._missing(copy.choice, error)

    def _missing(self, choice: Choice, error: BaseException) -> None:
        self._first_ns = 0
        self._means.counters.count("answers_missing")
        if self._means.engine.lost(choice, self._means.clock_ns()):
            self._means.counters.count("hosts_ejected")
        why = error.kind if isinstance(error, DaitnError) else "it said nothing in time"
        self._said = Refused(QueryRefusal.LOST, f"host {choice.route.host.node} gave no answer: {why}", 1.0)
        self._close(choice, "lost")

    def _overdue(self, copy: _Copy) -> None:
        """The query's own time was over: that is no fault of its host by itself."""
        counters, engine, now_ns = self._means.counters, self._means.engine, self._means.clock_ns()
        counters.count("deadlines_passed")
        self._broke_off()
        if self._told.at:
            engine.withdrawn(copy.choice)
        elif engine.overdue(copy.choice, (now_ns - copy.sent_ns) / 1e9, now_ns):
            counters.count("hosts_ejected")
        told = f"{self.tokens} tokens" if self._told.at else "nothing"
        what = f"its time was over after {self._allowed_s:.3f} s, {told} of the answer had come"
        self._said = Refused(QueryRefusal.LOST, what, 1.0, "a later deadline")
        self._close(copy.choice, "overdue")

    def _refused_by_host(self, copy: _Copy, refused: TextRefused) -> None:
        copy.answer.stop()
        self._copy, self._first_ns = None, 0
        self._means.engine.refused(copy.choice, refused.load, self._means.clock_ns())
        reason = QueryRefusal.INPUT if refused.reason == "input" else QueryRefusal.BUSY
        reason = QueryRefusal.LOST if refused.reason == "lost" else reason
        retry_s = 0.0 if reason is QueryRefusal.INPUT else max(0.1, refused.retry_after_s)
        self._said = Refused(reason, refused.what, retry_s)
        self._close(copy.choice, reason.value)

    def _ended_by_host(self, copy: _Copy, end: TextEnded | BatchAnswered) -> None:
        """What the engine learns: the time to the first piece, of each token after it, and how long the answer was."""
        now_ns, engine = self._means.clock_ns(), self._means.engine
        took_s = ((self._first_ns or now_ns) - copy.sent_ns) / 1e9
        tokens = max(0, end.tokens - copy.given) if isinstance(end, TextEnded) else 0
        engine_s = end.engine_s if isinstance(end, TextEnded) else end.first_s
        told = TextAnswered(took_s, end.queued_s, end.first_s, max(engine_s, end.first_s), tokens, end.load)
        engine.answered_text(copy.choice, told, now_ns)
        if isinstance(end, TextEnded) and self._told.task is TextTask.GENERATE:
            engine.length_seen(copy.choice, self._told.prompt, end.tokens, cut=end.reason == "length")
        self._means.counters.count("queries_answered")
        copy.answer.stop()
        self._copy = None
        self._close(copy.choice, "answered")
        self._leave()

    def _broke_off(self) -> None:
        """Of an answer that is cut off it is known that it would have been longer."""
        if self._choice is not None and self._told.tokens:
            self._means.engine.length_seen(self._choice, self._told.prompt, self._told.tokens, cut=True)

    def _close(self, choice: Choice, came: str) -> None:
        self._open.remove(choice)
        self.steps.append(Step(choice, came))
