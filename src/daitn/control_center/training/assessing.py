"""The first stage of a job: samples to a verification unit, a preflight there, and a verdict with its reasons.

Paper II-A, T-FAM. A request that fails before anything is moved costs nobody a byte; the rest is judged again with what
the preflight found.
"""

from __future__ import annotations

import msgspec

from daitn.base import limits
from daitn.base.ids import NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.advising import Advising
from daitn.control_center.training.ending import Ending
from daitn.control_center.training.job_desk import REST_PATIENCES, TRIES_MOST, WAIT_S, JobDesk
from daitn.control_center.training.probing import Probing
from daitn.control_center.training.records import (
    JobAssessed,
    PreflightDone,
    PromiseMade,
)
from daitn.control_center.training.tuning import Tuning
from daitn.control_center.turn import Turn
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Judged, Known
from daitn.decision.method_choice import may_cut
from daitn.decision.promises import promise_of
from daitn.decision.routes.contract import Seen
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import Verdict
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork


class Assessing:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, ending: Ending) -> None:
        self.state = desk.state
        self._desk = desk
        self._ending = ending
        self._probing = Probing(desk)
        self._advising = Advising(desk)
        self.tuning = Tuning(desk)

    def assess(self, turn: Turn) -> None:
        """Judge the request, or have done what it takes to judge it."""
        state = self.state
        if state.open or self._desk.rests(turn):
            return
        if state.preflight_fault and state.preflight is None:
            fault = Preflight(fault=state.preflight_fault)
            turn.record(PreflightDone(job=state.job, at_ns=turn.now_ns, preflight=fault))
        admission = TrainingAdmission(lambda request: self._desk.view(turn, request))
        elapsed_s = ns_to_seconds(turn.now_ns - state.submitted_ns)
        promises = self._desk.promises.owed(state.job, turn.now_ns)
        known = Known(state.preflight, self._desk.book.lessons, elapsed_s, promises, state.transfer_bytes)
        verdict, judged, view = admission.assess(state.request, state.package, known)
        plan = judged.plan
        if verdict.outcome == "refused" and self._desk.silent_nodes(turn) and self._desk.waited(turn) < REST_PATIENCES:
            turn.wake_in(f"job {state.job}", WAIT_S)
            return
        if verdict.outcome == "needs-probe" and state.preflight is not None:
            if not self._probing.go_on(turn, verdict, judged):
                self.assess(turn)
            return
        if verdict.outcome == "admitted" and self.tuning.wanted():
            if not self.tuning.go_on(turn, judged, known):
                self.assess(turn)
            return
        if verdict.outcome == "refused" or state.preflight is not None:
            self._settle(turn, verdict, judged, view)
            return
        if state.lost_in_row >= TRIES_MOST or state.evaluations_left == 0:
            self._ending.end(
                turn, Phase.FAILED, f"the model could not be tried at a verification unit: {state.last_loss}"
            )
            return
        unit = view.verifiers[0]
        samples = state.sampled.of(unit.node)
        for name in unit.datasets[: limits.SITES_PER_ORDER]:
            if state.sampled.has(unit.node, name, without=bool(samples)):
                continue
            found = self._desk.knowledge.dataset(name)
            if found is None:
                continue
            why = "its policy gives the verification unit a sample"
            self._desk.ask_sample(turn, found[0].descriptor.node, name, unit, why)
        if state.open:
            return
        if not samples:
            faults = "; ".join(f"{name}: {why}" for (_, name), why in state.sampled.faults.items())
            self._ending.end(turn, Phase.FAILED, f"no test set could be made: {faults or 'no site gave a sample'}")
        else:
            trial = plan.training if state.request.chance_floor > 0 else None
            cuts = may_cut(state.request, view)
            evaluate = self._desk.evaluation(state.head, samples, preflight=True, trial=trial, cuts=cuts)
            self._desk.order(
                turn, "preflight", unit.node, evaluate, "does it load, learn a batch, already meet the goal?"
            )

    def _settle(self, turn: Turn, verdict: Verdict, judged: Judged, view: TrainingView) -> None:
        """The final verdict of an assessment, and what follows."""
        state, plan = self.state, judged.plan
        offer = verdict.counter_offer
        taken = offer.request if offer is not None and state.request.accept_counter_offer else None
        if offer is not None and offer.unmasks(state.request):
            taken = None
        if taken is None and verdict.outcome == "refused":
            if self._advising.go_on(turn, verdict, judged):
                return
            verdict = msgspec.structs.replace(verdict, advice=self._advising.advice(turn, verdict))
        if verdict.outcome == "admitted":
            assessed = JobAssessed(
                job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan, situation=judged.situation
            )
            turn.record(assessed)
            left_s = state.request.deadline_s - ns_to_seconds(turn.now_ns - state.submitted_ns)
            promise = promise_of(view, state.request, state.package, plan, state.preflight, left_s)
            turn.record(PromiseMade(job=state.job, at_ns=turn.now_ns, promise=promise))
            if plan.route:
                self._desk.seek_validity(turn, plan, view, Seen(seed=state.request.seed), plan.route[0])
            self._desk.enter(turn, Phase.QUEUED, "admitted")
        elif taken is not None:
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan, taken=taken))
            self._desk.watch_deadline(turn)
            self.assess(turn)
        else:
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan))
            failed = [condition for condition in verdict.conditions if not condition.met]
            why = "; ".join(f"{one.code.value}: {one.what}, required {one.required}, {one.available}" for one in failed)
            self._ending.end(turn, Phase.REFUSED, why)

    def probed(self, turn: Turn, outcome: EvaluateOutcome) -> None:
        """Keep what a probe learnt."""
        self._probing.measured(turn, outcome)

    def preflighted(self, turn: Turn, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> None:
        """Keep what the preflight at a unit found."""
        found = self._preflight(node, work, outcome)
        turn.record(PreflightDone(job=self.state.job, at_ns=turn.now_ns, preflight=found))

    def advised(self, turn: Turn, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> None:
        """Judge another model by what its preflight at a unit found."""
        self._advising.tried(turn, outcome.model, self._preflight(node, work, outcome))

    def _preflight(self, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> Preflight:
        facts = self._desk.knowledge.node(node)
        return Preflight(
            measurements=outcome.measurements,
            overfits=outcome.overfits,
            batch_seconds=outcome.batch_seconds,
            unit_flops=facts.flops if facts is not None else 0.0,
            unit_memory_bytes_per_s=facts.memory_bytes_per_s if facts is not None else 0.0,
            evaluate_seconds=outcome.seconds,
            test_records=max((one.records for one in outcome.measurements), default=0),
            curve=outcome.curve,
            cuts=outcome.cuts if work.cuts else None,
            taught=outcome.taught,
        )
