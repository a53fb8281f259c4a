"""Tracing harm: of several visits between a kept model and a worse one, which one made it worse.

A model is measured after every few visits, to save time and the test set. When it is found worse, each site of those
visits is suspect, and avoiding all of them stops a job of two sites for good. So the models in between, which stay
where they are until then, are measured one by one, oldest first, until the visit is found; it alone is blamed, and the
job goes on from the model before it.
"""

from __future__ import annotations

from daitn.control_center.training.job_desk import WAIT_S, JobDesk
from daitn.control_center.training.records import HarmTraced, StepMeasured
from daitn.control_center.training.trail import Step
from daitn.control_center.turn import Turn
from daitn.decision.keeping import find_culprit, judge_model, score
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import Measurement


class Tracing:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self.state = desk.state

    def next_look(self, turn: Turn) -> Step | None:
        """The visit whose model is to be measured next; None where it has to be waited for, or the search is over."""
        step = self.state.trail.next_look()
        if step is None or self._desk.reachable(step.model):
            return step
        if self._desk.gone(turn, step.model):
            self.give_up(turn, f"no site that holds model {step.model[:16]} came back in time")
        else:
            turn.wake_in(f"job {self.state.job}", WAIT_S)
        return None

    def looked(self, turn: Turn, step: Step, measurements: tuple[Measurement, ...]) -> None:
        """A model of the search was measured, or (nothing) cannot be; whoever is found is blamed."""
        state = self.state
        turn.record(
            StepMeasured(
                job=state.job, at_ns=turn.now_ns, visit=step.visit, model=step.model, measurements=measurements
            )
        )
        steps, found = state.trail.searched, state.trail.looked
        targets, before = state.request.targets, state.kept_measurements
        place = find_culprit(targets, before, [found.get(one.model) for one in steps])
        if place is None:
            return
        culprit = steps[place]
        was = before if place == 0 else found[steps[place - 1].model]
        why = f"the model fell from {score(targets, was):+.3f} to {score(targets, found[culprit.model]):+.3f} there"
        judged = judge_model(targets, before, state.best_score, was) if place else None
        onward = steps[place - 1] if judged is not None and judged.keep else None
        turn.record(
            HarmTraced(
                job=state.job,
                at_ns=turn.now_ns,
                visit=culprit.visit,
                dataset=culprit.dataset,
                onward=onward.model if onward is not None else None,
                measurements=was if onward is not None else (),
                score=judged.score if judged is not None else 0.0,
                best=judged is not None and judged.best,
                met=judged is not None and judged.met,
                why=why,
            )
        )
        self._blame(turn, culprit, 1.0, why)

    def give_up(self, turn: Turn, why: str) -> None:
        """It cannot be found out: all share the blame, each by its part of the visits."""
        steps = list(self.state.trail.searched)
        turn.record(HarmTraced(job=self.state.job, at_ns=turn.now_ns, why=why))
        for step in steps:
            self._blame(turn, step, 1 / len(steps), "the model got worse, and it is not known by which visit")

    def _blame(self, turn: Turn, step: Step, share: float, why: str) -> None:
        node = self.state.ordered[step.visit].node
        self._desk.found(turn, node, Evidence.HARMED, f"after {step.dataset} in job {self.state.job}: {why}", share)
