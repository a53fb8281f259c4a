"""Rounds that do not wait for the late: the bound, the quorum, and what is asked of who was late."""

from __future__ import annotations

import math

import pytest
from tests.builders import (
    Bench,
    bench,
    facts_of,
    make_data,
    make_mixer,
    make_outcome,
    make_request,
    make_site,
    make_unit,
)

from daitn.base.ids import DataSetId, NodeId
from daitn.control_center.training.records import VisitLost
from daitn.decision.rounds.stragglers import LENGTH_LEAST, PACE, bound_s, paced, quorum
from daitn.descriptors.job import Phase
from daitn.descriptors.plan import Stop
from daitn.descriptors.work import AggregateWork, TrainWork
from daitn.wire.center_tools import ResultFenced, VisitCancel, VisitOrder, VisitPhase, VisitProgress

# --- the law ------------------------------------------------------------------------------------------------------


def test_bound_is_three_deviations_beyond_the_median_and_not_moved_by_one_that_is_far_off():
    took = [10.0, 11.0, 12.0, 13.0, 14.0]

    assert bound_s(took) == pytest.approx(12.0 + 3 * 0.2 * 12.0)
    assert bound_s([10.0, 20.0, 30.0]) == pytest.approx(20.0 + 3 * 1.4826 * 10.0)
    assert bound_s([*took, 1e6]) < 30.0


def test_bound_leaves_short_rounds_a_second_and_a_half():
    assert bound_s([0.01, 0.01, 0.01]) == pytest.approx(1.51)


def test_nothing_is_bounded_where_nothing_is_known():
    assert bound_s([]) == math.inf


@pytest.mark.parametrize(("members", "least"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (100, 67)])
def test_quorum_is_two_thirds(members, least):
    assert quorum(members) == least


def stops(count: int) -> list[Stop]:
    return [Stop(dataset=DataSetId(f"s{n}/records"), compute_node=NodeId(f"s{n}"), why="r") for n in range(count)]


def test_site_that_is_known_to_be_slower_is_asked_for_as_much_as_fits():
    whole = {DataSetId(f"s{n}/records"): 10.0 for n in range(3)} | {DataSetId("s3/records"): 100.0}
    asked = paced(stops(4), whole)

    bound = bound_s([10.0, 10.0, 10.0, 100.0])
    assert [one.length for one in asked[:3]] == [1.0, 1.0, 1.0]
    assert asked[3].length == pytest.approx(PACE * bound / 100.0)
    assert "16 s" not in asked[0].why
    assert "100.0 s" in asked[3].why
    assert paced(stops(4), whole | {DataSetId("s3/records"): 1e9})[3].length == LENGTH_LEAST


def test_rounds_of_which_little_is_known_are_not_paced():
    assert paced(stops(4), {DataSetId("s0/records"): 1.0, DataSetId("s1/records"): 99.0}) == tuple(stops(4))


# --- the centre ---------------------------------------------------------------------------------------------------


def begun(sites: int = 4, **request: object) -> Bench:
    made = bench(sites=sites)
    made.submit(make_request(**({"method": "fedavg"} | request)))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def finish(made: Bench, node: NodeId, order: VisitOrder) -> None:
    made.say(node, made.result(node, order, make_outcome(order.work, f"{order.visit}")))


def go_on(made: Bench, node: NodeId, order: VisitOrder, seconds: float, done: int = 1) -> None:
    """Time passes; the late site says that it is at it."""
    working = {"visit": order.visit, "fence": order.fence, "phase": VisitPhase.WORKING, "of": 10}
    for _ in range(round(seconds / 0.5)):
        made.wait(0.5)
        made.say(node, VisitProgress(**working, done=done))


def slow_losses(made: Bench) -> list[VisitLost]:
    return [record for record in made.journal if isinstance(record, VisitLost) and record.blame == "slow"]


def averaging(made: Bench) -> list[AggregateWork]:
    return [order.work for _, order in made.orders() if isinstance(order.work, AggregateWork)]


def cut_one(made: Bench) -> tuple[NodeId, VisitOrder]:
    """A first round of which the last site is late and stopped."""
    made.wait(0.5)
    *others, (node, order) = made.orders()
    for one in others:
        finish(made, *one)
    assert not averaging(made)
    go_on(made, node, order, 4.0)
    return node, order


def test_late_site_is_stopped_and_the_round_goes_on_without_it():
    made = begun()
    _, order = cut_one(made)

    (lost,) = slow_losses(made)
    assert (lost.visit, lost.done_frac) == (order.visit, 0.1)
    assert lost.why.startswith("3 other sites of the round have handed in; it was 10% done after the 2.0 s")
    assert VisitCancel(visit=order.visit, fence=order.fence) in [message for _, message in made.sent]
    assert [len(work.updates) for work in averaging(made)] == [3]
    assert made.state().lost == 0
    assert made.center.counters.of("visits_lost", "slow") == 1
    assert made.state().lost_in_row == 0


def test_result_that_comes_all_the_same_is_fenced():
    made = begun()
    node, order = cut_one(made)
    made.sent.clear()
    finish(made, node, order)

    assert [message for _, message in made.sent if isinstance(message, ResultFenced)]
    assert made.state().visits == 3


def test_site_that_was_late_is_asked_for_a_shorter_visit_and_longer_ones_as_it_gets_faster():
    made = begun()
    cut_one(made)
    planned = made.state().plan.training.batches
    lengths: list[float] = []
    dataset = made.state().ordered[slow_losses(made)[0].visit].work.dataset
    for _ in range(200):
        trained = [(node, order) for node, order in made.orders() if isinstance(order.work, TrainWork)]
        mine = [order for _, order in trained if order.work.dataset == dataset]
        if mine and (not lengths or len(trained) == 4):
            lengths.append(mine[0].work.training.batches / planned)
            if len(lengths) > 2:
                break
        for node, order in made.orders():
            made.answer(node, order)
        made.wait(0.1)

    assert lengths[0] < 0.5
    assert lengths[-1] == 1.0


def test_round_waits_while_too_few_have_handed_in():
    made = begun()
    made.wait(0.5)
    first, second, *late = made.orders()
    finish(made, *first)
    finish(made, *second)
    for _ in range(20):
        for node, order in late:
            go_on(made, node, order, 0.5)

    assert not slow_losses(made)


def test_restarted_centre_gives_late_sites_their_time_anew():
    made = begun()
    made.wait(0.5)
    *others, (node, order) = made.orders()
    for one in others:
        finish(made, *one)
    go_on(made, node, order, 1.0)
    before = facts_of(made.state())
    made.now_ns += 600 * 10**9
    made.restart()

    assert facts_of(made.state()) == before
    assert not slow_losses(made)
    go_on(made, node, order, 4.0)
    assert len(slow_losses(made)) == 1


def test_scaffold_asks_all_for_equally_many_steps():
    made = begun(method="scaffold")
    cut_one(made)
    made.answer_until(lambda state: len([o for o in state.open.values() if o.ordered.purpose == "train"]) == 4)

    assert len({order.work.training.batches for _, order in made.orders() if isinstance(order.work, TrainWork)}) == 1


# --- visits of different length -------------------------------------------------------------------------------------


def unequal() -> Bench:
    """Three sites of some size and one that has five times as many records, in their first round."""
    sites = [make_site(number + 1) for number in range(3)]
    large = make_site(4, data=(make_data("s4", records=4000.0),))
    made = Bench(*sites, large, make_unit(), make_mixer())
    made.submit(make_request(method="fedavg"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def test_site_with_more_records_makes_longer_visits_and_is_given_the_time_for_them():
    made = unequal()
    works = {order.work.dataset: (node, order) for node, order in made.orders() if isinstance(order.work, TrainWork)}
    batches = {name: order.work.training.batches for name, (_, order) in works.items()}
    typical = made.state().plan.training.batches
    large = works.pop(DataSetId("s4/records"))

    assert batches.pop(DataSetId("s4/records")) == 2 * typical
    assert set(batches.values()) == {typical}
    made.wait(0.5)
    for one in works.values():
        finish(made, *one)
    go_on(made, *large, 3.0)  # one of a typical site is stopped after 2 s
    assert not slow_losses(made)
    go_on(made, *large, 2.0)
    assert len(slow_losses(made)) == 1
