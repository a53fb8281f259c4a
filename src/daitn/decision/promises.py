"""Promises: what is left of sites' slots once others have what they were promised, and what a new job is promised.

Paper II-A: T-FAM admits what the network can do. A job that was admitted counts on so many seconds of a slot at each
site, at any time before its deadline. Whether more can be promised is the question of whether demands with deadlines
can be served: up to every moment t, all that is due by then must fit into `slots · t` (the demand bound of processors
that serve the earliest deadline first; Baruah, Mok and Rosier, 1990, with all work there already). So what is free by a
deadline D is

    free(D) = min over d in {D} and all later deadlines of  slots · d − (what is owed by d)

A job that holds part of a slot waits for the rest of the time, so its batches take `1 / share` as long, with
`share = free(D) / D`: with that every estimate of admission (least time, rounds that fit, expected seconds) is made of
what is left, and none needs to know of other jobs.

What it does not do: say when within its time a job gets a slot; sites take visits in the order in which they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.base.units import show_seconds
from daitn.decision.allowance import allowance
from daitn.decision.costs import WARM_S, batch_seconds
from daitn.decision.drafting import least_seconds
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.routes.contract import best_computes
from daitn.decision.visit_length import planned_batches
from daitn.descriptors.outcome import Exclusion, ReasonCode
from daitn.descriptors.plan import Plan
from daitn.descriptors.promise import Hold, Promise
from daitn.descriptors.request import Request
from daitn.descriptors.view import Candidate, TrainingView
from daitn.learning.methods import METHODS
from daitn.topology.views import kinds

SHARE_LEAST: Final = 0.02
"""A site with less of a slot free is left out while others have records of the same kinds: a visit there would take
fifty times as long."""


class Owed(NamedTuple):
    """What a job that was promised time at a node has not used: `until_s` from now it is due."""

    until_s: float
    seconds: float


class Promises(NamedTuple):
    """What other jobs hold, by node."""

    owed: Mapping[NodeId, tuple[Owed, ...]] = MappingProxyType({})

    def ends_s(self) -> list[float]:
        """When promises end at the latest, in order, each moment once."""
        return sorted({one.until_s for each in self.owed.values() for one in each})


def free_seconds(owed: Sequence[Owed], slots: float, left_s: float, from_s: float = 0.0) -> float:
    """Seconds of one slot that are promised to nobody, in a window of `left_s` that begins `from_s` from now.

    Nothing is expected to be done before the window begins, nor can a job use two slots at once. O(n log n).
    """
    end_s, due = from_s + left_s, 0.0
    later: list[tuple[float, float]] = []
    for one in owed:
        rest = min(one.seconds, one.until_s - from_s)
        if rest <= 0:
            continue
        if one.until_s <= end_s:
            due += rest
        else:
            later.append((one.until_s, rest))
    free = slots * left_s - due
    for until_s, rest in sorted(later):
        due += rest
        free = min(free, slots * (until_s - from_s) - due)
    return max(0.0, min(free, left_s))


def beside(view: TrainingView, promises: Promises, left_s: float, from_s: float = 0.0) -> TrainingView:
    """The view with each candidate's share of a slot that is promised to nobody; without those that have next to none,
    where others have records of the same kinds. The same view where nothing is promised. O(candidates)."""
    if left_s <= 0 or not any(one.compute_node in promises.owed for one in (*view.candidates, *view.cut)):
        return view
    if view.cut:
        cut = tuple(_with_share(one, promises, left_s, from_s) for one in view.cut)
        view = msgspec.structs.replace(view, cut=cut)
    shared = [_with_share(one, promises, left_s, from_s) for one in view.candidates]
    free = [one for one in shared if one.share > SHARE_LEAST]
    if not free or len(free) == len(shared) or kinds(free) < kinds(shared):
        return msgspec.structs.replace(view, candidates=tuple(shared))
    kept = {one.dataset for one in free}
    gone: dict[DataSetId, Exclusion] = {}
    for one in shared:
        if one.dataset not in kept:
            why = f"the slots of {one.compute_node} are promised to other jobs"
            gone[one.dataset] = Exclusion(dataset=one.dataset, code=ReasonCode.SLOTS, why=why)
    excluded = (*view.excluded, *gone.values())
    return msgspec.structs.replace(view, candidates=tuple(free), excluded=excluded)


def without_taken(view: TrainingView, promises: Promises, left_s: float) -> TrainingView:
    """The view without the sites that `beside` leaves out, and otherwise as it is."""
    seen = beside(view, promises, left_s)
    if len(seen.candidates) == len(view.candidates):
        return view
    kept = {(one.dataset, one.compute_node) for one in seen.candidates}
    left = tuple(one for one in view.candidates if (one.dataset, one.compute_node) in kept)
    return msgspec.structs.replace(view, candidates=left, excluded=seen.excluded)


def _with_share(one: Candidate, promises: Promises, left_s: float, from_s: float) -> Candidate:
    owed = promises.owed.get(one.compute_node)
    if owed is None:
        return one
    # Where its access comes and goes, its slots are there for as much less; a job uses one only while it is.
    free_s = free_seconds(owed, one.slots * one.share, left_s, from_s)
    share = min(free_s / left_s, one.share)
    return msgspec.structs.replace(one, share=max(SHARE_LEAST, share))


def promise_of(
    view: TrainingView, request: Request, package: PackageFacts, plan: Plan, preflight: Preflight | None, left_s: float
) -> Promise:
    """What a job admitted on a view made by `beside` is promised: the visits that are expected, or those that its
    deadline and budgets leave room for, where these are fewer; at each site no more than is free."""
    places = best_computes(view)
    if not places:
        return Promise()
    room = allowance(view, request, package, plan, preflight, request.deadline_s - left_s)
    parallel = METHODS[plan.method].parallel
    visits = min(float(plan.expected.visits), room.rounds * (len(places) if parallel else 1))
    need: dict[NodeId, float] = {}
    most: dict[NodeId, float] = {}
    for place in places.values():
        work_s = planned_batches(plan, place.records) * batch_seconds(place, preflight) * visits / len(places)
        need[place.compute_node] = need.get(place.compute_node, 0.0) + WARM_S + work_s
        most[place.compute_node] = place.share * left_s if place.share > SHARE_LEAST else 0.0
    holds = [Hold(node=node, seconds=min(seconds, most[node])) for node, seconds in need.items()]
    kept = tuple(hold for hold in holds if hold.seconds > 0)
    return Promise(holds=kept, store_bytes=package.total_bytes)


class Least(NamedTuple):
    """How little time a plan can take, as `fits` asks for it."""

    view: TrainingView
    """As it is without what others hold."""
    request: Request
    package: PackageFacts
    plan: Plan
    preflight: Preflight | None
    promises: Promises
    margin: float

    def alone_s(self) -> float:
        """The least time if nobody else had been promised anything, margin included."""
        return self.seconds(0.0)

    def seconds(self, left_s: float, from_s: float = 0.0) -> float:
        """The least time within a window of `left_s` that begins `from_s` from now, margin included."""
        seen = beside(self.view, self.promises, left_s, from_s)
        return self.margin * least_seconds(seen, self.request, self.package, self.plan, self.preflight)

    def fits_in_s(self) -> float | None:
        """How long from now the request would fit, submitted anew then, as far as others' promises can be in its way;
        None: not even when they have all ended."""
        deadline_s = self.request.deadline_s
        return first(self.promises.ends_s(), lambda from_s: self.seconds(deadline_s, from_s) <= deadline_s)

    def deadline_s(self, elapsed_s: float, spare: float) -> float:
        """The nearest deadline by which there is `spare` times the least time beside what others hold."""
        spare_s = spare * self.alone_s()
        lefts = [end_s + spare_s for end_s in (0.0, *self.promises.ends_s())]
        found = first(lefts, lambda left_s: self.seconds(left_s) <= left_s)
        return elapsed_s + (found if found is not None else lefts[-1])


def first(values: Sequence[float], holds: Callable[[float], bool]) -> float | None:
    """The first of ascending values for which something holds that holds for all after it; None: for none. O(log n)."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if holds(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low] if low < len(values) else None


def when(fits_in_s: float | None) -> str:
    """In words, from when on a request would fit."""
    if fits_in_s is None:
        return "; not even when their promises have ended would it fit"
    return f"; submitted again in {show_seconds(fits_in_s)}, when promises to others have ended, it would fit"
