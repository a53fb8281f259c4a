"""The search for hyper-parameters before the verdict: what to try is proposed beside the turn, and tried at the unit.

Paper II-A (HPO); `decision.tuning` says what is tried and what is taken. Each visit at the unit is a fact of the job
(`TuningTried`), and so is the end of the search (`TuningDone`), so that a restart tries nothing twice. It begins when
the request would be admitted, and its plan is judged again with what was found: a search turns no verdict.
"""

from __future__ import annotations

from statistics import median
from typing import Final

import msgspec

from daitn.base.units import ns_to_seconds
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import TuningDone, TuningTried, VisitLost
from daitn.control_center.turn import Turn
from daitn.decision.facts import Preflight, Searched
from daitn.decision.feasibility import Judged, Known, judge, verdict_of
from daitn.decision.routes.contract import datasets
from daitn.decision.tuning import (
    CandidatesFound,
    CandidatesSought,
    Go,
    Propose,
    Setting,
    Stage,
    batch_seconds_of,
    choose,
    in_vain,
    next_move,
    optimizers_of,
    order_of,
    starts_of,
    trials_of,
    trying_of,
)
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.trials import Training
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork
from daitn.learning.methods import METHODS

TRIES: Final = 3
"""Visits that may be lost before the search ends with what it has."""
TIME_FRAC: Final = 0.25
"""Share of the time to the deadline after which nothing further is tried: the run needs the rest."""
EVALUATIONS_KEPT: Final = 8
"""Measurements of the unit that are left to the run itself."""


class Tuning:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state
        self._asked: int | None = None
        """Visits that had been made when the newest proposals were sought."""
        self._proposed: tuple[int, CandidatesFound] | None = None
        self._fault = ""

    def wanted(self) -> bool:
        """Whether a search was asked for and is not over."""
        preflight = self._state.preflight
        asked = self._state.request.tuning is not None
        return asked and preflight is not None and preflight.searched is None

    def go_on(self, turn: Turn, judged: Judged, known: Known) -> bool:
        """Have done what the search still needs; False where it is over now, and the plan is to be judged again."""
        state, base = self._state, judged.plan.training
        if state.stages:  # as first proposed: views move, and what was tried is compared with that
            base = state.stages[0].trainings[0]
        tuning, method = state.request.tuning, METHODS[judged.plan.method]
        assert tuning is not None
        if (why := in_vain(method, state.request, state.package)) != "":
            return self._over(turn, Searched(why=f"a search was asked for: {why}"))
        move = next_move(tuning, base, state.stages)
        if move is None or self._hindered(turn) or self._fault:
            return self._end(turn, base, known, judged)
        made = len(state.stages)
        if isinstance(move, Propose):
            if self._proposed is None or self._proposed[0] != made:
                if self._asked != made:
                    self._asked = made
                    self._seek(turn, move.many, base, judged)
                return True
            found = self._proposed[1]
            if not found.trainings or (not state.stages and found.trainings[0] != base):
                return self._end(turn, base, known, judged)
            move = Go(0, found.trainings, found.private)
        elif state.request.privacy is not None:
            noised = self._noised()
            move = move._replace(private=tuple(noised[one] for one in move.trainings))
        unit = state.sampled.unit
        if unit is None:
            return self._end(turn, base, known, judged)
        setting = Setting(
            base=base,
            names=tuple(dict.fromkeys(target.name for target in state.request.targets)),
            sites=max(1, len(datasets(judged.view))),
            order=order_of(method),
            batch_s=max(
                state.preflight.batch_seconds if state.preflight is not None else 0.0, batch_seconds_of(state.stages)
            ),
            server=judged.plan.server,
        )
        tries = trying_of(tuning, move, setting, state.stages)
        work = self._desk.evaluation(state.head, state.sampled.test_set, tries=tries)
        why = f"{len(move.trainings)} hyper-parameters are compared on rung {move.rung + 1}"
        self._desk.order(turn, "tune", unit, work, why)
        return True

    def answered(self, made: int, found: CandidatesFound | None, fault: str = "") -> None:
        """What to try next is proposed; None: it is not, for the reason given."""
        if self._asked != made:
            return
        self._proposed = (made, found or CandidatesFound(trainings=()))
        self._fault = fault

    def tried(self, turn: Turn, work: EvaluateWork, outcome: EvaluateOutcome) -> None:
        """The unit has compared some."""
        assert work.tries is not None
        rung = self._rung(work)
        stage = Stage(rung=rung, trainings=work.tries.trainings, tried=outcome.tried)
        turn.record(TuningTried(job=self._state.job, at_ns=turn.now_ns, stage=stage))

    def _rung(self, work: EvaluateWork) -> int:
        """Which rung a visit was for: what was tried before goes on, the rest begins."""
        assert work.tries is not None
        before = [stage.rung for stage in self._state.stages if work.tries.trainings[-1] in stage.trainings]
        return max(before, default=-1) + 1

    def _seek(self, turn: Turn, count: int, base: Training, judged: Judged) -> None:
        state = self._state
        method, pinned = METHODS[judged.plan.method], state.request.hyperparameters
        worked = self._desk.book.worked(judged.situation) if judged.situation is not None else ()
        problem = CandidatesSought(
            base=base,
            pinned=pinned,
            optimizers=optimizers_of(method, base),
            starts=starts_of(method, base, pinned, worked),
            tried=tuple((one.training, one.error) for one in trials_of(state.stages, 0)),
            offered=tuple(one for stage in state.stages for one in stage.trainings),
            count=count,
            seed=state.request.seed,
            privacy=state.request.privacy,
            groups=median(one.groups for one in judged.view.candidates) if judged.view.candidates else 0.0,
        )
        turn.compute(f"tune {state.job}", problem, len(state.stages))

    def _noised(self) -> dict[Training, PrivateSteps]:
        """The noise of each that was tried, by the orders of its first rung."""
        works = [one.work for one in self._state.ordered.values() if one.purpose == "tune"]
        tries = [one.tries for one in works if isinstance(one, EvaluateWork) and one.tries is not None]
        return {one: private for each in tries for one, private in zip(each.trainings, each.private, strict=True)}

    def _hindered(self, turn: Turn) -> bool:
        """Whether nothing more may be tried."""
        state = self._state
        if state.evaluations_left is not None and state.evaluations_left <= EVALUATIONS_KEPT:
            return True
        gone_s = ns_to_seconds(turn.now_ns - state.submitted_ns)
        lost = [one for one in state.log if isinstance(one, VisitLost)]
        lost = [one for one in lost if state.ordered[one.visit].purpose == "tune"]
        return len(lost) >= TRIES or gone_s > TIME_FRAC * state.request.deadline_s

    def _end(self, turn: Turn, base: Training, known: Known, judged: Judged) -> bool:
        """Take the best, if the request would be admitted with it."""
        state = self._state
        found = choose(base, state.stages)
        if self._fault and not state.stages:
            found = Searched(why=f"a search was asked for: {self._fault}")
        if found.chosen is not None:
            preflight = msgspec.structs.replace(state.preflight or Preflight(), searched=found)
            again = judge(judged.view, state.request, state.package, known._replace(preflight=preflight))
            if verdict_of(again.view, state.request, again).outcome != "admitted":
                why = f"{found.why}; but with {found.chosen.batches} batches a visit the request could not be admitted"
                found = msgspec.structs.replace(found, chosen=None, why=why)
        return self._over(turn, found)

    def _over(self, turn: Turn, found: Searched) -> bool:
        turn.record(TuningDone(job=self._state.job, at_ns=turn.now_ns, searched=found))
        return False
