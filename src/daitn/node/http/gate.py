"""The gate: who is calling, and how often, decided before a request reaches any route.

A plain ASGI layer, so that a caller who floods is refused in a tenth of a millisecond, without routing, body or core.
A token that was good before draws on its own bucket first and is looked up only then, so that its flood does not reach
the database; only valid tokens get a bucket of their own. All other callers share a smaller one per address: tokens
have 256 random bits and are not guessed, but a flood of false ones should not be answered at length.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from daitn.base.errors import DaitnError
from daitn.base.metrics import Counters
from daitn.node.http.problems import HttpError, answer_of, status_word, too_many
from daitn.node.http.rates import REQUESTS_PER_S, RateBook
from daitn.node.http.tokens import TokenBook, TokenFault, TokenHolder

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/v1/authority", "/openapi.json"})
"""What is told without a token: the authority's certificate, which clients check by its fingerprint, and the manual."""

HOLDER: Final = "daitn.holder"
"""Where the gate leaves the caller in the ASGI scope."""

_ASK: Final = "ask an operator of the domain for a new one: `daitn token owner NAME`"
_SAID: Final[dict[TokenFault, tuple[str, str]]] = {
    TokenFault.NONE: ("no token was given", "send `Authorization: Bearer daitn-owner1.…` with a valid token"),
    TokenFault.MALFORMED: ("this is no owner's token, or not all of it", "send the whole token: `daitn-owner1.…`"),
    TokenFault.OTHER_DOMAIN: ("this token is of another domain", "send it to the address that stands in it"),
    TokenFault.UNKNOWN: ("this token is unknown here", _ASK),
    TokenFault.EXPIRED: ("this token has expired", _ASK),
    TokenFault.REVOKED: ("this token was revoked", _ASK),
}
"""What is wrong with a token, and what to do. Whoever holds a token's secret may know what became of it."""


class Gate:
    """See the module's docstring."""

    def __init__(
        self,
        app: AsgiApp,
        tokens: TokenBook,
        callers: RateBook,
        strangers: RateBook,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._callers, self._strangers = callers, strangers
        self._counters = counters
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[HOLDER] = self._admit(scope)
        except DaitnError as error:
            await self._refuse(error, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> TokenHolder | None:
        """Who calls; None for a stranger at an open path. HttpError 401 or 429 for those who may not."""
        now_s = self._clock()
        client = scope.get("client")
        stranger = str(client[0]) if client else "unknown"
        token = _bearer(scope)
        name = self._tokens.name_of(token) if token else ""
        seen = name in self._callers
        if seen:
            self._draw(name, now_s)
        # Looked up whatever the address did before: an owner must not suffer for a neighbour behind the same address.
        found = self._tokens.look_up(token) if token else TokenFault.NONE
        if isinstance(found, TokenHolder):
            if not seen:
                self._draw(name, now_s)
            return found
        if (wait_s := self._strangers.take(stranger, now_s)) > 0:
            raise too_many("too many requests without a valid token from one address", wait_s)
        if scope["path"] in OPEN_PATHS:
            return None
        self._counters.count("tokens_refused", found.value)
        what, todo = _SAID[found]
        raise HttpError(401, "policy", what, todo=todo, ids={"token": name} if name else None)

    def _draw(self, name: str, now_s: float) -> None:
        if (wait_s := self._callers.take(name, now_s)) > 0:
            raise too_many(f"more than {REQUESTS_PER_S:g} requests a second with one token", wait_s)

    async def _refuse(self, error: DaitnError, send: Send) -> None:
        status, body, headers = answer_of(error)
        self._counters.count("requests_refused", status_word(status))
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        listed = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": body})


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = bytes(value).decode("latin-1").partition(" ")
            return token.strip() if kind.lower() == "bearer" else ""
    return ""
