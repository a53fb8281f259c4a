"""Asking for texts: a query from its arrival at a gateway to the end of its answer, over as many hosts as it takes.

A continuation is a function of the query and what is there of it already. Where a host is lost in the middle, another
goes on behind the pieces that were told, by their tokens (`Given`), and the caller sees one text without a gap or a
word twice: each piece says where it begins, and one that does not begin where the text ends is not passed on.

A secret query (`wire.secret_queries`) is asked of the hosts that can read it, and its pieces are passed on as they are.
Where its host is lost in the middle nobody here could say how far it was: its client goes on by itself.

What a caller does not take is not asked for: an `Answer` has a bounded number of pieces on their way. A caller that is
gone stops the work (`Telling.stop`). Nothing of a query is logged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice, QueryRouteEngine, TextAnswered
from daitn.decision.query_route.answer_length import TextSize
from daitn.descriptors.serving import EngineKind, QueryGoal, ServedModel
from daitn.descriptors.texts import Generation, Given, TextAsk, TextBatch, TextTask, check_text_ask, task_of
from daitn.node.serving.answer_links import Answer, AnswerLinks, Taker
from daitn.node.serving.asked_query import TIME_OVER_S, TRIES, Asked, Step
from daitn.node.serving.asking import WAIT_S
from daitn.wire.answers import BatchAnswered, SealedPiece, TextEnded, TextPiece, TextRefused
from daitn.wire.queries import QueryAnswer
from daitn.wire.secret_queries import SecretTextQuery

DEADLINE_S: Final = 300.0
"""Time of a query that names none: a long answer of a slow model."""

STALL_S: Final = 10.0
"""A host that says nothing for so long in the middle of an answer is not waited for."""

FIRST_LEAST_S: Final = 5.0
FIRST_FACTOR: Final = 10.0
"""Nor one whose first piece takes ten times what was predicted, and this at least: prompts differ in length."""


Piece = TextPiece | SealedPiece


class Patience(NamedTuple):
    """How long a host is waited for."""

    stall_s: float = STALL_S
    first_least_s: float = FIRST_LEAST_S


class TextAsking:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        links: AnswerLinks,
        counters: Counters,
        patience: Patience = Patience(),  # noqa: B008  # a value
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.engine, self.links, self.counters, self.patience, self.clock_ns = (
            engine,
            links,
            counters,
            patience,
            clock_ns,
        )

        self._prefix, self._queries = "t" + secrets.token_hex(4), 0

    async def ask(self, model: str, asked: TextAsk | SecretTextQuery, goal: QueryGoal) -> Telling:
        """Ask; returns when the first piece is there, or it is known that there is none (`Telling.refused`). InputError
        for a query that does not hold together."""
        if isinstance(asked, Generation) and asked.temperature > 0 and not asked.seed:
            asked = msgspec.structs.replace(asked, seed=secrets.randbelow(2**62) + 1)
        self._queries += 1
        checked = asked if isinstance(asked, SecretTextQuery) else check_text_ask(asked)
        telling = Telling(self, f"{self._prefix}-{self._queries:x}", model, checked, goal)
        try:
            await telling.begin()
        except BaseException:
            telling.stop()
            raise
        return telling


class Telling:
    """An answer under way. Ended by its end, by a refusal, or by `stop`."""

    def __init__(
        self, asking: TextAsking, query: str, model: str, asked: TextAsk | SecretTextQuery, goal: QueryGoal
    ) -> None:
        self._asking, self.query, self.model, self._asked, self._goal = asking, query, model, asked, goal
        self._began_ns = asking.clock_ns()
        self._allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
        self._answer: Answer | None = None
        self._choice: Choice | None = None
        self._sent_ns = self._first_ns = 0
        self._first: Piece | TextEnded | BatchAnswered | None = None
        self._prompt = _tokens_of(asked)
        self._tokens: list[int] = []
        self._pieces = self._given = 0
        self._parts: list[str] = []
        self._at = 0
        """Characters told; of a secret query, pieces."""
        self._tried: list[NodeId] = []
        self._said: Refused | None = None
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
    def _units(self) -> int:
        if isinstance(self._asked, TextBatch):
            return len(self._asked.texts)
        if isinstance(self._asked, SecretTextQuery) and self._asked.task is not TextTask.GENERATE:
            return self._asked.texts
        return self._asked.tokens_most

    @property
    def _task(self) -> TextTask:
        return self._asked.task if isinstance(self._asked, SecretTextQuery) else task_of(self._asked)

    @property
    def tokens(self) -> int:
        """Of prompt and answer as the engine counted them; of an answer that broke off, those that were told."""
        if self.ended is not None:
            return self.ended.prompt_tokens + self.ended.tokens
        told = len(self._tokens) or self._pieces
        return told if self.batch is None else self.batch.prompt_tokens

    @property
    def _size(self) -> TextSize:
        """What a choice goes by: an engine that takes up an answer reads what is there of it, too."""
        told = len(self._tokens) or self._pieces
        most = self._units if self._task is TextTask.GENERATE else 0
        return TextSize(self._prompt + told, most, told)

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
        steps = [*self.steps]
        if self._choice is not None and len(steps) < len(self._tried):
            steps.append(Step(self._choice, "answering"))
        return Asked(self.query, outcome, tuple(steps), self.took_s)

    @property
    def took_s(self) -> float:
        """Since it was asked."""
        return (self._asking.clock_ns() - self._began_ns) / 1e9

    async def begin(self) -> None:
        """Until the first piece, or the end."""
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
        self._let_go()

    # --- the way ----------------------------------------------------------------------------------------------------

    async def _frame(self, tell: Callable[[Any], bool] | None = None) -> Piece | TextEnded | BatchAnswered | None:
        """What comes next, from whichever host; None where there is nothing more to come."""
        if self.ended is not None or self.batch is not None or self.refused is not None:
            return None
        taker = None if tell is None else self._taker(tell)
        while True:
            if self._answer is None and not await self._choose():
                self._asking.counters.count("queries_not_answered", self._refusal.reason.value)
                self.refused = self._refusal
                return None
            assert self._answer is not None
            assert self._choice is not None
            try:
                frame = await self._answer.next(self._patience_s(), max(0.001, self._left_s()), taker)
                if isinstance(frame, TextPiece | SealedPiece):
                    self._check(frame)
                    self._note(frame)
                    return frame
            except (UnavailableError, PeerError, PolicyError, TimeoutError) as error:
                if isinstance(error, TimeoutError) and self._left_s() <= TIME_OVER_S:
                    self._overdue()
                else:
                    self._lost(error)
                continue
            if isinstance(frame, TextRefused):
                self._refused_by_host(frame)
                if frame.reason == "input":
                    self.refused = self._said
                    self._asking.counters.count("queries_not_answered", "input")
                    return None
                continue
            self._ended_by_host(frame)
            return frame

    @property
    def _refusal(self) -> Refused:
        return self._said or Refused(QueryRefusal.LOST, "no host answered", 1.0)

    def _left_s(self) -> float:
        return self._allowed_s - self.took_s

    def _patience_s(self) -> float:
        patience, choice = self._asking.patience, self._choice
        assert choice is not None
        waited_s = max(patience.first_least_s, FIRST_FACTOR * choice.first_s)
        return patience.stall_s if self._at else waited_s

    async def _choose(self) -> bool:
        """Ask the next host; False where there is none, with the reason in `_said`."""
        engine = self._asking.engine
        if isinstance(self._asked, SecretTextQuery) and self._at:
            return False
        while True:
            left_s = self._left_s()
            if left_s <= 0:
                self._said = self._said or Refused(QueryRefusal.LATE, "its time was over", 0.0, "a later deadline")
                return False
            served = engine.models.get(self.model)  # type: ignore[call-overload]
            if served is not None and served.routes and self._task not in served.tasks:
                does = ", ".join(served.tasks) or "takes tensors"
                self._said = Refused(QueryRefusal.INPUT, f"model {self.model} does not {self._task.value}: it {does}")
                return False
            if len(self._tried) >= TRIES:
                return False
            left_out = self._left_out(served)
            if served is not None and served.routes and len(left_out) - len(self._tried) >= len(served.routes):
                what = f"none of the hosts that the query was encrypted for serves {self.model} now; fetch keys again"
                self._said = Refused(QueryRefusal.LOST, what, 1.0)
                return False
            choice = engine.choose(
                self.model, 1, self._goal, left_s, self._asking.clock_ns(), left_out, units=self._units, text=self._size
            )
            if isinstance(choice, Refused):
                if choice.reason is QueryRefusal.NO_HOST and left_s > WAIT_S:
                    await asyncio.sleep(WAIT_S)
                    continue
                self._said = self._said if self._tried and self._said is not None else choice
                return False
            if self.steps:
                self._asking.counters.count("answers_resumed" if self._at else "queries_retried")
            self._choice, self._sent_ns, self._first_ns = choice, self._asking.clock_ns(), 0
            self._tried.append(choice.route.host.node)
            self._given = len(self._tokens)
            try:
                self._answer = await self._send(choice, left_s)
                return True
            except InputError as error:
                self._let_go()
                self._said = Refused(QueryRefusal.INPUT, error.render())
                return False
            except (UnavailableError, PeerError, PolicyError) as error:
                self._lost(error)

    def _left_out(self, served: ServedModel | None) -> list[NodeId]:
        """Hosts that are not asked: those that were, and those that could not read it, the latter first."""
        if not isinstance(self._asked, SecretTextQuery) or served is None:
            return self._tried
        others = [route.host.node for route in served.routes if route.host.node not in self._asked.capsules]
        return [*others, *self._tried]

    async def _send(self, choice: Choice, left_s: float) -> Answer:
        links, host = self._asking.links, choice.route.host
        if isinstance(self._asked, SecretTextQuery):
            part = self._asked.part_for(host.node)
            return await links.ask_secret(host, choice.model, choice.artifact, part, left_s)
        given = Given(tokens=tuple(self._tokens), text="".join(self._parts))
        return await links.ask(host, choice.model, choice.artifact, self._asked, given, left_s)

    def _taker(self, tell: Callable[[Any], bool]) -> Taker:
        """Has pieces told where they are read."""

        def take(piece: Piece) -> bool:
            self._check(piece)
            said = piece.text if isinstance(piece, TextPiece) else piece.data
            if said and not tell(said):
                return False
            self._note(piece)
            return True

        return take

    def _check(self, piece: Piece) -> None:
        if isinstance(piece, SealedPiece) != isinstance(self._asked, SecretTextQuery):
            raise PeerError("what was asked in secret is answered so, and nothing else is")
        if isinstance(piece, SealedPiece):
            if piece.number != self._at:
                raise PeerError(f"a piece has number {piece.number}, {self._at} is next")
        elif piece.at != self._at:
            raise PeerError(f"a piece begins at {piece.at}, the text so far ends at {self._at}")

    def _note(self, piece: Piece) -> None:
        """It is told: what comes next begins behind it."""
        self._first_ns = self._first_ns or self._asking.clock_ns()
        if isinstance(piece, SealedPiece):
            self._at += 1
            self._pieces += 1
            return
        self._pieces += 1
        self._tokens += piece.tokens
        self._parts.append(piece.text)
        self._at += len(piece.text)

    # --- what came of a host ----------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Give back the place at the host, and stop what it does for us."""
        if self._choice is not None and len(self.steps) < len(self._tried):
            self._broke_off()
            self._asking.engine.withdrawn(self._choice)
            self._close("withdrawn")

    def _lost(self, error: DaitnError | TimeoutError) -> None:
        assert self._choice is not None
        self._asking.counters.count("answers_missing")
        if self._asking.engine.lost(self._choice, self._asking.clock_ns()):
            self._asking.counters.count("hosts_ejected")
        why = error.kind if isinstance(error, DaitnError) else "it said nothing in time"
        self._said = Refused(QueryRefusal.LOST, f"host {self._choice.route.host.node} gave no answer: {why}", 1.0)
        self._close("lost")

    def _overdue(self) -> None:
        """The query's own time was over: that is no fault of its host by itself."""
        assert self._choice is not None
        counters, engine, now_ns = self._asking.counters, self._asking.engine, self._asking.clock_ns()
        counters.count("deadlines_passed")
        self._broke_off()
        if self._at:
            engine.withdrawn(self._choice)
        elif engine.overdue(self._choice, (now_ns - self._sent_ns) / 1e9, now_ns):
            counters.count("hosts_ejected")
        told = "nothing" if not self._at else f"{self.tokens} tokens"
        what = f"its time was over after {self._allowed_s:.3f} s, {told} of the answer had come"
        self._said = Refused(QueryRefusal.LOST, what, 1.0, "a later deadline")
        self._close("overdue")

    def _refused_by_host(self, refused: TextRefused) -> None:
        assert self._choice is not None
        self._asking.engine.refused(self._choice, refused.load, self._asking.clock_ns())
        reason = QueryRefusal.INPUT if refused.reason == "input" else QueryRefusal.BUSY
        reason = QueryRefusal.LOST if refused.reason == "lost" else reason
        retry_s = 0.0 if reason is QueryRefusal.INPUT else max(0.1, refused.retry_after_s)
        self._said = Refused(reason, refused.what, retry_s)
        self._close(reason.value)

    def _ended_by_host(self, end: TextEnded | BatchAnswered) -> None:
        """What the engine learns: the time to the first piece, of each token after it, and how long the answer was."""
        assert self._choice is not None
        now_ns, engine = self._asking.clock_ns(), self._asking.engine
        took_s = ((self._first_ns or now_ns) - self._sent_ns) / 1e9
        tokens = max(0, end.tokens - self._given) if isinstance(end, TextEnded) else 0
        engine_s = end.engine_s if isinstance(end, TextEnded) else end.first_s
        told = TextAnswered(took_s, end.queued_s, end.first_s, max(engine_s, end.first_s), tokens, end.load)
        engine.answered_text(self._choice, told, now_ns)
        if isinstance(end, TextEnded) and self._task is TextTask.GENERATE:
            engine.length_seen(self._choice, self._prompt, end.tokens, cut=end.reason == "length")
        self._asking.counters.count("queries_answered")
        self._close("answered")

    def _broke_off(self) -> None:
        """Of an answer that is cut off it is known that it would have been longer."""
        assert self._choice is not None
        if self._pieces:
            told = len(self._tokens) or self._pieces
            self._asking.engine.length_seen(self._choice, self._prompt, told, cut=True)

    def _close(self, came: str) -> None:
        assert self._choice is not None
        self.steps.append(Step(self._choice, came))
        if self._answer is not None:
            self._answer.stop()
            self._answer = None


def _tokens_of(asked: TextAsk | SecretTextQuery) -> int:
    """About how many tokens there are to read: four characters have one in most languages and vocabularies. How far off
    it is of a model and its texts is learnt with the time that reading takes."""
    if isinstance(asked, SecretTextQuery):
        chars = len(asked.data)
    elif isinstance(asked, TextBatch):
        chars = sum(map(len, asked.texts))
    else:
        chars = len(asked.prompt) + sum(len(turn.text) for turn in asked.turns)
    return 1 + chars // 4
