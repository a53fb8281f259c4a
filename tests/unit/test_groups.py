"""Groups at the centre: ordered together, one model of all or none, and what each kind of loss leads to."""

from __future__ import annotations

import pytest
from tests.builders import Bench, bench, facts_of, make_outcome, make_request

from daitn.artifacts.grants import Grant
from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.records import GroupAgreed, GroupLost, SiteBarred, VisitAccepted, VisitLost
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.policy import PolicyFault
from daitn.descriptors.request import Budget
from daitn.descriptors.work import Group, TrainWork
from daitn.wire.center_tools import ResultFenced, VisitCancel, VisitFailed, VisitOrder, VisitRefused

MODEL = ArtifactId("m".ljust(64, "f"))
OTHER = ArtifactId("o".ljust(64, "f"))


def grouped(sites: int = 3, **request: object) -> Bench:
    """A job whose first group is under way."""
    made = bench(sites=sites)
    made.submit(make_request(method="data-parallel", **request))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def group_of(order: VisitOrder) -> Group:
    assert isinstance(order.work, TrainWork)
    assert order.work.group is not None
    return order.work.group


def finish(made: Bench, node: NodeId, order: VisitOrder, model: ArtifactId = MODEL) -> None:
    """A member reports this model."""
    made.say(node, made.result(node, order, make_outcome(order.work, model=model)))


def fail(made: Bench, node: NodeId, order: VisitOrder, blame: str, partner: NodeId | None = None) -> None:
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="gone", blame=blame, partner=partner))


def of_kind(made: Bench, kind: type) -> list:
    return [record for record in made.journal if isinstance(record, kind)]


# --- orders -------------------------------------------------------------------------------------------------------


def test_group_is_ordered_together_and_every_member_knows_all_others():
    made = grouped()
    orders = made.orders()

    assert [group_of(order).rank for _, order in orders] == [0, 1, 2]
    assert len({group_of(order).members for _, order in orders}) == 1
    for node, order in orders:
        group = group_of(order)
        assert (group.me.visit, group.me.node) == (order.visit, node)
        assert [ref.visit for ref in order.partners] == [member.visit for _, member in group.others()]
        assert [ref.holder.node for ref in order.partners] == [member.node for _, member in group.others()]


def test_each_exchange_has_a_grant_for_exactly_that(monkeypatch):
    issued: list[Grant] = []
    monkeypatch.setattr("tests.builders.issue", lambda grant: issued.append(grant) or f"token {len(issued)}")
    made = grouped(sites=2)

    exchanges = {(one.requester, one.by, one.visit) for one in issued if one.visit}
    (first, one), (second, two) = made.orders()
    assert exchanges == {(first, one.visit, two.visit), (second, two.visit, one.visit)}
    assert all(one.artifact == "" for one in issued if one.visit)


def test_group_is_written_before_anything_is_sent_and_as_a_whole():
    made = grouped()
    turn_with_group = [record for record in made.journal if getattr(record, "purpose", "") == "train"]

    assert len(turn_with_group) == 3
    assert len({record.at_ns for record in turn_with_group}) == 1


# --- agreement ----------------------------------------------------------------------------------------------------


def test_head_moves_when_the_last_member_has_made_the_same_model():
    made = grouped()
    before = made.state().head
    orders = made.orders()
    for node, order in orders[:2]:
        finish(made, node, order)
        assert made.state().head == before
    finish(made, *orders[2])

    assert made.state().head == MODEL
    assert made.state().visits == 3
    assert made.state().rounds == 1
    assert sorted(made.state().holders[MODEL]) == sorted(node for node, _ in orders)
    assert [record.model for record in of_kind(made, GroupAgreed)] == [MODEL]


def test_members_with_two_models_are_a_fault_with_a_reason_and_the_head_stays():
    made = grouped(sites=2)
    before = made.state().head
    (first, one), (second, two) = made.orders()
    finish(made, first, one)
    finish(made, second, two, OTHER)

    (lost,) = of_kind(made, GroupLost)
    assert made.state().head == before
    assert "2 different models" in lost.why
    assert lost.left_out is None
    assert not of_kind(made, GroupAgreed)


def test_member_that_differs_from_all_others_is_left_out_and_barred_the_second_time():
    made = grouped()
    for _ in range(2):
        while len(made.orders()) < 3:
            made.answer_until(lambda state: len(state.open) == 3 or state.ended)
        orders = made.orders()
        for place, (node, order) in enumerate(orders):
            finish(made, node, order, OTHER if place == 1 else ArtifactId(f"{made.state().fence}".ljust(64, "e")))
        odd = orders[1][1].work.dataset
        assert made.state().left_out == {odd} or odd in made.state().barred
        if made.state().barred:
            break
        assert len(made.orders()) == 2
        for node, order in made.orders():
            finish(made, node, order, ArtifactId(f"{made.state().fence}".ljust(64, "d")))

    assert [record.dataset for record in of_kind(made, SiteBarred)] == [odd]


# --- losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blame", ["unavailable", "peer", "bug", "input"])
def test_loss_of_one_member_ends_the_round_for_all_and_it_is_left_out_of_the_next(blame):
    made = grouped()
    orders = made.orders()
    finish(made, *orders[0])
    fail(made, *orders[1], blame)

    assert VisitCancel(visit=orders[2][1].visit, fence=orders[2][1].fence) in [m for _, m in made.sent]
    (lost,) = of_kind(made, GroupLost)
    assert lost.left_out == orders[1][1].work.dataset
    assert made.state().head == made.state().request.package
    again = made.orders()
    assert {order.work.dataset for _, order in again} == {orders[0][1].work.dataset, orders[2][1].work.dataset}
    assert made.state().visits == 1
    losses = {record.visit: record.blame for record in of_kind(made, VisitLost)}
    assert losses == {orders[1][1].visit: blame, orders[2][1].visit: "over"}


def test_member_that_blames_a_partner_is_not_blamed_itself():
    made = grouped()
    orders = made.orders()
    (witness, order), (culprit, other) = orders[0], orders[1]
    fail(made, witness, order, "partner", culprit)

    (lost,) = of_kind(made, GroupLost)
    assert lost.left_out == other.work.dataset
    nodes = [node for node, _ in made.orders()]
    assert witness in nodes
    assert culprit not in nodes


@pytest.mark.parametrize("partner", [None, NodeId("n9999"), NodeId("n0001")], ids=["nobody", "a stranger", "itself"])
def test_member_that_blames_nobody_of_its_group_ends_the_round_without_a_mark(partner):
    made = grouped()
    node, order = made.orders()[0]
    fail(made, node, order, "partner", partner)

    (lost,) = of_kind(made, GroupLost)
    assert lost.left_out is None
    assert len(made.orders()) == 3


def test_late_result_of_a_round_that_was_lost_is_fenced():
    made = grouped()
    orders = made.orders()
    fail(made, *orders[1], "unavailable")
    made.sent.clear()
    finish(made, *orders[2])

    assert (orders[2][0], ResultFenced(visit=orders[2][1].visit, fence=orders[2][1].fence)) in made.sent
    assert made.state().head == made.state().request.package


def test_refusal_by_policy_bars_the_site_and_the_round_goes_on_without():
    made = grouped()
    node, order = made.orders()[1]
    fault = PolicyFault(rule="methods", asked="data-parallel", allowed="cyclic")
    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, faults=(fault,)))

    assert order.work.dataset in made.state().barred
    assert len(made.orders()) == 2


def test_last_site_that_is_left_trains_alone():
    made = grouped(sites=2)
    (_, order), (second, other) = made.orders()
    fail(made, second, other, "unavailable")
    ((_, alone),) = made.orders()

    assert isinstance(alone.work, TrainWork)
    assert alone.work.group is None
    assert alone.work.dataset == order.work.dataset


def test_rounds_that_are_always_lost_end_the_job():
    made = grouped(sites=2)
    for _ in range(400):
        if made.state().ended or made.state().phase is Phase.DELIVERING:
            break
        orders = made.orders()
        if not orders:
            made.wait(1.0)
            continue
        if any(getattr(order.work, "group", None) is None for _, order in orders):
            for node, order in orders:
                fail(made, node, order, "unavailable")
            continue
        (first, one), (second, two) = orders
        finish(made, first, one)
        finish(made, second, two, OTHER)

    assert made.state().phase is Phase.FAILED
    assert "in a row were lost" in made.state().reason


# --- restarts and admission ---------------------------------------------------------------------------------------


def test_round_survives_a_restart_of_the_centre_between_two_results():
    made = grouped()
    orders = made.orders()
    finish(made, *orders[0])
    facts = facts_of(made.state())
    made.restart()

    assert facts_of(made.state()) == facts
    for node, order in orders[1:]:
        finish(made, node, order)
    assert made.state().head == MODEL
    assert len(of_kind(made, VisitAccepted)) >= 3


def test_budget_of_visits_holds_for_groups():
    made = grouped(budget=Budget(visits=7))
    made_models = 0
    for _ in range(60):
        if made.state().phase is Phase.DELIVERING or made.state().ended:
            break
        for node, order in made.orders():
            if isinstance(order.work, TrainWork):
                finish(made, node, order, ArtifactId(f"r{made.state().rounds}".ljust(64, "f")))
                made_models += 1
            else:
                made.answer(node, order)

    assert made.state().visits == 7


def test_group_method_with_one_site_is_refused_and_offered_another_method():
    made = bench(sites=1)
    made.submit(make_request(method="data-parallel"))
    made.answer_until(lambda state: state.ended)

    (failed,) = [one for one in made.state().verdict.failed() if one.code is ReasonCode.METHOD]
    assert "two sites" in failed.required
    assert made.state().verdict.counter_offer is not None
