"""Keys at a gateway's door: who asks, what they may ask, how much of it is left, and how they stand among others.

Keys come from the control centre as digests with their terms. A token's digest is computed once. Every request is held
to a rate; what asks a model is held to the key's terms: its models, and its quotas, of which this gateway has a part
(`quota_keeper`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from daitn.base.errors import InputError
from daitn.base.metrics import Counters
from daitn.descriptors.key_terms import RANKS, KeyPriority
from daitn.descriptors.serving import ApiKey
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.http.problems import HttpError, too_many
from daitn.node.http.rates import RateBook
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving.quota_keeper import QuotaKeeper

QUERIES_PER_S: Final = 10_000.0
QUERIES_BURST: Final = 20_000.0
"""Of one key: beyond it, others would wait for it."""

KEYS_REMEMBERED: Final = 4096
"""Tokens whose digest is remembered, so that one is computed once and not per query."""

PLAIN: Final = (1.0, RANKS[KeyPriority.NORMAL])
"""Weight and rank of a key without terms."""


class KeyBook:
    """See the module's docstring. `clock_s`: monotonic; `quotas`: None where there is no other gateway."""

    def __init__(
        self,
        counters: Counters,
        clock_s: Callable[[], float] = time.monotonic,
        quotas: QuotaKeeper | None = None,
    ) -> None:
        self._counters, self._clock_s = counters, clock_s
        self._quotas = quotas or QuotaKeeper(None, clock_s)
        self.told = asyncio.Event()
        """Whether it is known which keys open the door."""
        self._keys: dict[str, ApiKey] = {}
        self._digests: dict[str, str] = {}
        self._rates = RateBook(QUERIES_PER_S, QUERIES_BURST)

    def take_keys(self, keys: Sequence[ApiKey]) -> None:
        """These keys open the door from now on."""
        self._keys = {key.digest: key for key in keys}
        self._quotas.take_keys(keys)
        self.told.set()

    def admit(self, authorization: str, api_key: str) -> str:
        """The digest of the key that opened the door, from a bearer token or else `X-API-Key`. HttpError 401 where none
        does, 429 beyond the rate."""
        kind, _, token = authorization.partition(" ")
        token = token.strip() if kind.lower() == "bearer" else api_key
        digest = self._digests.get(token)
        if digest is None and token:
            try:
                digest = digest_of_secret(parse_owner_token(token).secret)
            except InputError:
                digest = ""
            if len(self._digests) >= KEYS_REMEMBERED:
                self._digests.clear()
            self._digests[token] = digest
        key = self._keys.get(digest or "")
        if key is None or key.expires_unix_s <= time.time():
            self._counters.count("door_refused", "key")
            what = "no key was given" if not token else "this key opens nothing here, or not any more"
            raise HttpError(401, "policy", what, todo="send a domain's key as bearer token or X-API-Key")
        if (wait_s := self._rates.take(key.digest, self._clock_s())) > 0:
            self._counters.count("door_refused", "rate")
            raise too_many(f"more than {QUERIES_PER_S:g} queries a second with one key", wait_s)
        return key.digest

    def owner_of(self, digest: str) -> str:
        """Whose key it is; empty where it opens nothing, or not any more."""
        key = self._keys.get(digest)
        return "" if key is None or key.expires_unix_s <= time.time() else str(key.owner)

    def may_ask(self, digest: str, model: str) -> bool:
        """Whether a key's terms let it ask a model."""
        key = self._keys.get(digest)
        return key is not None and (not key.terms.models or model in key.terms.models)

    def begin_now(self, digest: str, model: str) -> bool:
        """As `begin`, where there is nothing to wait for; False, and nothing was counted, where there is."""
        return self.may_ask(digest, model) and self._quotas.begin_now(digest)

    def check(self, digest: str, model: str) -> None:
        """HttpError 403 where the key is not for that model, whether there is one of that name or not."""
        if not self.may_ask(digest, model):
            self._counters.count("door_refused", "model")
            key = self._keys.get(digest)
            models = ", ".join(key.terms.models) if key is not None else "nothing any more"
            raise HttpError(403, "policy", f"this key may not ask {model[:64]!r}; it is for {models}")

    async def begin(self, digest: str, model: str) -> None:
        """A query of a model is about to be asked with a key: counted from now on. HttpError 403 where the key is not
        for that model, 429 where a quota is used up; then nothing was counted."""
        self.check(digest, model)
        if (spent := await self._quotas.begin(digest)) is None:
            return
        self._counters.count("door_refused", "quota")
        raise too_many(f"this key may ask {spent.what}, and has", spent.wait_s)

    def spent(self, digest: str, tokens: int) -> None:
        """A query has ended, or was broken off, after so many tokens of prompt and answer."""
        if tokens:
            self._quotas.spent(digest, tokens)

    def standing(self, digest: str) -> tuple[float, int]:
        """Weight and rank of a key where queries wait for their turn."""
        key = self._keys.get(digest)
        return PLAIN if key is None else (key.terms.weight, RANKS[key.terms.priority])
