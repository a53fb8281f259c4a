"""Clearing at work: when a job that gains nothing goes on without some of its data sets, from which model, and for how
long (`decision.clearing` says why and which)."""

from __future__ import annotations

from collections.abc import Callable

from daitn.base.ids import DataSetId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import SitesSetAside
from daitn.control_center.turn import Turn
from daitn.decision.clearing import (
    SERIES_MOST,
    STALLED_TRIES_MOST,
    TRIES_MOST,
    TRY_LOOKS,
    never_gains,
    tries,
)
from daitn.decision.routes.contract import datasets
from daitn.descriptors.view import TrainingView
from daitn.learning.methods import METHODS


class Clearing:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def look(self, turn: Turn, stalled: Callable[[], str]) -> None:
        """Nothing is under way and a model was just measured: begin a series of tries, go on to the next try, or end
        the series. `stalled`: why the run would end now."""
        state, book = self._state, self._state.clearing
        if state.rounds_since_verified or state.updates or not state.verifications or not self._can_do_without():
            return
        if book.trying:
            if state.verifications - book.begun >= TRY_LOOKS:
                self._next(turn, book.left)
            return
        if book.given_up or book.series >= SERIES_MOST:
            return
        if never_gains(state.standing(), gained=book.gained) or (book.gained and stalled()):
            self._next(turn, self._tries(self._desk.view(turn)))

    def _can_do_without(self) -> bool:
        """Whether the method goes on with whichever sites it is shown: neither in lock step nor masked."""
        plan = self._state.plan
        return plan is not None and plan.secure is None and not METHODS[plan.method].exchanges

    def _next(self, turn: Turn, left: tuple[tuple[DataSetId, ...], ...]) -> None:
        state = self._state
        book = state.clearing
        base = book.fertile.model if book.fertile is not None else state.request.package
        base = base if self._desk.reachable(base) else state.request.package
        if not left:
            why = "no part of the data sets gained more than all together"
            aside = book.stay
            turn.record(SitesSetAside(job=state.job, at_ns=turn.now_ns, model=None, aside=aside, left=(), why=why))
        else:
            count = sum(state.visits_since_gain.values())
            why = f"{state.looks_since_gain} measured models in a row, {count} visits, brought no gain beyond noise"
            turn.record(
                SitesSetAside(job=state.job, at_ns=turn.now_ns, model=base, aside=left[0], left=left[1:], why=why)
            )

    def _tries(self, view: TrainingView) -> tuple[tuple[DataSetId, ...], ...]:
        """What to set aside, try after try: of the data sets visited since the last gain, the least trusted first; of
        those that are aside already, half comes back."""
        state, book = self._state, self._state.clearing
        usable = datasets(view)
        trust = {one.dataset: one.trust for one in view.candidates}
        if book.stay:
            suspects, others = [name for name in book.stay if name in usable], False
        else:
            suspects = [name for name in usable if state.visits_since_gain.get(name, 0)]
            others = len(suspects) < len(usable)
        suspects.sort(key=lambda name: -trust[name])
        return tries(suspects, others=others, most=STALLED_TRIES_MOST if book.gained else TRIES_MOST)
