"""The learning curve at a unit: it rises where there is something to learn, and leaves model and groups alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.builders import make_training
from torch import nn

from daitn.base.ids import DataSetId
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
    Retrieval,
)
from daitn.learning.numerics.curve import RECORDS_LEAST, learning_curve
from daitn.learning.records import Records
from daitn.learning.tasks import numerics_for

CONTRACT = DataContract(
    name="signs",
    columns=(
        NumberColumn(name="a"),
        NumberColumn(name="b"),
        CategoryColumn(name="label", values=("minus", "plus")),
    ),
    inputs=(NumbersInput(name="x", columns=("a", "b")),),
    task=Classification(label="label"),
)
TRAINING = make_training(batch_size=8, batches=4, learning_rate=0.05, optimizer="momentum")


class Reader(nn.Module):
    """Two numbers → logits of minus, plus; takes its input by the contract's name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def samples(size: int, *, groups: int | None = None, seed: int = 0) -> tuple[Records, ...]:
    """Two sites' samples: the label is the sign of the sum; one site has far more of one label."""
    rng = np.random.default_rng(seed)
    found = []
    for site, shift in (("s1", 0.4), ("s2", -0.4)):
        x = (rng.normal(size=(size, 2)) + shift).astype(np.float32)
        found.append(
            Records(
                inputs={"x": x},
                labels=(x.sum(1) > 0).astype(np.int64),
                fields=np.zeros((size, 0), dtype=np.bool_),
                groups=np.arange(size) if groups is None else np.arange(size) % groups,
                dataset=DataSetId(f"{site}/d"),
            )
        )
    return tuple(found)


def curve(sets: tuple[Records, ...], model: nn.Module | None = None, **knobs):
    """The curve of a small model."""
    torch.manual_seed(0)
    tried = model or Reader()
    return learning_curve(tried, numerics_for(CONTRACT.task, CONTRACT), sets, ("accuracy",), TRAINING, **knobs)


def test_curve_rises_from_untrained_over_a_quarter_to_a_half_of_the_records():
    points = curve(samples(120))

    assert [point.records for point in points] == [0, 60, 120]
    untrained, quarter, half = (point.measurements[0] for point in points)
    assert untrained.value < 0.8 < quarter.value
    assert half.value > 0.9
    assert {one.records for one in (untrained, quarter, half)} == {240}


def test_model_is_left_as_it_was():
    model = Reader().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    assert curve(samples(60), model)

    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_group_is_never_learnt_from_and_measured_on(monkeypatch: pytest.MonkeyPatch):
    import daitn.learning.numerics.curve as module

    seen: list[tuple[set[int], set[int]]] = []
    original = module._fold

    def spy(sets, halves, side):
        for records, half in zip(sets, halves, strict=True):
            seen.append((set(records.groups[half[side]]), set(records.groups[half[1 - side]])))
        return original(sets, halves, side)

    monkeypatch.setattr(module, "_fold", spy)
    assert curve(samples(120, groups=20))
    assert seen
    assert all(not learnt & measured for learnt, measured in seen)


@pytest.mark.parametrize("size", [0, RECORDS_LEAST // 2])
def test_too_few_records_give_no_curve(size: int):
    assert curve(samples(size)) == ()


def test_no_time_gives_no_curve():
    assert curve(samples(120), seconds=0.0) == ()


def test_stop_gives_no_curve():
    assert curve(samples(120), should_stop=lambda: True) == ()


def test_training_that_diverges_gives_no_curve_and_no_error():
    model = Reader()
    with torch.no_grad():
        model.layers[0].weight.fill_(float("inf"))

    assert curve(samples(120), model) == ()


def test_retrieval_is_tried_among_the_answers_of_both_halves():
    contract = DataContract(
        name="pairs",
        columns=(NumberColumn(name="a"), NumberColumn(name="b")),
        inputs=(NumbersInput(name="x", columns=("a", "b")), NumbersInput(name="y", columns=("a", "b"))),
        task=Retrieval(query="x", answer="y", candidates=200),
    )
    size = 60
    values = np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
    pairs = Records(
        inputs={"x": values, "y": values},
        labels=None,
        fields=np.zeros((size, 0), dtype=np.bool_),
        groups=np.arange(size),
        dataset=DataSetId("s1/d"),
    )

    class Alike(Reader):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 2) + 0 * self.layers(x)

    training = make_training(batch_size=8, batches=4, learning_rate=0.0)
    points = learning_curve(Alike(), numerics_for(contract.task, contract), (pairs,), ("mrr",), training)

    assert points[0].measurements[0].value == pytest.approx(1 / size)
    assert points[0].measurements[0].records == size
