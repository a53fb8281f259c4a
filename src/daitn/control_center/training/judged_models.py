"""What judging models means for their job: which is kept and best, and where the head is. Part of the job's state, and
called by it only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.control_center.training.clear_book import Mark
from daitn.control_center.training.records import HarmTraced, ModelJudged
from daitn.decision.stalling import noise

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_judged(state: JobState, record: ModelJudged) -> None:
    """A measured model is kept, or the head is again what it was made from."""
    state.verifications += 1
    state.made.settled(record.model)
    state.measured_after.append((state.rounds, record.measurements))
    state.trail.judged(record.model, record.measurements, keep=record.keep, known=record.culprit is not None)
    state.rounds_since_verified = 0
    state.looks_since_gain += 1
    state.opinions.since += 1
    gain = record.keep and state.gain_in_noise(record.score, record.measurements) > 1
    if gain:
        state.count_gains_anew(record.score)
    if record.keep:
        mark = Mark(record.model, record.measurements, len(state.seen))
        state.clearing.kept(mark, record.score, noise(state.request.targets, record.measurements), gain=gain)
    if record.keep:
        state.kept, state.kept_measurements = record.model, record.measurements
        state.seen_kept = len(state.seen)
        state.looks.append((state.seen_kept, record.measurements))
        state.rolled_back_in_row = 0
        state.avoided.clear()
    else:
        state.rolled_back += 1
        state.rolled_back_in_row += 1
        state.head = state.kept
        state.drop_newer()
        seen = {dataset for dataset, _ in state.seen[state.seen_kept :]}
        state.avoided |= seen if record.culprit is None else {record.culprit}
        del state.seen[state.seen_kept :]
    if record.best:
        state.best, state.best_measurements, state.best_score = record.model, record.measurements, record.score
        state.seen_best = len(state.seen)
    state.met = state.met or record.met
    state.release()


def note_traced(state: JobState, record: HarmTraced) -> None:
    """The job goes on from the model before the visit that made it worse, and goes elsewhere first."""
    state.seen += state.trail.traced(record.onward)
    if record.dataset is not None:
        state.avoided = {record.dataset}
    if record.onward is not None:
        state.head = state.kept = record.onward
        state.kept_measurements, state.seen_kept = record.measurements, len(state.seen)
        state.rolled_back_in_row = 0
    if record.best:
        state.best, state.best_measurements, state.best_score = state.kept, record.measurements, record.score
        state.seen_best = len(state.seen)
    state.met = state.met or record.met
    state.release()
