"""How long visits are: in proportion to a site's records, within bounds, and alike where something counts on it."""

from __future__ import annotations

import pytest
from tests.builders import make_candidate, make_package, make_request, make_view

from daitn.decision.drafting import draft_plan
from daitn.decision.facts import Preflight, Searched
from daitn.decision.hyperparameters import at_site, forgotten_share
from daitn.decision.visit_length import batches_at, lengths, planned_batches
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Hyperparameters
from daitn.learning.environments import environment_contract

SITES = {"small": 200.0, "middle": 800.0, "large": 1200.0, "huge": 50_000.0}


def view_of(**records: float):
    found = [make_candidate(name, {"0": many / 2, "1": many / 2}) for name, many in (records or SITES).items()]
    return make_view(*found)


def drafted(package=None, preflight=None, **changes):
    return draft_plan(view_of(), make_request(**changes), package or make_package(), preflight)


@pytest.mark.parametrize("method", ["routed", "cyclic", "fedavg", "fedadam", "fedbuff", "gossip", "diloco"])
def test_visits_follow_the_records_from_half_to_twice_those_of_a_typical_site(method):
    plan = drafted(method=method)
    found = lengths(plan, view_of())
    small, middle, large, huge = (found[one.dataset] for one in view_of().candidates)

    assert plan.epochs > 0
    assert small < middle < large <= huge
    assert max(16, plan.training.batches // 2) <= small
    assert huge <= min(2 * plan.training.batches, max(200, plan.training.batches))
    assert middle == pytest.approx(plan.epochs * 800 / plan.training.batch_size, abs=1)
    assert any(one.what == "length of a visit" for one in plan.choices)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "scaffold"},
        {"method": "data-parallel"},
        {"method": "fedavg", "privacy": Privacy(epsilon=8.0, clip=1.0)},
        {"hyperparameters": Hyperparameters(batches_per_visit=40)},
        {"package": make_package(contract=environment_contract("CartPole-v1"))},
    ],
    ids=lambda one: ",".join(one),
)
def test_visits_are_alike_where_something_counts_on_it_and_where_the_owner_says_so(changes):
    plan = drafted(**changes)

    assert plan.epochs == 0
    assert set(lengths(plan, view_of()).values()) == {plan.training.batches}
    assert all(one.what != "length of a visit" for one in plan.choices)


def test_owner_may_pin_the_passes_and_what_a_typical_site_makes_of_them():
    two = drafted(hyperparameters=Hyperparameters(epochs_per_visit=2.0))
    both = drafted(hyperparameters=Hyperparameters(epochs_per_visit=2.0, batches_per_visit=90))

    assert (two.epochs, two.training.batches) == (2.0, round(2 * 1000 / two.training.batch_size))
    assert planned_batches(both, 1280.0) == round(2.0 * 1280 / both.training.batch_size)
    assert planned_batches(both, 1.0) == 45


def test_length_that_a_search_found_is_that_of_a_typical_site():
    base = drafted().training
    found = Searched(chosen=base.__class__(batch_size=10, batches=50, learning_rate=0.01, optimizer="sgd"), why="seen")
    plan = drafted(preflight=Preflight(searched=found))

    assert planned_batches(plan, 1000.0) == 50
    assert planned_batches(plan, 1500.0) == 75


def test_small_sites_alone_make_no_shorter_visits_than_a_hop_is_worth():
    plan = draft_plan(view_of(a=40.0, b=60.0, c=130.0), make_request(), make_package(), None)

    assert list(lengths(plan, view_of(a=40.0, b=60.0, c=130.0)).values()) == [16, 16, 16]
    assert batches_at(16, 8, 1.0, 200.0) == 25
    assert batches_at(4, 8, 1.0, 8.0) == 4


def test_longer_visits_correct_for_as_much_as_they_forget_unless_that_is_pinned():
    plan = drafted(hyperparameters=Hyperparameters(label_correction=0.4))
    longer = at_site(plan.training, 2 * plan.training.batches, Hyperparameters())
    pinned = at_site(plan.training, 2 * plan.training.batches, Hyperparameters(label_correction=0.4))

    ratio = forgotten_share(2 * plan.training.batches) / forgotten_share(plan.training.batches)
    assert longer.label_correction == pytest.approx(0.4 * ratio)
    assert pinned.label_correction == 0.4
    assert longer.batches == pinned.batches == 2 * plan.training.batches
