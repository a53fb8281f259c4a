"""The gateway's door for secret queries: what is asked and answered is encrypted between client and host.

    GET  /v2/models/{model}/keys    → `KeysTold`: hosts that keep the goal of the headers, with their signed keys
    POST /v2/models/{model}/secret  `SecretQuery` → the host's `SecretOutcome`, encrypted
    POST /v2/models/{model}/secret/text   `SecretTextQuery` → its pieces, encrypted, each after its size (4 bytes, the
                                    highest first); without a piece that says so it is not whole
    POST /v2/models/{model}/secret/later  the same, for nobody who waits (`later_door`): both lie encrypted on disk

Bodies are MessagePack. Goals and the key are headers, as at the open door; refusals are the same. A query goes to hosts
that it was encrypted for and to no other.

A combined model has no host, and a gateway that joined its answers would have to read them. Its client is told what it
is combined of (`KeysTold.combined`) and joins them (`daitn.sdk.secret_combined`); each part is asked under the combined
model's name, with the part's in the header `x-daitn-part`. What is to be chosen by a text, or joined where nobody
waits, is refused, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from daitn.base.errors import DaitnError, PeerError
from daitn.base.ids import ArtifactId, ModelName
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, admissible, unknown_model
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.pipelines import TextSwitch, leaves
from daitn.descriptors.serving import Route, ServedModel
from daitn.node.pki import fingerprint_of
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.asking import Asking
from daitn.node.serving.combining import Combining
from daitn.node.serving.host_keys import verified_keys
from daitn.node.serving.inference_protocol import goal_of
from daitn.node.serving.piece_writer import PieceWriter
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.ways import WayBook
from daitn.wire.secret_queries import PART, KeyStatement, KeysTold, decode_secret_query, decode_secret_text_query

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
        switches: Mapping[ModelName, TextSwitch] = MappingProxyType({}),
    ) -> None:
        self._switches, self._combining = switches, Combining((), engine, asking, counters)
        self._texts = TextAsking(engine, links, counters) if texts is None else texts
        self._engine, self._asking, self._links, self._authority = engine, asking, links, authority
        self._fingerprint, self._counters = fingerprint_of(authority.encode()), counters

    def follow(self, combining: Combining) -> None:
        """These are the combined models of this gateway."""
        self._combining = combining

    async def keys(self, name: str, headers: Mapping[str, str]) -> Reply | Refused:
        """Keys of hosts that may be asked, under the goal of a request's headers; of a combined model, its parts."""
        part, goal = headers.get(PART, ""), goal_of({}, headers)
        combined = None if part or name in self._engine.models else self._combining.told(name, goal)
        if combined is not None:
            told = KeysTold(artifact=ArtifactId(""), authority=self._authority, combined=combined)
            return Reply(200, msgspec.msgpack.encode(told), {}, CONTENT_TYPE)
        model = self._one(name, part)
        if isinstance(model, Refused):
            return model
        routes = admissible(model, goal)
        if isinstance(routes, Refused):
            return routes
        found = await asyncio.gather(*(self._key(route) for route in routes[:HOSTS_ASKED]))
        statements = tuple(one for one in found if one is not None)
        if not statements:
            return Refused(QueryRefusal.NO_HOST, f"no host of {model.model} tells its key now", 1.0)
        told = KeysTold(artifact=model.artifact, authority=self._authority, statements=statements)
        return Reply(200, msgspec.msgpack.encode(told), {}, CONTENT_TYPE)

    def check(self, name: str, headers: Mapping[str, str], body: bytes) -> Refused | None:
        """What is wrong with a secret query that nobody waits for, before any host hears of it; InputError, or None
        where nothing is."""
        secret, _ = decode_secret_query(body), goal_of({}, headers)
        found = self._fit(name, "", secret.artifact)
        return found if isinstance(found, Refused) else None

    def _fit(self, name: str, part: str, artifact: ArtifactId) -> ModelName | Refused:
        """Which model a query is for, if that is the one that it was encrypted for."""
        model = self._one(name, part)
        if isinstance(model, Refused):
            return model
        if model.artifact != artifact:
            what = f"model {model.model} is another package now than the query was encrypted for; fetch keys again"
            return Refused(QueryRefusal.INPUT, what)
        return model.model

    def _one(self, name: str, part: str) -> ServedModel | Refused:
        """The one model that hosts are asked for: `name`, or a `part` of what is combined under that name."""
        combined, switch = self._combining.pipelines.get(ModelName(name)), self._switches.get(ModelName(name))
        model = self._engine.models.get(ModelName(part or name))
        if part:
            parts = [] if combined is None else [leaf.model for leaf in leaves(combined.step)]
            if part not in parts:
                whole = f"combined of {', '.join(parts)}" if parts else "not combined of others here"
                return self._refused(f"{part[:64]!r} is no part of {name[:64]!r}, which is {whole}", "fetch keys again")
        elif model is None and combined is not None:
            parts = [leaf.model for leaf in leaves(combined.step)]
            what = (
                f"{name} is combined of {', '.join(parts)}: who asks in secret joins their answers and waits for them"
            )
            return self._refused(what, "ask its parts, as daitn.sdk.secret_queries.ask_secretly does")
        elif model is None and switch is not None:
            what = f"{name} is {switch.cheap} or {switch.dear} by what a text says, which is not read here"
            return self._refused(what, f"ask {switch.cheap} or {switch.dear} by its name")
        return unknown_model(part or name, self._engine.models) if model is None else model

    def _refused(self, what: str, offer: str) -> Refused:
        self._counters.count("door_refused", "combined")
        return Refused(QueryRefusal.INPUT, what, offer=offer)

    async def ask(self, name: str, headers: Mapping[str, str], body: bytes, key: str, ways: WayBook) -> Reply | Refused:
        """The answer to a secret query, as its host encrypted it."""
        secret, goal = decode_secret_query(body), goal_of({}, headers)
        model = self._fit(name, headers.get(PART, ""), secret.artifact)
        if isinstance(model, Refused):
            return model
        found = await self._asking.ask(model, (), secret.rows, goal, key=key, secret=secret)
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
        model = self._fit(name, "", asked.artifact)
        if isinstance(model, Refused):
            return model
        telling = await self._texts.ask(model, asked, goal, key)
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
