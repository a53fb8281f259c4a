"""Choices of replicas: what the compiled pass picks is what the plain account says, goals hold, and nothing herds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.errors import InputError
from daitn.decision.query_route.choosing import Barrier, ChoiceRules, QueryAsked, Why, choose, random_state
from daitn.decision.query_route.explaining import explain
from daitn.decision.query_route.replicas import Column, ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior

PLAIN = ChoiceRules(explore_frac=0.0, band=0.0, sticky_queue_s=-1.0, queue_weight=1.5)
"""The best, and nothing else."""


@st.composite
def tables(draw: st.DrawFn) -> ReplicaTable:
    """Up to a dozen replicas of every kind, at moment 10."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = ReplicaTable()
    for number in range(draw(st.integers(0, 12))):
        name = f"replica-{number}"
        table.add(
            name,
            ReplicaFacts(
                region=int(rng.integers(3)),
                zone=int(rng.integers(2)),
                slots=int(rng.integers(1, 5)),
                path_s=rng.uniform(0, 0.3),
                path_dev_s=rng.uniform(0, 0.1),
                price=rng.uniform(0, 1),
                price_unit=rng.uniform(0, 0.1),
                correct=rng.uniform(0.5, 1),
                service=ServicePrior(
                    rng.uniform(0.01, 0.5), rng.uniform(0, 0.05), rng.uniform(0, 2), token_s=rng.uniform(0, 0.05)
                ),
                leased=int(rng.integers(-1, 3)),
            ),
        )
        if rng.random() < 0.8:
            table.reported(name, int(rng.integers(0, 9)), rng.uniform(0, 4), rng.uniform(0, 10), rng.uniform(0.5, 3))
        if rng.random() < 0.2:
            table.set_open(name, False)
        for _ in range(int(rng.integers(0, 4))):
            table.sent(number, rng.uniform(0, 1), 10.0)
        for _ in range(int(rng.integers(0, 4))):
            table.learnt(name, rng.uniform(0, 10), rng.uniform(0.01, 1))
            table.learnt_tokens(name, rng.uniform(0, 100), rng.uniform(0.01, 1))
    return table


queries = st.builds(
    QueryAsked,
    size=st.floats(0, 10),
    size_var=st.floats(0, 4),
    deadline_s=st.sampled_from([np.inf, 5.0, 1.0, 0.3]),
    price_most=st.sampled_from([np.inf, 1.0, 0.3]),
    correct_least=st.sampled_from([0.0, 0.7, 0.9]),
    region=st.integers(-1, 2),
    zone=st.integers(-1, 1),
    price_s=st.sampled_from([0.0, 0.5]),
    wrong_s=st.sampled_from([0.0, 2.0]),
    affine=st.integers(-1, 12),
    affine_saves_s=st.sampled_from([0.0, 0.2]),
    tokens=st.sampled_from([0.0, 5.0, 80.0]),
    tokens_var=st.sampled_from([0.0, 400.0]),
)


@settings(max_examples=300, deadline=None)
@given(tables(), queries, st.integers(0, 99))
def test_choice_is_the_least_cost_of_the_plain_account(table: ReplicaTable, query: QueryAsked, seed: int) -> None:
    choice = choose(table.rows, query, 10.0, random_state(seed), rules=PLAIN)
    weighed = explain(table.rows, table.names, query, 10.0, rules=PLAIN)
    held = Counter(one.held_back_by for one in weighed if one.held_back_by)
    able = [one for one in weighed if not one.held_back_by]
    late = [one for one in weighed if one.held_back_by == "deadline"]

    assert choice.held_back == tuple(held[barrier.name.lower()] for barrier in Barrier)
    if able:
        assert choice.why is Why.BEST
        assert weighed[choice.place].cost_s == pytest.approx(min(one.cost_s for one in able))
    elif late:
        assert choice.why is Why.LATE
        assert weighed[choice.place] in late
    else:
        assert (choice.place, choice.why) == (-1, Why.NONE)
        return
    chosen = weighed[choice.place]
    saved = query.affine_saves_s if choice.place == query.affine else 0.0
    completion = chosen.path_s + chosen.queue_s + max(chosen.service_s - saved, 0.0)
    assert choice.completion_s == pytest.approx(completion, abs=1e-5)
    assert choice.deviation_s == pytest.approx(chosen.deviation_s)
    promised = [
        one.cost_s - 0.5 * one.queue_s - one.price * query.price_s - (1 - one.correct) * query.wrong_s
        for one in [*able, *late]
    ]
    beyond = PLAIN.deadline_z - PLAIN.caution
    nearest = min(cost + beyond * one.deviation_s for cost, one in zip(promised, [*able, *late], strict=True))
    assert choice.soonest_s == pytest.approx(nearest)


@settings(max_examples=200, deadline=None)
@given(tables(), queries, st.integers(0, 99), st.floats(0, 3))
def test_every_choice_keeps_the_goal_unless_it_says_that_it_is_late(table, query, seed, band) -> None:
    rules = ChoiceRules(explore_frac=0.5, band=band)
    choice = choose(table.rows, query, 10.0, random_state(seed), rules=rules)
    again = choose(table.rows, query, 10.0, random_state(seed), rules=rules)

    assert choice == again
    if choice.place >= 0:
        held = explain(table.rows, table.names, query, 10.0, rules=rules)[choice.place].held_back_by
        assert held == ("deadline" if choice.why is Why.LATE else "")


def alike(count: int, *, slots: int = 1) -> ReplicaTable:
    """Replicas that differ in nothing, reported idle at moment 0, their service known."""
    table = ReplicaTable()
    for number in range(count):
        table.add(f"replica-{number}", ReplicaFacts(slots=slots, service=ServicePrior(0.1, 0.0, 0.01, 0.05)))
        table.reported(f"replica-{number}", 0, 0.0, 0.0)
    return table


def test_own_queries_count_from_the_moment_of_choice() -> None:
    table, random = alike(4), random_state(1)
    went = []
    for _ in range(8):
        choice = choose(table.rows, QueryAsked(), 0.001, random)
        went.append(choice.place)
        table.sent(choice.place, choice.service_s, 0.001)

    assert sorted(Counter(went).values()) == [2, 2, 2, 2]


def test_stale_reports_widen_what_is_expected_and_close_no_door() -> None:
    table = alike(2)
    deviations = [
        choose(table.rows, QueryAsked(), moment, random_state(1)).deviation_s for moment in (0.0, 1.0, 10.0, 1e6)
    ]

    assert deviations == sorted(deviations)
    assert deviations[0] < deviations[1] < deviations[2]
    table.add("never-reported", ReplicaFacts())
    assert choose(table.rows, QueryAsked(), 1.0, random_state(1)).held_back == (0,) * len(Barrier)


def test_stale_facts_spread_the_load_and_fresh_ones_go_to_the_best() -> None:
    table = alike(10)
    for number in range(10):
        table.reported(f"replica-{number}", 1 + number, 0.005 * (1 + number), 1.0)
    random = random_state(7)
    fresh = Counter(choose(table.rows, QueryAsked(), 1.0, random).place for _ in range(200))
    stale = Counter(choose(table.rows, QueryAsked(), 30.0, random).place for _ in range(200))

    assert len(fresh) <= 4
    assert len(stale) >= 9
    assert max(stale.values()) <= 80


def test_host_that_says_it_is_slow_now_is_passed_by_at_once_and_its_usual_speed_is_kept() -> None:
    table = alike(2)
    usual = table.rows[0, Column.BASE_S]
    table.reported("replica-0", 0, 0.0, 1.0, 3.0)
    for _ in range(20):
        table.learnt("replica-0", 1.0, 0.3)
    slow = choose(table.rows, QueryAsked(), 1.0, random_state(1), rules=PLAIN)
    table.reported("replica-0", 0, 0.0, 2.0, float("nan"))

    assert slow.place == 1
    assert table.rows[0, Column.BASE_S] == pytest.approx(usual, rel=0.02)
    assert table.rows[0, Column.REPORTED_S] == 1.0


def test_session_stays_until_its_host_is_saturated() -> None:
    table = alike(3)
    query = QueryAsked(affine=1, affine_saves_s=0.05)
    stays = choose(table.rows, query, 0.0, random_state(1))
    table.sent(1, 0.04, 0.0)
    waits = choose(table.rows, query, 0.0, random_state(1))
    for _ in range(20):
        table.sent(1, 0.1, 0.0)
    leaves = choose(table.rows, query, 0.0, random_state(1))

    assert (stays.place, stays.why, stays.completion_s) == (1, Why.AFFINE, pytest.approx(0.05))
    assert (waits.place, waits.why) == (1, Why.AFFINE)
    assert leaves.place != 1


def test_session_does_not_stay_where_it_loses_more_than_it_saves() -> None:
    table = alike(3)
    table.add("slow", ReplicaFacts(service=ServicePrior(0.5, 0.0, 0.01, 0.05)))
    table.reported("slow", 0, 0.0, 0.0)

    choice = choose(table.rows, QueryAsked(affine=3, affine_saves_s=0.1), 0.0, random_state(1))

    assert choice.place != 3


def test_one_query_in_a_hundred_goes_where_most_is_to_be_learnt() -> None:
    table = alike(5)
    table.add("unknown", ReplicaFacts(service=ServicePrior(0.5, 0.0, 2.0)))
    table.reported("unknown", 0, 0.0, 0.0)
    random = random_state(3)
    choices = [choose(table.rows, QueryAsked(), 0.0, random) for _ in range(5000)]
    explored = [one for one in choices if one.why is Why.EXPLORED]

    assert 25 <= len(explored) <= 80
    assert sum(one.place == 5 for one in explored) > 0.8 * len(explored)
    assert not any(one.place == 5 for one in choices if one.why is not Why.EXPLORED)


def test_predicted_correctness_stands_in_for_the_measured_one() -> None:
    table = alike(2)
    choice = choose(
        table.rows, QueryAsked(correct_least=0.8), 0.0, random_state(1), rules=PLAIN, correct_R=np.array([0.2, 0.9])
    )

    assert (choice.place, choice.held_back[Barrier.CORRECTNESS]) == (1, 1)


# --- the table --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_table_counts_what_is_under_way_whatever_comes_in_which_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, now = ReplicaTable(), 0.0
    under_way: dict[int, str] = {}
    for _ in range(150):
        now += rng.exponential(0.1)
        name = f"replica-{rng.integers(5)}"
        kind = rng.random()
        if kind < 0.15:
            table.add(name, ReplicaFacts(path_s=rng.uniform(0, 0.2)))
        elif kind < 0.2:
            table.remove(name)
            under_way = {query: at for query, at in under_way.items() if at != name}
        elif kind < 0.4:
            table.reported(name, int(rng.integers(0, 5)), rng.uniform(0, 2), now - rng.uniform(0, 0.3))
        elif kind < 0.7 and table.names:
            place = int(rng.integers(len(table.names)))
            under_way[table.sent(place, rng.uniform(0, 1), now)] = table.name_at(place)
        elif under_way:
            query = int(rng.choice(list(under_way)))
            assert table.ended(query, lost=bool(rng.random() < 0.2)) == under_way.pop(query)
            assert table.ended(query) is None
        assert table.under_way == len(under_way)
        at = Counter(under_way.values())
        for place, name in enumerate(table.names):
            row = table.rows[place]
            assert table.place_of(name) == place
            assert 0 <= row[Column.OWN_COUNT] <= at[name]
            assert row[Column.OWN_WORK_S] >= 0
            assert row[Column.COUNT] >= 0
            assert row[Column.WORK_S] >= 0
            assert 0 <= row[Column.FAULTY] <= 1
            assert np.isfinite(row[Column.BASE_S :]).all()


def test_report_takes_in_what_reached_the_host_before_it() -> None:
    table = ReplicaTable()
    table.add("host", ReplicaFacts(path_s=0.2))
    table.sent(0, 1.0, 0.0)
    table.sent(0, 1.0, 0.95)
    table.reported("host", 1, 0.5, 1.0)

    assert table.rows[0, Column.OWN_COUNT] == 1
    table.reported("host", 9, 9.0, 0.5)
    assert table.rows[0, Column.COUNT] == 1, "older than the last"


@pytest.mark.parametrize(
    "facts",
    [
        ReplicaFacts(slots=0),
        ReplicaFacts(correct=1.2),
        ReplicaFacts(path_s=np.nan),
        ReplicaFacts(price=-1.0),
        ReplicaFacts(service=ServicePrior(base_s=np.inf)),
    ],
)
def test_impossible_facts_are_an_error(facts: ReplicaFacts) -> None:
    with pytest.raises(InputError):
        ReplicaTable().add("host", facts)
