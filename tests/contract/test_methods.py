"""One suite over every training method: the laws in `learning.methods.contract`, on runs played by hand."""

from __future__ import annotations

import random

import pytest
from tests.builders import PACKAGE, changed

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.control_center.training.gossip_book import GossipBook
from daitn.decision.routes import RULES
from daitn.descriptors.plan import Stop
from daitn.descriptors.work import AMONG_MOST, AggregateOutcome, AggregateWork, UpdateRef
from daitn.learning.methods import METHODS
from daitn.learning.methods.buffered import BUFFER_MOST, FedBuff, buffer_size
from daitn.learning.methods.contract import (
    Aggregate,
    AggregateShares,
    AverageAmong,
    Choosers,
    Meet,
    Method,
    Mixing,
    Run,
    Train,
    TrainAmong,
    TrainGroup,
    Verify,
)
from daitn.learning.methods.data_parallel import DataParallel
from daitn.learning.methods.federated import FederatedAveraging
from daitn.learning.methods.gossip import Gossip
from daitn.learning.methods.sequential import Sequential

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
STOPS = tuple(Stop(dataset=DataSetId(f"s{n}/records"), compute_node=NodeId(f"s{n}"), why="") for n in range(3))
CHOOSERS = Choosers(next_stop=lambda _: STOPS[0], all_stops=lambda: STOPS, group_stops=lambda: STOPS)
NOWHERE = Choosers(next_stop=lambda _: None, all_stops=tuple, group_stops=tuple)


def make_run(**changes) -> Run:
    """A run that has just begun."""
    values = {
        "head": PACKAGE,
        "verified": PACKAGE,
        "rounds_since_verified": 0,
        "verify_every": 2,
        "under_way": 0,
    }
    return Run(**(values | changes))


class Player:
    """Plays a run by hand: every step ends, some are lost; keeps what was accepted."""

    def __init__(self, method: Method, seed: int, verify_every: int) -> None:
        self.method = method
        self.rng = random.Random(seed)
        self.run = make_run(verify_every=verify_every)
        self.accepted = {PACKAGE}
        self.trained_since_verified = 0
        self.made = 0
        self.book = GossipBook()
        self.begun: dict[DataSetId, ArtifactId] = {}
        """What the visits under way of a buffered method were given."""

    def model(self) -> ArtifactId:
        """A new accepted model."""
        self.made += 1
        model = ArtifactId(f"model {self.made}")
        self.accepted.add(model)
        return model

    def turn(self) -> tuple:
        """Ask for steps, check the laws, end them all."""
        steps = self.method.next_steps(self.run, CHOOSERS)
        assert self.method.next_steps(self.run, CHOOSERS) == steps
        assert self.method.next_steps(changed(self.run, under_way=1 + len(self.run.training)), CHOOSERS) == ()
        if self.method.buffered:
            self._begin(steps)
            return steps
        if self.method.gossips:
            self._mix(steps)
            return steps
        for step in steps:
            lost = self.rng.random() < 0.2
            match step:
                case Train(model=model):
                    assert model == self.run.head
                    assert model in self.accepted
                    self.run = changed(self.run, round_begun=True)
                    if not lost and self.method.aggregates:
                        update = UpdateRef(model=self.model(), weight=1.0)
                        self.run = changed(self.run, updates=(*self.run.updates, update))
                    elif not lost:
                        self._advance(self.model())
                case TrainGroup(model=model, stops=stops):
                    assert self.method.exchanges
                    assert model == self.run.head
                    assert model in self.accepted
                    assert len({stop.compute_node for stop in stops}) == len(stops) > 1
                    if not lost:
                        self._advance(self.model())
                case Aggregate(updates=updates):
                    assert updates
                    assert {update.model for update in updates} <= self.accepted
                    if not lost:
                        self._advance(self.model())
                case AggregateShares(updates=updates):
                    assert self.method.in_shares
                    assert not any(update.members > 1 for update in updates)
                    if not lost:
                        part, rest = updates[:2], updates[2:]
                        mean = UpdateRef(model=self.model(), weight=sum(one.weight for one in part), members=2)
                        self.run = changed(self.run, updates=(*rest, mean))
                case Verify(model=model):
                    assert model == self.run.head
                    if not lost:
                        kept = model if self.rng.random() < 0.7 else self.run.verified
                        self.run = changed(self.run, head=kept, verified=kept, rounds_since_verified=0)
        return steps

    def _begin(self, steps: tuple) -> None:
        """Buffered: visits begin, and one of those under way ends, while the method goes on with all else."""
        training, updates = set(self.run.training), list(self.run.updates)
        handed_in = set(self.run.handed_in)
        for step in steps:
            lost = self.rng.random() < 0.2
            match step:
                case Train(model=model, stop=stop):
                    assert model == self.run.head
                    assert self.run.rounds_since_verified < self.run.verify_every
                    assert stop.dataset not in training | handed_in
                    training.add(stop.dataset)
                    self.begun[stop.dataset] = model
                case Aggregate(updates=taken):
                    assert taken == tuple(updates)
                    if not lost:
                        self._advance(self.model())
                        updates, handed_in = [], set()
                case Verify(model=model):
                    assert model == self.run.head
                    if not lost:
                        kept = model if self.rng.random() < 0.7 else self.run.verified
                        handed_in = handed_in if kept == model else set()
                        self.run = changed(self.run, head=kept, verified=kept, rounds_since_verified=0)
        if training and (not steps or self.rng.random() < 0.5):
            ends = self.rng.choice(sorted(training))
            training.remove(ends)
            if self.rng.random() < 0.8:
                updates.append(UpdateRef(model=self.model(), weight=1.0, base=self.begun[ends]))
                if self.begun[ends] == self.run.head:
                    handed_in.add(ends)
        self.run = changed(
            self.run,
            training=frozenset(training),
            under_way=len(training),
            updates=tuple(updates),
            handed_in=frozenset(handed_in),
        )

    def _mix(self, steps: tuple) -> None:
        """Gossip: visits and averages of a turn all end, some lost, in the book that a centre keeps."""
        for step in steps:
            match step:
                case TrainAmong(visits=visits, groups=groups):
                    assert self.book.mixing().rounds < self.run.verify_every
                    assert sorted(name for group in groups for name in group) == sorted(v.stop.dataset for v in visits)
                    self.book.drew(groups)
                    for visit in visits:
                        assert visit.model in self.accepted
                        if self.rng.random() > 0.2:
                            self.book.trained(visit.stop.dataset, UpdateRef(model=self.model(), weight=1.0))
                case AverageAmong(updates=updates, last=last):
                    assert 1 < len(updates) <= AMONG_MOST
                    assert {one.model for one in updates} <= self.accepted
                    if self.rng.random() > 0.2:
                        work = AggregateWork(updates=updates, share=not last, among=True)
                        outcome = AggregateOutcome(model=self.model(), seconds=0.0)
                        if last:
                            self._advance(outcome.model)
                            self.book.clear()
                        else:
                            self.book.averaged(work, outcome)
                case Meet():
                    apart = self.book.met()
                    if len(apart) == 1:
                        self._advance(apart[0].model)
                        self.book.clear()
                case Verify(model=model):
                    assert model == self.run.head
                    if self.rng.random() > 0.2:
                        kept = model if self.rng.random() < 0.7 else self.run.verified
                        self.run = changed(self.run, head=kept, verified=kept, rounds_since_verified=0)
        self.run = changed(self.run, mixing=self.book.mixing())

    def _advance(self, model: ArtifactId) -> None:
        rounds = self.run.rounds_since_verified + 1
        assert rounds <= self.run.verify_every, "trained on when a verification was due"
        self.run = changed(self.run, head=model, rounds_since_verified=rounds, updates=(), round_begun=False)


@every_method
def test_method_is_listed_under_its_own_name(method):
    assert METHODS[method.name] is method


@every_method
@pytest.mark.parametrize("verify_every", [1, 2, 5])
def test_method_keeps_its_laws_over_runs_with_losses_and_rollbacks(method, verify_every):
    for seed in range(25):
        player = Player(method, seed, verify_every)
        kinds = {type(step) for _ in range(60) for step in player.turn()}
        assert Verify in kinds
        assert (TrainGroup if method.exchanges else TrainAmong if method.gossips else Train) in kinds
        assert ({AverageAmong, Meet} <= kinds) == method.gossips
        assert (TrainGroup in kinds) == method.exchanges
        assert (Aggregate in kinds) == (method.aggregates and not method.gossips)
        assert (AggregateShares in kinds) == method.in_shares


@every_method
def test_method_waits_while_no_site_is_there(method):
    assert method.next_steps(make_run(), NOWHERE) == ()


@every_method
def test_method_never_verifies_what_was_verified(method):
    run = make_run(rounds_since_verified=9)

    assert not any(isinstance(step, Verify) for step in method.next_steps(run, CHOOSERS))


@every_method
def test_sequential_methods_move_one_copy_and_parallel_ones_use_every_site(method):
    steps = method.next_steps(make_run(), CHOOSERS)
    stops = [stop for step in steps for stop in stops_of(step)]

    assert len(stops) == (len(STOPS) if method.parallel else 1)


def stops_of(step) -> tuple[Stop, ...]:
    match step:
        case TrainGroup(stops=stops):
            return stops
        case TrainAmong(visits=visits):
            return tuple(visit.stop for visit in visits)
        case _:
            return (step.stop,)


@every_method
def test_methods_that_aggregate_or_exchange_are_parallel(method):
    assert method.parallel == (method.aggregates or method.exchanges)


def test_group_of_one_site_trains_alone():
    alone = Choosers(next_stop=lambda _: None, all_stops=tuple, group_stops=lambda: STOPS[:1])

    assert DataParallel().next_steps(make_run(), alone) == (Train(model=PACKAGE, stop=STOPS[0]),)


def test_sequential_methods_ask_a_rule_that_exists():
    for method in METHODS.values():
        if isinstance(method, Sequential):
            assert method.rule in RULES


def test_federated_round_of_which_all_were_lost_trains_again():
    steps = FederatedAveraging().next_steps(make_run(round_begun=True), CHOOSERS)

    assert all(isinstance(step, Train) for step in steps)
    assert len(steps) == len(STOPS)


def test_federated_round_averages_before_a_due_verification():
    run = make_run(
        head=ArtifactId("m"),
        rounds_since_verified=2,
        round_begun=True,
        updates=(UpdateRef(model=ArtifactId("u"), weight=1.0),),
    )

    assert [type(step) for step in FederatedAveraging().next_steps(run, CHOOSERS)] == [Aggregate]


def test_buffer_holds_half_of_the_sites_and_ten_at_most():
    assert [buffer_size(sites) for sites in (0, 1, 2, 3, 5, 100)] == [1, 1, 1, 2, 3, BUFFER_MOST]


def updates(count: int) -> tuple[UpdateRef, ...]:
    return tuple(UpdateRef(model=ArtifactId(f"u{n}"), weight=1.0, base=PACKAGE) for n in range(count))


def test_full_buffer_is_averaged_while_a_site_is_still_training():
    run = make_run(
        updates=updates(2),
        under_way=1,
        training=frozenset({STOPS[2].dataset}),
        handed_in=frozenset({STOPS[0].dataset, STOPS[1].dataset}),
    )

    assert FedBuff().next_steps(run, CHOOSERS) == (Aggregate(updates=updates(2)),)


def test_buffer_that_nobody_is_left_to_fill_is_averaged_as_it_is():
    everybody = frozenset(stop.dataset for stop in STOPS)

    assert FedBuff().next_steps(make_run(updates=updates(1), handed_in=everybody), CHOOSERS) == (
        Aggregate(updates=updates(1)),
    )


def test_site_that_has_trained_from_the_head_waits_for_the_next_one():
    run = make_run(
        updates=updates(1),
        under_way=1,
        training=frozenset({STOPS[1].dataset}),
        handed_in=frozenset({STOPS[0].dataset}),
    )

    assert FedBuff().next_steps(run, CHOOSERS) == (Train(model=PACKAGE, stop=STOPS[2]),)


def test_verification_that_is_due_comes_before_further_training_and_does_not_wait_for_the_slow():
    run = make_run(
        head=ArtifactId("m"),
        rounds_since_verified=2,
        under_way=1,
        training=frozenset({STOPS[2].dataset}),
        updates=updates(2),
    )

    assert FedBuff().next_steps(run, CHOOSERS) == (Verify(model=ArtifactId("m")),)


def test_sites_of_a_group_average_once_they_have_handed_in_and_one_left_alone_does_not():
    names = [stop.dataset for stop in STOPS]
    trained = {name: UpdateRef(model=ArtifactId(f"u {name}"), weight=1.0) for name in names}
    mixing = Mixing(groups=((names[0], names[1]), (names[2],)), trained=trained, rounds=1)

    (step,) = Gossip().next_steps(make_run(mixing=mixing), CHOOSERS)

    assert step == AverageAmong(updates=(trained[names[0]], trained[names[1]]))


def test_member_begins_from_its_own_model_and_one_that_has_none_from_the_head():
    mixing = Mixing(own={STOPS[0].dataset: ArtifactId("mine")}, rounds=1)

    (step,) = Gossip().next_steps(make_run(mixing=mixing), CHOOSERS)

    assert [visit.model for visit in step.visits] == [ArtifactId("mine"), PACKAGE, PACKAGE]


def test_all_meet_in_pairs_along_a_tree_and_the_last_mean_is_of_all():
    pieces = tuple(UpdateRef(model=ArtifactId(f"p{n}"), weight=1.0) for n in range(5))
    five, two = (Gossip().next_steps(make_run(mixing=Mixing(pieces=pieces[:n])), CHOOSERS) for n in (5, 2))

    assert five == (AverageAmong(updates=pieces[:2]), AverageAmong(updates=pieces[2:4]))
    assert two == (AverageAmong(updates=pieces[:2], last=True),)
