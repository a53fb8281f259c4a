"""Split learning on real processes: a model cut between a hospital and a compute site, and a compute site that dies."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from tests.system.small_domain import POLICY, contract, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.oam.proofs import read_proof
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(240)

GIVES = POLICY + 'activations = "trust-zone"\ncompute_operators = ["lab"]\n'


def make_model() -> Any:
    """The owner's own module, with a middle."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    return Sides()


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A hospital whose policy gives activations to the lab, one whose does not, the lab, and a verification unit."""
    folder = tmp_path_factory.mktemp("split")
    with LocalDomain(folder / "domain", "split", patience_s=2.0) as running:
        running.start()
        hospital = (Role.DATA, Role.COMPUTE)
        specs = [
            NodeSpec(name="north", operator="north", roles=hospital, direct="127.0.0.1"),
            NodeSpec(name="south", operator="south", roles=hospital),
            NodeSpec(name="lab", operator="lab", roles=(Role.COMPUTE,), direct="127.0.0.1"),
            NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)),
        ]
        data = {name: [write_site(folder / name, seed, 300)] for seed, name in enumerate(("north", "south"))}
        (folder / "north" / "policy.toml").write_text(GIVES)
        running.join_all(specs, data)
        yield running


def submit(domain: LocalDomain, name: str, **knobs: Any) -> Any:
    asked: dict[str, Any] = {
        "contract": contract(),
        "targets": ["accuracy >= 0.95"],
        "deadline": 120,
        "purpose": "research",
        "method": "split",
        "name": name,
        "key": load_or_create_key(domain.folder / "ada.key"),
    }
    return daitn.connect(domain.owner_token("ada")).train(make_model(), **(asked | knobs))


def test_model_cut_between_hospital_and_lab_reaches_the_goal_and_goes_on_when_the_lab_dies(domain: LocalDomain) -> None:
    job = submit(
        domain,
        "cut",
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        budget=Budget(visits=8),
        hyperparameters=Hyperparameters(batch_size=16, batches_per_visit=80, learning_rate=0.03),
    )
    wait_until(lambda: job.status().visits >= 2 and len(job.status().now) == 2, "a second round under way")
    domain.kill("lab", signal.SIGKILL)
    domain.restart("lab")
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.plan is not None
    assert status.plan.method == "split"
    reached = {one.name: one.value for one in status.reached}
    assert reached["accuracy"] >= 0.95
    entries = list(job.log())
    proofs = [proof for entry in entries if entry.kind == "trained" and (proof := read_proof(entry)) is not None]
    assert {proof.node_name for proof in proofs} == {"north", "lab"}
    assert len({proof.model_out for proof in proofs}) <= len(proofs) // 2 + 1
    assert [entry for entry in entries if entry.kind == "round-lost"], "the round was not given up"
    assert status.verdict is not None
    assert [one.dataset for one in status.verdict.excluded] == ["south/sides"]
    assert "activations" in status.verdict.excluded[0].why


def test_split_is_refused_where_no_policy_gives_activations(domain: LocalDomain) -> None:
    status = submit(domain, "kept", data=["south/sides"]).wait()

    assert status.phase is Phase.REFUSED
    assert status.verdict is not None
    unmet = [one for one in status.verdict.conditions if not one.met]
    assert ReasonCode.POLICY in {one.code for one in unmet}
    assert any("activations" in one.available for one in unmet)
