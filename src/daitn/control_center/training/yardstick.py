"""What it means for a job that its yardstick changes: other records to measure on, or other targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.control_center.training.records import OtherTestSet
from daitn.decision.keeping import meets, score
from daitn.descriptors.request import Request

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def note_other_test_set(state: JobState, record: OtherTestSet) -> None:
    """Other records are another yardstick: the best model was measured by it, and what was better is not known."""
    state.verifications += 1
    state.sampled.test_set = record.samples
    state.best, state.best_measurements, state.best_score = record.model, record.measurements, record.score
    if record.model == state.kept:
        state.seen_best = state.seen_kept
    state.kept_measurements = record.measurements
    state.met = meets(state.request.targets, record.measurements)
    state.count_gains_anew()
    state.release()


def note_change(state: JobState, request: Request) -> None:
    """Other targets are another yardstick: what was measured so far is judged by it anew."""
    state.request = request
    if not state.best_measurements:
        return
    targets = request.targets
    state.best_score = score(targets, state.best_measurements)
    kept_score = score(targets, state.kept_measurements)
    if (meets(targets, state.kept_measurements), kept_score) > (state.met, state.best_score):
        state.best, state.best_measurements, state.best_score = state.kept, state.kept_measurements, kept_score
        state.seen_best = state.seen_kept
    state.met = meets(targets, state.best_measurements)
    state.count_gains_anew()
