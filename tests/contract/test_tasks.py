"""One suite over every task family: a tiny model learns, measures, passes the preflight, and stops when told to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    LanguageModelling,
    NumberColumn,
    NumbersInput,
    Regression,
    Reinforcement,
    Retrieval,
    TextColumn,
    TokensInput,
)
from daitn.descriptors.request import METRICS
from daitn.descriptors.work import Training
from daitn.learning.numerics.aggregate import Update, average, plan_average
from daitn.learning.numerics.evaluate import evaluate, preflight
from daitn.learning.numerics.modules import view_tensor
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, NotFiniteError, Progress, Seeds, TrainResult, train
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice, TaskNumerics
from daitn.learning.tasks.reinforcement import ReinforcementNumerics

RNG = np.random.default_rng(0)
NUMBERS = (NumberColumn(name="a"), NumberColumn(name="b"))
X = (NumbersInput(name="x", columns=("a", "b")),)


@dataclass(frozen=True)
class Family:
    """What the suite needs of a family."""

    contract: DataContract
    model: Callable[[], nn.Module]
    records: RecordSlice | None
    better: str
    rate: float
    batches: int
    label: str = ""


class Net(nn.Module):
    """A small net over numbers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x)}


class Timid(Net):
    """A policy that goes left at first."""

    def __init__(self) -> None:
        super().__init__(2)
        with torch.no_grad():
            self.net[2].bias.copy_(torch.tensor([1.0, -1.0]))


class NextToken(nn.Module):
    """Guesses the next token from this one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


class Encoder(nn.Module):
    """Mean of token vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 16)

    def forward(self, query: torch.Tensor, query_mask: torch.Tensor) -> torch.Tensor:
        return self.table(query)


class Corridor:
    """Ten steps; going right (action 1) pays."""

    def __init__(self) -> None:
        self._left = 0

    def reset(self, *, seed: int | None = None) -> tuple[NDArray[np.float32], Mapping[str, Any]]:
        self._left = 10
        return np.ones(2, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
        self._left -= 1
        return np.ones(2, np.float32), float(action == 1), self._left == 0, False, {}

    def close(self) -> None:
        self._left = 0


def no_fields(count: int) -> NDArray[np.bool_]:
    return np.zeros((count, 0), bool)


def families() -> dict[str, Family]:
    points = RNG.normal(size=(256, 2)).astype(np.float32)
    side = (points @ [1.0, -2.0] > 0).astype(np.int64)
    counting = (RNG.integers(1, 11, (96, 1)) + np.arange(6)) % 11 + 1
    left = np.stack([np.arange(1, 31), np.zeros(30, int)], axis=1)
    right = np.stack([np.arange(31, 61), np.zeros(30, int)], axis=1)
    mask = np.tile([1, 0], (30, 1))
    pairs = {"query": left, "query_mask": mask, "answer": right, "answer_mask": mask}
    tokens = [
        TokensInput(name=name, column=column, length=2, mask=f"{name}_mask")
        for name, column in (("query", "q"), ("answer", "r"))
    ]
    return {
        "classification": Family(
            DataContract(
                name="t",
                columns=(*NUMBERS, CategoryColumn(name="y", values=("no", "yes"))),
                inputs=X,
                task=Classification(label="y"),
            ),
            lambda: Net(2),
            RecordSlice({"x": points}, side, no_fields(256), "d"),
            "accuracy",
            0.1,
            120,
            "yes",
        ),
        "regression": Family(
            DataContract(
                name="t",
                columns=(*NUMBERS, NumberColumn(name="y")),
                inputs=X,
                task=Regression(label="y", center=5, scale=2),
            ),
            lambda: Net(1),
            RecordSlice({"x": points}, np.tanh(points @ [1.0, -1.0]).astype(np.float32), no_fields(256), "d"),
            "mse",
            0.05,
            120,
        ),
        "language_modelling": Family(
            DataContract(
                name="t",
                columns=(TextColumn(name="w"),),
                inputs=(TokensInput(name="ids", column="w", length=6),),
                task=LanguageModelling(input="ids"),
            ),
            NextToken,
            RecordSlice({"ids": counting}, None, no_fields(96), "d"),
            "accuracy",
            1.0,
            120,
        ),
        "retrieval": Family(
            DataContract(
                name="t",
                columns=(TextColumn(name="q"), TextColumn(name="r")),
                inputs=tuple(tokens),
                task=Retrieval(query="query", answer="answer", candidates=10),
            ),
            Encoder,
            RecordSlice(pairs, None, no_fields(30), "d"),
            "accuracy",
            0.3,
            120,
        ),
        "reinforcement": Family(
            DataContract(name="t", columns=NUMBERS, inputs=X, task=Reinforcement(environment="corridor")),
            Timid,
            None,
            "mean_return",
            0.3,
            30,
        ),
    }


FAMILIES = families()
HIGHER = {"accuracy": True, "mse": False, "mean_return": True}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return FAMILIES[request.param]


def numerics(family: Family) -> TaskNumerics:
    if isinstance(family.contract.task, Reinforcement):
        return ReinforcementNumerics(
            family.contract.task, family.contract, torch.device("cpu"), maker=lambda name: Corridor()
        )
    return numerics_for(family.contract.task, family.contract)


def run(family: Family, model: nn.Module, state: ModelState | None = None, **more: Any) -> TrainResult:
    values: dict[str, Any] = {"batch_size": 15, "batches": family.batches, "learning_rate": family.rate}
    calls = {key: more.pop(key) for key in ("on_progress", "should_stop", "on_start", "arrived") if key in more}
    source = None if family.records is None else MemorySlice(DataSetId("d"), family.records)
    training = Training(**{**values, **more})
    return train(model, numerics(family), source, training, state or ModelState(), seeds=Seeds(1, 2), **calls)


def measured(family: Family, model: nn.Module, name: str) -> float:
    sets = [] if family.records is None else [family.records]
    (figure,) = evaluate(model, numerics(family), sets, [name])
    assert figure.low <= figure.value <= figure.high
    assert figure.records > 0
    return figure.value


def test_model_learns_and_the_result_is_consistent(family: Family) -> None:
    model = family.model()
    before = measured(family, model, family.better)
    starts: list[int] = []
    result = run(family, model, on_start=lambda: starts.append(1))
    after = measured(family, model, family.better)
    assert after > before if HIGHER[family.better] else after < before
    if family.records is not None:
        assert result.loss_last < result.loss_first
        assert result.state.travelling.cursors[0].dataset == "d"
    assert starts == [1]
    assert (result.batches, result.stopped) == (family.batches, False)
    assert result.state.travelling.steps == family.batches
    assert result.update_norm > 0
    assert result.seconds > 0


def test_every_metric_of_the_request_is_measured(family: Family) -> None:
    model = family.model()
    for metric in METRICS[type(family.contract.task)]:
        name = f"{metric}[{family.label}]" if metric in ("recall", "precision") else metric
        assert math.isfinite(measured(family, model, name))


def test_two_visits_equal_one_of_their_length(family: Family) -> None:
    if family.records is None:
        pytest.skip("episodes are drawn anew at each visit")
    once, twice = family.model(), family.model()
    twice.load_state_dict(once.state_dict())
    whole = run(family, once, batches=10)
    middle = run(family, twice, batches=4)
    last = run(family, twice, middle.state, batches=6)
    assert whole.state.travelling == last.state.travelling
    for left, right in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(left, right)


def test_visit_that_is_repeated_gives_the_same_bits(family: Family) -> None:
    first, second = family.model(), family.model()
    second.load_state_dict(first.state_dict())
    results = [run(family, model, batches=5) for model in (first, second)]
    assert results[0].update_norm == results[1].update_norm
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_optimizer_that_is_not_carried_leaves_no_slots(family: Family) -> None:
    carried = run(family, family.model(), batches=2)
    fresh = run(family, family.model(), batches=2, carry_optimizer=False)
    assert carried.state.slots
    assert carried.state.travelling.optimizer == "momentum"
    assert not fresh.state.slots
    assert fresh.state.travelling.optimizer == ""


def test_strong_proximal_term_keeps_the_model_near(family: Family) -> None:
    free = run(family, family.model(), batches=10, optimizer="sgd", learning_rate=0.05)
    torch.manual_seed(0)
    held = run(family, family.model(), batches=10, optimizer="sgd", learning_rate=0.05, proximal=15.0)
    assert held.update_norm < free.update_norm


def test_stopping_ends_before_the_next_batch_and_says_so(family: Family) -> None:
    asked = iter([False, False, True])
    result = run(family, family.model(), should_stop=lambda: next(asked))
    assert (result.batches, result.stopped) == (2, True)


def test_values_that_are_not_finite_are_refused_with_the_batch(family: Family) -> None:
    model = family.model()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(InputError, match="not finite") as caught:
        run(family, model)
    if family.records is not None:
        assert isinstance(caught.value, NotFiniteError)
        assert caught.value.batch == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_model_with_one_weight_that_is_not_finite_measures_as_not_a_number(family: Family, value: float) -> None:
    model = family.model()
    with torch.no_grad():
        next(model.parameters()).view(-1)[-1] = value
    sets = [] if family.records is None else [family.records]
    if family.records is None and math.isnan(value):  # an agent cannot act on it; that rolls the model back too
        with pytest.raises(InputError, match="not finite"):
            evaluate(model, numerics(family), sets, [family.better])
        return
    (figure,) = evaluate(model, numerics(family), sets, [family.better])
    assert math.isnan(figure.value)
    assert figure.records > 0


def test_preflight_tells_a_model_that_can_learn_from_one_that_cannot(family: Family) -> None:
    model = family.model()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sets = [] if family.records is None else [family.records]
    found = preflight(model, numerics(family), sets)
    assert found.overfits
    assert found.batch_seconds > 0
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable"):
        preflight(model, numerics(family), sets)


def test_model_that_gives_the_wrong_shape_is_refused_with_the_right_one(family: Family) -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return self.weight * torch.ones(1, 3, 5, 7)

    with pytest.raises((InputError, ValueError)):
        run(family, Wrong())


def test_progress_is_reported_at_most_five_times_a_second() -> None:
    family = FAMILIES["classification"]
    reports: list[Progress] = []
    result = run(family, family.model(), batches=2000, on_progress=reports.append)
    assert len(reports) <= 5 * result.seconds + 1
    assert [report.done for report in reports] == sorted(report.done for report in reports)


def test_cursors_of_other_data_sets_travel_on() -> None:
    family = FAMILIES["classification"]
    first = run(family, family.model(), batches=2)
    other = MemorySlice(DataSetId("e"), family.records)  # type: ignore[arg-type]
    task = numerics(family)
    training = Training(batch_size=8, batches=3, learning_rate=0.1)
    state = train(family.model(), task, other, training, ModelState(travelling=first.state.travelling)).state
    assert [(c.dataset, c.position) for c in state.travelling.cursors] == [("d", 30), ("e", 24)]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state.travelling))["steps"] == 5


def test_policies_that_learn_at_sites_of_their_own_are_averaged_into_a_better_one():
    """Federated averaging of a policy, in rounds: each site plays in its environment, the mean goes on."""
    family = FAMILIES["reinforcement"]
    model = family.model()
    before = measured(family, model, "mean_return")
    for round_number in range(4):
        start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        updates: list[Update] = []
        for site in range(3):
            model.load_state_dict(start)
            training = Training(batch_size=15, batches=8, learning_rate=0.3)
            found = train(
                model, numerics(family), None, training, ModelState(), seeds=Seeds(1, 10 * round_number + site)
            )
            assert found.records == 0, "an environment has no records: all sites weigh alike"
            updates.append(update_of(f"site {site}", model.state_dict()))
        layout = plan_average(updates)
        output = bytearray(layout.payload_bytes)
        average(updates, layout, memoryview(output))
        model.load_state_dict({one.name: view_tensor(one, memoryview(output)) for one in layout.entries})

    assert measured(family, model, "mean_return") > before + 3


def update_of(name: str, tensors: Mapping[str, torch.Tensor]) -> Update:
    """A model as an aggregator gets it."""
    layout = plan_layout(
        TensorSpec(name=key, dtype="float32", shape=tuple(one.shape), role="parameter") for key, one in tensors.items()
    )
    payload = bytearray(layout.payload_bytes)
    for entry in layout.entries:
        data = tensors[entry.name].detach().contiguous().numpy().tobytes()
        payload[entry.offset : entry.offset + entry.nbytes] = data
    return Update(name=name, weight=1.0, entries=layout.entries, payload=memoryview(bytes(payload)))


@pytest.mark.parametrize("means", [{"elastic": 100.0}, {"distillation": 0.5}], ids=["elastic", "distilled"])
def test_family_learns_without_forgetting(family, means):
    result = run(family, family.model(), **means)

    assert result.batches == family.batches
    assert math.isfinite(result.loss_last)
    assert any(name.startswith("importance/") for name in result.state.slots) == ("elastic" in means)
