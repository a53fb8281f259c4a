"""What a gateway learns and keeps: service times, which replicas are broken, whose slots are whose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.errors import InputError
from daitn.decision.query_route.choosing import Choice, Why
from daitn.decision.query_route.ejection import FIRST_S, LONGEST_S, LOSSES, SLOWS, Ejector
from daitn.decision.query_route.hedging import HedgeBudget, hedge_after_s
from daitn.decision.query_route.service_time import MEMORY, ServicePrior, learn, predicted, start_learning
from daitn.decision.query_route.slots import LEASE_S, SlotBook, SlotLease, SlotPurse


def learner() -> np.ndarray:
    state = np.zeros(6)
    start_learning(state, ServicePrior(0.1, 0.01))
    return state


def teach(
    state: np.ndarray, base: float, unit: float, noise: float, answers: int, seed: int, known: float = 0
) -> float:
    rng = np.random.default_rng(seed)
    for _ in range(answers):
        size = rng.uniform(1, 100)
        known = learn(state, known, size, (base + unit * size) * rng.lognormal(-(noise**2) / 2, noise))
    return known


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 2), st.floats(0.001, 0.1), st.floats(0.02, 0.3), st.integers(0, 9999))
def test_service_is_learnt_within_its_own_doubt(base: float, unit: float, noise: float, seed: int) -> None:
    state = learner()
    teach(state, base, unit, noise, 400, seed)
    for size in (20.0, 50.0, 100.0):
        mean, variance = predicted(state, size, 0.0)
        true = base + unit * size
        assert mean == pytest.approx(true, rel=0.06 + 0.8 * noise)
        assert np.sqrt(variance) == pytest.approx(noise * true, rel=0.8)


def test_doubt_shrinks_as_answers_come() -> None:
    state = learner()
    deviations = []
    known = 0.0
    for step in range(6):
        deviations.append(predicted(state, 50.0, 0.0)[1] ** 0.5)
        known = teach(state, 0.1, 0.01, 0.1, 5, step, known)

    assert deviations[-1] < 0.3 * deviations[0]


def test_host_that_slowed_down_is_believed_within_its_memory() -> None:
    state = learner()
    known = teach(state, 0.1, 0.01, 0.1, 300, 1)
    teach(state, 0.3, 0.03, 0.1, int(MEMORY), 2, known)

    assert predicted(state, 50.0, 0.0)[0] == pytest.approx(1.8, rel=0.4)


def test_one_stall_is_no_new_speed() -> None:
    state = learner()
    known = teach(state, 0.1, 0.01, 0.1, 200, 1)
    before = predicted(state, 50.0, 0.0)[0]
    learn(state, known, 50.0, 600.0)

    assert predicted(state, 50.0, 0.0)[0] == pytest.approx(before, rel=0.1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)), max_size=60))
def test_whatever_is_taught_the_state_stays_finite(answers: list[tuple[float, float]]) -> None:
    state, known = learner(), 0.0
    for size, took in answers:
        known = learn(state, known, min(size, 1e6), min(took, 1e6))
        assert np.isfinite(state).all()
        assert state.min(initial=0.0, where=np.array([True, True, True, False, True, True])) >= 0
        mean, variance = predicted(state, 10.0, 1.0)
        assert mean > 0
        assert variance >= 0


# --- ejection ---------------------------------------------------------------------------------------------------------


def test_replica_that_loses_queries_is_left_out_and_tried_again_for_longer_each_time() -> None:
    ejector = Ejector()
    assert [ejector.lost("a", 4, 0.0) for _ in range(LOSSES)] == [False] * (LOSSES - 1) + [True]
    assert ejector.ejected() == {"a"}
    assert ejector.returning(FIRST_S - 0.1) == ()
    assert ejector.returning(FIRST_S) == ("a",)
    assert ejector.lost("a", 4, FIRST_S), "on trial one loss is enough"
    assert ejector.returning(FIRST_S + 1.9 * FIRST_S) == ()
    assert ejector.returning(FIRST_S + 2 * FIRST_S) == ("a",)
    assert not ejector.answered("a", 0.1, 0.1, 4, 20.0)
    assert not ejector.lost("a", 4, 21.0), "an answer in time cleared it"


def test_replica_that_answers_far_too_late_is_left_out() -> None:
    ejector = Ejector()

    assert [ejector.answered("a", 6.0, 1.0, 4, 0.0) for _ in range(SLOWS)] == [False] * (SLOWS - 1) + [True]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 10)), max_size=200))
def test_never_more_than_half_are_left_out_and_none_for_ever(count: int, events: list[tuple[int, bool, float]]) -> None:
    ejector, now = Ejector(), 0.0
    for number, lost, wait in events:
        now += wait
        ejector.returning(now)
        name = f"replica-{number % count}"
        if lost:
            ejector.lost(name, count, now)
        else:
            ejector.answered(name, 1.0, 1.0, count, now)
        assert len(ejector.ejected()) <= count / 2
    ejector.returning(now + LONGEST_S)
    assert ejector.ejected() == frozenset()


# --- hedging ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_copies_never_pass_their_share_of_queries(share: float, wanted: list[bool]) -> None:
    budget, copies = HedgeBudget(share), 0
    for queries, late in enumerate(wanted, start=1):
        budget.earn()
        copies += late and budget.take()
        assert copies <= 1 + share * queries + 1e-9


def test_query_is_late_by_deviations_of_what_was_expected() -> None:
    choice = Choice(0, Why.BEST, 9.0, 4.0, 8.0, (0,) * 7, 9.0, first_s=2.0, first_deviation_s=0.5)

    assert hedge_after_s(choice, 2.0) == 3.0, "by its first piece, where it comes in pieces"


def test_impossible_hedging_share_is_an_error() -> None:
    with pytest.raises(InputError):
        HedgeBudget(1.5)


# --- slots ------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_gateways_never_overfill_a_host_whatever_is_lost_or_late(slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    book, now = SlotBook(slots), 0.0
    purses = {name: SlotPurse() for name in ("east", "north", "west")}
    skew = {name: rng.uniform(0, 5) for name in purses}
    running: list[str] = []
    for _ in range(200):
        now += rng.exponential(0.2)
        name = str(rng.choice(list(purses)))
        purse, own = purses[name], now + skew[name]
        kind = rng.random()
        if kind < 0.3:
            late = rng.uniform(0, 0.5)
            lease = book.lease(name, purse.wanted(), now)
            assert 0 <= lease.slots <= slots
            if rng.random() < 0.8:
                purse.granted(lease, own - late)
        elif kind < 0.8:
            spent = purse.spend(own)
            if spent is not None and rng.random() < 0.9 and book.began(name, spent, now):
                running.append(name)
        elif running:
            book.ended(running.pop(int(rng.integers(len(running)))))
        assert book.under_way() == len(running) <= slots
        assert book.free(now) >= 0
    for name in running:
        book.ended(name)
    assert book.free(now + LEASE_S) == slots


def test_query_on_a_lease_that_ended_or_is_spent_or_another_s_is_refused() -> None:
    book = SlotBook(4)
    lease = book.lease("east", 1, 0.0)

    assert not book.began("west", lease.lease, 0.1)
    assert book.began("east", lease.lease, 0.1)
    assert not book.began("east", lease.lease, 0.2), "spent"
    late = book.lease("east", 1, 0.2)
    assert not book.began("east", late.lease, 0.2 + LEASE_S)


def test_newcomer_finds_a_slot_beside_one_that_wants_all() -> None:
    book = SlotBook(8)
    greedy = book.lease("greedy", 100, 0.0)
    for _ in range(greedy.slots):
        book.began("greedy", greedy.lease, 0.0)
    for _ in range(greedy.slots // 2):
        book.ended("greedy")

    assert book.lease("newcomer", 100, 0.1).slots >= 1


def test_batches_grow_with_use_and_end_first_at_the_gateway() -> None:
    purse = SlotPurse()
    purse.granted(SlotLease(1, 4, LEASE_S), 10.0)

    assert [purse.spend(10.0 + step / 10) for step in range(5)] == [1, 1, 1, 1, None]
    assert purse.wanted() == 1
    purse.granted(SlotLease(2, 8, LEASE_S), 10.5)
    assert purse.wanted() == 8
    assert purse.left(10.5 + LEASE_S) == 0


def test_host_without_slots_is_an_error() -> None:
    with pytest.raises(InputError):
        SlotBook(0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 100), st.floats(0.0, 0.1), st.integers(0, 9999))
def test_queries_of_one_size_are_predicted_within_what_was_seen(size: int, unit: float, seed: int) -> None:
    state, known, rng = np.zeros(6), 0.0, np.random.default_rng(seed)
    start_learning(state, ServicePrior(1e-4, unit, 0.3, 0.3))
    most = 0.0
    for _ in range(2000):
        seen = 10 ** (rng.uniform(-6, -4) if rng.random() < 0.95 else rng.uniform(-4, -2))
        known, most = learn(state, known, float(size), seen), max(most, seen)
        assert predicted(state, float(size), 0.0)[0] <= most * 1.000001
