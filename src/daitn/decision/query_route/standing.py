"""Which hosts a query view speaks for, and how long that stands (paper II-B, QIRCE on QS-QRRT).

The soonest by predicted completion are chosen; the choice stands while none of them is later, and no other sooner, than
half-way between the last one in and the first one out (Babcock & Olston 2003). So whoever holds the view compares one
number with each host (`topology.query_adapter`), and what hosts report of their queues is weighed by how near it is to
that boundary (`topology.orchestrator`).

Pure. H hosts of a view.
"""

from __future__ import annotations

from daitn.descriptors.plan import RANGES_MOST, FactRange
from daitn.descriptors.query_view import QueryValidity, QueryView


def standing_of(view: QueryView, chosen: int) -> QueryValidity:
    """How long a choice of the `chosen` soonest hosts stands; with fewer hosts than that, while none comes. O(H)."""
    hosts = view.hosts
    inside = hosts[:chosen]
    boundary_s = None
    if len(hosts) > chosen > 0:
        boundary_s = (inside[-1].completion_s + hosts[chosen].completion_s) / 2
    return QueryValidity(chosen=tuple(one.thing for one in inside), boundary_s=boundary_s)


def ranges_of(view: QueryView, validity: QueryValidity) -> tuple[FactRange, ...]:
    """Within which ranges the facts that hosts report may move: the queue and the service time of each have half of its
    distance from the boundary. Loss: the share of the best completion that a second costs. O(H)."""
    if not view.hosts or validity.boundary_s is None:
        return ()
    loss = 1.0 / max(view.hosts[0].completion_s, 1e-6)
    chosen = set(validity.chosen)
    found: list[FactRange] = []
    for one in view.hosts[: RANGES_MOST // 2]:
        half_s = abs(validity.boundary_s - one.completion_s) / 2
        for fact, value in (("model_queue_s", one.queue_s or 0.0), ("service_s", one.service_s)):
            if one.thing in chosen:
                found.append(FactRange(thing=one.thing, fact=fact, high=value + half_s, loss=loss))
            elif value > half_s:
                found.append(FactRange(thing=one.thing, fact=fact, low=value - half_s, loss=loss))
    return tuple(found)
