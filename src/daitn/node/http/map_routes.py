"""The map's routes, for operators: questions, SQL, explanations, and saved questions with what changed.

A watcher calls again and again with the moment of the answer it has; each call waits until there is another answer, so
a connection that breaks loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request, Response

from daitn.base.errors import InputError
from daitn.descriptors.query_view import QueryFollowed, QueryHeld, QueryRequest
from daitn.descriptors.questions import Answer, Explanation
from daitn.descriptors.saved_questions import SavedAnswer
from daitn.descriptors.sql_answer import SqlAnswer
from daitn.node.http.manual import Manual
from daitn.node.http.map_bodies import ExplanationAsked, MapQuestion, SavingAsked, SqlAsked
from daitn.node.http.problems import unknown
from daitn.node.http.tokens import TokenHolder
from daitn.node.map_service import MapService

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Reader(Protocol):
    """Reads the body of a request as a type; InputError with the place of the first fault."""

    def __call__(self, request: Request, kind: type[Any], /) -> Awaitable[Any]:
        """See the class."""
        ...


def add_map_routes(
    app: FastAPI, manual: Manual, service: MapService, operator: Callable[[Request], TokenHolder], read: Reader
) -> None:
    """Put the routes under `app`; `operator` says who calls, or refuses."""
    manual.note("post", "/v1/map/questions", takes=MapQuestion, gives=Answer)
    manual.note("post", "/v1/map/explanations", takes=ExplanationAsked, gives=Explanation)
    manual.note("post", "/v1/map/query-views", takes=QueryRequest, gives=QueryHeld)
    manual.note("get", "/v1/map/query-views/{name}", gives=QueryFollowed)
    manual.note("post", "/v1/map/sql", takes=SqlAsked, gives=SqlAnswer)
    manual.note("get", "/v1/map/saved", gives=tuple[SavedAnswer, ...])
    manual.note("get", "/v1/map/saved/{name}", gives=SavedAnswer)
    manual.note("put", "/v1/map/saved/{name}", takes=SavingAsked, gives=SavedAnswer)
    manual.note("delete", "/v1/map/saved/{name}")

    @app.post("/v1/map/questions", summary="Ask the map: find, summarise, or a path")
    async def ask(request: Request) -> Response:
        operator(request)
        asked: MapQuestion = await read(request, MapQuestion)
        return _json(await service.ask(asked.question, asked.of))

    @app.post("/v1/map/query-views", summary="Which hosts may serve a query, and which not and why; to be followed")
    async def hold(request: Request) -> Response:
        operator(request)
        asked: QueryRequest = await read(request, QueryRequest)
        return _json(service.views.hold(asked))

    @app.get("/v1/map/query-views/{name}", summary="What became of a view, once another choice is to be made")
    async def follow(request: Request, name: str, wait_s: float = 0.0) -> Response:
        operator(request)
        try:
            return _json(QueryFollowed(delta=await service.views.next(name, wait_s)))
        except InputError as error:
            raise unknown(error.what, error.todo) from None

    @app.post("/v1/map/explanations", summary="Why a thing is or is not in an answer")
    async def explanation(request: Request) -> Response:
        operator(request)
        asked: ExplanationAsked = await read(request, ExplanationAsked)
        return _json(await service.explain(asked.question, asked.thing))

    @app.post("/v1/map/sql", summary="Ask the map with one SELECT")
    async def sql(request: Request) -> Response:
        operator(request)
        asked: SqlAsked = await read(request, SqlAsked)
        return _json(await service.sql(asked.sql))

    @app.get("/v1/map/saved", summary="All saved questions")
    async def saved(request: Request) -> Response:
        operator(request)
        return _json(service.saved())

    @app.put("/v1/map/saved/{name}", summary="Save a question, in place of an earlier one of that name")
    async def save(request: Request, name: str) -> Response:
        caller = operator(request)
        if NAME.fullmatch(name) is None:
            raise InputError(
                f"{name[:80]!r} is no name of a question",
                todo="use lower case, digits, dots and dashes, at most 64 characters",
            )
        asked: SavingAsked = await read(request, SavingAsked)
        return _json(await service.save(name, caller.owner, asked.question, asked.every_s))

    @app.get("/v1/map/saved/{name}", summary="Its answer; with wait_s, once that is another than at after_ns")
    async def watch(request: Request, name: str, after_ns: int = 0, wait_s: float = 0.0) -> Response:
        operator(request)
        try:
            return _json(await service.watch(name, after_ns, wait_s))
        except InputError as error:
            raise unknown(error.what, error.todo) from None

    @app.delete("/v1/map/saved/{name}", summary="Forget a saved question", status_code=204)
    async def forget(request: Request, name: str) -> Response:
        operator(request)
        try:
            service.forget(name)
        except InputError as error:
            raise unknown(error.what, error.todo) from None
        return Response(status_code=204)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
