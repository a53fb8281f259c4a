"""Tariffs: what visits are charged and draw, from a site's word to budgets that are judged, offered and kept."""

from __future__ import annotations

import math

import pytest
from tests.builders import (
    JOB,
    OWNER,
    START_NS,
    Bench,
    changed,
    make_candidate,
    make_compute,
    make_contract,
    make_mixer,
    make_package,
    make_request,
    make_site,
    make_unit,
    make_view,
    the_order,
)

from daitn.base.errors import InputError
from daitn.base.ids import DomainId, NodeId
from daitn.cli.access import tariff_of
from daitn.decision.counter_offer import find_counter_offer
from daitn.decision.drafting import draft_plan
from daitn.decision.feasibility import Known, judge
from daitn.decision.routes.contract import Seen
from daitn.decision.routes.errand import Aim, Errand
from daitn.decision.routes.planned import plan_route
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.request import Budget
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.view import TrainingView
from daitn.oam.progress import job_status
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view

DEAR = Tariff(price_per_hour=36.0, watts=100.0)
CHEAP = Tariff(price_per_hour=3.6, price_per_gigabyte=2.0, watts=10.0)


def priced_view(*tariffs: Tariff, **candidate) -> TrainingView:
    """A site for each tariff; a batch takes a tenth of a second."""
    return make_view(
        *(make_candidate(f"s{n}", batch_s=0.1, tariff=tariff, **candidate) for n, tariff in enumerate(tariffs))
    )


def failed(view: TrainingView, **budget) -> dict[ReasonCode, tuple[float | None, float | None]]:
    """Conditions that a request with a budget does not meet, with what is needed and what there is."""
    judged = judge(view, make_request(budget=Budget(**budget)), make_package(), Known())
    return {one.code: (one.required_value, one.available_value) for one in judged.conditions if not one.met}


# --- what a visit comes to --------------------------------------------------------------------------------------------


def test_tariff_charges_hours_and_gigabytes_and_says_nothing_where_nothing_is_stated():
    assert CHEAP.price_of(1000.0, 5e8) == pytest.approx(1.0 + 1.0)
    assert CHEAP.joules_of(3.0) == 30.0
    assert DEAR.price_of(100.0, 1e9) == pytest.approx(1.0)
    assert Tariff(watts=5.0).price_of(1.0, 1.0) is None
    assert Tariff(price_per_hour=0.0).price_of(9.0, 9.0) == 0.0
    assert Tariff().joules_of(1.0) is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [((-1.0, None, None), "no tariff"), ((None, 1.0, None), "per hour"), ((1.0, None, math.nan), "no tariff")],
)
def test_tariff_that_is_none_is_refused_by_name(given, fault):
    with pytest.raises(InputError, match=fault):
        tariff_of(*given)


def test_tariff_of_options_is_what_was_given():
    assert tariff_of(3.6, 2.0, 10.0) == CHEAP


# --- the map and views ------------------------------------------------------------------------------------------------


def known(*tariffs: Tariff) -> KnowledgeMap:
    knowledge = KnowledgeMap()
    for number, tariff in enumerate(tariffs, 1):
        knowledge.describe(make_site(number, compute=make_compute(tariff=tariff)), 1, START_NS)
    return knowledge


def view_of(knowledge: KnowledgeMap, **budget) -> TrainingView:
    asker = Asker(owner=OWNER, signer="signer", method="routed", domain=DomainId("demo"))
    return make_training_view(
        knowledge, make_request(budget=Budget(**budget)), make_contract(), asker, {}, (), START_NS
    )


def test_prices_reach_the_map_and_candidates():
    knowledge = known(CHEAP)
    terminals = knowledge.facts[Kind.TERMINAL]
    row = terminals.row_of("n0001")

    assert view_of(knowledge).candidates[0].tariff == CHEAP
    assert row is not None
    assert terminals.column("price_per_hour")[row] == pytest.approx(3.6)


def test_sites_that_do_not_state_what_is_bounded_are_left_out_while_others_do():
    view = view_of(known(CHEAP, Tariff()), price=1.0)

    assert [one.compute_node for one in view.candidates] == ["n0001"]
    assert [(one.dataset, one.code) for one in view.excluded] == [("s2/records", ReasonCode.PRICE)]
    assert "price_per_hour" in view.excluded[0].why
    assert len(view_of(known(CHEAP, Tariff())).candidates) == 2
    assert len(view_of(known(Tariff(), Tariff()), energy_joules=1.0).candidates) == 2


# --- admission --------------------------------------------------------------------------------------------------------


def test_budgets_below_the_least_of_the_plan_are_refused_with_both_figures():
    view = priced_view(CHEAP, DEAR)
    expected = draft_plan(view, make_request(), make_package(), None).expected

    assert failed(view, price=expected.price_low * 1.01, energy_joules=expected.energy_joules_low * 1.01) == {}
    too_little = failed(view, price=expected.price_low * 0.9, energy_joules=expected.energy_joules_low * 0.9)
    assert too_little == {
        ReasonCode.PRICE: (expected.price_low, pytest.approx(expected.price_low * 0.9)),
        ReasonCode.ENERGY: (expected.energy_joules_low, pytest.approx(expected.energy_joules_low * 0.9)),
    }
    assert expected.price is not None
    assert expected.price > expected.price_low > 0


def test_offer_for_a_budget_that_is_too_small_is_near_to_the_least_and_is_admitted():
    view = priced_view(CHEAP, DEAR)
    request = make_request(budget=Budget(price=1e-9, energy_joules=1e-9))

    offer = find_counter_offer(lambda _: view, request, make_package(), Known())

    assert offer is not None
    assert {one.because for one in offer.changes} == {ReasonCode.PRICE, ReasonCode.ENERGY}
    assert all(one.met for one in judge(view, offer.request, make_package(), Known()).conditions)
    assert offer.request.budget.price is not None
    (price,) = (
        one for one in judge(view, offer.request, make_package(), Known()).conditions if one.code is ReasonCode.PRICE
    )
    assert price.required_value is not None
    assert price.required_value <= offer.request.budget.price <= 1.1 * price.required_value


def test_offer_where_nothing_is_stated_leaves_the_budget_out():
    view = priced_view(Tariff())
    request = make_request(budget=Budget(price=5.0))

    offer = find_counter_offer(lambda _: view, request, make_package(), Known())

    assert failed(view, price=5.0) == {ReasonCode.PRICE: (None, None)}
    assert offer is not None
    assert offer.request.budget.price is None


# --- runs -------------------------------------------------------------------------------------------------------------


def priced_bench(*tariffs: Tariff, **request) -> Bench:
    """A running job at sites with these tariffs."""
    sites = (make_site(n + 1, compute=make_compute(tariff=tariff)) for n, tariff in enumerate(tariffs))
    made = Bench(*sites, make_unit(), make_mixer())
    made.submit(make_request(**request))
    made.answer_until(lambda state: state.phase in (Phase.RUNNING, Phase.REFUSED))
    return made


def train(made: Bench, seconds: float) -> None:
    """The next training visit takes so long, by its site's word and by the clock."""
    made.answer_until(lambda state: any(one.ordered.purpose == "train" for one in state.open.values()))
    node, order = the_order(made)
    made.wait(min(seconds, 1.0))
    made.answer(node, order, seconds=seconds)


def test_visits_are_charged_by_the_tariff_they_were_ordered_under():
    made = priced_bench(Tariff(price_per_hour=3600.0, watts=10.0))
    train(made, 1.0)

    assert made.state().charges.price == pytest.approx(1.0)
    assert made.state().charges.energy_joules == pytest.approx(10.0)
    assert job_status(made.state(), str).price == pytest.approx(1.0)
    assert made.replayed().jobs[JOB].state.charges.price == made.state().charges.price


def test_a_site_cannot_charge_for_longer_than_its_visit_took():
    made = priced_bench(Tariff(price_per_hour=3600.0))
    train(made, 500.0)

    assert made.state().charges.price == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["routed", "planned", "fedavg"])
def test_no_visit_is_ordered_that_the_budget_does_not_pay_for(method):
    made = priced_bench(
        Tariff(price_per_hour=3600.0), Tariff(price_per_hour=3600.0), method=method, budget=Budget(price=3.5)
    )
    for _ in range(20):
        if made.state().phase is not Phase.RUNNING:
            break
        orders = made.orders()
        if orders and made.state().open[orders[0][1].visit].ordered.purpose == "train":
            made.wait(1.0)
            made.answer(*orders[0], seconds=1.0)
        elif orders:
            made.answer(*orders[0])
        else:
            made.wait(0.5)

    assert made.state().phase is Phase.DELIVERING
    assert "pays for no further visit" in made.state().reason
    assert 1.0 < made.state().charges.price <= 3.5


def test_the_dear_site_is_left_out_when_only_the_cheap_one_can_be_paid():
    made = priced_bench(Tariff(price_per_hour=3600.0), Tariff(price_per_hour=360_000.0), budget=Budget(price=5.0))
    for _ in range(4):
        train(made, 1.0)
    visited = {one.node for one in made.state().ordered.values() if one.purpose == "train"}

    assert visited == {NodeId("n0001")}
    assert made.state().charges.price == pytest.approx(4.0)


def test_planned_routes_stay_within_price_and_energy():
    view = priced_view(CHEAP, DEAR)
    free = Errand(aims=(Aim(wanted=0.9),), batches=10)

    def figures(**left) -> tuple[float, ...]:
        route = plan_route(view, Seen(errand=changed(free, **left)), 64)
        return tuple(sum(route.problem.stay[place, which] for place in route.order) for which in (2, 3))

    price, joules = figures()
    assert figures(price_left=price / 2)[0] <= price / 2
    assert figures(joules_left=joules / 2)[1] <= joules / 2
