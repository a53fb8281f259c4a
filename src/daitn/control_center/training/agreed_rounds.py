"""What a job takes note of when a group's round was agreed on. Part of its state, so made of records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.control_center.training.trail import Step

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_agreed(state: JobState) -> None:
    """All members made one model: each has read its data, but for the middle of a model that was cut, which reads none.
    A cut model goes on from visit to visit, as one that is whole does."""
    for visit, (work, outcome) in state.group.items():
        read = outcome.batches * work.training.batch_size
        if work.split is not None:
            if work.is_middle:
                continue
            state.trail.advanced(Step(visit, work.dataset, read, outcome.model))
        state.seen.append((work.dataset, read))
        state.visits_since_gain[work.dataset] += 1
    state.group.clear()
    state.left_out.clear()
    state.lost_in_row = 0
