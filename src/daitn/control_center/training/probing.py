"""A probe before the verdict: a bounded visit at one site, measured at the unit, then judged again.

Paper II-A, T-FAM; `decision.probing` says when and where. What came of it is a fact of the job (`ProbeDone`), whether
or not there was anything to be learnt, so that no job is probed twice. A visit for it that is lost is made again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.ids import ArtifactId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import JobAssessed, ProbeDone, VisitAccepted
from daitn.control_center.turn import Turn
from daitn.decision.facts import ProbePoint
from daitn.decision.feasibility import Judged
from daitn.decision.label_mix import label_gaps
from daitn.decision.probing import probe_site, probe_training
from daitn.descriptors.outcome import Verdict
from daitn.descriptors.work import EvaluateOutcome, TrainOutcome, TrainWork

VISITS_MOST: Final = 4
"""Visits for one probe, of which two are needed: then the verdict is given without one."""


class Probing:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def go_on(self, turn: Turn, verdict: Verdict, judged: Judged) -> bool:
        """Have done what a probe still needs; False where there is to be none, and the verdict stands without it."""
        state, desk = self._state, self._desk
        preflight = state.preflight
        assert preflight is not None
        ordered = [one for one in state.ordered.values() if one.purpose == "probe"]
        if len(ordered) >= VISITS_MOST:
            self._done(turn, f"{len(ordered)} visits for it were lost, the last one because {state.last_loss}")
            return False
        rested = [one for one in judged.view.candidates if not desk.cools(turn, one.compute_node)]
        view = msgspec.structs.replace(judged.view, candidates=tuple(rested)) if rested else judged.view
        site = probe_site(view, state.request, state.package, preflight)
        if site is None:
            self._done(turn, "no site that holds its records has the time for one")
            return False
        if state.verdict is None or state.verdict.outcome != "needs-probe":
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=judged.plan))
        model = self._probed_model()
        if model is not None and desk.reachable(model):
            unit = state.sampled.unit
            assert unit is not None
            measure = desk.evaluation(model, state.sampled.test_set)
            desk.order(turn, "probe", unit, measure, "what did the probe learn?")
            return True
        training = probe_training(judged.plan.training, site)
        work = TrainWork(model=state.head, dataset=site.dataset, training=training, seed=state.request.seed)
        why = f"a probe: whether the goal can be reached is not sure; labels there are {site.gap:.2f} from those of all"
        desk.order(turn, "probe", site.node, work, why)
        return True

    def measured(self, turn: Turn, outcome: EvaluateOutcome) -> None:
        """The unit has measured what the probe learnt."""
        made = self._visit()
        assert made is not None
        told, work = made.outcome, self._state.ordered[made.visit].work
        assert isinstance(told, TrainOutcome)
        assert isinstance(work, TrainWork)
        view = self._desk.view(turn, self._state.request)
        there = any(one.dataset == work.dataset for one in view.candidates)
        gap = label_gaps(view, [work.dataset])[0][0] if there else 1.0
        point = ProbePoint(records=told.records, gap=gap, steps=told.batches, measurements=outcome.measurements)
        turn.record(ProbeDone(job=self._state.job, at_ns=turn.now_ns, point=point))

    def _done(self, turn: Turn, why: str) -> None:
        turn.record(ProbeDone(job=self._state.job, at_ns=turn.now_ns, why=why))

    def _is_probe(self, record: VisitAccepted) -> bool:
        return self._state.ordered[record.visit].purpose == "probe"

    def _visit(self) -> VisitAccepted | None:
        """The probe's accepted visit, if it was made."""
        made = [one for one in self._state.log if isinstance(one, VisitAccepted) and self._is_probe(one)]
        return next((one for one in reversed(made) if isinstance(one.outcome, TrainOutcome)), None)

    def _probed_model(self) -> ArtifactId | None:
        visit = self._visit()
        return visit.outcome.model if visit is not None and isinstance(visit.outcome, TrainOutcome) else None
