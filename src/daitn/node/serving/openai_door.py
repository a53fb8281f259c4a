"""The gateway's door for clients of OpenAI's interface: models, chats, completions, embeddings; pieces by SSE.

The same keys, goals and refusals as at the other door. What a stream cannot say in its status any more it says in its
last event: an `error` where no host could go on. A client that reads slowly is sent no more than its connection holds,
and no more is made; one that leaves stops the work. `x-daitn-simulated: 1` and `system_fingerprint` mark answers that
nothing computed. Neither queries nor answers are logged. What is asked for later is answered by the same code, whole.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

import msgspec
from aiohttp import web

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, unknown_model
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import QueryGoal
from daitn.descriptors.texts import TextAsk, check_text_ask, task_of
from daitn.node.http.problems import HttpError
from daitn.node.serving import openai_protocol as protocol
from daitn.node.serving.inference_protocol import GOAL_WORDS, goal_of
from daitn.node.serving.key_book import KeyBook
from daitn.node.serving.piece_writer import PieceWriter
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.replies import STATUS, refusal, response_of, told_of
from daitn.node.serving.switching import Switching
from daitn.node.serving.telling import Telling
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.ways import WayBook, trace_header


class OpenAiDoor:
    """See the module's docstring; its paths begin with `/v1/`."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        asking: TextAsking,
        ways: WayBook,
        switching: Switching | None = None,
        keys: KeyBook | None = None,
    ) -> None:
        self._engine, self._asking, self.ways = engine, asking, ways
        self.keys = KeyBook(asking.counters) if keys is None else keys
        self._switching = Switching(()) if switching is None else switching

    def add_routes(self, app: web.Application) -> None:
        """Put the paths under the door's application."""
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)

    async def _models(self, request: web.Request) -> web.Response:
        listed = (model for model in self._engine.models.values() if model.is_listed)
        may = [model for model in listed if self._may_ask(request, model.model)]
        switches = [one for name, one in self._switching.switches.items() if self._may_ask(request, name)]
        models = [*map(protocol.model_of, may), *map(protocol.switch_of, switches)]
        return _json({"object": "list", "data": models})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self.keys.check(request["key"], name)
        model, switch = self._engine.models.get(ModelName(name)), self._switching.switches.get(ModelName(name))
        if model is None and switch is not None:
            return _json(protocol.switch_of(switch))
        if model is None:
            listed = (one.model for one in self._engine.models.values() if one.is_listed)
            return response_of(_refusal(unknown_model(name, listed)))
        return _json(protocol.model_of(model))

    def _may_ask(self, request: web.Request, model: str) -> bool:
        return self.keys.may_ask(request["key"], model)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._said(request, "chat")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._said(request, "completion")

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        return await self._said(request, "embedding")

    async def _said(self, request: web.Request, kind: protocol.Kind) -> web.StreamResponse:
        asked, wanted = protocol.request_of(kind, await request.read())
        telling = await self._ask(request["key"], asked, wanted, request.headers)
        try:
            if telling.refused is None and not isinstance(asked, protocol.EmbeddingRequest) and asked.stream:
                return await self._stream(request, telling, asked, kind)
            return response_of(await self._whole(telling, asked, kind, request.headers))
        finally:
            self._end(request["key"], telling)

    # --- texts that nobody waits for: see `later_door` ----------------------------------------------------------------

    def named(self, kind: protocol.Kind, body: bytes) -> str:
        """The model that a request asks; InputError for one that does not decode, or wants pieces."""
        asked, _ = protocol.request_of(kind, body)
        if not isinstance(asked, protocol.EmbeddingRequest) and asked.stream:
            raise InputError("nobody waits for pieces of what is answered later", todo="leave stream out")
        return asked.model

    def check(self, kind: protocol.Kind, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What would be said to a request before any host hears of it; InputError, or None where nothing is wrong."""
        asked, wanted = protocol.request_of(kind, body)
        _goal(asked.daitn, headers)
        check_text_ask(wanted)
        model, switch = self._engine.models.get(ModelName(asked.model)), asked.model in self._switching.switches
        if model is None:
            return None if switch else _refusal(unknown_model(asked.model, self._engine.models))
        if model.routes and task_of(wanted) not in model.tasks:
            does = ", ".join(model.tasks) or "takes tensors"
            what = f"model {asked.model} does not {task_of(wanted).value}: it {does}"
            return _refusal(Refused(QueryRefusal.INPUT, what))
        return None

    async def answer(self, kind: protocol.Kind, key: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """What a request that was let in before is answered now, whole."""
        try:
            asked, wanted = protocol.request_of(kind, body)
            telling = await self._ask(key, asked, wanted, headers)
            try:
                return await self._whole(telling, asked, kind, headers)
            finally:
                self._end(key, telling)
        except InputError as error:
            return _refused(400, error.render())
        except HttpError as error:
            return _refused(error.status, error.what, told_of(error))

    async def _ask(self, key: str, request: protocol.Request, asked: TextAsk, headers: Mapping[str, str]) -> Telling:
        """Ask the model, or of a switch the one that suffices, and the other where that one cannot answer."""
        name, goal = request.model, _goal(request.daitn, headers)
        session = headers.get("x-daitn-session", "")[: limits.NAME_CHARS]
        await self.keys.begin(key, name)
        began_s = time.monotonic()
        first, *others = await self._switching.models_for(name, asked)
        telling = await self._asking.ask(first, asked, goal, key, session)
        for other in others:
            if telling.refused is None or telling.refused.reason is QueryRefusal.INPUT:
                break
            if goal.deadline_s is not None:
                left_s = max(1e-3, goal.deadline_s - (time.monotonic() - began_s))
                goal = msgspec.structs.replace(goal, deadline_s=left_s)
            telling.stop()
            telling = await self._asking.ask(other, asked, goal, key, session)
        return telling

    def _end(self, key: str, telling: Telling) -> None:
        telling.stop()
        self.ways.keep(key, telling.asked)
        self.keys.spent(key, telling.tokens)

    # --- telling ----------------------------------------------------------------------------------------------------

    async def _whole(
        self, telling: Telling, asked: protocol.Request, kind: protocol.Kind, headers: Mapping[str, str]
    ) -> Reply:
        """All of an answer at once, or why there is none."""
        parts: list[str] = []
        while telling.refused is None and (text := await telling.next()) is not None:
            parts.append(text)
        told = _headers(headers, telling)
        if isinstance(asked, protocol.EmbeddingRequest):
            if telling.batch is not None:
                return Reply(200, msgspec.json.encode(protocol.embeddings_of(asked, telling.batch)), told)
        elif telling.ended is not None:
            whole = _shape(telling, asked, kind).whole("".join(parts), telling.ended)
            return Reply(200, msgspec.json.encode(whole), told)
        return _refusal(_why(telling), told)

    async def _stream(
        self,
        request: web.Request,
        telling: Telling,
        asked: protocol.ChatRequest | protocol.CompletionRequest,
        kind: protocol.Kind,
    ) -> web.StreamResponse:
        shape = _shape(telling, asked, kind)
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers={**headers, **_headers(request.headers, telling)})
        writer = PieceWriter(request, response)
        await response.prepare(request)

        def tell(text: str) -> bool:
            return writer.put(shape.event(text))

        try:
            text = await telling.next()
            first = text is None
            if text is not None:
                await response.write(_event(shape.piece(text, first=True)))
            while text is not None and (text := await telling.next(tell)) is not None:
                await response.write(shape.event(text))
            if telling.ended is None:
                why = _why(telling)
                await response.write_eof(_event(protocol.error_of(STATUS[why.reason], why.what, why.reason.value)))
            else:
                last = [_event(shape.piece("", first=first, reason=telling.ended.reason))]
                last += [_event(shape.usage(telling.ended))] if usage else []
                await response.write_eof(b"".join([*last, b"data: [DONE]\n\n"]))
        except ConnectionError:
            pass  # the client has gone; whoever called this stops the work
        return response


def error_response(status: int, what: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error of the door itself, as clients of this interface read it."""
    return _json(protocol.error_of(status, what), headers, status)


def _refusal(refused: Refused, headers: Mapping[str, str] | None = None) -> Reply:
    """A refusal with the standard body of an error."""
    said = refusal(refused, dict(headers or {}))
    return said._replace(body=msgspec.json.encode(protocol.error_of(said.status, refused.what, refused.reason.value)))


def _refused(status: int, what: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, msgspec.json.encode(protocol.error_of(status, what)), headers or {})


def _shape(
    telling: Telling, asked: protocol.ChatRequest | protocol.CompletionRequest, kind: protocol.Kind
) -> protocol.Shape:
    return protocol.Shape(
        secrets.token_hex(12), asked.model, int(time.time()), chat=kind == "chat", simulated=telling.simulated
    )


def _why(telling: Telling) -> Refused:
    return telling.refused or Refused(QueryRefusal.LOST, "the answer broke off", 1.0)


def _goal(wanted: Mapping[str, object], headers: Mapping[str, str]) -> QueryGoal:
    if unknown := sorted(set(wanted) - set(GOAL_WORDS)):
        raise InputError(f"daitn.{unknown[0][:40]} is nothing that can be asked for")
    return goal_of(wanted, headers)


def _headers(given: Mapping[str, str], telling: Telling) -> dict[str, str]:
    told = {"x-daitn-query": telling.query, **({"x-daitn-host": telling.host} if telling.host else {})}
    if telling.price is not None:
        told["x-daitn-price"] = f"{telling.price:.9f}"
    if telling.model:
        told["x-daitn-model"] = telling.model
    if telling.simulated:
        told["x-daitn-simulated"] = "1"
    if given.get("x-daitn-trace"):
        told["x-daitn-trace"] = trace_header(telling.asked)
    return told


def _event(body: object) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _json(value: object, headers: Mapping[str, str] | None = None, status: int = 200) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, headers=headers, status=status, content_type="application/json")
