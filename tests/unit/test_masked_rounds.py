"""Masked rounds at the centre, with real keys and masks at its sites: stages, losses, and what it never has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import (
    PACKAGE,
    Bench,
    changed,
    facts_of,
    make_candidate,
    make_mixer,
    make_outcome,
    make_package,
    make_request,
    make_site,
    make_unit,
    make_view,
)

from daitn.artifacts.signatures import public_hex
from daitn.base import limits
from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.records import MaskedRoundLost, VisitOrdered
from daitn.decision.drafting import draft_plan
from daitn.decision.feasibility import Known, judge
from daitn.descriptors.job import Phase
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    FixedPoint,
    Masking,
    SealOutcome,
    SealWork,
    UnmaskOutcome,
    UnmaskWork,
)
from daitn.descriptors.request import Budget, SecureAggregation
from daitn.descriptors.work import AggregateWork, TrainWork
from daitn.learning.masking.opening import unmask
from daitn.learning.masking.site import SiteMasks
from daitn.wire.center_tools import VisitFailed, VisitOrder
from daitn.wire.codec import encode

LENGTH = 50


class Masked:
    """A job whose updates are masked, its sites, and what each would add."""

    def __init__(self, sites: int, **request: Any) -> None:
        keys = [Ed25519PrivateKey.generate() for _ in range(sites)]
        nodes = [make_site(100 + n, public_key=public_hex(key)) for n, key in enumerate(keys)]
        self.bench = Bench(*nodes, make_unit(), make_mixer())
        self.sites = {node.node: SiteMasks(node.node, key) for node, key in zip(nodes, keys, strict=True)}
        rng = np.random.default_rng(1)
        self.updates = {node: rng.integers(0, 1 << 32, LENGTH, dtype=np.uint32) for node in self.sites}
        self.hidden: dict[ArtifactId, tuple[NodeId, np.ndarray]] = {}
        self.total = np.zeros(LENGTH, dtype=np.uint32)
        self.opened: list[np.ndarray] = []
        self.bench.submit(make_request(secure_aggregation=SecureAggregation(update_norm_most=7.0), **request))
        self.bench.answer_until(lambda state: state.phase is Phase.RUNNING)

    @property
    def state(self):
        return self.bench.state()

    def purposes(self) -> set[str]:
        return {opened.ordered.purpose for opened in self.state.open.values()}

    def of_kind(self, kind: type) -> list:
        return [record for record in self.bench.journal if isinstance(record, kind)]

    def answer(self, node: NodeId, order: VisitOrder) -> None:
        """Do what a real node does, on a few numbers."""
        work, site = order.work, self.sites.get(node)
        match work:
            case AgreeWork(round=name):
                outcome: Any = AgreeOutcome(keys=site.agree(name, order.job))
            case SealWork(round=name, members=members):
                outcome = SealOutcome(sealed=site.seal(name, members))
            case TrainWork(masking=masking):
                numbers = self.updates[node].copy()
                site.mask(masking, numbers)
                outcome = make_outcome(work, f"{order.visit}")
                self.hidden[outcome.model] = (node, numbers)
            case UnmaskWork(round=name, summed=summed):
                outcome = UnmaskOutcome(shares=site.unmask(name, summed))
            case AggregateWork(masked=True, updates=updates):
                self.total = sum((self.hidden[one.model][1] for one in updates), np.zeros(LENGTH, dtype=np.uint32))
                outcome = make_outcome(work, f"{order.visit}")
            case AggregateWork(unmasking=opening) if opening is not None:
                total = self.total.copy()
                unmask(total, opening)
                self.opened.append(total)
                outcome = make_outcome(work, f"{order.visit}")
            case _:
                outcome = make_outcome(work, f"{order.visit}")
        self.bench.say(node, self.bench.result(node, order, outcome))

    def stage(self, lost: tuple[NodeId, ...] = (), blame: str = "unavailable") -> None:
        """All visits under way end, those of `lost` badly."""
        for node, order in self.bench.orders():
            if node in lost:
                failed = VisitFailed(visit=order.visit, fence=order.fence, reason="gone", blame=blame)
                self.bench.say(node, failed)
            else:
                self.answer(node, order)

    def until(self, purpose: str) -> None:
        while purpose not in self.purposes():
            self.stage()

    def sum_of(self, nodes: list[NodeId]) -> np.ndarray:
        return sum((self.updates[node] for node in nodes), np.zeros(LENGTH, dtype=np.uint32))


def test_hundred_sites_of_which_ten_are_lost_end_with_the_right_sum_and_a_head():
    made = Masked(100)
    nodes = list(made.sites)
    assert made.purposes() == {"agree"}
    made.until("train")
    lost = tuple(nodes[7::10])
    made.stage(lost)
    made.until("verify")

    np.testing.assert_array_equal(made.opened[0], made.sum_of([node for node in nodes if node not in lost]))
    assert made.state.head != PACKAGE
    assert made.state.rounds == 1
    assert made.of_kind(MaskedRoundLost) == []
    largest = max(len(encode(message)) for _, message in made.bench.sent if isinstance(message, VisitOrder))
    assert largest < limits.MESSAGE_BYTES / 2


def test_round_goes_through_its_stages_and_every_order_fits_a_message():
    made = Masked(5)
    seen: list[set[str]] = []
    while made.state.rounds == 0:
        seen.append(made.purposes())
        made.stage()

    assert seen == [{"agree"}, {"seal"}, {"train"}, {"aggregate"}, {"unmask"}, {"aggregate"}]
    works = [order.work for order in made.of_kind(VisitOrdered)]
    trained = [work for work in works if isinstance(work, TrainWork)]
    assert sorted(work.masking.rank for work in trained) == [0, 1, 2, 3, 4]
    assert {work.masking.fixed.norm_most for work in trained} == {7.0}
    opened = next(work for work in works if isinstance(work, AggregateWork) and work.unmasking is not None)
    assert opened.base == PACKAGE
    assert len(opened.unmasking.answers) == opened.unmasking.threshold == 4


@pytest.mark.parametrize("stage", ["agree", "seal", "train", "unmask"])
def test_one_of_six_may_be_lost_at_any_stage(stage):
    made = Masked(6)
    nodes = list(made.sites)
    made.until(stage)
    made.stage((nodes[2],))
    while made.state.rounds == 0:
        made.stage()

    in_sum = nodes if stage == "unmask" else [node for node in nodes if node != nodes[2]]
    np.testing.assert_array_equal(made.opened[0], made.sum_of(in_sum))


def test_too_many_lost_give_the_round_up_and_another_begins():
    made = Masked(6)
    nodes = list(made.sites)
    made.until("train")
    head = made.state.head
    made.stage(tuple(nodes[:2]))

    (lost,) = made.of_kind(MaskedRoundLost)
    assert lost.why == "4 of 6 sites handed in an update, 5 are needed to take the masks off"
    assert made.state.head == head
    assert made.state.updates == []
    made.bench.wait(1.0)
    assert made.purposes() == {"agree"}
    released = {one for _, message in made.bench.sent for one in getattr(message, "artifacts", ())}
    assert released >= set(made.hidden)


def test_aggregator_that_is_lost_before_it_opened_the_sum_is_asked_again():
    made = Masked(4)
    made.until("unmask")
    made.stage()
    ((node, order),) = made.bench.orders()
    assert order.work.unmasking is not None
    made.stage((node,))
    made.bench.wait(3.0)
    made.until("verify")

    assert made.state.rounds == 1
    np.testing.assert_array_equal(made.opened[0], made.sum_of(list(made.sites)))


@pytest.mark.parametrize("stage", ["agree", "seal", "train", "aggregate", "unmask"])
def test_round_survives_a_restart_of_the_centre(stage):
    made = Masked(4)
    made.until(stage)
    half = made.bench.orders()[:2]
    for node, order in half[:-1]:
        made.answer(node, order)
    before = facts_of(made.state)
    made.bench.restart()

    assert facts_of(made.state) == before
    made.until("verify")
    np.testing.assert_array_equal(made.opened[0], made.sum_of(list(made.sites)))


def test_site_whose_policy_refuses_is_left_out_from_then_on():
    made = Masked(5)
    node = next(iter(made.sites))
    made.stage((node,), blame="policy")

    assert list(made.state.barred) == ["s100/records"]
    made.until("verify")
    assert made.state.rounds == 1


def test_budget_that_leaves_fewer_visits_than_hide_ends_the_job():
    made = Masked(3, budget=Budget(visits=5))
    while made.state.phase is Phase.RUNNING:
        made.stage()

    assert "2 of 5 visits are left, and sites hide among 3 at least" in made.state.reason


# --- admission ----------------------------------------------------------------------------------------------------


def judged(sites: int, **request: Any):
    view = make_view(*(make_candidate(f"s{n}") for n in range(sites)))
    asked = make_request(secure_aggregation=SecureAggregation(), **request)
    return judge(view, asked, make_package(), Known())


def test_two_sites_are_too_few_to_hide_in():
    failed = [one.what for one in judged(2).conditions if not one.met and "secure" in one.what]
    assert failed == ["secure_aggregation: sites that hide one another"]
    assert [one for one in judged(3).conditions if not one.met and "secure" in one.what] == []


def test_method_that_is_left_open_is_one_that_averages():
    plan = judged(3).plan
    assert plan.method == "fedavg"
    assert plan.secure == SecureAggregation()
    assert any(choice.what == "secure aggregation" for choice in plan.choices)
    assert draft_plan(make_view(make_candidate("s1")), make_request(), make_package(), None).secure is None


def test_control_variates_are_refused_since_they_would_show_the_update():
    conditions = judged(3, method="scaffold").conditions
    (failed,) = [one for one in conditions if not one.met and one.what.startswith("secure_aggregation: nobody sees")]
    assert failed.available == "its control variates would show what the masks hide"
    corrected = changed(make_training(), control_variates=True)
    with pytest.raises(ValueError, match="would show"):
        TrainWork(model=PACKAGE, dataset="s/d", training=corrected, seed=0, masking=make_masking())


def make_training():
    return draft_plan(make_view(make_candidate("s1")), make_request(), make_package(), None).training


def make_masking():
    fixed = FixedPoint(norm_most=1.0, records_most=1.0, members=3)
    return Masking(round="r", rank=0, sealed=(b"", b"x", b"x"), fixed=fixed)
