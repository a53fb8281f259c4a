"""Quotas of a key over all gateways: parts of what is left are leased to them, as slots of hosts are (`slots`).

The centre keeps a key's buckets (`QuotaBook`) and leases what is in them: a gateway may spend up to a total that it is
told, counted since its process began, so each answer replaces the last and one that is lost costs nothing. A lease that
is not renewed ends, at the gateway first, and what it left is counted as spent. So what is spent and what may still be
is never more than the quota, whatever is lost between them. Tokens are known when
an answer has ended: a query is let in while a token is left, and what it takes beyond that is owed by the key.

Pure: moments are given, in seconds of each side's own clock; a gateway counts a lease from when it asked. O(gateways
that ask with the key).
"""

from __future__ import annotations

import math
from typing import Final

from daitn.base.ids import NodeId
from daitn.decision.query_route.quotas import KeyQuotas, QuotaSpent
from daitn.descriptors.key_terms import KeyTerms
from daitn.wire.center_serving import QuotaShare, QuotaUse

LEASE_S: Final = 8.0
"""How long a part may be spent without being renewed: a gateway renews it each second while it is used."""

MARGIN_S: Final = 2.0
"""So much longer it is held at the centre: clocks of two machines drift by less, and messages are quicker."""

IDLE_S: Final = 3.0
"""A gateway gives back what it holds of a key that nobody used for so long."""

QUICK: Final = 4
"""Queries between two reports, a second, up to which a gateway holds none: it asks for each, and takes nothing from
others that a small quota has."""

AGAIN_S: Final = 1.0
"""Where more is wanted so soon after the last report, twice as much is asked for."""

WANTED_MOST: Final = 10**6
"""Queries that are asked for because more was wanted again and again."""

TOKENS_LEAST: Final = 1000
"""Tokens that are asked for at first: a query or two."""


class _Account:
    """What one process of a gateway was leased of one key."""

    def __init__(self, since: int, use: QuotaUse) -> None:
        self.since = since
        self.queries, self.tokens = use.queries, use.tokens
        """Totals that were taken from the buckets."""
        self.queries_most, self.tokens_most = use.queries, use.tokens
        self.until_s = -1.0


class QuotaBook:
    """The centre's half, for one key."""

    def __init__(self, terms: KeyTerms, now_s: float) -> None:
        self._quotas = KeyQuotas(terms, now_s)
        self._accounts: dict[NodeId, _Account] = {}

    def asked(self, gateway: NodeId, since: int, use: QuotaUse, now_s: float) -> QuotaShare:
        """A gateway says what it spent, and wants to hold so much more: up to which totals it may spend. `since`: its
        process."""
        account = self._accounts.get(gateway)
        if account is None or account.since != since:
            if account is not None:  # its process ended, and what that spent last was never told
                self._assume(account, now_s)
            # What a process spent before this centre knew of it was leased by the one before, or by nobody.
            account = self._accounts[gateway] = _Account(since, use)
        self._end(now_s)
        # What was counted as spent and was not stays so: a bucket that was full meanwhile would give it out twice.
        queries, tokens = max(0, use.queries - account.queries), max(0, use.tokens - account.tokens)
        self._quotas.spend(now_s, queries=queries, tokens=tokens)
        account.queries, account.tokens = use.queries, use.tokens
        shared = any(other is not account and other.until_s > now_s for other in self._accounts.values())
        free_queries, free_tokens = self._free(account, now_s)
        # What it holds, and still wants, stays: it goes on with that where this answer is lost.
        held = (0, 0)
        if account.until_s > now_s:
            held = account.queries_most - use.queries, account.tokens_most - use.tokens
        account.queries_most = use.queries + _part(free_queries, use.queries_wanted, held[0], shared=shared)
        account.tokens_most = use.tokens + _part(free_tokens, use.tokens_wanted, held[1], shared=shared)
        account.until_s = now_s + LEASE_S + MARGIN_S
        spent = self._quotas.refusal(now_s) or self._later(now_s)
        return QuotaShare(
            digest=use.digest,
            queries_most=account.queries_most,
            tokens_most=account.tokens_most,
            what="" if spent is None else spent.what,
            wait_s=0.0 if spent is None else min(spent.wait_s, 1e6),
        )

    def forget(self, gateways: frozenset[NodeId], now_s: float) -> None:
        """Only these are gateways now; what others held is spent."""
        for node in [node for node in self._accounts if node not in gateways]:
            self._assume(self._accounts.pop(node), now_s)

    def _free(self, account: _Account, now_s: float) -> tuple[float, float]:
        """Queries and tokens that are left and leased to no other gateway."""
        queries, tokens = self._quotas.left(now_s)
        for other in self._accounts.values():
            if other is not account:
                queries -= max(0, other.queries_most - other.queries)
                tokens -= max(0, other.tokens_most - other.tokens)
        return queries, tokens

    def _later(self, now_s: float) -> QuotaSpent | None:
        """When coming back helps where something is left, and others hold it: when their leases end, at the latest."""
        held = [one.until_s for one in self._accounts.values() if one.until_s > now_s]
        return QuotaSpent("what other gateways hold of its quota", min(held) - now_s) if held else None

    def _end(self, now_s: float) -> None:
        """Leases that ended without a word count as spent."""
        for account in self._accounts.values():
            if 0 < account.until_s <= now_s:
                self._assume(account, now_s)

    def _assume(self, account: _Account, now_s: float) -> None:
        """All that it held is spent."""
        queries = max(0, account.queries_most - account.queries)
        tokens = max(0, account.tokens_most - account.tokens)
        self._quotas.spend(now_s, queries=queries, tokens=tokens)
        account.queries, account.tokens = account.queries + queries, account.tokens + tokens
        account.until_s = -1.0


def _part(free: float, wanted: int, held: int, *, shared: bool) -> int:
    """Of what is free, what a gateway gets: all that it wants, but half where others ask with this key too."""
    least = max(0, min(wanted, held))
    if free < 1:
        return least
    most = math.floor(min(free, wanted * 2))
    return max(least, min(wanted, max(1, most // 2) if shared else most))


class QuotaPurse:
    """A gateway's half, for one key: what it spent, and up to which totals it may."""

    def __init__(self, terms: KeyTerms) -> None:
        self._counts_queries = terms.queries_per_minute is not None
        self._counts_tokens = terms.tokens_per_minute is not None or terms.tokens_per_day is not None
        self._queries = self._tokens = 0
        self._queries_most = self._tokens_most = 0
        self._told = (0, 0)
        self._wanted = (0, 0)
        """What was asked for last."""
        self._number = 0
        self._asked_s = self._until_s = self._used_s = -math.inf

    def take(self, now_s: float) -> bool:
        """Spend a query, if there is one left and a token for its answer."""
        self._used_s = now_s
        if not self.any_left(now_s):
            return False
        self._queries += 1
        return True

    def any_left(self, now_s: float) -> bool:
        """Whether a query may be asked."""
        if now_s >= self._until_s or (self._counts_queries and self._queries >= self._queries_most):
            return False
        return not self._counts_tokens or self._tokens < self._tokens_most

    def spend(self, *, queries: int = 0, tokens: int = 0) -> None:
        """So much was spent all the same: by an answer that has ended, or while the centre was silent."""
        self._queries += queries
        self._tokens += tokens

    @property
    def number(self) -> int:
        """Of the last report."""
        return self._number

    def due(self, now_s: float) -> bool:
        """Whether there is anything to report: spent and not told, or held."""
        spent = self._queries, self._tokens
        return spent != self._told or (now_s < self._until_s and (self._queries_most, self._tokens_most) != spent)

    def low(self) -> bool:
        """Whether less than half is left of what was asked for, of a key that is used often."""
        queries, tokens = self._wanted
        if self._counts_queries and queries > QUICK and 2 * (self._queries_most - self._queries) < queries:
            return True
        return self._counts_tokens and 2 * (self._tokens_most - self._tokens) < tokens

    def report(self, digest: str, number: int, now_s: float, waiting: int = 0) -> QuotaUse:
        """What to tell the centre, and ask of it, for so many queries that wait: twice of what was spent since the last
        report. Nothing, and what is held is given back, where the key is used seldom."""
        queries, tokens = self._queries - self._told[0], self._tokens - self._told[1]
        again = waiting > 0 and now_s - self._asked_s < AGAIN_S
        wanted = 2 * queries if queries > QUICK else 0
        wanted = max(wanted, waiting, min(2 * self._wanted[0], WANTED_MOST) if again else 0)
        wanted_tokens = max(2 * tokens, TOKENS_LEAST) if tokens or waiting or now_s - self._used_s < IDLE_S else 0
        if not waiting and now_s - self._used_s >= IDLE_S:
            wanted = wanted_tokens = 0
        self._wanted = (wanted, wanted_tokens)
        self._told, self._number, self._asked_s = (self._queries, self._tokens), number, now_s
        # What is not wanted any more is given back by this very report, whether it is answered or not.
        self._queries_most = min(self._queries_most, self._queries + wanted)
        self._tokens_most = min(self._tokens_most, self._tokens + wanted_tokens)
        return QuotaUse(
            digest=digest,
            queries=self._queries,
            tokens=self._tokens,
            queries_wanted=wanted,
            tokens_wanted=wanted_tokens,
        )

    def given(self, number: int, share: QuotaShare, lease_s: float) -> bool:
        """The centre's answer; False where it is to an older report than the last: what it gave may be given back by
        now."""
        if number != self._number:
            return False
        self._queries_most, self._tokens_most = share.queries_most, share.tokens_most
        self._until_s = self._asked_s + min(lease_s, LEASE_S)
        return True
