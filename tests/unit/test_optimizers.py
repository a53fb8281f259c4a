"""Our optimizers against torch's, their slots as they travel, FedProx and clipping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import InputError
from daitn.descriptors.work import Training
from daitn.learning.numerics.optimizers import add_proximal, clip_gradients, make_optimizer
from daitn.learning.numerics.slots import STEPS, plan_result, slot_specs

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.05)),
    "sgd with decay": (
        {"optimizer": "sgd", "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    ),
    "momentum": (
        {"optimizer": "momentum", "momentum": 0.9, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (
        {"optimizer": "adam", "weight_decay": 0.01},
        lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01, foreach=False),
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1, foreach=False),
    ),
}


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def training(**values: Any) -> Training:
    return Training(**{"batch_size": 4, "batches": 1, "learning_rate": 0.05, **values})


def gradients(model: nn.Module, step: int) -> None:
    model.zero_grad()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    model(x).square().sum().backward()


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_torch_bit_for_bit_across_visits(case: str) -> None:
    values, theirs_of = CASES[case]
    ours, reference = net(), net()
    theirs = theirs_of(reference.parameters())
    slots: dict[str, torch.Tensor] = {}
    for visit in range(3):
        optimizer = make_optimizer(training(**values), dict(ours.named_parameters()), slots)
        for step in range(10):
            gradients(ours, 10 * visit + step)
            gradients(reference, 10 * visit + step)
            optimizer.step()
            theirs.step()
        slots = {name: slot.clone() for name, slot in optimizer.slots.items()}
    for mine, other in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("case", CASES)
def test_slots_are_those_that_the_layout_foresees(case: str) -> None:
    values, _ = CASES[case]
    model = net()
    entries = tuple(
        TensorEntry(name=name, dtype="float32", shape=tuple(p.shape), role="parameter", offset=0)
        for name, p in model.named_parameters()
    )
    chosen = training(**values)
    slots = make_optimizer(chosen, dict(model.named_parameters()), {}).slots
    specs = {spec.name: spec for spec in slot_specs(chosen, entries)}
    assert set(specs) == set(slots)
    assert all(specs[name].shape == tuple(slot.shape) for name, slot in slots.items())
    planned = {entry.name for entry in plan_result(entries, chosen).entries}
    assert planned == {entry.name for entry in entries} | set(slots)
    assert {e.name for e in plan_result(entries, training(**values, carry_optimizer=False)).entries} == {
        entry.name for entry in entries
    }


def test_frozen_and_integer_tensors_have_no_slots() -> None:
    entries = (
        TensorEntry(name="a", dtype="float32", shape=(2,), role="frozen", offset=0),
        TensorEntry(name="b", dtype="int64", shape=(2,), role="parameter", offset=64),
        TensorEntry(name="c", dtype="bfloat16", shape=(2,), role="parameter", offset=128),
    )
    assert {spec.name for spec in slot_specs(training(optimizer="adam"), entries)} == {"mean/c", "variance/c", STEPS}
    assert slot_specs(training(optimizer="sgd"), entries) == ()


def test_slot_of_another_shape_is_refused() -> None:
    model = net()
    with pytest.raises(InputError, match="carry_optimizer"):
        make_optimizer(training(), dict(model.named_parameters()), {"momentum/0.weight": torch.zeros(3)})


def test_proximal_gradient_is_that_of_half_the_squared_distance() -> None:
    model = net()
    parameters = dict(model.named_parameters())
    arrived = {name: p.detach() + 0.3 for name, p in parameters.items()}
    gradients(model, 0)
    add_proximal(parameters, arrived, 0.7)
    found = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    model.zero_grad()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    distance = sum(((p - arrived[name]) ** 2).sum() for name, p in parameters.items())
    (model(x).square().sum() + 0.35 * distance).backward()
    for name, parameter in parameters.items():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5)  # type: ignore[arg-type]


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    model = net()
    gradients(model, 0)
    clip_gradients(dict(model.named_parameters()), 0.5)
    total = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-4)
