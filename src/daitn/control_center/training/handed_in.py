"""What sites and aggregators hand in within a round: updates to be averaged, and averages of some that stand for them.

Part of a job's state, and called by it only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.base.ids import NodeId
from daitn.descriptors.work import AggregateOutcome, AggregateWork, TrainOutcome, TrainWork, UpdateRef

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_handed_in(state: JobState, work: TrainWork, outcome: TrainOutcome) -> None:
    """An update to be averaged; what was trained from a head that was rolled back meanwhile is let go."""
    weight = float(max(1, outcome.records))
    if state.gossips:
        state.gossip.trained(work.dataset, UpdateRef(model=outcome.model, weight=weight))
    elif not state.buffered:
        state.updates.append(UpdateRef(model=outcome.model, weight=weight))
    elif state.buffer.is_known(work.model):
        state.updates.append(UpdateRef(model=outcome.model, weight=weight, base=work.model))
        state.buffer.trained(work.model, work.dataset)


def note_averaged(state: JobState, node: NodeId, work: AggregateWork, outcome: AggregateOutcome) -> bool:
    """An average, made at `node`; whether the head is a new model now."""
    state.transfer_bytes += outcome.fetched_bytes
    for held in (*work.models_in(), outcome.model):
        state.hold(held, node)
    if work.masked:
        return False  # a sum, which is no model yet
    if work.share:
        _note_share_averaged(state, work, outcome)
        return False
    if outcome.state is not None:
        state.hold(outcome.state, node)
        state.server_states[outcome.model] = outcome.state
    state.controls.averaged(work, outcome.model, outcome.left_out)
    state.advance_head(outcome.model)
    return True


def _note_share_averaged(state: JobState, work: AggregateWork, outcome: AggregateOutcome) -> None:
    """The average of some of a round's updates stands for them from now on."""
    if work.among:
        state.gossip.averaged(work, outcome)
        state.lost_in_row = 0
        state.release()
        return
    within = {one.model for one in work.updates}
    taken = [one for one in work.updates if one.model not in outcome.left_out]
    weight, members = sum(one.weight for one in taken), sum(one.members for one in taken)
    state.updates = [one for one in state.updates if one.model not in within]
    state.updates.append(UpdateRef(model=outcome.model, weight=weight, members=max(2, members)))
    state.lost_in_row = 0
    state.release()
