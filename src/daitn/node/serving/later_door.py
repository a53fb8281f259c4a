"""The gateway's door for queries that nobody waits for: paths and keys around `later.LaterQueries`.

POST   /v2/models/{model}/later   a query as for `infer` → 202 and its name
POST   /v2/models/{model}/secret/later   the same, of a secret query: neither it nor its answer can be read here
POST   /v1/chat/completions/later, /v1/completions/later, /v1/embeddings/later   a text as without `/later`, whole
GET    /v2/later/{query}          202 while it is under way, else what `infer`, or OpenAI's interface, would have said
DELETE /v2/later/{query}          stop it, or forget its answer
GET    /v2/later/key              the key that answers are signed with when they are posted
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

import msgspec
from aiohttp import web

from daitn.control_center.inference.query_admission import Refused
from daitn.node.serving.later import SEALED, TEXT, Came, LaterQueries
from daitn.node.serving.later_store import Later
from daitn.node.serving.openai_protocol import KINDS, Kind
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.replies import refusal, response_of

LaterMaking = Callable[[Callable[[Later], Awaitable[Reply]]], LaterQueries]
"""Makes the queries that nobody waits for, which are answered by what it is given."""


class Texts(Protocol):
    """OpenAI's door."""

    def named(self, kind: Kind, body: bytes) -> str:
        """The model that a request asks; InputError for what is none, or wants pieces."""
        ...

    def check(self, kind: Kind, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What is wrong with a request before any host hears of it."""
        ...

    async def answer(self, kind: Kind, key: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """A request's answer now, whole."""
        ...


class Asked(Protocol):
    """What answers queries: the gateway's door."""

    @property
    def takes_secrets(self) -> bool:
        """Whether it carries secret queries."""
        ...

    @property
    def texts(self) -> Texts | None:
        """What reads requests of texts; None: it takes none."""
        ...

    def owner_of(self, key: str) -> str:
        """Whose key it is; empty: nobody's."""
        ...

    async def keys_told(self) -> None:
        """Until keys are known."""
        ...

    def check_key(self, key: str, name: str) -> None:
        """HttpError where a key is not for a model."""
        ...

    def check(self, key: str, name: str, version: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What is wrong with a query before any host hears of it."""
        ...

    async def answer(self, key: str, name: str, version: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """A query's answer now."""
        ...


class LaterDoor:
    """See the module's docstring."""

    def __init__(self, door: Asked, make: LaterMaking) -> None:
        self._door = door
        self._later = make(self._ask)

    async def open(self, app: web.Application) -> None:
        """Put the routes under `app`, and go on with what was taken before."""
        app.router.add_post("/v2/models/{model}/later", self._take)
        app.router.add_post("/v2/models/{model}/versions/{version}/later", self._take)
        if self._door.takes_secrets:
            app.router.add_post("/v2/models/{model}/secret/later", self._take_sealed)
        for path in KINDS if self._door.texts is not None else ():
            app.router.add_post(path + "/later", self._take_text)
        app.router.add_get("/v2/later/key", self._key)
        app.router.add_get("/v2/later/{query}", self._fetch)
        app.router.add_delete("/v2/later/{query}", self._forget)
        await self._later.start()

    async def close(self) -> None:
        """What is not done stays on disk."""
        await self._later.stop()

    async def _take(self, request: web.Request) -> web.Response:
        return await self._taken(request, request.match_info["model"], {})

    async def _take_sealed(self, request: web.Request) -> web.Response:
        return await self._taken(request, request.match_info["model"], {SEALED: "1"})

    async def _take_text(self, request: web.Request) -> web.Response:
        assert self._door.texts is not None
        kind = KINDS[request.path.removesuffix("/later")]
        return await self._taken(request, self._door.texts.named(kind, await request.read()), {TEXT: kind})

    async def _taken(self, request: web.Request, name: str, ours: Mapping[str, str]) -> web.Response:
        """`ours`: what the door says of the query; of a client's words nothing is taken for that."""
        given = {word.lower(): value for word, value in request.headers.items()}
        headers = {word: value for word, value in given.items() if word not in (SEALED, TEXT)} | dict(ours)
        version, body = request.match_info.get("version", ""), await request.read()
        key = request["key"]
        self._door.check_key(key, name)
        texts, kind = self._door.texts, ours.get(TEXT)
        if kind is None or texts is None:
            wrong = self._door.check(key, name, version, headers, body)
        else:
            wrong = texts.check(cast(Kind, kind), headers, body)
        if wrong is not None:
            return response_of(wrong)
        said = await self._later.take(Came(self._door.owner_of(key), key, name, version, headers, body))
        return response_of(refusal(said) if isinstance(said, Refused) else said)

    async def _fetch(self, request: web.Request) -> web.Response:
        return response_of(await self._later.fetch(self._door.owner_of(request["key"]), request.match_info["query"]))

    async def _forget(self, request: web.Request) -> web.Response:
        return response_of(await self._later.forget(self._door.owner_of(request["key"]), request.match_info["query"]))

    async def _key(self, _: web.Request) -> web.Response:
        said = {"algorithm": "ed25519", "key": self._later.key}
        return response_of(Reply(200, msgspec.json.encode(said), {}))

    async def _ask(self, one: Later) -> Reply:
        """What a query is answered now, if its key still opens the door."""
        await self._door.keys_told()
        if self._door.owner_of(one.key) != one.owner:
            what = "the key that asked opens nothing here any more"
            return Reply(401, msgspec.json.encode({"error": what}), {})
        texts, kind = self._door.texts, one.headers.get(TEXT)
        if kind is not None and texts is not None:
            return await texts.answer(cast(Kind, kind), one.key, one.headers, one.asked)
        return await self._door.answer(one.key, one.model, one.version, one.headers, one.asked)
