"""Data-parallel training on real processes: sites in lock step over direct and routed streams, and one that dies."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from tests.system.small_domain import contract, make_model, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.describe.table import MappedTable
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.node.replay import FIELD_MOST
from daitn.oam.proofs import Proof, read_proof
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(240)

SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three sites, two of which can be reached directly, and a verification unit; no aggregator."""
    folder = tmp_path_factory.mktemp("lockstep")
    with LocalDomain(folder / "domain", "lockstep", patience_s=2.0) as running:
        running.start()
        specs = [
            NodeSpec(
                name=name,
                operator=name,
                roles=(Role.DATA, Role.COMPUTE),
                direct="" if name == "west" else "127.0.0.1",
            )
            for name in SITES
        ]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        data = {name: [write_site(folder / name, seed, 240 + 60 * seed)] for seed, name in enumerate(SITES)}
        policy = folder / "west" / "policy.toml"
        policy.write_text(policy.read_text() + 'replay = "keep"\n')
        running.join_all(specs, data)
        yield running


def submit(domain: LocalDomain, name: str, **knobs: Any) -> Any:
    asked: dict[str, Any] = {
        "contract": contract(),
        "targets": ["accuracy >= 0.95"],
        "deadline": 180,
        "purpose": "research",
        "method": "data-parallel",
        "name": name,
        "key": load_or_create_key(domain.folder / "ada.key"),
    }
    return daitn.connect(domain.owner_token("ada")).train(make_model(), **(asked | knobs))


def rounds_of(job: Any) -> list[list[Proof]]:
    """Proofs of the accepted visits of each round that was agreed on."""
    found: list[list[Proof]] = []
    open_: list[Proof] = []
    for entry in job.log():
        if entry.kind == "trained":
            proof = read_proof(entry)
            assert proof is not None
            open_.append(proof)
        elif entry.kind == "agreed":
            found.append(open_)
            open_ = []
        elif entry.kind == "round-lost":
            open_ = []
    return found


def check_rounds(job: Any) -> list[list[Proof]]:
    """Each round's members have signed one and the same model, made of the model of the round before."""
    rounds = rounds_of(job)
    head = None
    for proofs in rounds:
        assert len({proof.node_name for proof in proofs}) == len(proofs) > 1
        assert len({proof.model_out for proof in proofs}) == 1
        assert len({proof.models_in for proof in proofs}) == 1
        head = proofs[0].model_out if head is None else head
    return rounds


def test_sites_in_lock_step_reach_the_goal_with_one_model(domain: LocalDomain) -> None:
    job = submit(domain, "lockstep")
    status = job.wait()

    assert status.phase is Phase.DELIVERED, status.reason
    assert status.plan is not None
    assert status.plan.method == "data-parallel"
    rounds = check_rounds(job)
    assert {proof.node_name for proof in rounds[0]} == set(SITES)


def test_kill_of_a_member_in_mid_round_loses_the_round_and_the_others_go_on(domain: LocalDomain) -> None:
    job = submit(
        domain,
        "killed",
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        budget=Budget(visits=24),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=150, learning_rate=1e-3),
    )
    wait_until(lambda: job.status().visits >= 3 and len(job.status().now) == 3, "a second round under way")
    domain.kill("north", signal.SIGKILL)
    domain.restart("north")
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.visits >= 24
    entries = list(job.log())
    lost = [entry for entry in entries if entry.kind == "round-lost"]
    assert lost, "the round of the killed member was not given up"
    trained = [entry.visit for entry in entries if entry.kind == "trained"]
    assert len(trained) == len(set(trained))
    members = [{proof.node_name for proof in proofs} for proofs in check_rounds(job)]
    assert {"south", "west"} in members, "the round was not ordered again without the site that was lost"


def test_sites_without_an_aggregator_gossip_and_meet_in_the_mean_of_all(domain: LocalDomain) -> None:
    job = submit(
        domain, "gossip", method="gossip", budget=Budget(visits=12), targets=["loss <= 0.0000001"], chance_floor=0
    )
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    reached = {one.name: one.value for one in status.reached}
    assert reached["accuracy"] >= 0.9
    proofs = [proof for entry in job.log() if (proof := read_proof(entry)) is not None]
    made = {proof.model_out: proof for proof in proofs if proof.node_name in SITES}
    means = [proof for proof in proofs if proof.node_name in SITES and len(proof.models_in) > 1]
    assert means, "nobody averaged"
    assert all(model in made for proof in means for model in proof.models_in)
    assert {proof.node_name for proof in proofs} <= {*SITES, "unit"}


def test_site_whose_policy_keeps_earlier_records_learns_on_with_them_and_they_stay_there(domain: LocalDomain) -> None:
    job = submit(
        domain,
        "learning-on",
        method="continual",
        data=["west/sides"],
        budget=Budget(visits=3),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        hyperparameters=Hyperparameters(batch_size=16, batches_per_visit=150, learning_rate=0.05),
    )
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    reached = {one.name: one.value for one in status.reached}
    assert reached["accuracy"] >= 0.9
    (kept,) = (domain.node_folder("west") / "replay" / "sides").glob("*/*/table.json")
    table = MappedTable.open(kept.parent)
    assert set(np.unique(table.categories("side"), return_counts=True)[1].tolist()) == {FIELD_MOST}
    assert not list((domain.node_folder("north")).glob("replay/*"))
