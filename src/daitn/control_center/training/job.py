"""The job machine: carries one job from submission to delivery, through restarts, lost sites and harmful visits.

Paper II-A and III. Durable and event-sourced: `JobState` is rebuilt from records; this module only decides. Its one
entry is `advance`, called after anything that concerns the job; it orders whatever should be under way and is not, so
that there is no difference between going on and resuming.

    assessing: samples to the verification unit → preflight → verdict
    running:   the method's next steps, one record and one message each
    delivering: fetch the best model → delivered, or exhausted where the goal was not reached

What it does not do: numbers (terminals), choices (`decision`), methods (`learning.methods`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base import limits
from daitn.base.ids import CENTER, ArtifactId, NodeId, VisitId
from daitn.base.units import seconds_to_ns
from daitn.control_center.config import CenterConfig
from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.commands import FetchModel, JobChanged
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.open_visits import REPEAT_FIRST_S, REPEATS, OpenVisit, next_check_ns
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.records import (
    JobAssessed,
    JobPhased,
    ModelGone,
    ModelJudged,
    PreflightDone,
    Purpose,
    RecordsGiven,
    Replanned,
    RequestChanged,
    SampleGiven,
    SiteBarred,
    VisitAccepted,
    VisitLost,
    VisitOrdered,
)
from daitn.control_center.turn import Turn
from daitn.decision.facts import Preflight
from daitn.decision.hyperparameters import after_kept, after_rollback, propose_training
from daitn.decision.keeping import judge_model
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen, best_compute, datasets
from daitn.descriptors.contract import Classification
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import Verdict
from daitn.descriptors.plan import Plan, Stop
from daitn.descriptors.request import METRICS, Request
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import (
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Outcome,
    SampleRef,
    ShareOutcome,
    ShareWork,
    TrainWork,
    UpdateRef,
    Work,
)
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.learning.methods.contract import Aggregate, Choosers, Run, Train, Verify
from daitn.learning.methods.sequential import Sequential
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view
from daitn.wire.center_tools import ReleaseArtifacts, VisitCancel, VisitPrepare

WAIT_S: Final = 0.5
"""How soon a job that can do nothing now (no site, no unit) looks again."""

REST_PATIENCES: Final = 2.0
"""A node whose visit was lost is not asked again for this many patiences while others are there."""

HARM_MOST: Final = 2
"""Visits at one data set that may break the model before the job leaves it out."""

ROLLBACKS_MOST: Final = 10
"""Models in a row that may be rolled back, each after smaller steps than the one before; then the job has got as far as
it will."""

RETRIES_AT_ONCE: Final = 3
"""Lost visits in a row after which the next try waits, twice as long each time, up to a patience: a full disk or a site
that refuses at once would otherwise use up all tries within a second."""

DELIVERY_PATIENCES: Final = 15.0
"""Past the deadline the finished model is asked for this much longer; then the job has failed."""

TRIES_MOST: Final = 50
"""Lost visits in a row, with no accepted one between, after which a job has failed."""


class JobMachine:
    """See the module's docstring."""

    def __init__(self, state: JobState, config: CenterConfig, knowledge: KnowledgeMap, desk: OrderDesk) -> None:
        self.state = state
        self._config = config
        self._knowledge = knowledge
        self._desk = desk
        self._admission = TrainingAdmission(self.view)
        self._fetching = False
        self._delivering_ns = 0
        self._now_ns = 0

    # --- what others call -------------------------------------------------------------------------------------------

    def advance(self, turn: Turn, *, may_start: bool = True) -> None:
        """Order whatever should be under way. `may_start`: whether a queued job may begin to run."""
        self._now_ns = turn.now_ns
        state = self.state
        if state.ended:
            return
        turn.perform(JobChanged(job=state.job))
        if turn.now_ns >= self._deadline_ns and state.phase is not Phase.DELIVERING:
            self._finish(turn, met=state.met, why=f"the deadline of {state.request.deadline_s:g} s has passed")
        if state.phase is Phase.ASSESSING:
            self._assess(turn)
        if state.phase is Phase.QUEUED and may_start:
            self._start(turn)
        if state.phase is Phase.RUNNING:
            self._run(turn)
        if state.phase is Phase.DELIVERING:
            self._deliver(turn)

    def resume(self, turn: Turn) -> None:
        """After a restart of the centre: everything under way is asked for again, with the same fences."""
        for visit in self.state.open.values():
            self._speak(turn, visit)
        self.watch_deadline(turn)

    @property
    def _deadline_ns(self) -> int:
        return self.state.submitted_ns + seconds_to_ns(self.state.request.deadline_s)

    def watch_deadline(self, turn: Turn) -> None:
        """Wake up at the deadline, wherever it is now."""
        turn.timer(f"deadline {self.state.job}", self._deadline_ns)

    def accept(self, turn: Turn, visit: VisitId, outcome: Outcome, signature: str) -> None:
        """A result that stands: record it and what follows from it."""
        state = self.state
        ordered = state.open[visit].ordered
        turn.record(VisitAccepted(job=state.job, at_ns=turn.now_ns, visit=visit, outcome=outcome, signature=signature))
        self._knowledge.kept_promise(ordered.node)
        match ordered.purpose:
            case "sample" if isinstance(outcome, ShareOutcome) and isinstance(ordered.work, ShareWork):
                sample = SampleRef(
                    dataset=ordered.work.dataset,
                    artifact=outcome.artifact,
                    holder=ordered.node,
                    records=outcome.records,
                )
                turn.record(SampleGiven(job=state.job, at_ns=turn.now_ns, unit=ordered.work.receiver, sample=sample))
            case "records" if isinstance(outcome, ShareOutcome) and isinstance(ordered.work, ShareWork):
                given = RecordsGiven(
                    job=state.job,
                    at_ns=turn.now_ns,
                    dataset=ordered.work.dataset,
                    receiver=ordered.work.receiver,
                    artifact=outcome.artifact,
                    holder=ordered.node,
                )
                turn.record(given)
            case "preflight" if isinstance(outcome, EvaluateOutcome):
                self._preflighted(turn, ordered.node, outcome)
            case "aggregate":
                self._release(turn)
            case "train" if not state.parallel:
                self._release(turn)
            case "verify" if isinstance(outcome, EvaluateOutcome):
                self._judge(turn, outcome)
            case _:
                pass

    def lose(self, turn: Turn, visit: VisitId, why: str, blame: str) -> None:
        """A visit will not be waited for any more."""
        state = self.state
        ordered = state.open[visit].ordered
        turn.record(VisitLost(job=state.job, at_ns=turn.now_ns, visit=visit, why=why, blame=blame))
        if blame in ("unavailable", "peer", "bug"):
            rest_ns = turn.now_ns + seconds_to_ns(REST_PATIENCES * self._config.patience_s)
            self._knowledge.broke_promise(ordered.node, rest_ns)
        if isinstance(ordered.work, TrainWork | ShareWork) and ordered.purpose != "sample":
            dataset = ordered.work.dataset
            harmful = state.harm.get(dataset, 0) >= HARM_MOST
            if (blame == "policy" or harmful) and dataset not in state.barred:
                turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=dataset, why=why))

    def check(self, turn: Turn, visit: VisitId) -> bool:
        """The timer of a visit fired: repeat its order, wait on, or give it up (True)."""
        opened = self.state.open.get(visit)
        if opened is None:
            return False
        if turn.now_ns >= opened.gives_up_at():
            silent = (turn.now_ns - max(opened.heard_ns, opened.ordered.at_ns)) / 1e9
            why = (
                f"nothing was heard from {self.name_of(opened.ordered.node)} for {silent:.1f} s; its lease has run out"
            )
            self.lose(turn, visit, why, "unavailable")
            return True
        repeat_ns = opened.repeats_at()
        facts = self._knowledge.node(opened.ordered.node)
        if repeat_ns is None or turn.now_ns < repeat_ns:
            turn.timer(f"visit {visit}", next_check_ns(opened))
        elif facts is not None and facts.reachable:
            opened.repeats += 1
            self._speak(turn, opened)
        else:
            later_ns = turn.now_ns + seconds_to_ns(REPEAT_FIRST_S)
            turn.timer(f"visit {visit}", min(later_ns, opened.gives_up_at()))
        return False

    def ask_again(self, turn: Turn, node: NodeId) -> None:
        """A node is back: repeat the orders it has. Not for ever: one that comes and goes and never speaks of a visit
        would otherwise hold it."""
        for opened in self.state.open.values():
            if opened.ordered.node == node and opened.asked_again < REPEATS:
                opened.asked_again += 1
                opened.repeats = 0
                self._speak(turn, opened)

    def changed(self, turn: Turn) -> None:
        """Something its watchers want to see."""
        turn.perform(JobChanged(job=self.state.job))

    def change(self, turn: Turn, request: Request) -> None:
        """Another request from now on. The method stays, since visits of it are under way; hyper-parameters are for the
        next order. Once the model is being fetched there is nothing left to change."""
        state = self.state
        if state.ended or state.phase is Phase.DELIVERING:
            return
        plan = state.plan
        if plan is not None:
            request = msgspec.structs.replace(request, method=state.request.method)
            if request.hyperparameters != state.request.hyperparameters:
                parallel = METHODS[plan.method].parallel
                training, choice = propose_training(self.view(request), request.hyperparameters, parallel=parallel)
                kept = tuple(one for one in plan.choices if one.what != choice.what)
                plan = msgspec.structs.replace(plan, training=training, choices=(*kept, choice))
        turn.record(RequestChanged(job=state.job, at_ns=turn.now_ns, request=request, plan=plan))
        self.watch_deadline(turn)

    def pause(self, turn: Turn) -> bool:
        """No further visits; those under way may finish. False if the job does not run."""
        if self.state.phase not in (Phase.RUNNING, Phase.QUEUED):
            return False
        self._phase(turn, Phase.PAUSED, "paused by its owner")
        return True

    def resume_run(self, turn: Turn) -> bool:
        """A paused job goes on. False if it is not paused."""
        if self.state.phase is not Phase.PAUSED:
            return False
        self._phase(turn, Phase.QUEUED, "resumed by its owner")
        return True

    def cancel(self, turn: Turn, why: str) -> bool:
        """End the job; visits under way are told to stop. False if it has ended."""
        if self.state.ended:
            return False
        for name, visit in self.state.open.items():
            turn.send(visit.ordered.node, VisitCancel(visit=name, fence=visit.ordered.fence))
        self._end(turn, Phase.CANCELLED, why)
        return True

    def name_of(self, node: NodeId) -> str:
        """A node's own name where the map knows it."""
        facts = self._knowledge.node(node)
        return facts.descriptor.name if facts is not None else node

    # --- views ------------------------------------------------------------------------------------------------------

    def view(self, request: Request | None = None) -> TrainingView:
        """The view of this job's request (or a changed one) now."""
        state = self.state
        planned = state.plan.method if state.plan is not None and request is None else ""
        asker = Asker(
            owner=state.owner,
            signer=state.package.signer,
            method=(request or state.request).method or planned or FIRST_CHOICE,
            domain=self._config.domain,
            evaluations_used=state.verifications,
            barred=tuple(state.barred),
        )
        nodes = [facts.descriptor.node for facts in self._knowledge.nodes()]
        resting = [node for node in nodes if self._cools(node)]
        return make_training_view(
            self._knowledge,
            request or state.request,
            state.package.contract,
            asker,
            state.batch_s,
            resting,
            self._now_ns,
        )

    # --- assessing --------------------------------------------------------------------------------------------------

    def _assess(self, turn: Turn) -> None:
        state = self.state
        if state.open or self._rests(turn):
            return
        if state.preflight_fault and state.preflight is None:
            fault = Preflight(fault=state.preflight_fault)
            turn.record(PreflightDone(job=state.job, at_ns=turn.now_ns, preflight=fault))
        verdict, plan, view = self._admission.assess(state.request, state.package, state.preflight)
        if verdict.outcome == "refused" and self._silent_nodes() and self._waited(turn) < REST_PATIENCES:
            turn.wake_in(f"job {state.job}", WAIT_S)
            return
        if verdict.outcome == "refused" or state.preflight is not None:
            self._settle(turn, verdict, plan)
            return
        if state.lost_in_row >= TRIES_MOST or state.evaluations_left == 0:
            self._end(turn, Phase.FAILED, f"the model could not be tried at a verification unit: {state.last_loss}")
            return
        unit = view.verifiers[0]
        samples = self._samples(unit.node)
        for name in unit.datasets[: limits.SITES_PER_ORDER]:
            if state.has_sample(unit.node, name, without=bool(samples)):
                continue
            found = self._knowledge.dataset(name)
            if found is None:
                continue
            work = ShareWork(
                dataset=name,
                kind="sample",
                receiver=unit.node,
                receiver_operator=unit.operator,
                contract=state.request.package,
            )
            self._order(
                turn, "sample", found[0].descriptor.node, work, "its policy gives the verification unit a sample"
            )
        if state.open:
            return
        if not samples:
            faults = "; ".join(f"{name}: {why}" for (_, name), why in state.sample_faults.items())
            self._end(turn, Phase.FAILED, f"no test set could be made: {faults or 'no site gave a sample'}")
        else:
            evaluate = self._evaluation(state.head, samples, preflight=True)
            self._order(turn, "preflight", unit.node, evaluate, "does it load, learn a batch, already meet the goal?")

    def _silent_nodes(self) -> bool:
        """Whether some node of the map does not answer now: what it has could change a verdict."""
        return any(not self._knowledge.usable(facts, self._now_ns) for facts in self._knowledge.nodes())

    def _waited(self, turn: Turn) -> float:
        """Patiences since the job's last fact."""
        return (turn.now_ns - self.state.log[-1].at_ns) / 1e9 / self._config.patience_s

    def _settle(self, turn: Turn, verdict: Verdict, plan: Plan) -> None:
        """The final verdict of an assessment, and what follows."""
        state = self.state
        offer = verdict.counter_offer
        taken = offer.request if offer is not None and state.request.accept_counter_offer else None
        if verdict.outcome == "admitted":
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan))
            self._phase(turn, Phase.QUEUED, "admitted")
        elif taken is not None:
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan, taken=taken))
            self.watch_deadline(turn)
            self._assess(turn)
        else:
            turn.record(JobAssessed(job=state.job, at_ns=turn.now_ns, verdict=verdict, plan=plan))
            failed = [condition for condition in verdict.conditions if not condition.met]
            why = "; ".join(f"{one.code.value}: {one.what}, required {one.required}, {one.available}" for one in failed)
            self._end(turn, Phase.REFUSED, why)

    def _preflighted(self, turn: Turn, node: NodeId, outcome: EvaluateOutcome) -> None:
        facts = self._knowledge.node(node)
        compute = facts.descriptor.compute if facts is not None else None
        preflight = Preflight(
            measurements=outcome.measurements,
            overfits=outcome.overfits,
            batch_seconds=outcome.batch_seconds,
            unit_flops=compute.flops if compute is not None else 0.0,
            evaluate_seconds=outcome.seconds,
            test_records=max((one.records for one in outcome.measurements), default=0),
        )
        turn.record(PreflightDone(job=self.state.job, at_ns=turn.now_ns, preflight=preflight))

    # --- running ----------------------------------------------------------------------------------------------------

    def _start(self, turn: Turn) -> None:
        state = self.state
        judgement = judge_model(state.request.targets, state.untrained, state.best_score, state.untrained)
        self._phase(turn, Phase.RUNNING, "started")
        if judgement.met and state.visits == 0:
            self._finish(turn, met=True, why="the submitted model meets all targets already; nothing was trained")

    def _run(self, turn: Turn) -> None:
        state = self.state
        assert state.plan is not None
        if state.met:
            self._finish(turn, met=True, why="all targets are reached")
            return
        if state.lost_in_row >= TRIES_MOST:
            self._end(turn, Phase.FAILED, f"{TRIES_MOST} visits in a row were lost, the last: {state.last_loss}")
            return
        if not state.open and self._rests(turn):
            return
        spent = self._spent()
        if spent:
            if not state.open:
                self._wind_up(turn, spent)
            return
        if not state.open and not self._reachable(state.head):
            self._go_back(turn)
            return
        view = functools.cache(lambda: self._without_avoided(self.view()))
        for step in METHODS[state.plan.method].next_steps(self._run_so_far(), self._choosers(view)):
            match step:
                case Train(model=model, stop=stop):
                    self._train(turn, view(), model, stop)
                case Aggregate(updates=updates):
                    self._average(turn, view(), updates)
                case Verify():
                    self._verify(turn, f"due after {state.rounds_since_verified} round(s)")
        if not state.open:
            turn.wake_in(f"job {state.job}", WAIT_S)

    def _rests(self, turn: Turn) -> bool:
        """Whether to wait before the next try, because the last ones were all lost."""
        over = self.state.lost_in_row - RETRIES_AT_ONCE
        if over < 0:
            return False
        wait_s = min(self._config.patience_s, WAIT_S * 2.0**over)
        until_ns = self.state.lost_ns + seconds_to_ns(wait_s)
        if turn.now_ns >= until_ns:
            return False
        turn.timer(f"job {self.state.job}", until_ns)
        return True

    def _without_avoided(self, view: TrainingView) -> TrainingView:
        """The view without the data sets of the visits that were just rolled back, while there are others."""
        others = tuple(one for one in view.candidates if one.dataset not in self.state.avoided)
        return msgspec.structs.replace(view, candidates=others) if others else view

    def _wind_up(self, turn: Turn, why: str) -> None:
        """A budget is used up: what was trained for it is averaged and measured once more, then the job is over."""
        state = self.state
        if state.evaluations_left != 0:
            view = self.view()
            if state.updates and view.aggregators and any(self._reachable(one.model) for one in state.updates):
                self._average(turn, view, tuple(state.updates))
                turn.wake_in(f"job {state.job}", WAIT_S)
                return
            if state.head != state.kept and self._verify(turn, "last measure"):
                return
        self._finish(turn, met=False, why=why)

    def _average(self, turn: Turn, view: TrainingView, updates: tuple[UpdateRef, ...]) -> None:
        """Order the average of a round. Updates whose sites do not come back in a while are left out."""
        state = self.state
        here = tuple(update for update in updates if self._reachable(update.model))
        if len(here) < len(updates) and self._waited(turn) <= REST_PATIENCES:
            return
        if not here:
            turn.record(ModelGone(job=state.job, at_ns=turn.now_ns, model=updates[0].model, instead=state.head))
            return
        awake = [one.node for one in view.aggregators if not self._cools(one.node)]
        for node in awake[:1] or [one.node for one in view.aggregators[:1]]:
            self._order(turn, "aggregate", node, AggregateWork(updates=here), f"{len(here)} updates of a round")

    def _cools(self, node: NodeId) -> bool:
        facts = self._knowledge.node(node)
        return facts is not None and facts.cool_until_ns > self._now_ns

    def _spent(self) -> str:
        """Which budget is used up; empty while none is."""
        state = self.state
        budget = state.request.budget
        if budget.visits is not None and state.visits >= budget.visits:
            return f"the budget of {budget.visits} visits is used up"
        if budget.transfer_bytes is not None and state.transfer_bytes >= budget.transfer_bytes:
            return f"the budget of {budget.transfer_bytes} bytes is used up"
        if state.visits >= limits.VISITS_PER_JOB:
            return f"{limits.VISITS_PER_JOB} visits were made without reaching the goal"
        if state.rolled_back_in_row >= ROLLBACKS_MOST:
            return f"{ROLLBACKS_MOST} models in a row were worse and rolled back: more training does not help here"
        if state.evaluations_left == 0:
            return "the verification unit answers no more for this job: a test set asked too often leaks"
        return ""

    def _run_so_far(self) -> Run:
        state = self.state
        assert state.plan is not None
        return Run(
            head=state.head,
            verified=state.kept,
            rounds_since_verified=state.rounds_since_verified,
            verify_every=state.plan.verify_every,
            under_way=len(state.open),
            updates=tuple(state.updates),
            round_begun=state.round_begun,
        )

    def _choosers(self, view: Callable[[], TrainingView]) -> Choosers:
        """`view` is made only when a choice is due: it costs O(sites), and a round of N sites would make it N times."""
        state = self.state
        assert state.plan is not None
        training = state.plan.training
        seen = Seen(visits=tuple(state.seen), seed=state.request.seed)

        def next_stop(rule: str) -> Stop | None:
            return RULES[rule].next_stop(view(), seen, training.batches * training.batch_size)

        def all_stops() -> tuple[Stop, ...]:
            """All sites, or as many as one order to an aggregator may name and the budget still pays for."""
            why = f"round {state.rounds + 1}"
            names = datasets(view())
            most = min(limits.SITES_PER_ORDER, (state.request.budget.visits or limits.VISITS_PER_JOB) - state.visits)
            first = state.rounds * most % len(names) if len(names) > most else 0
            turned = names[first:] + names[:first]
            return tuple(
                Stop(dataset=name, compute_node=best_compute(view(), name).compute_node, why=why)
                for name in turned[:most]
            )

        return Choosers(next_stop=next_stop, all_stops=all_stops)

    def _train(self, turn: Turn, view: TrainingView, model: ArtifactId, stop: Stop) -> None:
        state = self.state
        assert state.plan is not None
        candidate = next(
            one for one in view.candidates if (one.dataset, one.compute_node) == (stop.dataset, stop.compute_node)
        )
        records: ArtifactId | None = None
        if candidate.streamed:
            given = state.records.get((stop.dataset, stop.compute_node))
            receiver = self._knowledge.node(stop.compute_node)
            if given is None:
                work: Work = ShareWork(
                    dataset=stop.dataset,
                    kind="records",
                    receiver=stop.compute_node,
                    receiver_operator=receiver.descriptor.operator if receiver is not None else "",
                    contract=state.request.package,
                )
                why = f"{stop.why}; its site has no compute, records stream to {self.name_of(stop.compute_node)}"
                self._order(turn, "records", candidate.data_node, work, why)
                return
            records = given[0]
        train = TrainWork(
            model=model,
            dataset=stop.dataset,
            training=state.plan.training,
            seed=state.request.seed,
            records=records,
        )
        self._order(turn, "train", stop.compute_node, train, stop.why)
        self._warm_next(turn, view, stop)

    def _warm_next(self, turn: Turn, view: TrainingView, stop: Stop) -> None:
        """Tell the likely next site to get ready; it costs nothing if it is not."""
        state = self.state
        assert state.plan is not None
        method = METHODS[state.plan.method]
        if not isinstance(method, Sequential):
            return
        records = state.plan.training.batches * state.plan.training.batch_size
        seen = Seen(visits=(*state.seen, (stop.dataset, records)), seed=state.request.seed)
        after = RULES[method.rule].next_stop(view, seen, records)
        if after is None or after.compute_node == stop.compute_node:
            return
        package = self._desk.input_ref(state, state.request.package, after.compute_node, turn.now_ns, parts_only=True)
        prepare = VisitPrepare(
            job=state.job,
            package=package,
            warrant=self._desk.warrant(state),
            dataset=after.dataset,
            seed=state.request.seed,
        )
        turn.send(after.compute_node, prepare)

    def _verify(self, turn: Turn, why: str) -> bool:
        """Order a verification of the head. False if no unit has a test set now."""
        view = self.view()
        for unit in view.verifiers:
            samples = self._samples(unit.node)
            if samples:
                self._order(turn, "verify", unit.node, self._evaluation(self.state.head, samples, preflight=False), why)
                return True
        return False

    def _samples(self, unit: NodeId) -> tuple[SampleRef, ...]:
        found = [sample for (node, _), sample in self.state.samples.items() if node == unit]
        return tuple(sorted(found, key=lambda sample: sample.dataset))

    def _evaluation(self, model: ArtifactId, samples: tuple[SampleRef, ...], *, preflight: bool) -> EvaluateWork:
        """Everything the targets speak of, and the task's first metric per field, so that forgetting shows."""
        state = self.state
        contract = state.package.contract
        primary = next(iter(METRICS[type(contract.task)]))
        names = [target.name for target in state.request.targets]
        names += [primary, "loss"] if isinstance(contract.task, Classification) else [primary]
        names += [f"{primary}@{field}" for field in contract.field_names()[: limits.FIELDS]]
        return EvaluateWork(model=model, samples=samples, measurements=tuple(dict.fromkeys(names)), preflight=preflight)

    def _judge(self, turn: Turn, outcome: EvaluateOutcome) -> None:
        state = self.state
        judgement = judge_model(state.request.targets, state.kept_measurements, state.best_score, outcome.measurements)
        turn.record(
            ModelJudged(
                job=state.job,
                at_ns=turn.now_ns,
                model=outcome.model,
                keep=judgement.keep,
                best=judgement.best,
                met=judgement.met,
                score=judgement.score,
                measurements=outcome.measurements,
                why=judgement.why,
            )
        )
        if not judgement.keep and state.plan is not None:
            plan, why = after_rollback(state.plan, state.request.hyperparameters)
            turn.record(Replanned(job=state.job, at_ns=turn.now_ns, plan=plan, why=why))
        elif state.plan is not None and not judgement.met:
            eased = after_kept(state.plan, state.request.hyperparameters, state.planned_rate)
            if eased is not None:
                turn.record(Replanned(job=state.job, at_ns=turn.now_ns, plan=eased[0], why=eased[1]))
        self._release(turn)

    def _release(self, turn: Turn) -> None:
        """Let sites drop models that nothing needs any more."""
        for node, artifacts in self.state.released.items():
            turn.send(node, ReleaseArtifacts(job=self.state.job, artifacts=tuple(artifacts)))

    def _reachable(self, artifact: ArtifactId) -> bool:
        return bool(self._desk.holders(self.state, artifact))

    def _go_back(self, turn: Turn) -> None:
        """No site that holds the model is reachable: wait for one a while, then go on from an older model."""
        state = self.state
        if self._waited(turn) > REST_PATIENCES:
            instead = next(one for one in (state.kept, state.best, state.request.package) if self._reachable(one))
            turn.record(ModelGone(job=state.job, at_ns=turn.now_ns, model=state.head, instead=instead))
        turn.wake_in(f"job {state.job}", WAIT_S)

    # --- ending -----------------------------------------------------------------------------------------------------

    def _finish(self, turn: Turn, *, met: bool, why: str) -> None:
        """Training is over: stop what is under way and fetch the best model."""
        state = self.state
        for name, visit in state.open.items():
            turn.send(visit.ordered.node, VisitCancel(visit=name, fence=visit.ordered.fence))
        for name in list(state.open):
            turn.record(VisitLost(job=state.job, at_ns=turn.now_ns, visit=name, why=why, blame="over"))
        self._phase(turn, Phase.DELIVERING, ("met: " if met else "not met: ") + why)

    def _deliver(self, turn: Turn) -> None:
        state = self.state
        self._delivering_ns = self._delivering_ns or turn.now_ns
        patience_ns = seconds_to_ns(DELIVERY_PATIENCES * self._config.patience_s)
        if state.best == state.request.package:
            self.delivered(turn)
        elif self._fetching:
            return
        elif turn.now_ns >= max(self._deadline_ns, self._delivering_ns + patience_ns):
            self._end(turn, Phase.FAILED, "no site that holds the best model gave it back in time")
        elif self._reachable(state.best):
            self._fetching = True
            model = self._desk.input_ref(state, state.best, CENTER, turn.now_ns)
            turn.perform(FetchModel(job=state.job, model=model))
        else:
            turn.wake_in(f"job {state.job}", WAIT_S)

    def fetch_failed(self, turn: Turn) -> None:
        """The best model could not be fetched this time; it is asked for again."""
        self._fetching = False
        turn.wake_in(f"job {self.state.job}", WAIT_S)

    def delivered(self, turn: Turn) -> None:
        """The best model is at the centre."""
        why = self.state.reason
        phase = Phase.DELIVERED if why.startswith("met: ") else Phase.EXHAUSTED
        self._end(turn, phase, why.split(": ", 1)[1])

    def _end(self, turn: Turn, phase: Phase, why: str) -> None:
        state = self.state
        nodes = {node for nodes in state.holders.values() for node in nodes}
        nodes |= {ordered.node for ordered in state.ordered.values()}
        artifacts = tuple(dict.fromkeys([*state.holders, *state.shared()]))[: limits.ARTIFACTS_RELEASED]
        self._phase(turn, phase, why)
        for node in sorted(nodes - {CENTER}):
            turn.send(node, ReleaseArtifacts(job=state.job, artifacts=artifacts, job_ended=True))
        turn.perform(JobChanged(job=state.job))

    def _phase(self, turn: Turn, phase: Phase, why: str) -> None:
        turn.record(JobPhased(job=self.state.job, at_ns=turn.now_ns, phase=phase, reason=why))
        turn.perform(JobChanged(job=self.state.job))

    # --- orders -----------------------------------------------------------------------------------------------------

    def _order(self, turn: Turn, purpose: Purpose, node: NodeId, work: Work, why: str) -> None:
        state = self.state
        fence = state.fence + 1
        visit = VisitId(f"{state.job}/{fence}")
        turn.record(
            VisitOrdered(
                job=state.job,
                at_ns=turn.now_ns,
                visit=visit,
                fence=fence,
                node=node,
                purpose=purpose,
                work=work,
                why=why,
            )
        )
        self._speak(turn, state.open[visit])

    def _speak(self, turn: Turn, opened: OpenVisit) -> None:
        """Send a visit's order (again); its lease counts from now."""
        opened.spoken_ns = turn.now_ns
        opened.lease_s = self._knowledge.patience_with(opened.ordered.node, self._config.lease_s)
        ordered = opened.ordered
        turn.send(ordered.node, self._desk.order(self.state, ordered, turn.now_ns))
        turn.timer(f"visit {ordered.visit}", next_check_ns(opened))
