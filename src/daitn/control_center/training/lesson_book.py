"""The lesson book: what finished runs taught, kept with the centre's journal and read at each assessment.

Paper II-A, T-FAM. Each run that was measured at least once is a fact of its own (`ExperienceGained`), so that it
outlives its job. What all of them teach together takes some tens of milliseconds to work out, and is worked out beside
the turn; until then assessments go by what was worked out before.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from daitn.base.effects import Computed
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import ExperienceGained
from daitn.control_center.turn import Turn
from daitn.decision.attainability import error_of
from daitn.decision.experience import (
    RUNS_MOST,
    Lessons,
    LessonsFound,
    LessonsSought,
    PastRun,
    Reached,
    Situation,
    worked,
)
from daitn.descriptors.request import parse_target
from daitn.descriptors.trials import Measurement, Training

LESSONS: Final = "lessons"
"""Key of the problem that is handed out."""


class LessonBook:
    """See the module's docstring. `lessons`: what was worked out last."""

    def __init__(self) -> None:
        self.lessons = Lessons()
        self._runs: list[PastRun] = []
        self._known = 0
        """Runs ever kept: the version of what lessons are worked out from."""

    @property
    def runs(self) -> int:
        """How many runs are learnt from."""
        return len(self._runs)

    def apply(self, record: ExperienceGained) -> None:
        """One more run; beyond `RUNS_MOST` the oldest is forgotten."""
        self._runs.append(record.run)
        del self._runs[:-RUNS_MOST]
        self._known += 1

    def worked(self, situation: Situation) -> tuple[Training, ...]:
        """Hyper-parameters that worked in runs like this one."""
        return worked(self._runs, situation)

    def ended(self, turn: Turn, state: JobState) -> None:
        """A run is about to end: keep what it teaches, if anything."""
        run = past_run(state)
        if run is not None:
            turn.record(ExperienceGained(at_ns=turn.now_ns, run=run))
            self.learn(turn)

    def learn(self, turn: Turn) -> None:
        """Have it worked out what all runs teach: after each, and after a restart."""
        if self._runs:
            turn.compute(LESSONS, LessonsSought(runs=tuple(self._runs)), self._known)

    def computed(self, event: Computed) -> None:
        """What runs teach is worked out; an answer from before the newest run is used until the newer one comes."""
        if isinstance(event.solution, LessonsFound):
            self.lessons = event.solution.lessons


def past_run(state: JobState) -> PastRun | None:
    """What a run teaches: its situation, and the least error of each figure as models were measured. None where nothing
    was tried before it, or nothing measured in it."""
    situation = state.situation
    if situation is None:
        return None
    reached = [_reached(state, one.name, one.untrained) for one in situation.outlooks]
    known = tuple(one for one in reached if one is not None)
    if not known:
        return None
    training = None
    if state.plan is not None:  # as planned: what a roll back lowered is no lesson
        training = msgspec.structs.replace(state.plan.training, learning_rate=state.planned_rate)
    return PastRun(situation=situation, reached=known, training=training)


def _reached(state: JobState, name: str, untrained: float) -> Reached | None:
    target = parse_target(f"{name} >= 0")
    best = untrained
    rounds: list[int] = []
    errors: list[float] = []
    for made, measurements in state.measured_after:
        value = _value(name, measurements)
        if value is None or made < 1:
            continue
        best = min(best, error_of(target, value))
        if rounds and rounds[-1] == made:
            errors[-1] = best
        else:
            rounds.append(made)
            errors.append(best)
    return Reached(name=name, rounds=tuple(rounds), errors=tuple(errors)) if rounds else None


def _value(name: str, measurements: tuple[Measurement, ...]) -> float | None:
    found = next((one for one in measurements if one.name == name), None)
    return found.value if found is not None and found.records and math.isfinite(found.value) else None
