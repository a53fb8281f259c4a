"""The gateway's door for secret queries: what is asked and answered is encrypted between client and host.

    GET  /v2/models/{model}/keys    → `KeysTold`: hosts that keep the goal of the headers, with their signed keys
    POST /v2/models/{model}/secret  `SecretQuery` → the host's `SecretOutcome`, encrypted
    POST /v2/models/{model}/secret/text   `SecretTextQuery` → its pieces, encrypted, each after its size (4 bytes, the
                                    highest first); without a piece that says so it is not whole
    POST /v2/models/{model}/secret/later  the same, for nobody who waits (`later_door`): both lie encrypted on disk

Bodies are MessagePack. Goals and the key are headers, as at the open door; refusals are the same. A query goes to hosts
that it was encrypted for and to no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import web

from daitn.base.errors import DaitnError, PeerError
from daitn.base.ids import ArtifactId, ModelName
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, admissible, unknown_model
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import Route
from daitn.node.pki import fingerprint_of
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.asking import Asking
from daitn.node.serving.host_keys import verified_keys
from daitn.node.serving.inference_protocol import goal_of
from daitn.node.serving.piece_writer import PieceWriter
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.ways import WayBook
from daitn.wire.secret_queries import KeyStatement, KeysTold, decode_secret_query, decode_secret_text_query

HOSTS_ASKED: Final = 8
"""Hosts whose keys are fetched for one client: twice as many as one query is sent to."""

PATIENCE_S: Final = 3.0
"""Longest wait for a host's key."""

CONTENT_TYPE: Final = "application/msgpack"


class SecretDoor:
    """See the module's docstring. `authority`: the domain's certificate (PEM); clients know its fingerprint."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        asking: Asking,
        links: AnswerLinks,
        authority: str,
        counters: Counters,
        texts: TextAsking | None = None,
    ) -> None:
        self._texts = TextAsking(engine, links, counters) if texts is None else texts
        self._engine, self._asking, self._links, self._authority = engine, asking, links, authority
        self._fingerprint, self._counters = fingerprint_of(authority.encode()), counters

    async def keys(self, name: str, headers: Mapping[str, str]) -> Reply | Refused:
        """Keys of hosts that may be asked, under the goal of a request's headers."""
        model = self._engine.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self._engine.models)
        routes = admissible(model, goal_of({}, headers))
        if isinstance(routes, Refused):
            return routes
        found = await asyncio.gather(*(self._key(route) for route in routes[:HOSTS_ASKED]))
        statements = tuple(one for one in found if one is not None)
        if not statements:
            return Refused(QueryRefusal.NO_HOST, f"no host of {name} tells its key now", 1.0)
        told = KeysTold(artifact=model.artifact, authority=self._authority, statements=statements)
        return Reply(200, msgspec.msgpack.encode(told), {}, CONTENT_TYPE)

    def check(self, name: str, headers: Mapping[str, str], body: bytes) -> Refused | None:
        """What is wrong with a secret query before any host hears of it; InputError, or None where nothing is."""
        secret, _ = decode_secret_query(body), goal_of({}, headers)
        return self._unfit(name, secret.artifact)

    def _unfit(self, name: str, artifact: ArtifactId) -> Refused | None:
        model = self._engine.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self._engine.models)
        if model.artifact != artifact:
            what = f"model {name} is another package now than the query was encrypted for; fetch keys again"
            return Refused(QueryRefusal.INPUT, what)
        return None

    async def ask(self, name: str, headers: Mapping[str, str], body: bytes, key: str, ways: WayBook) -> Reply | Refused:
        """The answer to a secret query, as its host encrypted it."""
        if (wrong := self.check(name, headers, body)) is not None:
            return wrong
        secret, goal = decode_secret_query(body), goal_of({}, headers)
        found = await self._asking.ask(name, (), secret.rows, goal, key=key, secret=secret)
        ways.keep(key, found)
        if isinstance(found.outcome, Refused):
            return found.outcome
        told = {"x-daitn-query": found.query, "x-daitn-host": found.host}
        if found.price is not None:
            told["x-daitn-price"] = f"{found.price:.9f}"
        return Reply(200, found.outcome.sealed, told, "application/octet-stream")

    async def tell(
        self, name: str, request: web.Request, key: str, ways: WayBook, spent: Callable[[str, int], None]
    ) -> web.StreamResponse | Refused:
        """The pieces of a secret text, as its host encrypted them. `spent`: told the tokens it took, by key."""
        asked, goal = decode_secret_text_query(await request.read()), goal_of({}, request.headers)
        if (wrong := self._unfit(name, asked.artifact)) is not None:
            return wrong
        telling = await self._texts.ask(name, asked, goal)
        try:
            if telling.refused is not None:
                return telling.refused
            told = {"x-daitn-query": telling.query, "x-daitn-host": telling.host, "Cache-Control": "no-cache"}
            if telling.price is not None:
                told["x-daitn-price"] = f"{telling.price:.9f}"
            response = web.StreamResponse(headers={**told, "Content-Type": "application/octet-stream"})
            writer = PieceWriter(request, response)
            await response.prepare(request)
            with suppress(ConnectionError):  # the client has gone
                data = await telling.next_sealed()
                while data is not None:
                    await response.write(_framed(data))
                    data = await telling.next_sealed(lambda data: writer.put(_framed(data)))
                await response.write_eof()
            return response
        finally:
            telling.stop()
            ways.keep(key, telling.asked)
            spent(key, telling.tokens)

    async def _key(self, route: Route) -> KeyStatement | None:
        try:
            statement = (await self._links.key(route.host, PATIENCE_S)).statement
        except DaitnError:
            return None
        told = KeysTold(artifact=ArtifactId(""), authority=self._authority, statements=(statement,))
        try:
            proven = route.host.node in verified_keys(told, self._fingerprint)
        except PeerError:
            proven = False
        if not proven:  # one host that lies must not spoil what is encrypted for the others
            self._counters.count("host_keys_not_proven")
        return statement if proven else None


def _framed(data: bytes) -> bytes:
    """A piece after its size."""
    return len(data).to_bytes(4, "big") + data
