"""Environments as data sets: what a site shows of one, the contract of its policies, and how policies are trained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import make_candidate, make_package, make_request, make_view, measure

from daitn.base.errors import InputError
from daitn.decision.drafting import draft_plan
from daitn.decision.keeping import judge_model, score
from daitn.descriptors.contract import check_contract
from daitn.descriptors.policy import Policy
from daitn.descriptors.request import Hyperparameters, parse_target
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.reinforcement import EVALUATION_EPISODES, make_environment
from daitn.node.datasets import DataShelf
from daitn.node.environment_files import add_environment

pytest.importorskip("gymnasium")
from daitn.learning.environments import actions_of, environment_contract, observe

CART = "CartPole-v1"


class Right(torch.nn.Module):
    """Always the same action, as far as its weight says."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(4, 2)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.out(observation)


def test_contract_of_an_environment_asks_for_it_by_name_and_is_consistent():
    contract = environment_contract(CART)

    check_contract(contract)
    assert contract.column("environment").values == (CART,)
    assert [one.name for one in contract.inputs] == ["observation"]
    assert actions_of(CART) == 2


def test_what_a_site_shows_is_repeated_by_its_seed_and_names_the_environment():
    shown = observe(CART, 1, 40)

    assert shown == observe(CART, 1, 40) != observe(CART, 2, 40)
    rows = list(csv.DictReader(shown.splitlines()))
    assert len(rows) == 40
    assert {row["environment"] for row in rows} == {CART}


def test_environment_is_put_on_the_shelf_like_any_data_set(tmp_path: Path):
    shelf = DataShelf(tmp_path / "data", b"s" * 32)
    policy = Policy(owners=("ada",), purposes=("research",))
    report = add_environment(shelf, tmp_path / "environments", "cart", CART, policy)

    assert report.records == 512
    assert shelf.entry("cart").contract == environment_contract(CART)


@pytest.mark.parametrize(
    ("name", "what"),
    [("Pendulum-v1", "takes"), ("NoSuchWorld-v0", "cannot be made"), ("os:CartPole-v1", "not allowed")],
)
def test_environment_of_another_kind_or_none_is_refused_by_name(name, what):
    with pytest.raises(InputError, match=what) as error:
        environment_contract(name)
    assert name in str(error.value)


def test_policy_is_measured_by_whole_episodes_whatever_samples_come_with_it():
    contract = environment_contract(CART)
    numerics = numerics_for(contract.task, contract)
    torch.manual_seed(0)
    (first,) = numerics.evaluate(Right(), [], ["mean_return"])
    torch.manual_seed(0)
    (again,) = numerics.evaluate(Right(), [object()], ["mean_return"])

    assert first == again
    assert first.records == EVALUATION_EPISODES
    assert 8 <= first.value <= 500


def test_rollout_holds_at_least_the_steps_asked_for_and_repeats_by_its_seed():
    contract = environment_contract(CART)
    numerics = numerics_for(contract.task, contract)
    torch.manual_seed(0)
    model = Right()
    batch, again = (numerics.rollout(model, 200, np.random.default_rng(5)) for _ in range(2))

    assert len(batch.labels) >= 200
    assert torch.equal(batch.labels, again.labels)
    assert abs(float(batch.weights.mean())) < 1e-5
    assert set(batch.labels.tolist()) == {0, 1}
    environment = make_environment(CART)
    environment.close()


def test_policies_are_planned_with_batches_that_are_played_and_pins_hold():
    view = make_view(make_candidate("s1"), make_candidate("s2"))
    package = make_package(contract=environment_contract(CART))
    request = make_request("mean_return >= 100")

    plan = draft_plan(view, request, package, None)
    assert (plan.training.optimizer, plan.training.batch_size, plan.training.average_steps) == ("adam", 1000, 0)
    assert any("batches are played" in one.why for one in plan.choices)
    pinned = make_request("mean_return >= 100", hyperparameters=Hyperparameters(batch_size=50, optimizer="sgd"))
    plan = draft_plan(view, pinned, package, None)
    assert (plan.training.optimizer, plan.training.batch_size) == ("sgd", 50)


def test_returns_are_judged_in_shares_of_the_target():
    targets = [parse_target("mean_return >= 200")]
    near, far = measure(180.0, "mean_return"), measure(20.0, "mean_return")

    assert score(targets, near) == pytest.approx(-0.1, abs=0.001)
    assert judge_model(targets, near, -0.1, measure(160.0, "mean_return")).keep
    assert not judge_model(targets, near, -0.1, far).keep
