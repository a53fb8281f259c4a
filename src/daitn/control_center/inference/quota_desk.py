"""Quota desk: what is left of keys' quotas, leased to gateways in parts, so that a quota holds over all of them.

How it is counted and shared is `decision.query_route.quota_leases`; here are the books of all keys. Nothing is on the
disk: a centre that starts again has full buckets, and takes what gateways spent before as leased by the one before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from daitn.base.ids import NodeId
from daitn.decision.query_route.quota_leases import LEASE_S, QuotaBook
from daitn.descriptors.serving import ApiKey
from daitn.wire.center_serving import GATEWAYS, QuotasAsked, QuotasGiven


class QuotaDesk:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._books: dict[str, tuple[tuple[int | None, ...], QuotaBook]] = {}
        self._gateways: frozenset[NodeId] = frozenset()

    def take_keys(self, keys: Sequence[ApiKey], now_ns: int) -> None:
        """These are the keys now. What was spent stays where a key's quotas do."""
        books: dict[str, tuple[tuple[int | None, ...], QuotaBook]] = {}
        for key in keys:
            if key.terms.counted:
                kept = self._books.get(key.digest)
                same = kept is not None and kept[0] == key.terms.quotas
                books[key.digest] = (
                    kept if kept is not None and same else (key.terms.quotas, QuotaBook(key.terms, now_ns / 1e9))
                )
        self._books = books

    def answer(self, sender: NodeId, asked: QuotasAsked, gateways: Collection[NodeId], now_ns: int) -> QuotasGiven:
        """What a gateway may spend. `gateways`: those that there are."""
        now_s = now_ns / 1e9
        if (there := frozenset(gateways)) != self._gateways:
            self._gateways = there
            for _, book in self._books.values():
                book.forget(there, now_s)
        shares = [
            self._books[use.digest][1].asked(sender, asked.since, use, now_s)
            for use in asked.keys
            if use.digest in self._books
        ]
        return QuotasGiven(
            since=asked.since,
            number=asked.number,
            lease_s=LEASE_S,
            gateways=min(max(1, len(there)), GATEWAYS),
            shares=tuple(shares),
        )
