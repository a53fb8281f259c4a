"""QueryViewAdapter (QRRT-A): follows the map for a query view that somebody holds, silent while its choice stands.

Paper II-B: the topology of queries is kept up to date as hosts, models and demand change. What is held is a `QueryView`
and the choice of hosts made on it (`decision.query_route.standing`); what the map says now is compared with that, and a
delta is made only where another choice would be, or where the holder has no choice that it would lose. Demand is told
with the next delta, and by itself where a rate has moved by more than `DEMAND_FRAC`. By configuration what changed is
told once a period instead (`ViewUpdates`).

For training views see `topology.adapter`. H hosts of a view.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.units import ns_to_seconds
from daitn.descriptors.query_view import (
    HostCandidate,
    QueryDemand,
    QueryValidity,
    QueryView,
    QueryViewDelta,
)
from daitn.topology.view_updates import ViewUpdates

DEMAND_FRAC: Final = 0.5
"""How far a rate moves, as a share of what was told, before its holder hears of it by itself."""


class QueryViewAdapter:
    """See the module's docstring."""

    def __init__(self, updates: ViewUpdates | None = None) -> None:
        self._updates = updates or ViewUpdates()
        self._looked_ns = 0
        self.view: QueryView | None = None
        self._validity: QueryValidity | None = None

    def follow(self, view: QueryView, validity: QueryValidity | None) -> None:
        """From now on for this view, on which a choice with this validity was made; None: everything matters."""
        self.view, self._validity, self._looked_ns = view, validity, view.made_at_ns

    def compare(self, now: QueryView) -> QueryViewDelta | None:
        """What the holder has to be told now that the map says this; None while its choice stands, or nothing changed.
        What is returned counts as told. O(H)."""
        if self.view is None:
            return None
        if self._updates.by == "periodic":
            if ns_to_seconds(now.made_at_ns - self._looked_ns) < self._updates.period_s:
                return None
            self._looked_ns = now.made_at_ns
        else:
            stands = self._validity is not None and self._validity.holds(now)
            if stands and not _demand_moved(self.view.demands, now.demands):
                return None
        delta = query_delta(self.view, now)
        if delta is not None:
            self.view = apply_query_delta(self.view, delta)
        return delta


def query_delta(old: QueryView, new: QueryView) -> QueryViewDelta | None:
    """What leads from one view to another; None where only version and ages differ. O(H)."""
    before = {one.thing: one for one in old.hosts}
    after = {one.thing for one in new.hosts}
    changed = tuple(one for one in new.hosts if not _equal(before.get(one.thing), one))
    gone = tuple(thing for thing in before if thing not in after)
    excluded = None if old.excluded == new.excluded else new.excluded
    demands = None if _ageless(old.demands) == _ageless(new.demands) else new.demands
    in_all = None if old.excluded_in_all == new.excluded_in_all else new.excluded_in_all
    if not (changed or gone) and excluded is None and demands is None and in_all is None:
        return None
    return QueryViewDelta(
        since=old.version,
        version=new.version,
        made_at_ns=new.made_at_ns,
        hosts=changed,
        gone=gone,
        excluded=excluded,
        excluded_in_all=in_all,
        demands=demands,
    )


def apply_query_delta(view: QueryView, delta: QueryViewDelta) -> QueryView:
    """The view once a delta is applied, the soonest first. O(H · log H)."""
    changed = {one.thing: one for one in delta.hosts}
    gone = set(delta.gone)
    kept = [one for one in view.hosts if one.thing not in gone and one.thing not in changed]
    hosts = sorted([*kept, *changed.values()], key=lambda one: (one.completion_s, one.thing))
    return QueryView(
        version=delta.version,
        made_at_ns=delta.made_at_ns,
        hosts=tuple(hosts),
        excluded=view.excluded if delta.excluded is None else delta.excluded,
        excluded_in_all=view.excluded_in_all if delta.excluded_in_all is None else delta.excluded_in_all,
        demands=view.demands if delta.demands is None else delta.demands,
    )


def _equal(old: HostCandidate | None, new: HostCandidate) -> bool:
    """Whether nothing but age, and the doubt that grows with it, changed."""
    return old is not None and msgspec.structs.replace(old, age_s=new.age_s, deviation_s=new.deviation_s) == new


def _ageless(demands: tuple[QueryDemand, ...]) -> tuple[QueryDemand, ...]:
    return tuple(msgspec.structs.replace(one, age_s=0.0) for one in demands)


def _demand_moved(told: tuple[QueryDemand, ...], now: tuple[QueryDemand, ...]) -> bool:
    """Whether another kind of query is asked, or a rate has moved far."""
    before = {(one.kind, one.region): one.asked_per_s or 0.0 for one in told}
    after = {(one.kind, one.region): one.asked_per_s or 0.0 for one in now}
    return before.keys() != after.keys() or any(
        abs(rate - before[key]) > DEMAND_FRAC * max(before[key], rate) for key, rate in after.items()
    )
