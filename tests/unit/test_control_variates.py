"""SCAFFOLD: equal to the paper's algorithm written out anew, without drift where federated averaging has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from daitn.artifacts.layout import TensorSpec, plan_layout  # noqa: E402
from daitn.base.errors import InputError  # noqa: E402
from daitn.descriptors.work import ControlRound, ServerStep, Training  # noqa: E402
from daitn.learning.numerics.aggregate import Update, average  # noqa: E402
from daitn.learning.numerics.blocks import tensor_view  # noqa: E402
from daitn.learning.numerics.control_variates import ControlVariates  # noqa: E402
from daitn.learning.numerics.optimizers import clip_gradients, make_optimizer  # noqa: E402
from daitn.learning.numerics.server_step import Area, control_moves, plan_state, take_step  # noqa: E402

SIZE, STEPS, RATE = 4, 12, 0.05
LAYOUT = plan_layout([TensorSpec(name="w", dtype="float64", shape=(SIZE,))])


class Site:
    """A quadratic of its own: gradient `curve (x - optimum)`."""

    def __init__(self, number: int, records: float) -> None:
        rng = np.random.default_rng(number)
        root = rng.normal(size=(SIZE, SIZE))
        self.curve = root @ root.T / SIZE + 0.2 * np.eye(SIZE)
        self.optimum = 3 * rng.normal(size=SIZE)
        self.records = records

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.curve @ (x - self.optimum)


SITES = [Site(1, 100.0), Site(2, 300.0), Site(3, 50.0)]
BEST = np.linalg.solve(
    sum(site.records * site.curve for site in SITES),
    sum(site.records * site.curve @ site.optimum for site in SITES),
)


def paper(x: np.ndarray, c: np.ndarray, own: dict[int, np.ndarray], taking: Sequence[int], known: set[int]) -> Any:
    """One round of the paper's Algorithm 1, option II; data sets weigh by their records, which are `known` so far."""
    models, changes = {}, {}
    for number in taking:
        y, c_i = x.copy(), own.get(number, np.zeros(SIZE))
        for _ in range(STEPS):
            y = y - RATE * (SITES[number].gradient(y) - c_i + c)
        models[number], changes[number] = y, c_i - c + (x - y) / (STEPS * RATE) - c_i
        own[number] = c_i + changes[number]
    weights = {number: SITES[number].records for number in taking}
    everybody = known | set(taking)
    mean = sum(weights[n] * models[n] for n in taking) / sum(weights.values())
    total_before = sum(SITES[n].records for n in known)
    total = sum(SITES[n].records for n in everybody)
    c = (total_before * c + sum(weights[n] * changes[n] for n in taking)) / total
    known |= set(taking)
    return mean, c


class Ours:
    """The same with what sites and aggregators run."""

    def __init__(self, *, corrected: bool = True, decay: float = 0.0, clip: float = 0.0) -> None:
        self.x = np.zeros(SIZE)
        self.shared: Area | None = None
        self.own: dict[int, dict[str, Any]] = {}
        self.known: set[int] = set()
        self.corrected = corrected
        self.clip = clip
        self.training = Training(
            batch_size=1, batches=STEPS, learning_rate=RATE, optimizer="sgd", weight_decay=decay, control_variates=True
        )
        self.gradients: dict[int, list[np.ndarray]] = {}

    def visit(self, number: int) -> np.ndarray:
        parameter = nn.Parameter(torch.from_numpy(self.x.copy()))
        parameters = {"w": parameter}
        shared = None
        if self.shared is not None:
            values = tensor_view(self.shared.payload, self.shared.entries[0])
            shared = {"control/w": torch.from_numpy(values.copy())}
        control = ControlVariates(shared, self.own.get(number), parameters)
        optimizer = make_optimizer(self.training, parameters, {})
        self.gradients[number] = []
        for _ in range(STEPS):
            parameter.grad = torch.from_numpy(SITES[number].gradient(parameter.detach().numpy()))
            if self.clip:
                clip_gradients(parameters, self.clip)
            decayed = self.training.weight_decay * parameter.detach().numpy()
            self.gradients[number].append(parameter.grad.numpy().copy() + decayed)
            if self.corrected:
                control.correct()
            optimizer.step()
        self.own[number] = control.end({"w": torch.from_numpy(self.x)}, STEPS * RATE)
        return parameter.detach().numpy()

    def round(self, taking: Sequence[int]) -> None:
        models = [self.visit(number) for number in taking]
        step = ServerStep(optimizer="scaffold", learning_rate=1.0)
        updates = [
            Update(
                name=str(number),
                weight=SITES[number].records,
                entries=LAYOUT.entries,
                payload=memoryview(model.tobytes().ljust(LAYOUT.payload_bytes, b"\0")),
            )
            for number, model in zip(taking, models, strict=True)
        ]
        mean = Area(LAYOUT.entries, memoryview(bytearray(LAYOUT.payload_bytes)))
        average(updates, LAYOUT, mean.payload)
        base = Area(LAYOUT.entries, memoryview(self.x.tobytes().ljust(LAYOUT.payload_bytes, b"\0")))
        kept = plan_state(LAYOUT.entries, step)
        after = Area(kept.entries, memoryview(bytearray(kept.payload_bytes)))
        everybody = self.known | set(taking)
        told = ControlRound(
            records_before=sum(SITES[n].records for n in self.known),
            records_after=sum(SITES[n].records for n in everybody),
            reach=STEPS * RATE,
        )
        moves = control_moves(told, sum(update.weight for update in updates))
        take_step(step, base, mean, self.shared, after, moves)
        self.x = tensor_view(mean.payload, LAYOUT.entries[0]).copy()
        self.shared, self.known = after, everybody

    def variate(self) -> np.ndarray:
        assert self.shared is not None
        return tensor_view(self.shared.payload, self.shared.entries[0]).astype(np.float64)


def test_rounds_are_the_papers_algorithm_with_all_some_and_new_sites() -> None:
    ours = Ours()
    x, c, own, known = np.zeros(SIZE), np.zeros(SIZE), {}, set()
    for taking in ([0, 1], [0, 1], [1], [0, 1, 2], [2], [0, 2], [0, 1, 2]):
        x, c = paper(x, c, own, taking, known)
        ours.round(taking)
        np.testing.assert_allclose(ours.x, x, rtol=1e-5, atol=1e-5)  # variates are float32
        np.testing.assert_allclose(ours.variate(), c, rtol=1e-5, atol=1e-5)
        mean = sum(SITES[n].records * own[n] for n in known) / sum(SITES[n].records for n in known)
        np.testing.assert_allclose(c, mean, rtol=1e-9, atol=1e-9)


def test_sites_far_apart_lead_averaging_away_and_this_to_the_optimum() -> None:
    drifting, steady = Ours(corrected=False), Ours()
    for _ in range(150):
        drifting.round([0, 1, 2])
        steady.round([0, 1, 2])

    assert np.linalg.norm(drifting.x - BEST) > 0.1
    assert np.linalg.norm(steady.x - BEST) < 1e-4


@pytest.mark.parametrize(("decay", "clip"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.1, 1.0)])
def test_own_variate_is_the_mean_gradient_with_decay_and_clipping(decay: float, clip: float) -> None:
    ours = Ours(decay=decay, clip=clip)
    for _ in range(3):
        ours.round([0, 1])
    for number in (0, 1):
        mean = np.mean(ours.gradients[number], axis=0)
        np.testing.assert_allclose(ours.own[number]["control/w"].numpy(), mean, rtol=1e-4, atol=1e-5)


def test_parameter_that_the_loss_does_not_reach_is_corrected_too() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    control = ControlVariates({"control/w": torch.ones(2)}, {"control/w": torch.full((2,), 0.25)}, {"w": parameter})

    control.correct()

    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
    ("variate", "said"),
    [
        ({}, "there is none"),
        ({"control/w": torch.ones(3)}, r"one of torch.float32 \[3\]"),
        ({"control/w": torch.ones(2, dtype=torch.float64)}, "float64"),
        ({"control/w": torch.tensor([1.0, float("nan")])}, "not finite"),
    ],
    ids=["lacks a parameter", "another shape", "another type", "not finite"],
)
def test_variate_of_another_model_is_refused_by_name(variate: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ControlVariates(variate, None, {"w": nn.Parameter(torch.zeros(2))})
