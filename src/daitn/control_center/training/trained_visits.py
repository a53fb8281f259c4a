"""What an accepted training visit means for its job: what is counted, who holds what, whether the model goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.control_center.training.handed_in import note_handed_in
from daitn.control_center.training.records import VisitAccepted
from daitn.control_center.training.trail import Step
from daitn.descriptors.work import TrainOutcome, TrainWork

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_trained(state: JobState, work: TrainWork, record: VisitAccepted, outcome: TrainOutcome) -> bool:
    """A training visit was accepted: part of the job's state, and called by it only. False where it is one of a group
    of which others are still to come."""
    ordered = state.ordered[record.visit]
    state.transfer_bytes += outcome.fetched_bytes + outcome.exchanged_bytes
    state.charges.accepted(ordered, outcome, record.at_ns)
    state.batch_s[(work.dataset, ordered.node)] = outcome.seconds / max(1, outcome.batches)
    for held in (outcome.model, outcome.control, *work.models_in()):
        if held is not None:
            state.hold(held, ordered.node)
    if ordered.purpose == "probe":
        return True  # its model is measured and thrown away
    state.visits += 1
    state.promised.used(ordered.node, outcome.seconds)
    state.controls.trained(work, outcome)
    if work.group is not None:
        state.group[record.visit] = (work, outcome)
        return False
    state.seen.append((work.dataset, outcome.batches * work.training.batch_size))
    state.visits_since_gain[work.dataset] += 1
    if state.aggregates:
        took_s = (record.at_ns - ordered.at_ns) / 1e9
        state.round_book.accepted(work, outcome, state.rounds, took_s)
        note_handed_in(state, work, outcome)
    else:
        state.left_out.clear()
        state.trail.advanced(Step(record.visit, *state.seen[-1], outcome.model))
        state.advance_head(outcome.model)
    return True
