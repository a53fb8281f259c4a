"""Planned: the whole route at once, by our own search over a model of how this run learns (paper, MTRCE).

Quota form and budget form are one objective (`decision.planning.visits`): least shortfall below the targets, then least
cost, within the seconds, bytes and visits that are left. What a visit teaches and lets fade is estimated from what was
measured in this very run (`decision.planning.teaching`); verifications are part of the route. Only the first stop is
taken: after every visit, and whenever facts left the ranges that the plan came with, it is planned anew.

Where the search finds nothing worth its cost, `routed` decides.

What it does not do: answer within a turn. In a core it is asked through `decision.planned_routes.RouteSought`, with
more steps than `next_stop` takes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from daitn.base.ids import DataSetId
from daitn.decision.routes.contract import Seen, Span, best_compute, best_compute_holds, datasets
from daitn.decision.routes.errand import Errand
from daitn.decision.routes.routed import Routed
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

if TYPE_CHECKING:
    from daitn.decision.planning.teaching import Learnt
    from daitn.decision.planning.visits import VisitProblem

STEPS: Final = 4_000
"""Steps of a search where nobody said how many: some milliseconds."""

AHEAD: Final = 12
"""Visits looked ahead where nobody said how many: about what is planned before a plan is replaced."""


class Route(NamedTuple):
    """A planned route; no stops where nothing is worth its cost. `order`: its data sets by their numbers in `problem`;
    `share`: of what is wanted, when it ends; `seconds`: what it takes."""

    stops: tuple[Stop, ...]
    order: tuple[int, ...]
    names: tuple[DataSetId, ...]
    learnt: Learnt
    problem: VisitProblem
    share: float
    seconds: float


class Planned:
    """See the module's docstring."""

    name = "planned"
    meanwhile = "routed"

    def next_stop(self, view: TrainingView, seen: Seen, records_per_visit: int) -> Stop | None:
        """The first stop of a plan of `AHEAD` visits. Cost: some milliseconds, the first time seconds of compiling."""
        if not view.candidates:
            return None
        route = plan_route(view, seen, records_per_visit)
        return route.stops[0] if route.stops else Routed().next_stop(view, seen, records_per_visit)

    def holds(self, span: Span, seen: Seen, records_per_visit: int, stop: Stop) -> bool:  # noqa: ARG002
        """A search proves nothing about other views: certain only with one data set. How long a plan is worth keeping
        is told by `decision.planned_routes`."""
        return len(datasets(span.worst)) == 1 and best_compute_holds(span, stop)


def plan_route(
    view: TrainingView, seen: Seen, records_per_visit: int, *, steps: int = STEPS, ahead: int = AHEAD
) -> Route:
    """The best route found from here; the view must have a candidate. Equal arguments give equal routes. Cost: see
    `plan_visits`."""
    # Compiled loops are loaded with the first plan: a centre whose jobs plan nothing never loads them.
    from daitn.decision.planning.teaching import learnt_from, missing_share, visit_problem
    from daitn.decision.planning.visits import plan_visits

    errand = seen.errand or Errand()
    places = places_of(view)
    names = tuple(places)
    learnt = learnt_from(places, seen, records_per_visit, errand)
    problem = visit_problem(places, learnt, errand, seen.last)
    most = max(1, min(ahead, errand.visits_left))
    found = plan_visits(problem, steps=steps, most=most, seed=seen.seed % 2**31)
    share, seconds = 1.0 - missing_share(problem, found.known), found.resources[0]
    many = len(found.stops)
    stops = tuple(
        Stop(
            dataset=names[place],
            compute_node=places[names[place]].compute_node,
            why=f"visit {number} of {many} planned: {share:.0%} of what is wanted after {seconds:.3g} s",
        )
        for number, place in enumerate(found.stops, 1)
    )
    return Route(stops, found.stops, names, learnt, problem, share, seconds)


def places_of(view: TrainingView) -> dict[DataSetId, Candidate]:
    """Each data set's quickest place, by name."""
    return {name: best_compute(view, name) for name in datasets(view)}
