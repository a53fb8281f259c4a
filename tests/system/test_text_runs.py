"""Models of texts over several real sites: what learns on a frozen base that lies there, and a PEFT adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from tests.system.small_domain import wait_until
from tests.text_world import INSTITUTES, embedded_contract, token_contract, write_base, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.units import MIB
from daitn.descriptors.contract import DataContract
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.timeout(240)


@contextmanager
def domain_of_texts(folder: Path, contract: DataContract, base: Path | None) -> Iterator[LocalDomain]:
    with LocalDomain(folder / "domain", "texts") as domain:
        domain.start()
        specs = [NodeSpec(name=name, operator=name, roles=(Role.DATA, Role.COMPUTE)) for name in INSTITUTES]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        files = {name: [write_site(folder / name, name, contract)] for name in INSTITUTES}
        if base is not None:
            for name in INSTITUTES:
                domain.add_base(name, base)
        domain.join_all(specs, files)
        yield domain


def train(domain: LocalDomain, model: Any, contract: DataContract, **knobs: Any) -> Any:
    network = daitn.connect(domain.owner_token("ada"))
    wait_until(lambda: sum(len(node.descriptor.data) for node in network.nodes()) == 3, "data on the map")
    asked: dict[str, Any] = {
        "contract": contract,
        "targets": ["accuracy@broad >= 0.999", "accuracy@north >= 0.999"],
        "deadline": 180,
        "purpose": "research",
        "name": "texts",
        "key": load_or_create_key(domain.folder / "ada.key"),
        "method": "cyclic",
        "chance_floor": 0.0,
        "budget": Budget(visits=6),
        "hyperparameters": Hyperparameters(batch_size=32, batches_per_visit=25, learning_rate=3e-3, optimizer="adamw"),
    }
    return network.train(model, **(asked | knobs))


def visited(job: Any) -> set[str]:
    return {entry.node or "" for entry in job.log() if entry.kind == "trained"}


def test_model_on_a_frozen_base_travels_without_it_and_leaves_no_activations(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.change = nn.Linear(16, 16)
            nn.init.zeros_(self.change.weight)
            nn.init.zeros_(self.change.bias)

        def forward(self, question: torch.Tensor) -> torch.Tensor:
            return question + self.change(question)

    base = write_base(tmp_path / "base")
    with domain_of_texts(tmp_path, contract := embedded_contract(base_of(base)), base) as domain:
        job = train(domain, Residual(), contract)
        status = job.wait()
        assert status.phase in (Phase.DELIVERED, Phase.EXHAUSTED), status.reason
        assert len(visited(job)) == 3
        assert sum("of activations of the frozen base stay there" in entry.text for entry in job.log()) == 3
        assert status.transfer_bytes < 2 * MIB
        reached = {target.name: target for target in status.targets}
        assert (reached["accuracy@broad"].reached or 0) > (reached["accuracy@broad"].untrained or 0)
        result = job.result(tmp_path / "model").model()
        assert result(question=torch.zeros(2, 16)) is not None
        for name in INSTITUTES:
            folder = domain.node_folder(name)
            wait_until(lambda folder=folder: not list(folder.glob("activations/*/*.f16")), "activations are wiped")


def test_data_whose_site_lacks_the_base_is_left_out_with_the_reason(tmp_path: Path) -> None:
    from torch import nn

    base = write_base(tmp_path / "base")
    with domain_of_texts(tmp_path, contract := embedded_contract(base_of(base)), None) as domain:
        status = train(domain, nn.Linear(16, 16), contract).wait()
        assert status.phase is Phase.REFUSED
        excluded = [] if status.verdict is None else [one.why for one in status.verdict.excluded]
        assert len(excluded) == 3
        assert all("is not at its site" in why for why in excluded)


def test_adapter_on_a_transformers_model_trains_over_several_sites(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    base = write_base(tmp_path / "base")
    tokenizer = (base / "tokenizer.json").read_bytes()
    contract = token_contract(blake3(tokenizer).hexdigest())
    model = AutoModel.from_pretrained(base, local_files_only=True)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    with domain_of_texts(tmp_path, contract, None) as domain:
        job = train(domain, adapted, contract, tokenizer=tokenizer)
        status = job.wait()
        assert status.phase in (Phase.DELIVERED, Phase.EXHAUSTED), status.reason
        assert len(visited(job)) == 3, [entry.text for entry in job.log()]
        changed = dict(job.result(tmp_path / "model").model().named_parameters())
        assert any("lora_B" in name and bool(tensor.abs().sum() > 0) for name, tensor in changed.items())
        before = dict(model.named_parameters())
        frozen = [name for name in before if "lora" not in name]
        assert all(bool((changed[f"base_model.model.{name}"] == before[name]).all()) for name in frozen)


def base_of(folder: Path) -> str:
    from daitn.learning.base_files import base_digest

    return base_digest(folder)
