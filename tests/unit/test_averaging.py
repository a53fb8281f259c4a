"""The running average: what is handed on, what travels beside it, and that training goes on from the newest weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, NumberColumn, NumbersInput
from daitn.descriptors.work import Training
from daitn.learning.numerics.averaging import EARLY, Averaging
from daitn.learning.numerics.slots import AVERAGED_STEPS, plan_result
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, train
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice

SITE = DataSetId("s/records")


class Net(nn.Module):
    """Two features, two labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def numerics() -> ClassificationNumerics:
    task = Classification(label="y")
    contract = DataContract(
        name="toy",
        columns=(NumberColumn(name="a"), NumberColumn(name="b"), CategoryColumn(name="y", values=("0", "1"))),
        inputs=(NumbersInput(name="x", columns=("a", "b")),),
        task=task,
    )
    return ClassificationNumerics(task, contract, torch.device("cpu"))


def source() -> MemorySlice:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.int64)
    return MemorySlice(SITE, RecordSlice({"x": x}, labels, np.zeros((64, 0), np.bool_), SITE))


def training(**values: Any) -> Training:
    return Training(**({"batch_size": 8, "batches": 5, "learning_rate": 0.1} | values))


@pytest.mark.parametrize("lead", [0.0, 0.8])
def test_average_follows_and_newest_weights_lead_as_their_formulas_say(lead: float) -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    averaging = Averaging(6, lead, {"w": parameter}, {})
    averaging.begin()
    wanted, newest = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for step in range(1, 80):
        moved = torch.tensor([1.0, step, -0.5 * step])
        with torch.no_grad():
            parameter += moved
        averaging.step()
        newest += moved
        weight = max(1 / 6, EARLY / (EARLY + step))
        wanted += weight * (newest - wanted)
        newest += lead * (1 / 6 / weight) ** 4 * weight * (newest - wanted)

    assert torch.allclose(parameter, newest)
    slots = averaging.end()

    assert torch.allclose(parameter, wanted)
    assert torch.allclose(slots["newest/w"], newest)
    assert int(slots[AVERAGED_STEPS]) == 79


def test_lead_speeds_up_what_steps_have_in_common_and_not_what_they_take_back() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    averaging = Averaging(20, 0.8, {"w": parameter}, {})
    averaging.begin()
    for step in range(3000):
        if step == 2000:
            before = parameter.detach().clone()
        with torch.no_grad():
            parameter += torch.tensor([0.01, 1.0 if step % 2 else -1.0])
        averaging.step()
    moved = parameter.detach() - before

    share, ahead = 1 / 20, 0.8 / 20
    speed = 1 + ahead * (1 - share) / (1 - (1 - share) * (1 + ahead))
    assert moved[0].item() / 10 == pytest.approx(speed)
    assert 4 < speed < 1 / (1 - 0.8)
    assert abs(moved[1].item()) < 0.1


def test_led_training_goes_on_over_visits_as_it_would_in_one() -> None:
    whole, parts = Net(), Net()
    chosen = training(average_steps=4, average_lead=0.8)
    train(whole, numerics(), source(), training(average_steps=4, average_lead=0.8, batches=15), ModelState())
    state = ModelState()
    for _ in range(3):
        state = train(parts, numerics(), source(), chosen, state).state

    assert torch.equal(whole.layer.weight, parts.layer.weight)


def test_newest_weights_are_those_of_training_without_an_average() -> None:
    plain, averaged = Net(), Net()
    states = [ModelState(), ModelState()]
    for _ in range(3):
        states[0] = train(plain, numerics(), source(), training(), states[0]).state
        states[1] = train(averaged, numerics(), source(), training(average_steps=10), states[1]).state

    assert torch.equal(states[1].slots["newest/layer.weight"], plain.layer.weight)
    assert not torch.equal(averaged.layer.weight, plain.layer.weight)
    assert int(states[1].slots[AVERAGED_STEPS]) == 15


def test_slots_of_an_average_are_those_that_the_layout_foresees() -> None:
    net = Net()
    entries = tuple(
        TensorEntry(name=name, dtype="float32", shape=tuple(p.shape), role="parameter", offset=0)
        for name, p in net.named_parameters()
    )
    chosen = training(average_steps=10)

    slots = train(net, numerics(), source(), chosen, ModelState()).state.slots

    planned = {entry.name: entry.shape for entry in plan_result(entries, chosen).entries if entry.role == "optimizer"}
    assert planned == {name: tuple(slot.shape) for name, slot in slots.items()}


def test_model_whose_average_ends_goes_on_from_the_average() -> None:
    net = Net()
    state = train(net, numerics(), source(), training(average_steps=10), ModelState()).state
    other = Net()
    other.load_state_dict(net.state_dict())
    without = {name: slot.clone() for name, slot in state.slots.items() if name.startswith("momentum/")}

    after = train(net, numerics(), source(), training(), state).state
    train(other, numerics(), source(), training(), ModelState(state.travelling, without))

    assert torch.equal(net.layer.weight, other.layer.weight)
    assert set(after.slots) == set(without)


def test_slot_of_another_shape_or_a_negative_counter_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match="average_steps"):
        Averaging(5, 0.0, {"w": parameter}, {"newest/w": torch.zeros(2)})
    with pytest.raises(InputError, match="counter is -1"):
        Averaging(5, 0.0, {"w": parameter}, {"newest/w": torch.zeros(3), AVERAGED_STEPS: torch.tensor(-1)})
