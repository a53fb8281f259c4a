"""Planned routes as a core asks for them: a problem to be solved beside the turn, and how long its answer stands.

Paper II-A, MTRCE and DRRT-A. `RouteSought` holds the view and the errand of one moment; `RoutePlanned` has the stops,
and the ranges of facts within which planning anew is not worth it. What "stands" means for a search is not that no
better route exists, which it cannot prove, but a bound on what keeping the route may lose: at the corners of the ranges
(all facts at their worst, all at their best, and each candidate alone at either end) it is compared with its *rivals*,
the same route begun elsewhere, and may fall behind the best of them by `TOLERANCE` at most.

Legend: S data sets, V planned visits, F topics. Cost: that of the search, then at most ten comparisons of O(S) corners
with O(S) rivals, each O(V · F).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from daitn.base.effects import Problem, Solution
from daitn.base.ids import DataSetId
from daitn.decision.routes.contract import Seen, Span
from daitn.decision.routes.errand import Errand
from daitn.decision.routes.planned import Route, places_of, plan_route
from daitn.decision.validity import ranges_where
from daitn.descriptors.plan import Stop, Validity
from daitn.descriptors.view import Candidate, TrainingView

STEPS: Final = 40_000
"""Steps of a job's search: about 50 ms of a core."""

AHEAD: Final = 32
"""Visits looked ahead."""

TOLERANCE: Final = 0.02
"""What of all that is wanted, or of the route's cost, keeping a route may lose before it is planned anew."""

VALIDITY_MOST: Final = 24
"""Candidates up to which a route's ranges are worked out; of more, it stands as long as its next stop is there."""

RIVALS_MOST: Final = 12
"""Other data sets that the route is tried to begin at."""


class RoutePlanned(Solution, frozen=True, kw_only=True):
    """A route for whoever has seen `visits`. No stops: nothing planned is worth its cost."""

    visits: tuple[DataSetId, ...]
    looks: int
    """Measured models it knew of."""
    known: tuple[float, ...]
    """By aim, what it took for known after these visits."""
    stops: tuple[Stop, ...]
    share: float
    """Of what is wanted, when the route ends."""
    seconds: float
    validity: Validity | None
    """None: not known, as for large views."""


class RouteSought(Problem, frozen=True, kw_only=True):
    """Which route from here?"""

    view: TrainingView
    seen: Seen
    records_per_visit: int

    def solve(self) -> RoutePlanned:
        """See the module's docstring."""
        from daitn.decision.planning.teaching import covered

        errand = self.seen.errand or Errand()
        route = plan_route(self.view, self.seen, self.records_per_visit, steps=STEPS, ahead=AHEAD)
        validity = None
        if route.stops and len(self.view.candidates) <= VALIDITY_MOST:
            validity = ranges_where(
                self.view, route.stops[0], lambda span: _stands(route, span, errand, self.seen.last)
            )
        groups = [covered(route.learnt.topics, aim) for aim in errand.aims]
        return RoutePlanned(
            visits=tuple(name for name, _ in self.seen.visits),
            looks=len(errand.looks),
            known=tuple(float(route.learnt.known[group].mean()) for group in groups),
            stops=route.stops,
            share=route.share,
            seconds=route.seconds,
            validity=validity,
        )


def _stands(route: Route, span: Span, errand: Errand, last: DataSetId | None) -> bool:
    """Whether the route falls behind no rival by more than the tolerance, at any corner of a span."""
    from daitn.decision.planning.teaching import missing_share, visit_problem
    from daitn.decision.planning.visits import evaluate

    rivals = list(_rivals(route))
    for view in _corners(span):
        places = places_of(view)
        if any(places[stop.dataset].compute_node != stop.compute_node for stop in route.stops):
            return False
        problem = visit_problem(places, route.learnt, errand, last)

        def figures(order: tuple[int, ...], problem=problem) -> tuple[float, float, bool]:  # type: ignore[no-untyped-def]
            spent, known = evaluate(problem, order)
            cost = float(problem.price @ spent)
            return missing_share(problem, known), cost, bool((spent <= problem.budget * (1 + 1e-9)).all())

        missing, cost, affordable = figures(route.order)
        if not affordable:
            return False
        for rival in rivals:
            other_missing, other_cost, other_affordable = figures(rival)
            if other_affordable and other_missing < missing - TOLERANCE:
                return False
            if other_affordable and other_missing <= missing + 1e-9 and other_cost < cost * (1 - TOLERANCE):
                return False
    return True


def _rivals(route: Route) -> Iterator[tuple[int, ...]]:
    """The route begun at each other data set: instead of its first stop, or, where that comes later, by going there
    first."""
    order = route.order
    others = [place for place in dict.fromkeys((*order, *range(len(route.names)))) if place != order[0]]
    for place in others[:RIVALS_MOST]:
        yield (place, *order[1:])
        if place in order:
            at = order.index(place)
            yield (place, *order[:at], *order[at + 1 :])


def _corners(span: Span) -> Iterator[TrainingView]:
    """All facts at their worst, at their best, and each candidate alone at either end while the others are between."""
    yield span.worst
    yield span.best
    pairs = list(zip(span.worst.candidates, span.best.candidates, strict=True))
    middle = [_between(worst, best) for worst, best in pairs]
    for place, ends in enumerate(pairs):
        for end in ends:
            yield msgspec.structs.replace(
                span.worst, candidates=tuple(end if number == place else one for number, one in enumerate(middle))
            )


def _between(worst: Candidate, best: Candidate) -> Candidate:
    return msgspec.structs.replace(
        worst,
        trust=(worst.trust + best.trust) / 2,
        availability=(worst.availability + best.availability) / 2,
        batch_s=None if worst.batch_s is None or best.batch_s is None else (worst.batch_s * best.batch_s) ** 0.5,
        flops=(worst.flops * best.flops) ** 0.5,
        wait_s=(worst.wait_s + best.wait_s) / 2,
    )
