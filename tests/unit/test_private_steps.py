"""Private steps: clipped gradients of single records, by hand; who is in a step; what is told; which models cannot."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
    Regression,
)
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.work import Training
from daitn.learning.numerics.private import PrivateGradients, check_records_apart
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, Progress, Seeds, train
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice

COLUMNS = (NumberColumn(name="a"), NumberColumn(name="b"))
INPUTS = (NumbersInput(name="x", columns=("a", "b")),)
CONTRACT = DataContract(
    name="c",
    columns=(*COLUMNS, CategoryColumn(name="y", values=("0", "1"))),
    inputs=INPUTS,
    task=Classification(label="y"),
)
TASK = numerics_for(CONTRACT.task, CONTRACT, torch.device("cpu"))
PRIVATE = PrivateSteps(epsilon=1.0, delta=1e-5, clip=0.5, noise_multiplier=1.0, sampling_rate=0.25)
TRAINING = Training(batch_size=8, batches=6, learning_rate=0.1, optimizer="sgd", momentum=0.0)


class Net(nn.Module):
    """A small net, with a layer of choice in between."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.between, self.last = nn.Linear(2, 4), between or nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def records(count: int = 40, groups: int | None = None) -> RecordSlice:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    return RecordSlice(
        inputs={"x": x},
        labels=(x.sum(axis=1) > 0).astype(np.int64),
        fields=np.zeros((count, 0), dtype=bool),
        dataset="s/d",
        groups=None if groups is None else np.arange(count, dtype=np.uint64) % np.uint64(groups),
    )


def source(count: int = 40, groups: int | None = None) -> MemorySlice:
    return MemorySlice(DataSetId("s/d"), records(count, groups))


def steps_of(model: nn.Module, given: MemorySlice, entropy: int | None = 7, **changes: Any) -> PrivateGradients:
    private = msgspec.structs.replace(PRIVATE, **changes)
    return PrivateGradients(model, TASK, given, private, 8, dict(model.named_parameters()), entropy)


def by_hand(model: nn.Module, data: MemorySlice, rows: np.ndarray, clip: float) -> dict[str, Tensor]:
    """One backward pass for each record."""
    sums = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        batch = TASK.prepare(data.take(np.array([row])))
        TASK.loss(TASK.forward(model, batch), batch).backward()
        norm = float(sum(one.grad.square().sum() for one in model.parameters() if one.grad is not None) ** 0.5)
        for name, one in model.named_parameters():
            assert one.grad is not None
            sums[name] += one.grad * min(1.0, clip / norm)
    model.zero_grad()
    return {name: one / 8 for name, one in sums.items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("clip", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("between", [None, nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_gradient_without_noise_is_the_sum_of_clipped_ones_over_the_planned_batch(clip, between):
    model, data = Net(between), source(200)  # more records than one chunk has
    rows = steps_of(model, data, sampling_rate=0.6).rows()

    steps_of(model, data, clip=clip, noise_multiplier=1e-12, sampling_rate=0.6).fill()

    found, wanted = gradients(model), by_hand(model, data, rows, clip)
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-6)


def test_noise_has_the_deviation_that_was_asked_for_whatever_the_data():
    model = Net(nn.Linear(4, 4))
    given = steps_of(model, source(3), sampling_rate=1e-9)  # nobody is in a step
    drawn: list[Tensor] = []
    for _ in range(200):
        given.fill()
        drawn += [one.flatten() for one in gradients(model).values()]

    values = torch.cat(drawn)

    assert float(values.std()) == pytest.approx(0.5 * 1.0 / 8, rel=0.03)
    assert abs(float(values.mean())) < 0.002


def test_each_group_is_in_a_step_with_one_chance_and_with_one_record_at_most():
    data = source(60, groups=20)
    given = steps_of(Net(), data)
    counts = np.zeros(60)
    for _ in range(4000):
        rows = given.rows()
        assert len(np.unique(rows % 20)) == len(rows)
        counts[rows] += 1

    assert counts.reshape(3, 20).sum(axis=0) / 4000 == pytest.approx(np.full(20, 0.25), abs=0.035)
    assert counts / 4000 == pytest.approx(np.full(60, 0.25 / 3), abs=0.025)


def test_record_whose_gradient_is_not_finite_counts_as_none():
    model, data = Net(), records(40)
    np.asarray(data.inputs["x"])[3] = np.inf
    given = MemorySlice(DataSetId("s/d"), data)

    steps_of(model, given, noise_multiplier=1e-12, sampling_rate=1.0).fill()

    wanted = by_hand(model, given, np.delete(np.arange(40), 3), 0.5)
    for name, one in gradients(model).items():
        torch.testing.assert_close(one, wanted[name], rtol=1e-4, atol=1e-6)


def test_visit_learns_tells_nothing_without_noise_and_is_no_function_of_its_seed():
    told: list[Progress] = []

    def visit() -> tuple[nn.Module, Any]:
        model = Net()
        result = train(
            model, TASK, source(), TRAINING, ModelState(), seeds=Seeds(1, 2), private=PRIVATE, on_progress=told.append
        )
        return model, result

    (one, result), (other, _) = visit(), visit()

    assert result.records == 1
    assert result.state.travelling.cursors == ()
    assert result.state.travelling.records == TRAINING.batches * TRAINING.batch_size
    assert np.isnan(result.loss_first)
    assert np.isnan(result.loss_last)
    assert all(np.isnan(progress.loss) for progress in told)
    assert not torch.equal(
        one.first.weight, other.first.weight
    )  # others know the seed, so noise may not follow from it


def test_private_training_learns_an_easy_task():
    model, data = Net(), source(400)
    private = msgspec.structs.replace(PRIVATE, clip=1.0, noise_multiplier=0.8, sampling_rate=64 / 400)
    training = msgspec.structs.replace(TRAINING, batch_size=64, batches=120, learning_rate=1.0)

    train(model, TASK, data, training, ModelState(), private=private)

    model.eval()
    batch = TASK.prepare(data.take(np.arange(400)))
    assert batch.labels is not None
    right = float((model(batch.inputs["x"]).argmax(dim=1) == batch.labels).float().mean())
    assert right > 0.9


@pytest.mark.parametrize("between", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)])
def test_model_that_mixes_the_records_of_a_batch_is_refused_by_reason_and_left_as_it_was(between):
    model = Net(between)
    before = {name: one.clone() for name, one in model.state_dict().items()}

    with pytest.raises(InputError, match=r"privacy: records of a batch are not apart.*batch normalisation"):
        check_records_apart(model, TASK, records(2))

    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    with pytest.raises(InputError, match="privacy"):
        train(model, TASK, source(), TRAINING, ModelState(), private=PRIVATE)


class Asks(nn.Module):
    """Goes another way for some numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > 0 else -x


def test_model_whose_records_have_no_gradients_of_their_own_is_refused_by_reason():
    with pytest.raises(InputError, match="records"):
        check_records_apart(Net(Asks()), TASK, records(2))


@pytest.mark.parametrize("between", [None, nn.LayerNorm(4), nn.Dropout(0.5)])
def test_model_with_records_apart_is_taken(between):
    check_records_apart(Net(between), TASK, records(2))


def test_regression_has_gradients_of_single_records_too():
    contract = msgspec.structs.replace(CONTRACT, columns=(*COLUMNS, NumberColumn(name="y")), task=Regression(label="y"))
    task = numerics_for(contract.task, contract, torch.device("cpu"))
    model, data = Net(), records(2)
    model.last = nn.Linear(4, 1)

    check_records_apart(model, task, RecordSlice(data.inputs, np.ones(2, np.float32), data.fields, data.dataset))
