"""What a measured model means for its job: kept or rolled back, whose doing that is, and how the plan changes with it.

Paper II-A: MPVU steers training and protects it from harmful visits.
"""

from __future__ import annotations

import msgspec

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.measuring import Measuring
from daitn.control_center.training.records import ModelJudged, Replanned
from daitn.control_center.training.tracing import Tracing
from daitn.control_center.training.trail import Step
from daitn.control_center.turn import Turn
from daitn.decision.forgetting import forgotten, said_of
from daitn.decision.hyperparameters import after_kept, after_rollback
from daitn.decision.keeping import Judgement, judge_model, score
from daitn.decision.pacing import after_plateau
from daitn.descriptors.plan import Plan
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, Measurement
from daitn.wire.center_tools import ReleaseArtifacts


class Judging:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, measuring: Measuring, tracing: Tracing) -> None:
        self.state = desk.state
        self._desk = desk
        self.measuring = measuring
        self.tracing = tracing

    def judge(self, turn: Turn, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> None:
        """Keep a verified model or roll it back, and adapt the plan; or take what was measured on another test set as
        what models are compared with from now on."""
        state = self.state
        if self.measuring.is_other(work):
            self.measuring.compare_anew(turn, node, work, outcome)
            if state.trail.searched:
                self.tracing.give_up(turn, "the test set changed meanwhile")
            self.release(turn)
            return
        if (step := self._searched(outcome.model)) is not None:
            self.tracing.looked(turn, step, outcome.measurements)
            self.release(turn)
            return
        judgement = judge_model(state.request.targets, state.kept_measurements, state.best_score, outcome.measurements)
        if fell := said_of(forgotten((look for _, look in state.looks), outcome.measurements)):
            judgement = msgspec.structs.replace(judgement, why=f"{judgement.why}; {fell}")
        self._settle(turn, outcome.model, judgement, outcome.measurements)

    def judge_unfit(self, turn: Turn, model: ArtifactId, why: str, culprit: DataSetId | None = None) -> None:
        """Roll back a model that cannot even be measured: it has other tensors than its graph, or breaks its unit.
        `culprit`: the data set whose visit made it so."""
        if (step := self._searched(model)) is not None:
            self.tracing.looked(turn, step, ())
            self.release(turn)
            return
        worst = score(self.state.request.targets, ())
        self._settle(turn, model, Judgement(keep=False, best=False, met=False, score=worst, why=why), (), culprit)

    def _searched(self, model: ArtifactId) -> Step | None:
        """The visit that made a model, where it is measured to find out who made a later one worse."""
        step = self.state.trail.next_look()
        return step if step is not None and step.model == model else None

    def _settle(
        self,
        turn: Turn,
        model: ArtifactId,
        judgement: Judgement,
        measurements: tuple[Measurement, ...],
        culprit: DataSetId | None = None,
    ) -> None:
        state = self.state
        book = state.clearing
        blamed = book.blamed
        if book.trying and judgement.keep and state.gain_in_noise(judgement.score, measurements) > 1:
            why = f"{judgement.why}; it gains without {', '.join(book.aside)}, as it did not before: not asked for now"
            judgement = msgspec.structs.replace(judgement, why=why)
        if culprit is None and (judgement.keep or not state.trail.ambiguous):  # else it is traced first
            self._credit(turn, judgement)
        turn.record(
            ModelJudged(
                job=state.job,
                at_ns=turn.now_ns,
                model=model,
                keep=judgement.keep,
                best=judgement.best,
                met=judgement.met,
                score=judgement.score,
                measurements=measurements,
                why=judgement.why,
                culprit=culprit,
            )
        )
        if book.blamed and not blamed:
            why = "no model gained anything with it, and without it they do"
            for dataset in book.aside:
                self._found(turn, dataset, Evidence.HARMED, why, 1 / len(book.aside))
        if not judgement.keep and culprit is not None:
            pass  # smaller steps of the others mend nothing
        elif not judgement.keep and state.plan is not None:
            plan, why = after_rollback(state.plan, state.request.hyperparameters)
            turn.record(Replanned(job=state.job, at_ns=turn.now_ns, plan=plan, why=why))
        elif state.plan is not None and not judgement.met:
            eased = after_kept(state.plan, state.request.hyperparameters, state.planned_rate)
            if eased is not None:
                turn.record(Replanned(job=state.job, at_ns=turn.now_ns, plan=eased[0], why=eased[1]))
            elif not book.trying:
                self._pace(turn, state.plan)
        self.release(turn)

    def _pace(self, turn: Turn, plan: Plan) -> None:
        """Smaller steps on a plateau."""
        state, pinned = self.state, self.state.request.hyperparameters
        slower = after_plateau(plan, pinned, state.first_rate, state.planned_rate, state.standing())
        if slower is not None:
            rate = slower[0].training.learning_rate
            told = Replanned(job=state.job, at_ns=turn.now_ns, plan=slower[0], why=slower[1], planned_rate=rate)
            turn.record(told)

    def _credit(self, turn: Turn, judgement: Judgement) -> None:
        """What a verified gain or harm says of the sites whose data made it, each by its share of the visits."""
        state = self.state
        visited = [dataset for dataset, _ in state.seen[state.seen_kept :]]
        before = score(state.request.targets, state.kept_measurements)
        if judgement.keep and judgement.score <= before:
            return
        kind = Evidence.HELPED if judgement.keep else Evidence.HARMED
        for dataset in dict.fromkeys(visited):
            self._found(turn, dataset, kind, judgement.why, visited.count(dataset) / len(visited))

    def _found(self, turn: Turn, dataset: DataSetId, kind: Evidence, why: str, share: float) -> None:
        found = self._desk.knowledge.dataset(dataset)
        if found is not None:
            why = f"after {dataset} in job {self.state.job}: {why}"
            self._desk.found(turn, found[0].descriptor.node, kind, why, share)

    def release(self, turn: Turn) -> None:
        """Let sites drop models that nothing needs any more."""
        for node, artifacts in self.state.released.items():
            turn.send(node, ReleaseArtifacts(job=self.state.job, artifacts=tuple(artifacts)))
