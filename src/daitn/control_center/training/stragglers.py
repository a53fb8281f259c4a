"""Stragglers at the centre: when enough of a round have handed in, those that are late are stopped, and it goes on.

When that is so is told by `decision.rounds.stragglers`, from what the members of the round were seen to take. A site
that is cut is told to stop; what it has done is lost, and it is asked for a shorter visit in the next round.
"""

from __future__ import annotations

import math

from daitn.base.ids import DataSetId
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.records import VisitLost
from daitn.control_center.turn import Turn
from daitn.decision.rounds.stragglers import bound_s, quorum
from daitn.decision.visit_length import relative
from daitn.descriptors.work import TrainWork
from daitn.wire.center_tools import VisitCancel


class Stragglers:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def look(self, turn: Turn) -> None:
        """Stop those of a round's visits that are late, or wake up when they will be. O(members), once a quorum of them
        has handed in."""
        state = self._state
        late = self._last_of_all() if state.buffered else self._left_of_round()
        if not late:
            return
        most_s = bound_s(self._known_s(late))
        if most_s == math.inf:
            return
        bounds_s = {name: most_s * self._longer(opened) for name, opened in late.items()}
        dues = {name: self._begun_ns(opened) + seconds_to_ns(bounds_s[name]) for name, opened in late.items()}
        for name, opened in late.items():
            if turn.now_ns >= dues[name]:
                self._cut(turn, opened, bounds_s[name])
        if waiting := [due_ns for due_ns in dues.values() if turn.now_ns < due_ns]:
            turn.timer(f"job {state.job}", min(waiting))

    def _known_s(self, late: dict[DataSetId, OpenVisit]) -> list[float]:
        """What visits took: those of this round, and what the late ones took before; without rounds, all. Where visits
        are as long as a site's records make them, what those of a typical site would have taken."""
        book, plan = self._state.round_book, self._state.plan
        typical = plan.training.batches if plan is not None and plan.epochs else 0
        if self._state.buffered:
            return list(book.whole_s(typical or max(_batches(opened) for opened in late.values())).values())
        own = (book.expected_s(name, typical or _batches(opened)) for name, opened in late.items())
        return [
            *(book.typical_s(typical) if typical else book.took_s.values()),
            *(seconds for seconds in own if seconds),
        ]

    def _longer(self, opened: OpenVisit) -> float:
        """How many times as long as at a typical site a visit is that its records make longer: it may take that."""
        plan = self._state.plan
        if plan is None or not plan.epochs:
            return 1.0
        return max(1.0, relative(_batches(opened) / plan.training.batches))

    def _left_of_round(self) -> dict[DataSetId, OpenVisit]:
        """Of a round of which enough have handed in, the visits that have not; nothing otherwise."""
        state = self._state
        handed_in = self._handed_in()
        if not state.aggregates or not handed_in:
            return {}
        left = self._training()
        members = len(left) + handed_in
        return left if handed_in >= max(quorum(members), state.masks.threshold) else {}

    def _handed_in(self) -> int:
        """Members of the round that have."""
        return self._state.gossip.handed_in if self._state.gossips else len(self._state.updates)

    def _last_of_all(self) -> dict[DataSetId, OpenVisit]:
        """Without rounds nobody waits, but at the end of a budget: the visits that use up what is left of it."""
        budget, left = self._state.request.budget.visits, self._training()
        return left if budget is not None and self._state.visits + len(left) >= budget else {}

    def _training(self) -> dict[DataSetId, OpenVisit]:
        opened = self._state.open.values()
        return {dataset: one for one in opened if (dataset := _trained_on(one)) is not None}

    def _begun_ns(self, opened: OpenVisit) -> int:
        return max(self._desk.resumed_ns, opened.ordered.at_ns)

    def _cut(self, turn: Turn, opened: OpenVisit, most_s: float) -> None:
        progress, ordered = opened.progress, opened.ordered
        done = progress.done / progress.of if progress is not None and progress.of else 0.0
        why = f"it was {done:.0%} done after the {most_s:.1f} s that, by what it takes all, a visit may take"
        if self._state.buffered:
            why = f"it is the last that the budget pays for; {why}"
        else:
            why = f"{self._handed_in()} other sites of the round have handed in; {why}"
        turn.send(ordered.node, VisitCancel(visit=ordered.visit, fence=ordered.fence))
        turn.record(
            VisitLost(
                job=self._state.job, at_ns=turn.now_ns, visit=ordered.visit, why=why, blame="slow", done_frac=done
            )
        )


def _trained_on(opened: OpenVisit) -> DataSetId | None:
    """The data set of a visit whose update its round waits for; None for other visits."""
    work = opened.ordered.work
    trains = opened.ordered.purpose == "train" and isinstance(work, TrainWork) and work.group is None
    return work.dataset if trains and isinstance(work, TrainWork) else None


def _batches(opened: OpenVisit) -> int:
    work = opened.ordered.work
    return work.training.batches if isinstance(work, TrainWork) else 0
