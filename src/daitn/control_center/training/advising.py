"""Model advice before a refusal: the owner's variants are tried at the unit, one after another, and judged.

Paper II-A (v); `decision.advising` says when, in which order and until when. Each trial is a visit at the unit, beside
the centre's turns; what came of it is a fact of the job (`VariantTried`), so that a restart tries none twice.
"""

from __future__ import annotations

from typing import Final

from daitn.base.ids import ArtifactId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import VariantTried, VisitLost
from daitn.control_center.turn import Turn
from daitn.decision.advising import advisable, judge_variant, next_variant
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Judged, Known
from daitn.decision.method_choice import may_cut
from daitn.descriptors.outcome import Advice, TriedVariant, Verdict
from daitn.descriptors.work import EvaluateWork

TRIES: Final = 3
"""Visits that may be lost for one variant before the search goes on without it."""

TIME_FRAC: Final = 0.5
"""Share of the time to the deadline after which no further variant is tried: the owner is to hear the verdict in time
to act on it."""


class Advising:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def go_on(self, turn: Turn, verdict: Verdict, judged: Judged) -> bool:
        """Have the next variant tried; False where there is none to try, and the verdict stands."""
        state, desk = self._state, self._desk
        unit = state.sampled.unit
        if not self._searches(verdict) or unit is None or self._hindered(turn):
            return False
        while (variant := next_variant(state.variants, state.tried)) is not None:
            lost = self._lost(variant)
            if len(lost) >= TRIES or any(one.blame == "input" for one in lost):
                name = state.variants[variant].name
                found = TriedVariant(package=variant, name=name, reaches=False, why=lost[-1].why)
                turn.record(VariantTried(job=state.job, at_ns=turn.now_ns, variant=found))
                continue
            training = judged.plan.training
            cuts = may_cut(state.request, desk.view(turn, state.request))
            work = desk.evaluation(variant, state.sampled.test_set, preflight=True, trial=training, cuts=cuts)
            desk.order(turn, "advise", unit, work, "would this model reach the goal?")
            return True
        return False

    def advice(self, turn: Turn, verdict: Verdict) -> Advice | None:
        """What goes with a refusal; None where no other model could turn it."""
        state = self._state
        if not self._searches(verdict):
            return None
        tried = tuple(state.tried.values())
        if next_variant(state.variants, state.tried) is None:
            return Advice(tried=tried)
        why = self._hindered(turn) or "no verification unit has a test set"
        return Advice(tried=tried, untried=len(state.variants) - len(tried), why=why)

    def tried(self, turn: Turn, variant: ArtifactId, preflight: Preflight) -> None:
        """The unit has tried a variant: judge it."""
        state, desk = self._state, self._desk
        package = state.variants[variant]
        view = desk.view(turn, state.request, package.total_bytes)
        promises = desk.promises.owed(state.job, turn.now_ns)
        known = Known(lessons=desk.book.lessons, promises=promises)
        found = judge_variant(view, state.request, variant, package, known, preflight)
        turn.record(VariantTried(job=state.job, at_ns=turn.now_ns, variant=found))

    def _searches(self, verdict: Verdict) -> bool:
        preflight = self._state.preflight
        return preflight is not None and not preflight.fault and advisable(verdict)

    def _hindered(self, turn: Turn) -> str:
        """Why no further variant can be tried now; empty: one can."""
        if self._state.evaluations_left == 0:
            return "the unit measures no more for this job"
        gone_s = ns_to_seconds(turn.now_ns - self._state.submitted_ns)
        if gone_s > TIME_FRAC * self._state.request.deadline_s:
            return f"{TIME_FRAC:.0%} of the time to the deadline has gone"
        return ""

    def _lost(self, variant: ArtifactId) -> list[VisitLost]:
        """Visits lost that were to try this variant."""
        works = {name: one.work for name, one in self._state.ordered.items() if one.purpose == "advise"}
        visits = {name for name, work in works.items() if isinstance(work, EvaluateWork) and work.model == variant}
        return [one for one in self._state.log if isinstance(one, VisitLost) and one.visit in visits]
