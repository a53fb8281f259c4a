"""Split learning outside the numerics: which pairs of sites may be cut between, where, and what a site makes of it."""

from __future__ import annotations

import pytest
from tests.builders import (
    OWNER,
    START_NS,
    make_candidate,
    make_compute,
    make_contract,
    make_data,
    make_order,
    make_package,
    make_policy,
    make_request,
    make_site,
    make_training,
    make_unit,
    make_view,
    make_warrant,
    make_work,
)

from daitn.base.ids import DataSetId, DomainId, NodeId, VisitId
from daitn.decision.costs import batch_seconds
from daitn.decision.cutting import choose_cut
from daitn.decision.drafting import draft_plan
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Known, judge
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.policy import Policy, summarise
from daitn.descriptors.splitting import CutCost, Split
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import NodeDescriptor
from daitn.descriptors.work import Group, Member, TrainWork
from daitn.terminal.roles import DataNode, Roles, held_data
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view

GIVES = {"activations": "trust-zone", "compute_operators": ("lab",)}
HERE = DataSetId("s1/records")


def cut(begin: int, end: int, middle: float, up: float, down: float = 0.0) -> CutCost:
    return CutCost(begin=begin, end=end, middle_frac=middle, up_bytes=up, down_bytes=down)


EARLY = cut(1, 9, 0.9, 40_000.0)
LATE = cut(6, 9, 0.3, 100.0)


# --- where to cut ---------------------------------------------------------------------------------------------------


def pair(**changes):
    values = {"compute_node": NodeId("lab"), "split": True, "data_flops": 1e9, "flops": 1e11, "bytes_per_s": 1e9}
    return make_candidate("s1", **(values | changes))


def chosen(**changes) -> CutCost:
    found = choose_cut((EARLY, LATE), pair(**changes), 32, 0.1, 1e10)
    assert found is not None
    return found.cut


def test_fast_partner_behind_a_wide_link_gets_most_of_the_model():
    assert chosen() == EARLY


def test_narrow_link_moves_the_cut_to_where_little_crosses():
    assert chosen(bytes_per_s=1e6) == LATE


def test_slow_partner_gets_little_of_the_model():
    assert chosen(flops=1e8) == LATE


def test_step_takes_both_computing_what_crosses_and_four_times_the_way():
    found = choose_cut((EARLY,), pair(latency_s=0.1), 32, 0.1, 1e10)

    assert found is not None
    assert found.step_s == pytest.approx(1.0 * 0.1 + 0.01 * 0.9 + 32 * 80_000 / 1e9 + 4 * (0.002 + 0.05))


def test_no_cut_is_chosen_of_none():
    assert choose_cut((), pair(), 32, 0.1, 1e10) is None


def test_visit_is_estimated_with_its_best_cut_until_one_was_made():
    preflight = Preflight(batch_seconds=0.1, unit_flops=1e10, cuts=(EARLY, LATE))

    assert batch_seconds(pair(), preflight) == pytest.approx(0.1 + 0.009 + 32 * 80_000 / 1e9 + 0.008)
    assert batch_seconds(pair(batch_s=0.5), preflight) == 0.5


# --- admission ------------------------------------------------------------------------------------------------------


def unmet(view, preflight=None) -> list[str]:
    judged = judge(view, make_request(method="split"), make_package(), Known(preflight))
    return [one.what for one in judged.conditions if not one.met and one.code is ReasonCode.METHOD]


def test_request_without_a_pair_or_without_a_cut_is_refused_with_the_reason():
    assert unmet(make_view(pair())) == []
    assert unmet(make_view(pair()), Preflight(cuts=(LATE,))) == []
    assert unmet(make_view(make_candidate("s1"))) == ["method 'split'"]
    assert unmet(make_view(pair()), Preflight(cuts=())) == ["method 'split': cuts"]


def test_plan_counts_what_crosses_and_says_what_it_did_not_take():
    preflight = Preflight(batch_seconds=0.1, unit_flops=1e10, cuts=(LATE,))
    request = make_request(method="split")
    plan = draft_plan(make_view(pair()), request, make_package(), preflight)
    without = draft_plan(make_view(pair()), request, make_package(), Preflight(batch_seconds=0.1, unit_flops=1e10))

    crossed = plan.expected.transfer_bytes - without.expected.transfer_bytes
    assert crossed == plan.expected.visits * plan.training.batches * plan.training.batch_size * 200
    own = draft_plan(make_view(make_candidate("s1")), make_request(), make_package(), None)
    assert any(one.startswith("split: ") for one in own.choices[0].rejected)


# --- views ----------------------------------------------------------------------------------------------------------


def site(number: int, policy: Policy, **changes) -> NodeDescriptor:
    data = make_data(f"n{number:04}/records", policy=summarise(policy))
    return make_site(number, data=(data,), **changes)


def lab(number: int = 5, **changes) -> NodeDescriptor:
    return make_site(number, data=(), operator="lab", **changes)


def view_of(*nodes: NodeDescriptor, method: str = "split", resting=()):
    knowledge = KnowledgeMap()
    for node in nodes:
        knowledge.describe(node, 1, START_NS)
    asker = Asker(owner=OWNER, signer="signer", method=method, domain=DomainId("demo"))
    return make_training_view(
        knowledge, make_request(method=method), make_contract(), asker, {}, resting, START_NS
    )  # fmt: skip


def test_view_of_split_learning_pairs_data_with_compute_its_policy_names():
    tariff = Tariff(price_per_hour=1.0, watts=50.0)
    mine, theirs = make_compute(flops=1e9, tariff=tariff), make_compute(flops=1e11, tariff=tariff)
    view = view_of(site(1, make_policy(**GIVES), compute=mine), lab(compute=theirs), make_unit())

    (found,) = view.candidates
    assert (found.data_node, found.compute_node, found.split, found.streamed) == ("n0001", "n0005", True, False)
    assert (found.data_flops, found.flops) == (pytest.approx(1e9), pytest.approx(1e11))
    assert (found.tariff.price_per_hour, found.tariff.watts) == (2.0, 100.0)


def test_other_methods_do_not_see_such_pairs():
    (found,) = view_of(site(1, make_policy(**GIVES)), lab(), make_unit(), method="cyclic").candidates

    assert not found.split
    assert found.compute_node == "n0001"


@pytest.mark.parametrize(
    ("policy", "code", "said"),
    [
        ({}, ReasonCode.POLICY, "activations"),
        ({"activations": "trust-zone"}, ReasonCode.NO_COMPUTE, "no compute site that may be given activations"),
        (GIVES | {"methods": ("cyclic",)}, ReasonCode.POLICY, "methods"),
    ],
)
def test_data_set_that_cannot_be_cut_with_is_left_out_with_the_reason(policy, code, said):
    (excluded,) = view_of(site(1, make_policy(**policy)), lab(), make_unit()).excluded

    assert excluded.code is code
    assert said in excluded.why


def test_partner_that_rests_is_asked_only_where_there_is_no_other():
    nodes = (site(1, make_policy(**GIVES)), lab(5), lab(6), make_unit())

    assert {one.compute_node for one in view_of(*nodes, resting={NodeId("n0005")}).candidates} == {"n0006"}
    both = view_of(*nodes, resting={NodeId("n0005"), NodeId("n0006")})
    assert {one.compute_node for one in both.candidates} == {"n0005", "n0006"}


# --- at the sites ---------------------------------------------------------------------------------------------------


def half(rank: int, operator: str = "lab") -> TrainWork:
    members = tuple(
        Member(visit=VisitId(f"j1/{number}"), node=NodeId(f"n000{number}"), dataset=HERE) for number in (1, 2)
    )
    split = Split(begin=1, end=4, operator=operator)
    return make_work(group=Group(members=members, rank=rank), split=split)


def refused(policy: Policy, work: TrainWork) -> set[str]:
    roles = Roles(data=DataNode({HERE: policy}), computes=True)
    order = make_order(work=work, warrant=make_warrant(method="split"))
    return {fault.rule for fault in roles.judge(order)}


def test_site_with_the_data_asks_its_policy_who_may_be_given_activations():
    assert refused(make_policy(**GIVES), half(0)) == set()
    assert refused(make_policy(), half(0)) == {"activations"}
    assert refused(make_policy(**GIVES), half(0, "stranger")) == {"compute_operators"}
    assert refused(make_policy(**GIVES, methods=("cyclic",)), half(0)) == {"methods"}


def test_site_with_the_middle_needs_compute_and_no_data():
    order = make_order(work=half(1))

    assert Roles(computes=True).judge(order) == ()
    assert {fault.rule for fault in Roles(data=DataNode({})).judge(order)} == {"role"}
    assert held_data(order) is None
    assert held_data(make_order(work=half(0))) == HERE


@pytest.mark.parametrize(
    "changes",
    [{"group": None}, {"split": Split(begin=4, end=4, operator="")}, {"training": make_training(average_steps=5)}],
)
def test_split_that_makes_no_sense_is_no_work(changes):
    whole = half(0)
    values = {name: getattr(whole, name) for name in whole.__struct_fields__}

    with pytest.raises(ValueError, match="split"):
        TrainWork(**(values | changes))
