"""Query views for whoever holds one elsewhere: given whole once, then followed by deltas (QRRT-A).

A holder says for what it needs the view; it gets the view, and the choice that stands on it. From then on it asks for
the next delta and waits: the map is looked at several times a second, and nothing is said while the choice stands
(`topology.query_adapter`). A holder that does not ask for a minute is forgotten, and asks for a view anew.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from daitn.base.errors import InputError, UnavailableError
from daitn.base.nearest import nearest_known
from daitn.base.units import NS_PER_S
from daitn.decision.query_route.standing import standing_of
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.query_view import QueryHeld, QueryRequest, QueryView, QueryViewDelta
from daitn.node.clock import NodeClock
from daitn.topology.fact_book import FactBook
from daitn.topology.query_adapter import QueryViewAdapter
from daitn.topology.query_views import make_query_view
from daitn.topology.view_updates import ViewUpdates

HOLDERS_MOST: Final = 256
"""Views followed at a time: each is made a few times a second while its holder waits, a millisecond for some hundred
hosts."""

FORGOTTEN_NS: Final = 60 * NS_PER_S
"""A holder that does not ask for so long is gone."""

LOOK_S: Final = 0.25
"""How often the map is looked at for a holder that waits."""

WAIT_MOST_S: Final = 20.0
"""Longest wait of one call: below what proxies allow."""


class _Holder:
    def __init__(self, request: QueryRequest, view: QueryView, updates: ViewUpdates) -> None:
        self.request = request
        self.adapter = QueryViewAdapter(updates)
        self.asked_ns = view.made_at_ns
        self.follow(view)

    def follow(self, view: QueryView) -> None:
        self.adapter.follow(view, standing_of(view, self.request.chosen))


class ViewFollowing:
    """See the module's docstring."""

    def __init__(self, book: FactBook, clock: NodeClock, updates: ViewUpdates | None = None) -> None:
        self._updates = updates or ViewUpdates()
        self._book = book
        self._clock = clock
        self._holders: dict[str, _Holder] = {}

    def view(self, request: QueryRequest) -> QueryView:
        """The view now, to be looked at once. InputError for a model or place that the map does not know."""
        if request.model:
            table = self._book[Kind.MODEL]
            codes = {int(code) for code in table.column("model")[table.alive()].tolist() if code >= 0}
            names = [self._book.words.text(code) for code in codes]
            if request.model not in names:
                near = nearest_known(request.model, names) if names else "no host serves any model yet"
                raise InputError(f"no host serves a model {request.model[:80]!r}", todo=near)
        return make_query_view(self._book, request, self._clock.now_ns())

    def hold(self, request: QueryRequest) -> QueryHeld:
        """The view now, and the name under which it is followed."""
        view = self.view(request)
        for name in [name for name, one in self._holders.items() if view.made_at_ns - one.asked_ns > FORGOTTEN_NS]:
            del self._holders[name]
        if len(self._holders) >= HOLDERS_MOST:
            raise UnavailableError(f"{HOLDERS_MOST} views are followed already", todo="try again in a minute")
        name = secrets.token_hex(8)
        self._holders[name] = _Holder(request, view, self._updates)
        return QueryHeld(name=name, view=view, standing=standing_of(view, request.chosen))

    async def next(self, name: str, wait_s: float) -> QueryViewDelta | None:
        """What became of a view that is held, once its choice stands no more; None while it does. InputError where
        nobody holds that."""
        if name not in self._holders:
            raise InputError(
                f"no view {name[:80]!r} is held", todo="ask for a view anew: it was not asked for in a while"
            )
        holder = self._holders[name]
        ends_ns = self._clock.now_ns() + int(NS_PER_S * (min(wait_s, WAIT_MOST_S) if wait_s > 0 else 0.0))
        while True:
            now = make_query_view(self._book, holder.request, self._clock.now_ns())
            holder.asked_ns = now.made_at_ns
            delta = holder.adapter.compare(now)
            if delta is not None:
                holder.follow(now)
                return delta
            if now.made_at_ns >= ends_ns:
                return None
            await asyncio.sleep(LOOK_S)
