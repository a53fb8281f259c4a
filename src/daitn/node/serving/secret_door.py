"""The gateway's door for secret queries: what is asked and answered is encrypted between client and host.

    GET  /v2/models/{model}/keys    → `KeysTold`: hosts that keep the goal of the headers, with their signed keys
    POST /v2/models/{model}/secret  `SecretQuery` → the host's `SecretOutcome`, encrypted

Bodies are MessagePack. Goals and the key are headers, as at the open door; refusals are the same. A query goes to hosts
that it was encrypted for and to no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.ways import WayBook
from daitn.wire.secret_queries import KeyStatement, KeysTold, decode_secret_query

HOSTS_ASKED: Final = 8
"""Hosts whose keys are fetched for one client: twice as many as one query is sent to."""

PATIENCE_S: Final = 3.0
"""Longest wait for a host's key."""

CONTENT_TYPE: Final = "application/msgpack"


class SecretDoor:
    """See the module's docstring. `authority`: the domain's certificate (PEM); clients know its fingerprint."""

    def __init__(
        self, engine: QueryRouteEngine, asking: Asking, links: AnswerLinks, authority: str, counters: Counters
    ) -> None:
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

    async def ask(self, name: str, request: web.BaseRequest, key: str, ways: WayBook) -> Reply | Refused:
        """The answer to a secret query, as its host encrypted it."""
        secret = decode_secret_query(await request.read())
        goal = goal_of({}, request.headers)
        model = self._engine.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self._engine.models)
        if model.artifact != secret.artifact:
            what = f"model {name} is another package now than the query was encrypted for; fetch keys again"
            return Refused(QueryRefusal.INPUT, what)
        found = await self._asking.ask(name, (), secret.rows, goal, key=key, secret=secret)
        ways.keep(key, found)
        if isinstance(found.outcome, Refused):
            return found.outcome
        told = {"x-daitn-query": found.query, "x-daitn-host": found.host}
        if found.price is not None:
            told["x-daitn-price"] = f"{found.price:.9f}"
        return Reply(200, found.outcome.sealed, told, "application/octet-stream")

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
