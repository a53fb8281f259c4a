"""Stragglers at the centre: when enough of a round have handed in, those that are late are stopped, and it goes on.

When that is so is told by `decision.rounds.stragglers`, from what the members of the round were seen to take. A site
that is cut is told to stop; what it has done is lost, and it is asked for a shorter visit in the next round.
"""

from __future__ import annotations

from daitn.base.ids import DataSetId
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.records import VisitLost
from daitn.control_center.turn import Turn
from daitn.decision.rounds.stragglers import bound_s, quorum
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
        state, book = self._state, self._state.round_book
        if not state.aggregates or not state.updates:
            return
        late = {dataset: opened for opened in state.open.values() if (dataset := _trained_on(opened)) is not None}
        members = len(late) + len(state.updates)
        if not late or len(state.updates) < max(quorum(members), state.masks.threshold):
            return
        known = [book.took_s[dataset] for dataset in book.took_s]
        known += [own for dataset, opened in late.items() if (own := book.expected_s(dataset, _batches(opened)))]
        most_s = bound_s(known)
        begun_ns = max(self._desk.resumed_ns, *(opened.ordered.at_ns for opened in late.values()))
        due_ns = begun_ns + seconds_to_ns(most_s)
        if turn.now_ns < due_ns:
            turn.timer(f"job {state.job}", due_ns)
            return
        for opened in late.values():
            self._cut(turn, opened, f"{len(state.updates)} of {members} sites have handed in", most_s)

    def _cut(self, turn: Turn, opened: OpenVisit, others: str, most_s: float) -> None:
        progress, ordered = opened.progress, opened.ordered
        done = progress.done / progress.of if progress is not None and progress.of else 0.0
        why = f"{others}, and it was {done:.0%} done after the {most_s:.1f} s that a round of them may take"
        turn.send(ordered.node, VisitCancel(visit=ordered.visit, fence=ordered.fence))
        turn.record(
            VisitLost(
                job=self._state.job, at_ns=turn.now_ns, visit=ordered.visit, why=why, blame="slow", done_frac=done
            )
        )


def _trained_on(opened: OpenVisit) -> DataSetId | None:
    """The data set of a visit whose update its round waits for; None for other visits."""
    work = opened.ordered.work
    return work.dataset if isinstance(work, TrainWork) and work.group is None else None


def _batches(opened: OpenVisit) -> int:
    work = opened.ordered.work
    return work.training.batches if isinstance(work, TrainWork) else 0
