"""What a running job may still spend of its budgets of price and energy, and of each data set's privacy.

No visit is ordered that is not paid for. What one comes to in price and energy is known only when it is over, so one is
ordered while what it is expected to come to is left; what it costs in privacy is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable

from daitn.control_center.training.job_state import JobState
from daitn.decision.costs import visit_joules, visit_price
from daitn.decision.noising import can_take, told_of
from daitn.decision.visit_length import planned_batches
from daitn.describe.accountant import Mechanism
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView
from daitn.descriptors.work import TrainWork


class Spending:
    """See the module's docstring."""

    def __init__(self, state: JobState) -> None:
        self._state = state

    def affordable(self, view: TrainingView) -> tuple[Candidate, ...]:
        """Candidates of a view whose next visit the budgets pay for: O(candidates); all where nothing is bounded."""
        budget = self._state.request.budget
        if budget.price is None and budget.energy_joules is None and self._state.request.privacy is None:
            return view.candidates
        told = self._told()
        return tuple(one for one in view.candidates if self._pays(one) and self._private(one, told))

    def spent(self, make_view: Callable[[], TrainingView]) -> str:
        """Which of them is used up; empty while none is. A view is made only where one is bounded."""
        state, budget, privacy = self._state, self._state.request.budget, self._state.request.privacy
        if state.under_way() or (budget.price is None and budget.energy_joules is None and privacy is None):
            return ""
        view, told = make_view(), self._told()
        if not view.candidates or any(self._pays(one) and self._private(one, told) for one in view.candidates):
            return ""
        if privacy is not None and any(self._pays(one) for one in view.candidates):
            return f"privacy pays for no further visit: each data set has been trained on for ε = {privacy.epsilon:g}"
        spent = state.charges
        said = [] if budget.price is None else [f"{spent.price:.4g} of a price of {budget.price:g}"]
        said += [] if budget.energy_joules is None else [f"{spent.energy_joules:.4g} of {budget.energy_joules:g} J"]
        return f"the budget pays for no further visit: {' and '.join(said)} spent"

    def together(self, view: TrainingView, stops: tuple[Stop, ...]) -> tuple[Stop, ...]:
        """As many of a round's stops, in order, as the budgets pay for together."""
        places = {(one.dataset, one.compute_node): one for one in view.candidates}
        told = self._told()
        price, joules, kept = 0.0, 0.0, []
        for stop in stops:
            candidate = places[stop.dataset, stop.compute_node]
            if self._pays(candidate, price, joules) and self._private(candidate, told):
                kept.append(stop)
                more = self._next(candidate)
                price, joules = price + (more[0] or 0.0), joules + (more[1] or 0.0)
        return tuple(kept)

    def _pays(self, candidate: Candidate, price: float = 0.0, joules: float = 0.0) -> bool:
        """Whether a visit is paid for, besides what else is about to be ordered."""
        state, budget = self._state, self._state.request.budget
        next_price, next_joules = self._next(candidate)
        for bound, spent, more in (
            (budget.price, state.charges.price + price, next_price),
            (budget.energy_joules, state.charges.energy_joules + joules, next_joules),
        ):
            if bound is not None and (more is None or spent + more > bound):
                return False
        return True

    def _told(self) -> dict[str, tuple[Mechanism, ...]]:
        """Data set → what this job has ordered of it with noise. O(visits)."""
        ordered = self._state.ordered.values() if self._state.request.privacy is not None else ()
        return told_of(one.work for one in ordered if isinstance(one.work, TrainWork))

    def _private(self, candidate: Candidate, told: dict[str, tuple[Mechanism, ...]]) -> bool:
        """Whether its data set can take another visit within what the job may cost it."""
        state = self._state
        if state.request.privacy is None or state.plan is None:
            return True
        return can_take(state.request.privacy, state.plan.training, candidate, told.get(candidate.dataset, ()))

    def _next(self, candidate: Candidate) -> tuple[float | None, float | None]:
        state = self._state
        assert state.plan is not None
        batches, preflight = planned_batches(state.plan, candidate.records), state.preflight
        return (
            visit_price(candidate, batches, state.package.total_bytes, preflight),
            visit_joules(candidate, batches, preflight),
        )
