"""Query admission (Q-FAM, paper II-B): can this query be served within its goal now, and if not, why and when.

A pure look at one model's routes and one goal, before anything is sent: capability, then what was measured of the
model, then reachability, region, trust zone and price, then time. A refusal is typed: nothing was spent; where coming
back helps it says when, and where another goal would do it names the nearest one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from daitn.base.nearest import nearest_known
from daitn.descriptors.serving import QueryGoal, Route, ServedModel


class QueryRefusal(StrEnum):
    """Why a query gets no answer."""

    UNKNOWN_MODEL = "unknown-model"
    INPUT = "input"
    QUALITY = "quality"
    REGION = "region"
    ZONE = "zone"
    PRICE = "price"
    NO_HOST = "no-host"
    LATE = "late"
    BUSY = "busy"
    LOST = "lost"
    """Work was begun and lost, on every host that was tried in time."""
    DESTINATION = "destination"
    """The answer could not go where it should."""


class Refused(NamedTuple):
    """No answer: the reason, a sentence, when to come back (0: that would change nothing), the nearest goal."""

    reason: QueryRefusal
    what: str
    retry_after_s: float = 0.0
    offer: str = ""


RETRY_S = 1.0
"""When to come back where no host answers: a lost one is replaced within a patience, found again within two seconds."""


def unknown_model(name: str, known: Iterable[str]) -> Refused:
    """No such model; the nearest names."""
    return Refused(QueryRefusal.UNKNOWN_MODEL, f"no model is called {name[:80]!r}; {nearest_known(name, tuple(known))}")


def admissible(model: ServedModel, goal: QueryGoal, units: int = 1) -> tuple[Route, ...] | Refused:
    """The routes that may be asked, or why none may: everything but time. `units`: what the query is priced by
    (`Route.price_of`). O(routes)."""
    if goal.quality_least is not None:
        name = f"accuracy@{goal.field}" if goal.field else "accuracy"
        value = model.quality.get(name)
        if value is None:
            known = ", ".join(sorted(model.quality)) or "nothing"
            return Refused(QueryRefusal.QUALITY, f"{name} of {model.model} was not measured; {known} was")
        if value < goal.quality_least:
            what = f"{name} of {model.model} is {value:g}, {goal.quality_least:g} is asked for"
            return Refused(QueryRefusal.QUALITY, what, offer=f"{name} >= {value:g}")
    if not model.routes:
        return Refused(QueryRefusal.NO_HOST, f"no host answers for {model.model} now", RETRY_S)
    inside = model.routes
    if goal.region:
        inside = tuple(route for route in inside if route.region == goal.region)
    if not inside:
        there = ", ".join(sorted({route.region or "none" for route in model.routes}))
        what = f"no host of region {goal.region} serves {model.model}; it is in {there}"
        return Refused(QueryRefusal.REGION, what, RETRY_S, _nearest_place(model.routes, goal))
    if goal.zone:
        trusted = tuple(route for route in inside if route.operator in goal.zone)
        if not trusted:
            there = ", ".join(sorted({route.operator or "nobody" for route in inside}))
            what = f"no host of {' or '.join(goal.zone)} serves {model.model} there; those that do are of {there}"
            return Refused(QueryRefusal.ZONE, what, RETRY_S, _nearest_place(model.routes, goal))
        inside = trusted
    return inside if goal.price_most is None else _affordable(model, inside, goal.price_most, units)


def _nearest_place(routes: Sequence[Route], goal: QueryGoal) -> str:
    """Region and zone that somebody could keep: one of them as asked for if that can be."""
    in_zone = [route for route in routes if not goal.zone or route.operator in goal.zone]
    in_region = [route for route in routes if not goal.region or route.region == goal.region]
    if in_zone:
        return _any_of("region", (route.region for route in in_zone))
    if in_region:
        return _any_of("zone", (route.operator for route in in_region))
    route = min(routes, key=lambda one: (one.region, one.operator))
    return f"{_any_of('region', (route.region,))}, {_any_of('zone', (route.operator,))}"


def _any_of(word: str, values: Iterable[str]) -> str:
    """What may be asked for: one of the values, or nothing where a host states none."""
    known = sorted({value for value in values if value})
    return f"{word} = {' or '.join(known)}" if known else f"no {word}"


def _affordable(
    model: ServedModel, routes: tuple[Route, ...], price_most: float, units: int
) -> tuple[Route, ...] | Refused:
    prices = {route.host.node: route.price_of(units) for route in routes}
    found = tuple(route for route in routes if (price := prices[route.host.node]) is not None and price <= price_most)
    if found:
        return found
    least = min((price for price in prices.values() if price is not None), default=None)
    if least is None:
        return Refused(QueryRefusal.PRICE, f"no host that serves {model.model} there states a price", offer="no price")
    what = f"the least price of this query at hosts of {model.model} is {least:.6g}, {price_most:.6g} is asked for"
    return Refused(QueryRefusal.PRICE, what, offer=f"price <= {math.ceil(least * 1e9) / 1e9:.9f}")
