"""Secure aggregation on real processes: four sites, one of which is killed while it trains, and what was handed on.

The same domain shows compressed updates, the other way in which less is handed on than a model.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from tests.system.small_domain import contract, make_model, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.node.store.listing import list_store
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(300)

SITES = ("north", "south", "west", "east")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """Four sites, a verification unit, an aggregator."""
    folder = tmp_path_factory.mktemp("masked")
    with LocalDomain(folder / "domain", "masked", patience_s=2.0) as running:
        running.start()
        specs = [NodeSpec(name=name, operator=name, roles=(Role.DATA, Role.COMPUTE)) for name in SITES]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        specs.append(NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)))
        data = {name: [write_site(folder / name, seed, 240 + 60 * seed)] for seed, name in enumerate(SITES)}
        running.join_all(specs, data)
        yield running


def residuals(domain: LocalDomain, site: str) -> list[str]:
    """What a site keeps of updates that it has handed on compressed."""
    packs = list_store(domain.node_folder(site) / "store", 1 << 30).packs
    return sorted(pack.name for pack in packs if pack.name.startswith("residual") and not pack.servable)


def test_rounds_of_compressed_updates_teach_and_the_log_says_what_they_saved(domain: LocalDomain) -> None:
    job = daitn.connect(domain.owner_token("ada")).train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        data=["north/sides", "south/sides"],
        chance_floor=0.0,
        deadline=120,
        purpose="research",
        name="compressed",
        key=load_or_create_key(domain.folder / "ada.key"),
        compression="8-bit",
        budget=Budget(visits=6),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=300),
    )
    wait_until(lambda: residuals(domain, "north") == ["residual of north/sides"], "what the first round left out")
    status = job.wait()

    wait_until(lambda: residuals(domain, "north") == [], "it to go with its job")
    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.plan is not None
    assert status.plan.method == "fedavg"
    texts = [entry.text for entry in job.log()]
    assert sum("update compressed (8-bit)" in text for text in texts) == 6
    assert sum("smaller than the model" in text for text in texts) == 6
    assert any("average 2 models" in text for text in texts)
    reached = {target.name: target.reached for target in status.targets}
    assert reached["loss"] is not None
    assert reached["loss"] < 0.4
    assert job.check_proofs()


def test_goal_is_reached_by_masked_sums_though_a_site_is_killed(domain: LocalDomain) -> None:
    job = daitn.connect(domain.owner_token("ada")).train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        deadline=150,
        purpose="research",
        name="masked",
        key=load_or_create_key(domain.folder / "ada.key"),
        secure_aggregation=True,
        budget=Budget(visits=12),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=300),
    )
    wait_until(lambda: job.status().visits >= 4, "a first round")
    wait_until(lambda: any(one.kind == "train" for one in job.status().now), "a second round that trains")
    domain.kill("north", signal.SIGKILL)
    domain.restart("north")
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.plan is not None
    assert status.plan.method == "fedavg"
    entries = list(job.log())
    texts = [entry.text for entry in entries]
    assert sum("take the masks off the sum of" in text for text in texts) >= 2
    assert any("add up 4 masked updates" in text for text in texts)
    assert not any("average 4 models" in text for text in texts)
    trained = [text for text in texts if "update masked among 4" in text]
    assert len(trained) >= 8
    reached = {target.name: target.reached for target in status.targets}
    assert reached["loss"] is not None
    assert reached["loss"] < 0.3
    assert job.check_proofs()


def test_private_updates_are_compressed_and_what_they_cost_is_said(domain: LocalDomain) -> None:
    job = daitn.connect(domain.owner_token("ada")).train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        data=["west/sides", "east/sides"],
        chance_floor=0.0,
        deadline=120,
        purpose="research",
        name="private-compressed",
        key=load_or_create_key(domain.folder / "ada.key"),
        compression="8-bit",
        privacy="epsilon=8,visits=2",
        hyperparameters=Hyperparameters(batch_size=32, batches_per_visit=40, learning_rate=0.5, optimizer="sgd"),
    )
    status = job.wait()

    texts = [entry.text for entry in job.log()]
    assert status.visits == 4, status.reason
    assert sum("update compressed (8-bit)" in text for text in texts) == 4
    assert sum("this job has cost its data set ε = " in text for text in texts) == 4
    assert 0 < job.card().epsilon <= 8.0
    reached = {one.name: one.value for one in status.reached}
    assert reached["accuracy"] >= 0.8
    assert job.check_proofs()
