"""The gateway's door: the Open Inference Protocol v2 over HTTP, for any client of it; OpenAI's is `openai_door`.

Whoever asks shows a key of the domain (`daitn token owner NAME --scope ask`) as a bearer token or in `X-API-Key`;
health needs none. Errors have the protocol's body, `{"error": sentence}`, and headers say the rest: `Retry-After` where
coming back helps, `x-daitn-reason`, `x-daitn-offer` for the nearest goal that would do. `x-daitn-host` names who
answered, `x-daitn-query` the query: `GET /v2/queries/NAME` (`daitn explain`) tells whoever asked it how its hosts were
chosen, for the last `ways.WAYS_KEPT` queries; a request with the header `x-daitn-trace: 1` gets that back with its
answer. `x-daitn-session` keeps the queries of a session together where that costs nothing. Bodies are bounded before
they are read, and neither queries nor answers are logged. Plain queries are read by `quick_door`, all else by aiohttp;
those that only a host can read have a door of their own, `secret_door`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import web

from daitn import __version__
from daitn.base.errors import InputError, UnavailableError
from daitn.base.metrics import Counters
from daitn.base.units import MIB
from daitn.control_center.inference.query_admission import Refused
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.pipelines import Pipeline
from daitn.descriptors.serving import ApiKey, ServedModel
from daitn.node.http.problems import HttpError
from daitn.node.serving import door_schema
from daitn.node.serving import inference_protocol as protocol
from daitn.node.serving.asking import Asking
from daitn.node.serving.combining import Combining
from daitn.node.serving.feedback_door import FeedbackDoor
from daitn.node.serving.key_book import KeyBook
from daitn.node.serving.later import SEALED
from daitn.node.serving.later_door import LaterDoor, LaterMaking
from daitn.node.serving.openai_door import OpenAiDoor, error_response
from daitn.node.serving.query_door import QueryDoor, error_body
from daitn.node.serving.quick_door import QuickProtocol, Reply, Ways
from daitn.node.serving.replies import refusal, response_of, told_of
from daitn.node.serving.secret_door import SecretDoor
from daitn.node.serving.ways import WayBook

BODY_BYTES: Final = 32 * MIB
"""Largest body: the tensors of a query as JSON, at 15 characters for a number of 4 bytes."""

STOP_S: Final = 2.0
"""How long what is under way is given when the door closes."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        asking: Asking,
        counters: Counters,
        openai: OpenAiDoor | None = None,
        pipelines: Sequence[Pipeline] = (),
        secret: SecretDoor | None = None,
        later: LaterMaking | None = None,
    ) -> None:
        self._secret = secret
        self.keys = KeyBook(counters) if openai is None else openai.keys
        self._later = None if later is None else LaterDoor(self, later)
        self._engine, self._asking, self._counters, self._openai = engine, asking, counters, openai
        self._feedback = FeedbackDoor(asking.outcomes, engine, counters)
        self._combining = Combining(pipelines, engine, asking, counters)
        if secret is not None:
            secret.follow(self._combining)
        self._ways = WayBook() if openai is None else openai.ways
        self._queries = QueryDoor(engine, asking, self._combining, self.keys, self._ways, self._feedback, counters)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._quick: set[QuickProtocol] = set()
        self.address = ""

    def follow(self, models: Sequence[ServedModel]) -> None:
        """These models are served now."""
        self._combining.follow(models)
        self._asking.follow(models)

    def take_keys(self, keys: Sequence[ApiKey]) -> None:
        """These keys open the door from now on."""
        self.keys.take_keys(keys)

    async def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        """Listen; UnavailableError where the port cannot be had."""
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[self._errors])
        get, post = app.router.add_get, app.router.add_post
        get("/v2", self._server)
        get(door_schema.PATH, self._document)
        get("/v2/health/live", self._live)
        get("/v2/health/ready", self._ready)
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            get(path, self._metadata)
            get(path + "/ready", self._model_ready)
            get(path + "/config", self._config)
            post(path + "/infer", self._infer)
        if self._secret is not None:
            get("/v2/models/{model}/keys", self._keys_of)
            post("/v2/models/{model}/secret", self._ask_secret)
            post("/v2/models/{model}/secret/text", self._tell_secret)
        get("/v2/queries/{query}", self._explain)
        self._feedback.add_routes(app)
        if self._later is not None:
            await self._later.open(app)
        post("/v2/repository/index", self._index)
        post("/v2/repository/models/{model}/load", self._load)
        post("/v2/repository/models/{model}/unload", self._unload)
        if self._openai is not None:
            self._openai.add_routes(app)
        # A handler is cancelled when its client has gone: nobody waits for what a host would compute for it.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S, handler_cancellation=True
        )
        await self._runner.setup()
        general = self._runner.server
        assert general is not None

        ways = Ways(self._queries.begin, general, BODY_BYTES, self._too_large)
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: QuickProtocol(ways, self._quick), host, port, ssl=context
            )
        except OSError as error:
            await self._runner.cleanup()
            raise UnavailableError(f"the gateway cannot listen at {host}:{port}: {error.strerror}") from None
        here = self._listener.sockets[0].getsockname()
        scheme = "http" if context is None else "https"
        self.address = f"{scheme}://{here[0]}:{here[1]}"

    async def stop(self) -> None:
        """Close; what is under way is given two seconds."""
        if self._listener is not None:
            self._listener.close()
        if self._later is not None:
            await self._later.close()
        if under_way := [over for one in list(self._quick) if (over := one.close()) is not None]:
            await asyncio.wait(under_way, timeout=STOP_S)
            for one in list(self._quick):
                one.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    # --- whoever comes ----------------------------------------------------------------------------------------------

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not request.path.startswith("/v2/health/"):
                given = request.headers
                request["key"] = self.keys.admit(given.get("authorization", ""), given.get("x-api-key", ""))
            return await handler(request)
        except InputError as error:
            self._counters.count("door_refused", "input")
            return _error_at(request, 400, error.render())
        except web.HTTPRequestEntityTooLarge:
            return _error_at(request, 413, self._too_large_what())
        except HttpError as error:
            return _error_at(request, error.status, error.what, told_of(error))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            self._counters.count("door_refused", "path")
            return _error_at(request, error.status, f"{request.method} {request.path[:100]}: {error.reason}")

    def _refuse(self, why: str, status: int, what: str, headers: dict[str, str] | None = None) -> web.Response:
        self._counters.count("door_refused", why)
        return _error(status, what, headers)

    # --- what there is ----------------------------------------------------------------------------------------------

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(status=200)

    async def _ready(self, _: web.Request) -> web.Response:
        ready = any(model.routes for model in self._engine.models.values())
        return web.Response(status=200 if ready else 503)

    async def _server(self, _: web.Request) -> web.Response:
        return _json({"name": "daitn", "version": __version__, "extensions": protocol.EXTENSIONS})

    async def _document(self, _: web.Request) -> web.Response:
        return _json(door_schema.document())

    async def _metadata(self, request: web.Request) -> web.Response:
        model = self._model(request)
        return model if isinstance(model, web.Response) else _json(protocol.metadata_of(model))

    async def _config(self, request: web.Request) -> web.Response:
        model = self._model(request)
        return model if isinstance(model, web.Response) else _json(protocol.config_of(model))

    async def _model_ready(self, request: web.Request) -> web.Response:
        model = self._model(request)
        if isinstance(model, web.Response):
            return model
        return web.Response(status=200 if model.routes else 503)

    async def _index(self, request: web.Request) -> web.Response:
        only_ready = protocol.decode_index(await request.read()).ready
        found = [
            {
                "name": model.model,
                "version": protocol.VERSION,
                "state": "READY" if model.routes else "UNAVAILABLE",
                "reason": "" if model.routes else "no host answers for it now",
            }
            for model in (*self._engine.models.values(), *self._combining.all())
            if model.is_listed and (model.routes or not only_ready) and self.keys.may_ask(request["key"], model.model)
        ]
        return _json(found)

    async def _load(self, request: web.Request) -> web.Response:
        """A model that is deployed is loaded already; any other has to be given to the network with its package."""
        model = self._model(request)
        if isinstance(model, web.Response):
            return model
        return web.Response(status=200) if model.routes else _error(503, f"no host answers for {model.model} now")

    async def _unload(self, request: web.Request) -> web.Response:
        model = self._model(request)
        if isinstance(model, web.Response):
            return model
        return self._refuse(
            "unload", 403, f"{model.model} is withdrawn by its provider: daitn undeploy, not by a key that may ask it"
        )

    def _model(self, request: web.Request) -> ServedModel | web.Response:
        found = self._queries.find(request["key"], request.match_info["model"], request.match_info.get("version", ""))
        return response_of(found) if isinstance(found, Reply) else found

    # --- queries ----------------------------------------------------------------------------------------------------

    async def _infer(self, request: web.Request) -> web.Response:
        """A query that came by the general way."""
        model = self._model(request)
        if isinstance(model, web.Response):
            return model
        return response_of(await self._queries.ask(request["key"], model, request.headers, await request.read()))

    def _too_large_what(self) -> str:
        self._counters.count("door_refused", "too-large")
        return f"the body has more than {BODY_BYTES} bytes; send fewer rows"

    def _too_large(self) -> Reply:
        return Reply(413, error_body(self._too_large_what()), {})

    async def _keys_of(self, request: web.Request) -> web.Response:
        """Keys of hosts, for a secret query."""
        assert self._secret is not None
        self.keys.check(request["key"], request.match_info["model"])
        said = await self._secret.keys(request.match_info["model"], request.headers)
        return response_of(refusal(said) if isinstance(said, Refused) else said)

    async def _ask_secret(self, request: web.Request) -> web.Response:
        assert self._secret is not None
        await self.keys.begin(request["key"], request.match_info["model"])
        name, body = request.match_info["model"], await request.read()
        said = await self._secret.ask(name, request.headers, body, request["key"], self._ways)
        return response_of(refusal(said) if isinstance(said, Refused) else said)

    async def _tell_secret(self, request: web.Request) -> web.StreamResponse:
        assert self._secret is not None
        name, key = request.match_info["model"], request["key"]
        await self.keys.begin(key, name)
        said = await self._secret.tell(name, request, key, self._ways, self.keys.spent)
        return response_of(refusal(said)) if isinstance(said, Refused) else said

    # --- queries that nobody waits for: see `later_door` --------------------------------------------------------------

    @property
    def takes_secrets(self) -> bool:
        """Whether it carries secret queries."""
        return self._secret is not None

    @property
    def texts(self) -> OpenAiDoor | None:
        """What reads requests of texts."""
        return self._openai

    def owner_of(self, key: str) -> str:
        """Whose key it is, by its digest; empty where it opens nothing, or not any more."""
        return self.keys.owner_of(key)

    async def keys_told(self) -> None:
        """Until it is known which keys open the door."""
        await self.keys.told.wait()

    def check_key(self, key: str, name: str) -> None:
        """HttpError where a key is not for a model."""
        self.keys.check(key, name)

    def check(self, key: str, name: str, version: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What would be said to a query before any host hears of it; InputError, or None where nothing is wrong."""
        if headers.get(SEALED):
            wrong = None if self._secret is None else self._secret.check(name, headers, body)
            return None if wrong is None else refusal(wrong)
        return self._queries.check(key, name, version, headers, body)

    async def answer(self, key: str, name: str, version: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """A query that was let in before."""
        try:
            if headers.get(SEALED) and self._secret is not None:
                await self.keys.begin(key, name)
                said = await self._secret.ask(name, headers, body, key, self._ways)
                return refusal(said) if isinstance(said, Refused) else said
            model = self._queries.find(key, name, version)
            return model if isinstance(model, Reply) else await self._queries.ask(key, model, headers, body)
        except InputError as error:
            return Reply(400, error_body(error.render()), {})
        except HttpError as error:
            return Reply(error.status, error_body(error.what), told_of(error))

    async def _explain(self, request: web.Request) -> web.Response:
        """How hosts were chosen for a query, to whoever asked it."""
        way = self._ways.way(request["key"], request.match_info["query"])
        if way is None:
            return _error(404, "no such query of this key is remembered here: the last ones are, each at its gateway")
        return _json(way)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _error_at(request: web.Request, status: int, what: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as clients of this path read it."""
    return error_response(status, what, headers) if request.path.startswith("/v1/") else _error(status, what, headers)


def _error(status: int, what: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=error_body(what), headers=headers, content_type="application/json")
