"""Quotas of keys at a gateway: parts that the control centre leases, spent here without asking for each query.

A key's first query waits for the centre's answer, milliseconds; while a key is used, more is asked for each second, and
sooner where it runs low. Where the centre is silent for `SILENT_S`, each gateway goes on by itself with its part of the
quota's pace, beginning with nothing: so a quota holds then, too. `decision.query_route.quota_leases` has the rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from daitn.base.effects import Event
from daitn.decision.query_route.quota_leases import QuotaPurse
from daitn.decision.query_route.quotas import KeyQuotas, QuotaSpent
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.serving import ApiKey
from daitn.terminal.gateway import QuotasWanted
from daitn.wire.center_serving import QUOTA_KEYS, QuotasAsked, QuotasGiven

TELL_S: Final = 1.0
"""How often the centre is told what was spent."""

SILENT_S: Final = 1.0
"""A centre that says nothing for so long is not waited for: a link that was cut is back sooner."""

ROUNDS: Final = 8
"""How often the centre is asked for one query, where others took what it gave."""

NOTHING_LEFT: Final = QuotaSpent("more than is left of its quota", 1.0)


class _Key:
    """What is kept of one key with quotas."""

    def __init__(self, terms: KeyTerms) -> None:
        self.terms = terms
        self.purse = QuotaPurse(terms)
        self.said: asyncio.Future[None] | None = None
        """Of those who wait for the centre's answer."""
        self.waiting = 0
        self.got = False
        """Whether the centre's last answer let anything in."""
        self.spent: QuotaSpent | None = None
        """What the centre said last of why there is nothing."""
        self.alone: KeyQuotas | None = None
        """Since the centre is silent."""


class QuotaKeeper:
    """See the module's docstring. `post`: where questions to the centre go; None: there is none, and this gateway, the
    only one, counts by itself. `clock_s`: monotonic."""

    def __init__(self, post: Callable[[Event], None] | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._post, self._clock_s = post, clock_s
        self._since, self._number, self._gateways = time.time_ns(), 0, 1
        self._keys: dict[str, _Key] = {}
        self._soon: set[str] = set()
        """Keys that are asked for at the end of this turn of the loop."""

    def take_keys(self, keys: Sequence[ApiKey]) -> None:
        """These are the keys now; what was spent stays where a key's quotas do."""
        found: dict[str, _Key] = {}
        for key in keys:
            if key.terms.counted:
                kept = self._keys.get(key.digest)
                same = kept is not None and kept.terms.quotas == key.terms.quotas
                found[key.digest] = kept if kept is not None and same else _Key(key.terms)
                if self._post is None and found[key.digest].alone is None:
                    found[key.digest].alone = KeyQuotas(key.terms, self._clock_s())
        self._keys = found

    def begin_now(self, digest: str) -> bool:
        """As `begin`, where there is nothing to wait for; False, and nothing was counted, where there may be."""
        key = self._keys.get(digest)
        if key is None:
            return True
        if key.alone is not None or not key.purse.take(self._clock_s()):
            return False
        if key.purse.low():
            self._ask_soon(digest)
        return True

    async def begin(self, digest: str) -> QuotaSpent | None:
        """A query is to be asked with a key: counted from now on; or why it may not, and nothing was counted."""
        if self.begin_now(digest):
            return None
        key = self._keys[digest]
        for _ in range(ROUNDS if key.alone is None else 0):
            try:
                async with asyncio.timeout(SILENT_S):
                    await self._answer(digest, key)
            except TimeoutError:
                key.alone = key.alone or _part_of(key.terms, self._gateways, self._clock_s())
                break
            if key.purse.take(self._clock_s()):
                return None
            if not key.got:
                return key.spent or NOTHING_LEFT
        if key.alone is None:
            return key.spent or NOTHING_LEFT
        now_s = self._clock_s()
        if (spent := key.alone.refusal(now_s)) is not None:
            return spent
        key.alone.spend(now_s, queries=1)
        key.purse.spend(queries=1)
        return None

    def spent(self, digest: str, tokens: int) -> None:
        """A query has ended after so many tokens."""
        key = self._keys.get(digest)
        if key is not None:
            key.purse.spend(tokens=tokens)
            if key.alone is not None:
                key.alone.spend(self._clock_s(), tokens=tokens)

    def given(self, given: QuotasGiven) -> None:
        """The centre has answered."""
        if given.since != self._since:
            return
        self._gateways = given.gateways
        for share in given.shares:
            key = self._keys.get(share.digest)
            if key is None or not key.purse.given(given.number, share, given.lease_s):
                continue
            key.alone, key.got = None, key.purse.any_left(self._clock_s())
            key.spent = QuotaSpent(share.what, max(0.1, share.wait_s)) if share.what else None
            said, key.said = key.said, None
            if said is not None and not said.done():
                said.set_result(None)

    async def tell_often(self) -> None:
        """Tell the centre what was spent, until cancelled."""
        while True:
            await asyncio.sleep(TELL_S)
            now_s = self._clock_s()
            self._ask([digest for digest, key in self._keys.items() if key.alone or key.purse.due(now_s)])

    async def _answer(self, digest: str, key: _Key) -> None:
        """The centre's next answer for a key; asked for where it is not yet."""
        if key.said is None:
            key.said = asyncio.get_running_loop().create_future()
        self._ask_soon(digest)
        key.waiting += 1
        try:
            await asyncio.shield(key.said)
        finally:
            key.waiting -= 1

    def _ask_soon(self, digest: str) -> None:
        if not self._soon:
            asyncio.get_running_loop().call_soon(self._ask_those)
        self._soon.add(digest)

    def _ask_those(self) -> None:
        digests, self._soon = self._soon, set()
        self._ask(sorted(digests))

    def _ask(self, digests: Sequence[str]) -> None:
        now_s = self._clock_s()
        for start in range(0, len(digests), QUOTA_KEYS):
            self._number += 1
            some = [digest for digest in digests[start : start + QUOTA_KEYS] if digest in self._keys]
            keys = [(digest, self._keys[digest]) for digest in some]
            uses = tuple(key.purse.report(digest, self._number, now_s, key.waiting) for digest, key in keys)
            if uses and self._post is not None:
                self._post(QuotasWanted(asked=QuotasAsked(since=self._since, number=self._number, keys=uses)))


def _part_of(terms: KeyTerms, gateways: int, now_s: float) -> KeyQuotas:
    """A gateway's part of a quota, with nothing in it yet."""

    def part(quota: int | None) -> int | None:
        return None if quota is None else max(1, quota // gateways)

    mine = msgspec.structs.replace(
        terms,
        queries_per_minute=part(terms.queries_per_minute),
        tokens_per_minute=part(terms.tokens_per_minute),
        tokens_per_day=part(terms.tokens_per_day),
    )
    found = KeyQuotas(mine, now_s)
    found.empty(now_s)
    return found
