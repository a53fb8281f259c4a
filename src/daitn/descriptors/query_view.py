"""Query views (QS-QRRT): small frozen topologies made for one query request, on which its route is decided.

Paper II-B: QRRT turns the map into query-specific topologies. A candidate is a model at a host: where it is, how soon
it would answer, and how good it is at what is asked. Beside the candidates stands what is asked of the network: kinds
of query, regions, rates and patterns. Everything carries its age; hosts whose consent is old are in no view.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.ids import NodeId
from daitn.descriptors.serving import QueryGoal

Text = Annotated[str, msgspec.Meta(max_length=128)]

HOSTS_MOST: Final = 1024
"""Candidates of one view, the soonest first: more are no choice for anybody."""

EXCLUDED_MOST: Final = 256
"""Hosts that a view names with why they are left out; how many there are in all stands beside them."""

DEMANDS_MOST: Final = 256
"""Kinds of query that one view tells of, the most frequent first."""


class QueryDemand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one kind in one region, as gateways counted it."""

    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    """What is asked: a model's name, where queries name one."""
    region: Text = ""
    pattern: str | None = None
    """How its rate moves: `facts_of_things.QUERY_PATTERNS`; None: not told yet."""
    asked_per_s: float | None = None
    asked_per_s_peak: float | None = None
    """In the busiest minute of its period."""
    asked_per_s_soon: float | None = None
    """In a minute, as the rate moves now."""
    query_bytes: float | None = None
    latency_goal_s: float | None = None
    age_s: float | None = 0.0
    """None: its rate was never told."""


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a query view is made for."""

    model: Text = ""
    """Its name; empty: any model that is good enough."""
    goal: QueryGoal = QueryGoal()
    asked_from: Text = ""
    """Where queries come from (a gateway), by id or name: paths are measured from there; empty: from the centre."""
    kind: Text = ""
    """Demand of this kind only; empty: of the model where one is named, else of all."""
    region: Text = ""
    """Demand of this region only."""
    trust_floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    chosen: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """How many hosts are chosen among: a decision on the view stands while these are the soonest."""


class HostReason(StrEnum):
    """Why a model at a host is no candidate."""

    NOT_REACHABLE = "not-reachable"
    CLOSED = "closed"
    """Its host's access has windows, and none is open."""
    CONSENT_OLD = "consent-old"
    NOT_ACCESSIBLE = "not-accessible"
    REGION = "region"
    ZONE = "zone"
    TRUST = "trust"
    NOT_MEASURED = "not-measured"
    """Its service time or the quality asked for is not known."""
    QUALITY = "quality"
    PRICE = "price"
    LATE = "late"


class HostExclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A model at a host that cannot serve this request."""

    thing: str
    """`<host>/<model>`, as on the map."""
    reason: HostReason
    why: str


class HostCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model at a host that queries may be sent to. Times in seconds; None: nobody has told."""

    thing: str
    """`<host>/<model>`, as on the map."""
    model: str
    host: NodeId
    region: str
    path_s: float | None
    """Round trip from where it is asked: measured, or estimated from places."""
    service_s: float
    queue_s: float | None
    load_frac: float | None
    accuracy: float | None
    """In the field asked for, else over all; as a verification unit measured it."""
    trust: float | None
    reachable_frac: float | None
    price: float | None = None
    """Of its service time, by its host's tariff."""
    completion_s: float
    """Predicted: path + queue + service; what is not known counts as nothing and as doubt."""
    deviation_s: float
    """Standard deviation of that: what was told with each part, widened by age; of an unknown part, the mean of the
    other candidates'."""
    age_s: float | None
    """Age of the oldest of these facts; None where one was never told."""


class QueryView(msgspec.Struct, frozen=True, kw_only=True):
    """What one query request can be decided on. `version` grows with every change of the map's columns."""

    version: int
    made_at_ns: int
    hosts: tuple[HostCandidate, ...] = ()
    """The soonest first."""
    excluded: tuple[HostExclusion, ...] = ()
    excluded_in_all: int = 0
    demands: tuple[QueryDemand, ...] = ()


class QueryValidity(msgspec.Struct, frozen=True, kw_only=True):
    """How long a choice of hosts stands: while all chosen ones are there and no later than `boundary_s`, and no other
    host is sooner."""

    chosen: tuple[str, ...]
    """By `HostCandidate.thing`."""
    boundary_s: float | None = None
    """None: there was no other host."""

    def holds(self, view: QueryView) -> bool:
        """Whether the choice stands on a view. O(hosts)."""
        boundary_s = math.inf if self.boundary_s is None else self.boundary_s
        inside = {one.thing for one in view.hosts if one.completion_s <= boundary_s}
        return inside == set(self.chosen)


class QueryHeld(msgspec.Struct, frozen=True, kw_only=True):
    """A view that somebody holds, under the name by which it is followed, and the choice that stands on it."""

    name: str
    view: QueryView
    standing: QueryValidity


class QueryViewDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a view: whoever holds the view `since` has that of `version` once this is applied."""

    since: int
    version: int
    made_at_ns: int
    hosts: tuple[HostCandidate, ...] = ()
    """New ones, and those with another fact than before."""
    gone: tuple[str, ...] = ()
    excluded: tuple[HostExclusion, ...] | None = None
    excluded_in_all: int | None = None
    demands: tuple[QueryDemand, ...] | None = None
    """Each as a whole where it changed; else None."""


class QueryFollowed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a view that somebody holds; None while the choice on it stands."""

    delta: QueryViewDelta | None = None
