"""The route of one job: which stop comes next, from a rule that answers at once or from a plan made beside the turn.

Paper II-A, MTRCE. A plan is sought for what the model will have seen *after* the visit that was just ordered, so that
it is mostly there when it is needed. It is taken while it fits: the same visits, a model measured about as good as it
was thought to be, and facts within the ranges it came with. Else another is sought, and the job waits for that for
`PLAN_WAIT_S`, then goes on by the rule's own stand-in (`RouteRule.meanwhile`). Nothing here is durable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from daitn.base import limits
from daitn.base.ids import DataSetId
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.turn import Turn
from daitn.decision.planned_routes import RoutePlanned, RouteSought
from daitn.decision.routes import quick
from daitn.decision.routes.contract import RouteRule, Seen
from daitn.decision.routes.errand import Errand, Left, errand_of
from daitn.decision.validity import within
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView

PLAN_WAIT_S: Final = 2.0
"""How long a job waits for a plan: forty times what one takes on an idle core, half of what a lost visit costs."""

SURPRISE: Final = 0.1
"""How far what was measured may be from what a plan took for known, as shares of the way to perfect."""


class RouteDesk:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._planned: RoutePlanned | None = None
        self._asked: tuple[tuple[DataSetId, ...], int, int] | None = None
        """Visits, looks and version of the view of the newest plan sought."""
        self._pending = False
        """Whether the newest has not been answered: of one key only the newest is, so asking on and on gets none."""
        self._waits: tuple[tuple[DataSetId, ...], int] | None = None
        """Visits for which a plan is waited for, and since when."""

    def seen(self, turn: Turn, view: TrainingView, more: Sequence[tuple[DataSetId, int]] = ()) -> Seen:
        """What the model has been through, and will have after some `more` visits, and what it is still to be done."""
        state = self._desk.state
        return Seen(visits=(*state.seen, *more), seed=state.request.seed, errand=self._errand(turn, view))

    def next_stop(self, turn: Turn, rule: RouteRule, view: TrainingView, records: int) -> Stop | None:
        """The next stop; None without candidates, and while a plan is waited for."""
        seen = self.seen(turn, view)
        if not rule.meanwhile or not view.candidates:
            return quick(rule).next_stop(view, seen, records)
        visits = tuple(name for name, _ in seen.visits)
        plan = self._planned
        if plan is not None and self._fits(plan, visits, view):
            self._waits = None
            return plan.stops[0] if plan.stops else quick(rule).next_stop(view, seen, records)
        self._seek(turn, view, seen, records)
        if self._waits is None or self._waits[0] != visits:
            self._waits = (visits, turn.now_ns)
        if turn.now_ns < self._waits[1] + seconds_to_ns(PLAN_WAIT_S):
            return None
        return quick(rule).next_stop(view, seen, records)

    def ordered(self, turn: Turn, rule: RouteRule, view: TrainingView, stop: Stop, records: int) -> Stop | None:
        """A visit at `stop` was ordered: have the route from there planned. The likely stop after it."""
        after = self.seen(turn, view, [(stop.dataset, max(1, round(records * stop.length)))])
        if not rule.meanwhile:
            return rule.next_stop(view, after, records)
        self._seek(turn, view, after, records)
        plan = self._planned
        if plan is not None and len(plan.stops) > 1 and plan.stops[0] == stop:
            return plan.stops[1]
        return quick(rule).next_stop(view, after, records)

    def answered(self, plan: RoutePlanned | None) -> None:
        """The route that was sought; None where there is no answer."""
        self._pending = False
        if plan is not None:
            self._planned = plan
            self._desk.validity = plan.validity

    def _seek(self, turn: Turn, view: TrainingView, seen: Seen, records: int) -> None:
        visits = tuple(name for name, _ in seen.visits)
        asked = (visits, len(self._desk.state.looks), view.version)
        if self._asked is not None and (asked == self._asked or (self._pending and asked[:2] == self._asked[:2])):
            return
        self._asked, self._pending = asked, True
        problem = RouteSought(view=view, seen=seen, records_per_visit=records)
        turn.compute(f"route {self._desk.state.job}", problem, view.version)

    def _errand(self, turn: Turn, view: TrainingView) -> Errand:
        state = self._desk.state
        assert state.plan is not None
        budget = state.request.budget
        left = Left(
            seconds=(self._desk.deadline_ns - turn.now_ns) / 1e9,
            bytes=math.inf if budget.transfer_bytes is None else budget.transfer_bytes - state.transfer_bytes,
            price=math.inf if budget.price is None else budget.price - state.charges.price,
            joules=math.inf if budget.energy_joules is None else budget.energy_joules - state.charges.energy_joules,
            visits=(budget.visits or limits.VISITS_PER_JOB) - state.visits,
        )
        return errand_of(state.request, state.package, state.plan, view, state.preflight, state.looks, left)

    def _fits(self, plan: RoutePlanned, visits: tuple[DataSetId, ...], view: TrainingView) -> bool:
        """Whether a plan is for what the model has seen, of what is known of it, and on facts as they are now."""
        if plan.visits != visits:
            return False
        pairs = {(one.dataset, one.compute_node) for one in view.candidates}
        if plan.stops and (plan.stops[0].dataset, plan.stops[0].compute_node) not in pairs:
            return False
        if plan.looks < len(self._desk.state.looks) and self._surprised(plan, view):
            return False
        return plan.validity is None or within(plan.validity, view)

    def _surprised(self, plan: RoutePlanned, view: TrainingView) -> bool:
        """Whether a model measured since the plan was made is another than it was taken for."""
        state = self._desk.state
        assert state.plan is not None
        left = Left(seconds=0.0)
        errand = errand_of(state.request, state.package, state.plan, view, state.preflight, state.looks, left)
        measured = errand.looks[-1].known if errand.looks else ()
        return len(measured) != len(plan.known) or any(
            abs(one - other) > SURPRISE for one, other in zip(measured, plan.known, strict=True) if math.isfinite(one)
        )
