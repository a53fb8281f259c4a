"""Buffered averaging at the centre: who trains from which head, what old updates count, what a roll back drops."""

from __future__ import annotations

import math

import pytest
from tests.builders import PACKAGE, Bench, bench, facts_of, make_outcome, make_request

from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.buffer_book import BufferBook
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, EvaluateWork, TrainWork, UpdateRef, Work
from daitn.wire.center_tools import VisitOrder


def begun(sites: int = 4, **request: object) -> Bench:
    made = bench(sites=sites)
    made.submit(make_request(method="fedbuff", **request))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def of(made: Bench, kind: type[Work]) -> list[tuple[NodeId, VisitOrder]]:
    return [(node, order) for node, order in made.orders() if isinstance(order.work, kind)]


def finish(made: Bench, node: NodeId, order: VisitOrder, **outcome: object) -> None:
    made.say(node, made.result(node, order, make_outcome(order.work, f"{order.visit}", **outcome)))


def one_of(made: Bench, kind: type[Work]) -> tuple[NodeId, VisitOrder]:
    (found,) = of(made, kind)
    return found


def quick(made: Bench) -> list[tuple[NodeId, VisitOrder]]:
    """What is under way, but for the sites that still train the submitted model."""
    return [one for one in made.orders() if getattr(one[1].work, "model", "") != PACKAGE]


def first_head(made: Bench) -> VisitOrder:
    """The quicker half hands in, and there is a first head; the order of a site that is slow."""
    *quick, slow = of(made, TrainWork)[:3]
    for one in quick:
        finish(made, *one)
    finish(made, *one_of(made, AggregateWork))
    return slow[1]


def test_quicker_half_moves_the_head_while_the_others_are_still_training():
    made = begun()
    orders = of(made, TrainWork)
    assert len(orders) == 4
    finish(made, *orders[0])
    assert not of(made, AggregateWork)
    finish(made, *orders[1])

    node, order = one_of(made, AggregateWork)
    assert order.work.base == PACKAGE
    assert [(one.base, one.discount) for one in order.work.updates] == [(PACKAGE, 1.0)] * 2
    assert len(of(made, TrainWork)) == 2
    finish(made, node, order)
    assert made.state().head != PACKAGE
    assert made.state().rounds == 1


def test_update_of_an_older_head_is_taken_by_as_much_less_as_it_is_old():
    made = begun(sites=4)
    slow = first_head(made)
    for _ in range(60):
        if made.state().rounds == 3:
            break
        for node, order in made.orders():
            if order.visit != slow.visit and not (isinstance(order.work, TrainWork) and order.work.model == PACKAGE):
                made.answer(node, order)
        made.wait(0.1)
    assert made.state().rounds == 3
    node = made.state().open[slow.visit].ordered.node
    finish(made, node, slow)
    while not (averages := of(made, AggregateWork)):
        made.answer(*quick(made)[0])

    (update,) = [one for one in averages[0][1].work.updates if one.base == PACKAGE]
    assert update.discount == pytest.approx(1 / math.sqrt(1 + 3))
    assert PACKAGE in {ref.artifact for ref in averages[0][1].inputs}


def test_model_that_is_rolled_back_takes_what_was_trained_from_it_along():
    made = begun(sites=4)
    first_head(made)
    while not of(made, EvaluateWork):
        made.answer(*quick(made)[0])
    finish(made, *one_of(made, EvaluateWork), accuracy=0.6)
    kept = made.state().head
    while not of(made, EvaluateWork):
        made.answer(*quick(made)[0])
    late = [one for one in of(made, TrainWork) if one[1].work.model not in (PACKAGE, kept)]
    finish(made, *one_of(made, EvaluateWork), accuracy=0.1)
    assert made.state().head == kept
    visits, held = made.state().visits, made.state().updates
    for one in late:
        finish(made, *one)

    assert made.state().visits == visits + len(late)
    assert made.state().updates == held
    assert all(one.base in (PACKAGE, kept) for one in made.state().updates)


def test_state_is_the_same_after_a_restart_in_mid_buffer():
    made = begun()
    first_head(made)
    for one in of(made, TrainWork)[:1]:
        finish(made, *one)
    before = facts_of(made.state())
    made.restart()

    assert facts_of(made.state()) == before
    made.answer_until(lambda state: state.rounds >= 3)


def test_slow_site_holds_up_neither_a_verification_nor_a_pause_for_another_job():
    made = begun(sites=3)
    slow = of(made, TrainWork)[-1][1]
    for _ in range(80):
        if made.state().verifications:
            break
        for node, order in made.orders():
            if order.visit != slow.visit:
                made.answer(node, order)
        made.wait(0.1)

    assert made.state().verifications
    assert slow.visit in made.state().open
    assert made.state().waited_for() == 0 or not made.center.jobs["job-1"].at_border


def test_book_counts_heads_since_and_forgets_what_is_needed_no_more():
    book = BufferBook(ArtifactId("a"))
    for head in "bcd":
        book.advanced(ArtifactId(head))
    update = UpdateRef(model=ArtifactId("u"), weight=1.0, base=ArtifactId("b"))

    assert [one.discount for one in book.weighed([update])] == [pytest.approx(3**-0.5)]
    book.keep({ArtifactId("c"), ArtifactId("d")})
    assert not book.is_known(ArtifactId("b"))
    assert book.weighed([update]) == ()
    book.went_back(ArtifactId("c"))
    assert not book.is_known(ArtifactId("d"))
    book.went_back(ArtifactId("z"))
    assert book.is_known(ArtifactId("z"))
