"""The middle stage of a job: visit after visit as the method says, each kept or rolled back.

Paper II-A and III, MTRCE: the route is decided visit by visit on a view made anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId
from daitn.control_center.training.averages import Averages
from daitn.control_center.training.choosing import Choosing
from daitn.control_center.training.clearing import Clearing
from daitn.control_center.training.ending import Ending
from daitn.control_center.training.gossiping import Gossiping
from daitn.control_center.training.groups import Groups
from daitn.control_center.training.job_desk import TRIES_MOST, WAIT_S, JobDesk
from daitn.control_center.training.judging import Judging
from daitn.control_center.training.masked_rounds import MaskedRounds
from daitn.control_center.training.measuring import Measuring
from daitn.control_center.training.opinions import Opinions
from daitn.control_center.training.records import (
    ModelGone,
)
from daitn.control_center.training.route_desk import RouteDesk
from daitn.control_center.training.spending import Spending
from daitn.control_center.training.stragglers import Stragglers
from daitn.control_center.training.tracing import Tracing
from daitn.control_center.training.windows import batches_in_window, through_in_time
from daitn.control_center.turn import Turn
from daitn.decision.hyperparameters import at_site
from daitn.decision.keeping import meets
from daitn.decision.noising import private_steps
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import datasets
from daitn.decision.stalling import stalled
from daitn.decision.visit_length import planned_batches
from daitn.descriptors.itinerary import Action, Segment
from daitn.descriptors.job import Phase
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView
from daitn.descriptors.work import (
    ShareWork,
    Training,
    TrainWork,
    Work,
)
from daitn.learning.methods import METHODS
from daitn.learning.methods.contract import (
    Aggregate,
    AggregateShares,
    AverageAmong,
    Meet,
    Run,
    Step,
    Train,
    TrainAmong,
    TrainGroup,
    Verify,
)
from daitn.learning.methods.sequential import Sequential
from daitn.wire.center_tools import VisitPrepare

ROLLBACKS_MOST: Final = 10
"""Models in a row that may be rolled back, each after smaller steps than the one before; then the job has got as far as
it will."""


class Running:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, ending: Ending) -> None:
        self.state = desk.state
        self._desk = desk
        self._ending = ending
        self._groups = Groups(desk)
        self._gossip = Gossiping(desk)
        self.tracing = Tracing(desk)
        self.measuring = Measuring(desk)
        self.judging = Judging(desk, self.measuring, self.tracing)
        self.routes = RouteDesk(desk)
        self._clearing = Clearing(desk)
        self.opinions = Opinions(desk, self.measuring)
        self._spending = Spending(desk.state)
        self._choosing = Choosing(desk, self.routes, self._spending)
        self._averages = Averages(desk)
        self._masked = MaskedRounds(desk, self._averages.work)
        self._stragglers = Stragglers(desk)
        self._stop: Stop | None = None
        """The newest that was ordered."""
        self._after: Stop | None = None
        """The stop that is likely to follow the one that this turn orders."""

    def start(self, turn: Turn) -> None:
        """The job's turn has come."""
        self._desk.enter(turn, Phase.RUNNING, "started")

    def run(self, turn: Turn) -> None:
        """Order the method's next steps, or end what is reached or spent."""
        state = self.state
        assert state.plan is not None
        if state.met or (state.visits == 0 and meets(state.request.targets, state.untrained)):
            if not self.opinions.wanted(turn):
                why = "all targets are reached"
                if not state.visits:
                    why = "the submitted model meets all targets already; nothing was trained"
                self._ending.finish(turn, met=True, why=f"{why}; {self.opinions.said()}")
            return
        if state.lost_in_row >= TRIES_MOST:
            self._ending.end(turn, Phase.FAILED, f"{TRIES_MOST} visits in a row were lost, the last: {state.last_loss}")
            return
        if not state.waited_for() and self._desk.rests(turn):
            return
        self._stragglers.look(turn)
        if not state.under_way() and not state.trail.searched and state.head not in state.made.doubted:
            if self.opinions.look(turn):
                return
            self._clearing.look(turn, lambda: self._stalled(turn))
        spent = self._spent(turn)
        if spent and not state.masks.stage:
            if not state.under_way():
                self._wind_up(turn, spent)
            return
        if not state.waited_for() and not self._desk.reachable(state.head):
            self._go_back(turn)
            return
        if state.trail.searched:
            self._look_at_step(turn)
            return
        if state.head in state.made.doubted:
            self._look_at_head(turn)
            return
        view = functools.cache(lambda: self._choices(turn))
        if self.measuring.look_due(turn):
            self.measuring.stand_by(turn, view())
        if state.trail.cramped and not state.waited_for():
            why = "a site has no room for one more model of this job; those between are let go then"
            if self.measuring.measure(turn, view(), why):
                return
        if state.masks.stage:
            self._masked.go_on(turn, view, lambda stop: self._work(turn, view(), state.head, stop))
            self.judging.release(turn)
            return
        steps = METHODS[state.plan.method].next_steps(self._run_so_far(), self._choosing.choosers(turn, view))
        if state.plan.secure is not None and (masked := [step.stop for step in steps if isinstance(step, Train)]):
            self._masked.begin(turn, masked, lambda stop: self._work(turn, view(), state.head, stop))
            steps = ()
        for step in steps:
            match step:
                case Train(model=model, stop=stop):
                    self._train(turn, view(), model, stop)
                case TrainGroup(model=model, stops=stops):
                    self._train_group(turn, view(), model, stops)
                case Aggregate(updates=updates):
                    self._averages.order(turn, view(), updates)
                case AggregateShares(updates=updates):
                    self._averages.order_shares(turn, view(), updates)
                case TrainAmong(visits=visits, groups=groups):
                    for stop, model in self._gossip.draw(turn, visits, groups):
                        self._train(turn, view(), model, stop)
                case AverageAmong():
                    self._gossip.average(turn, step)
                case Meet():
                    self._gossip.meet(turn)
                    self.run(turn)
                    return
                case Verify():
                    self.measuring.measure(turn, view(), f"due after {state.rounds_since_verified} round(s)")
        if steps:
            self._look_ahead(turn, view, steps)
        if not state.waited_for():
            turn.wake_in(f"job {state.job}", WAIT_S)

    def look(self, turn: Turn) -> bool:
        """While visits are under way: whether what was planned on has moved so far that the planner is told, which then
        plans on from the stop under way."""
        state = self.state
        if state.phase is not Phase.RUNNING or state.plan is None or not state.under_way():
            return False
        self._desk.follow(turn)
        view = self._choices(turn)
        if self._desk.followed.look(view, turn.now_ns) is None:
            return False
        if self._stop is not None and view.candidates:
            self._warm_next(turn, view, self._stop)
        return True

    def _look_ahead(self, turn: Turn, view: Callable[[], TrainingView], steps: tuple[Step, ...]) -> None:
        """What is expected after these steps, for the route that is signed with their orders."""
        state, after = self.state, self._after
        self._after = None
        assert state.plan is not None
        if state.gossips:
            self._desk.itinerary.ahead = self._gossip.ahead(steps)
            return
        trains = any(isinstance(step, Train | TrainGroup) for step in steps)
        ahead: list[Segment] = []
        if trains and state.aggregates:
            where = self._desk.aggregator(turn, view(), tuple(state.holders.get(state.head, ())))
            ahead += [Segment(action=Action.AGGREGATE, node=where)] if where is not None else []
        due = state.rounds_since_verified + 1 >= state.plan.verify_every
        if due and state.plan.verifier is not None and not any(isinstance(step, Verify) for step in steps):
            ahead.append(Segment(action=Action.VERIFY, node=state.plan.verifier))
        if after is not None:
            ahead.append(Segment(action=Action.TRAIN, node=after.compute_node, dataset=after.dataset))
        self._desk.itinerary.ahead = tuple(ahead)

    def _look_at_head(self, turn: Turn) -> None:
        """A site says that the model cannot be used: have it measured before anybody else is sent there."""
        told = self.state.ordered[self.state.made.doubted[self.state.head]]
        why = f"{self._desk.name_of(told.node)} says it cannot be used"
        if not self.state.waited_for() and not self.measuring.measure(turn, self._desk.view(turn), why):
            turn.wake_in(f"job {self.state.job}", WAIT_S)

    def _look_at_step(self, turn: Turn) -> None:
        """Several visits made a model worse together: have the models between them measured until it is known which."""
        if self.state.under_way():
            return
        step = self.tracing.next_look(turn)
        if step is None:
            if not self.state.trail.searched:
                self.run(turn)
            return
        why = f"which visit made the model worse: after {step.dataset}?"
        if not self.measuring.measure(turn, self._desk.view(turn), why, step.model):
            turn.wake_in(f"job {self.state.job}", WAIT_S)

    def _choices(self, turn: Turn) -> TrainingView:
        """The view that visits are chosen on: of sites that can make one now, and are not avoided."""
        view = through_in_time(self._desk.spare_view(turn), self.state, self._desk.knowledge, turn.now_ns)
        return self._without_avoided(view)

    def _without_avoided(self, view: TrainingView) -> TrainingView:
        """The view without what the budget does not pay for any more, nor, while there are others, the data sets of the
        visits that were just rolled back, and those that the job does without for now."""
        left = self._spending.affordable(view)
        aside = self.state.clearing.aside
        left = tuple(one for one in left if one.dataset not in aside) or left
        others = tuple(one for one in left if one.dataset not in self.state.avoided)
        return msgspec.structs.replace(view, candidates=others or left)

    def _wind_up(self, turn: Turn, why: str) -> None:
        """A budget is used up: what was trained for it is averaged and measured once more, then the job is over."""
        state = self.state
        if state.evaluations_left != 0:
            view = self._desk.view(turn)
            if state.updates and view.aggregators and any(self._desk.reachable(one.model) for one in state.updates):
                self._averages.order(turn, view, tuple(state.updates))
                turn.wake_in(f"job {state.job}", WAIT_S)
                return
            if state.gossips and self._gossip.wind_up(turn):
                turn.wake_in(f"job {state.job}", WAIT_S)
                return
            if state.head != state.kept:
                here = self._desk.reachable(state.head)
                if here and self.measuring.measure(turn, view, "last measure"):
                    return
                if self.measuring.waits(turn) if here else not self._desk.gone(turn, state.head):
                    turn.wake_in(f"job {state.job}", WAIT_S)
                    return
        self._ending.finish(turn, met=False, why=why)

    def _spent(self, turn: Turn) -> str:
        """Which budget is used up, or why more training does not help; empty while neither is so."""
        state = self.state
        budget = state.request.budget
        if budget.visits is not None and state.visits >= budget.visits:
            return f"the budget of {budget.visits} visits is used up"
        if (why := self._masked.spent()) != "":
            return why
        if budget.transfer_bytes is not None and state.transfer_bytes >= budget.transfer_bytes:
            return f"the budget of {budget.transfer_bytes} bytes is used up"
        if (why := self._spending.spent(lambda: self._desk.view(turn))) != "":
            return why
        if state.visits >= limits.VISITS_PER_JOB:
            return f"{limits.VISITS_PER_JOB} visits were made without reaching the goal"
        if state.rolled_back_in_row >= ROLLBACKS_MOST:
            return f"{ROLLBACKS_MOST} models in a row were worse and rolled back: more training does not help here"
        if state.evaluations_left == 0:
            return "the verification unit answers no more for this job: a test set asked too often leaks"
        return self._none_left(turn) or ("" if state.clearing.trying else self._stalled(turn))

    def _none_left(self, turn: Turn) -> str:
        """Why no data set can be asked any more: all that this job knows are barred, and no site that might have others
        is away."""
        state = self.state
        known = {dataset for _, dataset in state.sampled.given} | {dataset for dataset, _ in state.seen}
        if not state.barred or not known <= set(state.barred) or self._desk.silent_nodes(turn):
            return ""
        if self._desk.view(turn).candidates:
            return ""
        return "no data set is left to train on: " + "; ".join(f"{name}: {why}" for name, why in state.barred.items())

    def _stalled(self, turn: Turn) -> str:
        """Why the run has stalled; empty while it has not, and where its owner wants it to go on."""
        state = self.state
        standing = state.standing()
        if state.request.until_deadline or state.plan is None or not standing.long_without:
            return ""
        usable = datasets(self._desk.view(turn))
        return stalled(standing, usable, state.plan.training, state.request.hyperparameters, state.planned_rate)

    def _run_so_far(self) -> Run:
        state = self.state
        assert state.plan is not None
        return Run(
            head=state.head,
            verified=state.kept,
            rounds_since_verified=state.rounds_since_verified,
            verify_every=state.plan.verify_every,
            under_way=state.under_way(),
            training=state.training_meanwhile(),
            handed_in=frozenset(state.buffer.handed_in) if state.buffered else frozenset(),
            updates=tuple(state.updates),
            round_begun=state.round_begun,
            mixing=state.gossip.mixing(),
        )

    def _train_group(self, turn: Turn, view: TrainingView, model: ArtifactId, stops: tuple[Stop, ...]) -> None:
        """Order a group; where records have to stream first, those, and the group when they are there."""
        works = [(stop.compute_node, self._work(turn, view, model, stop)) for stop in stops]
        ready = [(node, work) for node, work in works if work is not None]
        if len(ready) == len(works):
            self._groups.order(turn, ready, stops[0].why)

    def _train(self, turn: Turn, view: TrainingView, model: ArtifactId, stop: Stop) -> None:
        train = self._work(turn, view, model, stop)
        if train is not None:
            if (fewer := train.training.batches) < self._training_at(view, stop).batches:
                stop = msgspec.structs.replace(stop, why=f"{stop.why}; {fewer} batches, since its window closes soon")
            self._groups.order_stop(turn, view, stop, train)
            self._desk.followed.chosen(view, f"{stop.dataset} was chosen: {stop.why}", turn.now_ns)
            self._desk.follow(turn)
            self._stop = stop
            if (plan := self.state.plan) is not None:
                self._desk.seek_validity(turn, plan, view, self.routes.seen(turn, view), stop)
            self._warm_next(turn, view, stop)

    def _work(self, turn: Turn, view: TrainingView, model: ArtifactId, stop: Stop) -> TrainWork | None:
        """What is to be done at a stop; None where its records have to stream there first, which is then ordered."""
        state = self.state
        assert state.plan is not None
        candidate = _candidate(view, stop)
        records: ArtifactId | None = None
        if candidate.streamed:
            given = state.records.get((stop.dataset, stop.compute_node))
            receiver = self._desk.knowledge.node(stop.compute_node)
            if given is None:
                work: Work = ShareWork(
                    dataset=stop.dataset,
                    kind="records",
                    receiver=stop.compute_node,
                    receiver_operator=receiver.descriptor.operator if receiver is not None else "",
                    contract=state.request.package,
                )
                why = f"{stop.why}; its site has no compute, records stream to {self._desk.name_of(stop.compute_node)}"
                self._desk.order(turn, "records", candidate.data_node, work, why)
                return None
            records = given[0]
        shared, own = None, None
        if state.plan.training.control_variates:
            known = state.server_states.get(model)
            shared, own = state.controls.for_visit(model, stop.dataset, known, self._desk.reachable)
        training, privacy = self._training_at(view, stop), state.request.privacy
        fitting = batches_in_window(candidate, training.batches, state, self._desk.knowledge, turn.now_ns)
        return TrainWork(
            model=model,
            dataset=stop.dataset,
            training=at_site(training, fitting, state.request.hyperparameters),
            private=None if privacy is None else private_steps(privacy, state.plan.training, candidate),
            seed=state.request.seed,
            records=records,
            shared_control=shared,
            own_control=own,
            compression=state.plan.compression,
        )

    def _training_at(self, view: TrainingView, stop: Stop) -> Training:
        """The training of a visit there, as long as planned."""
        state = self.state
        assert state.plan is not None
        batches = planned_batches(state.plan, _candidate(view, stop).records)
        return _of_length(at_site(state.plan.training, batches, state.request.hyperparameters), stop.length)

    def _warm_next(self, turn: Turn, view: TrainingView, stop: Stop) -> None:
        """Tell the likely next site to get ready; it costs nothing if it is not."""
        state = self.state
        assert state.plan is not None
        method = METHODS[state.plan.method]
        if not isinstance(method, Sequential) or method.split:
            return
        records = state.plan.training.batches * state.plan.training.batch_size
        after = self._after = self.routes.ordered(turn, RULES[method.rule], view, stop, records)
        if after is None or after.compute_node == stop.compute_node:
            return
        package = self._desk.orders.input_ref(
            state, state.request.package, after.compute_node, turn.now_ns, parts_only=True
        )
        prepare = VisitPrepare(
            job=state.job,
            package=package,
            warrant=self._desk.orders.warrant(state),
            dataset=after.dataset,
            seed=state.request.seed,
        )
        turn.send(after.compute_node, prepare)

    def _go_back(self, turn: Turn) -> None:
        """No site that holds the model is reachable: wait for one a while, then go on from an older model."""
        state = self.state
        if not self._desk.gone(turn, state.head):
            turn.wake_in(f"job {state.job}", WAIT_S)
            return
        instead = next(one for one in (state.kept, state.best, state.request.package) if self._desk.reachable(one))
        turn.record(ModelGone(job=state.job, at_ns=turn.now_ns, model=state.head, instead=instead))
        self.run(turn)


def _candidate(view: TrainingView, stop: Stop) -> Candidate:
    return next(one for one in view.candidates if (one.dataset, one.compute_node) == (stop.dataset, stop.compute_node))


def _of_length(training: Training, length: float) -> Training:
    """The training of a visit that is so many times as long as it was to be; a batch at least."""
    return (
        training
        if length == 1.0
        else msgspec.structs.replace(training, batches=max(1, round(training.batches * length)))
    )
