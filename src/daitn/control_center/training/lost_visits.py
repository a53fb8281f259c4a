"""What a lost visit means for its job: what is counted, asked for again, or not asked for any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.base.units import NS_PER_S
from daitn.control_center.training.records import GroupLost, MaskedRoundLost, VisitLost
from daitn.descriptors.work import ShareWork, TrainWork

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_lost(state: JobState, record: VisitLost) -> None:
    """A visit will not be waited for any more: part of the job's state, and called by it only."""
    ordered = state.open.pop(record.visit).ordered
    if record.blame == "slow" and isinstance(ordered.work, TrainWork):
        state.round_book.cut(ordered.work, record.done_frac, (record.at_ns - ordered.at_ns) / NS_PER_S)
    if record.blame in ("over", "slow"):
        return
    state.lost += 1
    if not state.is_beside(ordered):
        grouped = isinstance(ordered.work, TrainWork) and ordered.work.group is not None
        # What was under way when a loss was counted is lost with it: a cut that takes a round of a hundred is one try
        # that failed. A round of a group is counted by itself.
        if not grouped and ordered.fence > state.lost_fence:
            state.lost_in_row += 1
            state.lost_fence = state.fence
        state.last_loss = record.why
        if record.blame != "policy":
            state.lost_ns = record.at_ns
    if isinstance(ordered.work, ShareWork) and ordered.purpose == "sample":
        state.sampled.lost(ordered.work, record.blame, record.why)
    state.made.lost(ordered, record.blame, state.kept)
    if record.blame == "no-room" and isinstance(ordered.work, TrainWork):
        state.trail.cramped = state.trail.ambiguous
    at_data = isinstance(ordered.work, TrainWork) and not ordered.work.is_middle
    if isinstance(ordered.work, TrainWork) and at_data and record.blame in ("input", "peer"):
        state.harm[ordered.work.dataset] = state.harm.get(ordered.work.dataset, 0) + 1
    if ordered.purpose in ("verify", "preflight", "advise", "tune") and record.blame == "policy":
        state.evaluations_left = 0
    if ordered.purpose == "compare":
        state.opinions.lost[ordered.node] += 1
    if ordered.purpose == "preflight" and record.blame == "input":
        state.preflight_fault = record.why


def note_round_lost(state: JobState, record: GroupLost | MaskedRoundLost) -> None:
    """A round that several sites made together came to nothing: part of the job's state, and called by it only."""
    state.group.clear()
    state.lost_in_row += 1
    state.lost_ns, state.last_loss = record.at_ns, record.why
    if isinstance(record, MaskedRoundLost):
        state.masks.clear()
        state.drop_round()
    elif record.left_out is not None:
        state.left_out.add(record.left_out)
        if record.differs:
            state.harm[record.left_out] = state.harm.get(record.left_out, 0) + 1
