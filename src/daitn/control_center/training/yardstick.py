"""What it means for a job that its yardstick changes: other records to measure on, other targets, or a unit that is not
believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.base.ids import ArtifactId
from daitn.control_center.training.records import OtherTestSet, UnitsCompared
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
    if request.targets != state.request.targets:
        state.tried.clear()
    state.request = request
    _leave_out_units(state)
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


def note_compared(state: JobState, record: UnitsCompared) -> None:
    """Two units have measured one model: where they differ, the lower figures count, and for the goal all do."""
    state.opinions.compared(record)
    if record.difference:
        _take_lower(state, record.model)
    elif record.model == state.best:
        state.met = _all_say_met(state, record.model)
    state.release()


def note_best_gone(state: JobState, instead: ArtifactId) -> None:
    """Nobody has the best model any more: an older one, as good as it was measured to be, takes its place."""
    kept = instead == state.kept
    state.best = instead
    state.best_measurements = state.kept_measurements if kept else state.untrained
    state.seen_best = state.seen_kept if kept else 0
    state.best_score = score(state.request.targets, state.best_measurements)
    state.met = meets(state.request.targets, state.best_measurements)


def _leave_out_units(state: JobState) -> None:
    """Units that the owner leaves out are not believed, and a dispute that only one is left of is over."""
    book = state.opinions
    new = set(state.request.data.exclude_nodes) - book.barred
    book.barred |= new
    if book.disputed is not None and new:
        found = book.of(book.disputed)
        if found:
            _take_lower(state, book.disputed)
        if len(found) <= 1:
            book.disputed = book.rather = None


def _take_lower(state: JobState, model: ArtifactId) -> None:
    """What is known of a model are the least favourable figures of those who are believed; of what others say is
    better, nobody knows who measured right."""
    targets, found = state.request.targets, state.opinions.of(model)
    if not found:
        return
    figures = min(found.values(), key=lambda one: score(targets, one))
    if model == state.request.package:
        state.untrained = figures
    if model == state.kept:
        state.kept_measurements = figures
    state.best, state.best_measurements, state.best_score = model, figures, score(targets, figures)
    state.seen_best = state.seen_kept if model == state.kept else min(state.seen_best, len(state.seen))
    state.met = _all_say_met(state, model)
    state.count_gains_anew()


def _all_say_met(state: JobState, model: ArtifactId) -> bool:
    return all(meets(state.request.targets, figures) for figures in state.opinions.of(model).values())
