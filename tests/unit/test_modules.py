"""Payloads bound to modules: copies where a visit changes tensors, views where it does not, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from daitn.artifacts.graph import encode_graph_pair
from daitn.artifacts.layout import TensorSpec, fill_payload, plan_layout
from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import PeerError
from daitn.learning.graphs.export import export_pair
from daitn.learning.numerics.modules import BoundModule, Structure, build_structure

CPU = torch.device("cpu")


class Net(nn.Module):
    """A net with running statistics and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.base.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.base(x)))


def payload_of(tensors: dict[str, torch.Tensor], roles: dict[str, str]) -> tuple[tuple[TensorEntry, ...], memoryview]:
    """Entries and read-only payload of tensors."""
    layout = plan_layout(
        TensorSpec(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            shape=tuple(tensor.shape),
            role=roles.get(name, "parameter"),  # type: ignore[arg-type]
        )
        for name, tensor in tensors.items()
    )
    payload = bytearray(layout.payload_bytes)
    raw = {name: np.ascontiguousarray(tensor.detach().numpy()).tobytes() for name, tensor in tensors.items()}
    fill_payload(layout.entries, raw, memoryview(payload))
    return layout.entries, memoryview(bytes(payload))


@pytest.fixture(scope="module")
def exported() -> tuple[bytes, dict[str, torch.Tensor]]:
    pair, tensors = export_pair(Net(), {"x": torch.randn(4, 3)}, {"x": ("batch", None)})
    return encode_graph_pair(pair), tensors


ROLES = {
    "base.weight": "frozen",
    "base.bias": "frozen",
    "norm.running_mean": "buffer",
    "norm.running_var": "buffer",
    "norm.num_batches_tracked": "buffer",
    "momentum/head.weight": "optimizer",
}


def inside(tensor: torch.Tensor, payload: memoryview) -> bool:
    start = np.frombuffer(payload, dtype=np.uint8).ctypes.data
    return start <= tensor.data_ptr() < start + len(payload)


def test_training_copies_what_it_changes_and_maps_the_rest(exported: tuple[bytes, dict[str, torch.Tensor]]) -> None:
    graph, tensors = exported
    entries, payload = payload_of({**tensors, "momentum/head.weight": torch.ones(2, 4)}, ROLES)
    bound = BoundModule(build_structure("graph", {"graph": graph}, ()), CPU)
    bound.bind(entries, payload, changing=True)
    assert inside(bound.module.get_parameter("base.weight"), payload)
    assert not inside(bound.module.get_parameter("head.weight"), payload)
    assert not inside(bound.slots["momentum/head.weight"], payload)
    assert inside(bound.arrived["head.weight"], payload)
    assert {name for name, p in bound.module.named_parameters() if p.requires_grad} == {
        "norm.weight", "norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    before = bytes(payload)

    with torch.no_grad():
        bound.module.get_parameter("head.weight").add_(1)
        bound.module.get_buffer("norm.running_mean").add_(1)
    assert bytes(payload) == before
    moved = bound.tensor("head.weight")
    assert moved is not None
    assert torch.equal(moved, tensors["head.weight"] + 1)
    first = bound.module.get_parameter("head.weight").data_ptr()
    bound.bind(entries, payload, changing=True)
    assert bound.module.get_parameter("head.weight").data_ptr() == first
    assert torch.equal(bound.module.get_parameter("head.weight"), tensors["head.weight"])


def test_evaluation_copies_nothing_and_release_lets_the_payload_go(
    exported: tuple[bytes, dict[str, torch.Tensor]],
) -> None:
    graph, tensors = exported
    entries, payload = payload_of(tensors, ROLES)
    bound = BoundModule(build_structure("graph", {"graph": graph}, ()), CPU)
    bound.bind(entries, payload, changing=False)
    assert all(inside(tensor, payload) for tensor in bound.module.parameters())
    bound.module.eval()
    x = torch.randn(5, 3)
    (found,) = bound.module(x=x).values()
    assert torch.equal(found, Net().eval()(x))
    bound.release()
    assert not any(inside(tensor, payload) for tensor in (*bound.module.parameters(), *bound.module.buffers()))
    assert not bound.arrived


@pytest.mark.parametrize("fault", ["missing", "superfluous", "shape", "type", "cut"])
def test_payload_that_is_not_the_models_is_refused(exported: tuple[bytes, dict[str, torch.Tensor]], fault: str) -> None:
    graph, tensors = exported
    changed = dict(tensors)
    if fault == "missing":
        del changed["head.bias"]
    elif fault == "superfluous":
        changed["more"] = torch.zeros(1)
    elif fault == "shape":
        changed["head.bias"] = torch.zeros(3)
    elif fault == "type":
        changed["head.bias"] = torch.zeros(2, dtype=torch.float64)
    entries, payload = payload_of(changed, ROLES)
    bound = BoundModule(build_structure("graph", {"graph": graph}, ()), CPU)
    with pytest.raises(PeerError):
        bound.bind(entries, payload[: len(payload) - (64 if fault == "cut" else 0)], changing=True)


def test_pretrained_model_with_an_adapter_is_bound_under_the_packages_names() -> None:
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    from daitn.learning.pretrained import describe_pretrained

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    plain = transformers.BertForSequenceClassification(config)
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    described = describe_pretrained(model)
    assert described.adapter_json is not None
    tensors = {**described.base, **described.adapter}
    entries, payload = payload_of(tensors, dict.fromkeys(described.base, "frozen"))
    parts = {"config": described.config_json, "adapter_config": described.adapter_json}
    structure: Structure = build_structure("transformers", parts, entries)
    bound = BoundModule(structure, CPU)
    bound.bind(entries, payload, changing=True)
    for name, tensor in tensors.items():
        found = bound.tensor(name)
        assert found is not None
        assert torch.equal(found, tensor), name
    ids = torch.arange(1, 15).reshape(2, 7)
    bound.module.eval()
    assert torch.equal(bound.module(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    trained = [name for name, parameter in bound.module.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(described.adapter)
