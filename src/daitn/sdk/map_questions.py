"""The map as an operator's program asks it: `network.map.ask("terminal where computes top 5 by trust")`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.descriptors.query_view import QueryFollowed, QueryHeld, QueryRequest, QueryView
from daitn.descriptors.questions import Answer, Explanation, Question
from daitn.descriptors.saved_questions import SavedAnswer
from daitn.descriptors.sql_answer import SqlAnswer
from daitn.node.http.map_bodies import ExplanationAsked, MapQuestion, SavingAsked, SqlAsked
from daitn.sdk.transport import Transport, quoted
from daitn.topology.query_adapter import apply_query_delta

WAIT_S: Final = 10.0
"""How long one call waits for another answer."""


def read_question(text: str) -> Question | str:
    """A question given as text, or as JSON (begins with a brace). InputError for JSON that is none."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        question: Question = msgspec.json.decode(text.encode(), type=Question)
    except UNDECODABLE as error:
        raise InputError(f"the question is no JSON of one: {error}", todo="docs/map.md shows the form") from None
    return question


class MapQuestions:
    """Questions on the map, for operators. All calls raise InputError for a wrong question, naming what is near."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, question: Question | str, *, of: str = "") -> Answer:
        """The answer now; a question as text, or typed. `of`: a neighbour of the domain, whose map is asked instead;
        PolicyError where it does not answer this domain, UnavailableError where no answer comes."""
        return self._transport.call("POST", "/v1/map/questions", Answer, MapQuestion(question=question, of=of))

    def hosts(self, request: QueryRequest) -> QueryView:
        """Which hosts may serve a query now, the soonest first, and which may not and why."""
        return self._hold(request).view

    def follow_hosts(self, request: QueryRequest) -> Iterator[QueryView]:
        """The view now, then each time another host would be chosen, or demand has moved far; without end."""
        held = self._hold(request)
        view = held.view
        yield view
        while True:
            path = f"/v1/map/query-views/{quoted(held.name)}?wait_s={WAIT_S:g}"
            told = self._transport.call("GET", path, QueryFollowed)
            if told.delta is not None:
                view = apply_query_delta(view, told.delta)
                yield view

    def _hold(self, request: QueryRequest) -> QueryHeld:
        return self._transport.call("POST", "/v1/map/query-views", QueryHeld, request)

    def sql(self, sql: str) -> SqlAnswer:
        """The answer to one SELECT."""
        return self._transport.call("POST", "/v1/map/sql", SqlAnswer, SqlAsked(sql=sql))

    def explain(self, question: Question | str, thing: str) -> Explanation:
        """Why a thing is or is not in the answer."""
        asked = ExplanationAsked(question=question, thing=thing)
        return self._transport.call("POST", "/v1/map/explanations", Explanation, asked)

    def save(self, name: str, question: Question | str, *, every_s: float = 1.0) -> SavedAnswer:
        """Save a question under a name; it is evaluated when what it reads changes, at most every `every_s` seconds."""
        asked = SavingAsked(question=question, every_s=every_s)
        return self._transport.call("PUT", f"/v1/map/saved/{quoted(name)}", SavedAnswer, asked)

    def saved(self) -> tuple[SavedAnswer, ...]:
        """All saved questions, without their answers."""
        return self._transport.call("GET", "/v1/map/saved", tuple[SavedAnswer, ...])

    def forget(self, name: str) -> None:
        """Forget a saved question."""
        self._transport.call_bytes("DELETE", f"/v1/map/saved/{quoted(name)}")

    def watch(self, name: str) -> Iterator[SavedAnswer]:
        """The answer to a saved question, then each time it has changed, with its changes since; without end.

        With no changes in it, an answer stands for itself: it is the first one, or too much was missed."""
        after_ns = 0
        while True:
            path = f"/v1/map/saved/{quoted(name)}?after_ns={after_ns}&wait_s={WAIT_S:g}"
            told = self._transport.call("GET", path, SavedAnswer)
            if told.at_ns > after_ns:
                yield told
            after_ns = told.at_ns
