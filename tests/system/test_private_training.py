"""Private training on real processes: noise is added in the sites' children, and booked in their ledgers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.system.small_domain import contract, make_model, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.datasets import DataShelf
from daitn.node.node_config import NodeFolder
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

torch = pytest.importorskip("torch")
NS = 86_400 * 10**9
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """Two sites of which one demands noise, and a verification unit."""
    folder = tmp_path_factory.mktemp("private")
    with LocalDomain(folder / "domain", "private", patience_s=2.0) as running:
        running.start()
        specs = [NodeSpec(name=name, operator=name, roles=(Role.DATA, Role.COMPUTE)) for name in ("north", "south")]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        data = {name: [write_site(folder / name, seed, 900)] for seed, name in enumerate(("north", "south"))}
        policy = data["north"][0].policy
        policy.write_text(policy.read_text() + "epsilon_per_job = 4.0\n")
        running.join_all(specs, data)
        yield running


def submit(domain: LocalDomain, model: Any, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "contract": contract(),
        "targets": ["accuracy >= 0.85"],
        "deadline": 100,
        "purpose": "research",
        "name": "private",
        "key": load_or_create_key(domain.folder / "ada.key"),
        "chance_floor": 0.0,
        "hyperparameters": Hyperparameters(batch_size=32, batches_per_visit=60, learning_rate=0.5, optimizer="sgd"),
    }
    return daitn.connect(domain.owner_token("ada")).train(model, **(asked | changes))


def test_goal_is_reached_with_noise_and_log_card_and_ledger_say_what_it_cost(domain: LocalDomain) -> None:
    job = submit(domain, make_model(), privacy="epsilon=4,visits=4", targets=["accuracy >= 0.85"])
    status = job.wait()
    log = "\n".join(entry.text for entry in job.log())
    card = job.card()

    assert status.phase is Phase.DELIVERED, log
    assert "losses are not told, this job has cost its data set ε = " in log
    assert 0 < card.epsilon <= 4.0
    assert {one.dataset.partition("/")[2] for one in card.data} == {"sides"}
    for one in card.data:
        folder = NodeFolder(domain.node_folder(one.node_name))
        booked = DataShelf(folder.data, folder.site_secret()).ledger().spent("sides", time.time_ns(), NS, training=True)
        assert one.epsilon is not None
        assert 0 < one.epsilon <= 4.0
        assert booked == pytest.approx(one.epsilon)


def test_model_that_normalises_batches_is_refused_by_reason_before_any_visit(domain: LocalDomain) -> None:
    class Normal(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    status = submit(domain, Normal(), name="normal", privacy={"epsilon": 4.0}).wait()

    assert status.phase is Phase.REFUSED
    assert status.visits == 0
    assert status.verdict is not None
    (failed,) = [one for one in status.verdict.conditions if not one.met]
    assert failed.code is ReasonCode.DOES_NOT_LOAD
    assert "privacy: records of a batch are not apart" in failed.available
