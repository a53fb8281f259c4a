"""What sites hand in within a round: updates to be averaged. Part of a job's state, and called by it only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.descriptors.work import TrainOutcome, TrainWork, UpdateRef

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_handed_in(state: JobState, work: TrainWork, outcome: TrainOutcome) -> None:
    """An update to be averaged; what was trained from a head that was rolled back meanwhile is let go."""
    weight = float(max(1, outcome.records))
    if not state.buffered:
        state.updates.append(UpdateRef(model=outcome.model, weight=weight))
    elif state.buffer.is_known(work.model):
        state.updates.append(UpdateRef(model=outcome.model, weight=weight, base=work.model))
        state.buffer.trained(work.model, work.dataset)
