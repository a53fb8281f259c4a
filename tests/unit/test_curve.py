"""The learning curve at a unit: it rises where there is something to learn, and leaves model and groups alone."""

from __future__ import annotations

from collections.abc import Iterator

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
from daitn.learning.numerics.evaluate import evaluate
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small are made faster by one thread, and ten times faster where others are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    task = numerics_for(CONTRACT.task, CONTRACT)
    return learning_curve(tried, task, sets, ("accuracy",), TRAINING, **({"seconds": 600.0} | knobs))


class SlowMachine:
    """A clock that goes on by so much for each step and each measurement, whatever they really take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step_s: float, measure_s: float) -> None:
        import daitn.learning.numerics.curve as module

        self.now_s = 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now_s)
        evaluate, train = module.evaluate, module.train

        def slow_evaluate(*arguments):
            self.now_s += measure_s
            return evaluate(*arguments)

        def slow_train(*arguments, should_stop, **knobs):
            def asked_before_each_step() -> bool:
                if should_stop():
                    return True
                self.now_s += step_s
                return False

            return train(*arguments, should_stop=asked_before_each_step, **knobs)

        monkeypatch.setattr(module, "evaluate", slow_evaluate)
        monkeypatch.setattr(module, "train", slow_train)


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


@pytest.mark.parametrize(
    ("seconds", "records", "measured", "steps"),
    [
        (200.0, [0, 60, 120], 240, 240),
        (60.0, [0, 52, 104], 136, 192),
        (20.0, [0, 104], 136, 172),
        (9.0, [0, 104], 136, 64),
    ],
)
def test_slow_machine_gets_a_shorter_trial_with_the_same_steps_at_each_share(
    monkeypatch: pytest.MonkeyPatch, seconds: float, records: list[int], measured: int, steps: int
):
    machine = SlowMachine(monkeypatch, step_s=0.1, measure_s=1.0)

    points = curve(samples(120), seconds=seconds)

    assert [point.records for point in points] == records
    assert {point.measurements[0].records for point in points} == {measured}
    assert {point.steps for point in points[1:]} == {steps}
    assert points[0].steps == 0
    assert machine.now_s <= seconds


@pytest.mark.parametrize(
    ("seconds", "lost_s", "records", "steps"),
    [
        (60.0, 25.0, [0, 104], {192}),  # one way round: the quarter is left out
        (200.0, 165.0, [0, 104], {240}),  # two: the one that was finished counts
        (20.0, 8.0, [0, 104], {95}),  # the only training is cut short
        (20.0, 12.0, [], set()),  # too short to say anything
    ],
)
def test_machine_that_gets_busier_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, seconds: float, lost_s: float, records: list[int], steps: set[int]
):
    import daitn.learning.numerics.curve as module

    machine = SlowMachine(monkeypatch, step_s=0.1, measure_s=1.0)
    planned = module.fit_to_seconds

    def fit_then_slow(*arguments):
        extent = planned(*arguments)
        machine.now_s += lost_s
        return extent

    monkeypatch.setattr(module, "fit_to_seconds", fit_then_slow)

    points = curve(samples(120), seconds=seconds)

    assert [point.records for point in points] == records
    assert {point.steps for point in points[1:]} == steps


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
    task = numerics_for(contract.task, contract)
    points = learning_curve(Alike(), task, (pairs,), ("mrr",), training, seconds=600.0)

    assert points[0].measurements[0].value == pytest.approx(1 / size)
    assert points[0].measurements[0].records == size


def test_retrieval_trial_measures_the_untrained_model_as_a_verification_does():
    """The trial promises what a verification will measure, so both must ask the same of a model."""
    contract = DataContract(
        name="pairs",
        columns=(NumberColumn(name="a"), NumberColumn(name="b")),
        inputs=(NumbersInput(name="x", columns=("a", "b")), NumbersInput(name="y", columns=("a", "b"))),
        task=Retrieval(query="x", answer="y", candidates=20),
    )
    rng = np.random.default_rng(0)
    sets = []
    for site in ("s1", "s2"):
        values = rng.normal(size=(90, 2)).astype(np.float32)
        near = values + rng.normal(scale=0.3, size=values.shape).astype(np.float32)
        sets.append(
            Records(
                inputs={"x": values, "y": near},
                labels=None,
                fields=np.zeros((90, 0), dtype=np.bool_),
                groups=np.arange(90) // 3,
                dataset=DataSetId(f"{site}/d"),
            )
        )
    task, model = numerics_for(contract.task, contract), Reader()
    verified = evaluate(model, task, sets, ("accuracy", "mrr"))
    training = make_training(batch_size=8, batches=4, learning_rate=1e-3)

    untrained = learning_curve(model, task, sets, ("accuracy", "mrr"), training, seconds=600.0)[0]

    for tried, whole in zip(untrained.measurements, verified, strict=True):
        assert tried.value == pytest.approx(whole.value)
        assert tried.records == whole.records
