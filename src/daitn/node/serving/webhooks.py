"""Webhooks: answers posted to addresses that queries name, signed, and never to where only insiders may go.

Each post has the headers of the Standard Webhooks specification: `webhook-id` (the query's, the same at every try, so
that a receiver knows a repetition), `webhook-timestamp`, and `webhook-signature: v1a,BASE64`, an Ed25519 signature over
`id.timestamp.body` by the gateway's key for answers, whose public half `GET /v2/later/key` tells. A name is resolved
once for each connection, every address of it is judged (`descriptors.destinations`), and what is connected to is an
address that was judged: a name that changes between two looks gains nothing. Redirects are not followed, proxies of the
environment are not used, and of what the receiver says only the status is read.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from daitn.artifacts.signatures import load_or_create_key, public_hex
from daitn.base.errors import PolicyError, UnavailableError
from daitn.descriptors.destinations import Network, Posted, address_fault
from daitn.serving.webhook_signing import sign_webhook

POST_S: Final = 15.0
"""Longest a receiver may take."""

RESOLVE_S: Final = 5.0


class JudgedResolver(AbstractResolver):
    """Names by the system's resolver, and only if nothing may be said against any of their addresses."""

    def __init__(self, scheme: str, allowed: Sequence[Network]) -> None:
        self._scheme, self._allowed = scheme, allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `aiohttp.abc.AbstractResolver`. PolicyError where an address is ruled out."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, where in found:
            address = str(where[0])
            if fault := address_fault(address, self._scheme, self._allowed):
                raise PolicyError(f"{host} cannot be posted to: {fault}", todo="post to an address outside")
            results.append(
                ResolveResult(
                    hostname=host, host=address, port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


class Webhooks:
    """See the module's docstring. `allowed`: what the operator lists beside the world outside; `key`: its file."""

    def __init__(self, key: Path, allowed: Sequence[Network], clock: Callable[[], float] = time.time) -> None:
        self._key, self._allowed, self._clock = load_or_create_key(key), tuple(allowed), clock

    @property
    def public(self) -> str:
        """The public key, 64 hex digits."""
        return public_hex(self._key)

    async def reach(self, to: Posted) -> None:
        """Whether an address may be posted to, as far as names tell: PolicyError where it must not be, UnavailableError
        where its name stands for nothing now."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                await JudgedResolver(to.scheme, self._allowed).resolve(to.host, to.port)
        except TimeoutError:
            raise UnavailableError(f"{to.host} is not told within {RESOLVE_S:g} s") from None
        except OSError as error:
            raise UnavailableError(f"{to.host} is not known: {error.strerror or error}") from None

    async def post(self, to: Posted, query: str, body: bytes, content_type: str, told: dict[str, str]) -> None:
        """Post an answer. UnavailableError where that may go better another time, PolicyError where it must not be."""
        # aiohttp asks no resolver for addresses that are written out.
        await self.reach(to)
        timestamp = int(self._clock())
        headers = {
            **told,
            "Content-Type": content_type,
            "webhook-id": query,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign_webhook(query, timestamp, body, self._key),
        }
        connector = aiohttp.TCPConnector(resolver=JudgedResolver(to.scheme, self._allowed), use_dns_cache=False)
        timeout = aiohttp.ClientTimeout(total=POST_S)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.post(to.url, data=body, headers=headers, allow_redirects=False) as said,
            ):
                status = said.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"{to.host} did not take it: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise UnavailableError(f"{to.host} did not take it: it said {status}")
