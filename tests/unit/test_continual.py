"""Continual learning: what mattered is held, answers are kept up, forgetting is measured, and less is forgotten."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sklearn.datasets import load_digits  # noqa: E402
from tests.builders import make_candidate, make_package, make_request, make_view, measure  # noqa: E402
from torch import nn  # noqa: E402

from daitn.base.errors import InputError  # noqa: E402
from daitn.base.ids import DataSetId  # noqa: E402
from daitn.decision.drafting import draft_plan  # noqa: E402
from daitn.decision.forgetting import forgotten, said_of  # noqa: E402
from daitn.descriptors.contract import decode_contract  # noqa: E402
from daitn.descriptors.work import Measurement, Training  # noqa: E402
from daitn.learning.methods import METHODS  # noqa: E402
from daitn.learning.numerics.continual import FADING, Distillation, Elastic  # noqa: E402
from daitn.learning.numerics.evaluate import evaluate  # noqa: E402
from daitn.learning.numerics.sources import MemorySlice  # noqa: E402
from daitn.learning.numerics.train import ModelState, Seeds, train  # noqa: E402
from daitn.learning.tasks import numerics_for  # noqa: E402
from daitn.learning.tasks.contract import Batch, RecordSlice  # noqa: E402

NAMES = [f"p{n}" for n in range(64)]
CONTRACT = decode_contract(
    json.dumps(
        {
            "name": "digits",
            "columns": [
                *({"type": "number", "name": name} for name in NAMES),
                {"type": "category", "name": "digit", "values": [str(n) for n in range(10)]},
            ],
            "inputs": [{"type": "numbers", "name": "x", "columns": NAMES}],
            "task": {"type": "classification", "label": "digit"},
            "fields": [
                {"type": "by_values", "name": "early", "column": "digit", "values": list("01234")},
                {"type": "by_values", "name": "late", "column": "digit", "values": list("56789")},
            ],
        }
    ).encode()
)
TRAINING = Training(batch_size=32, batches=150, learning_rate=0.02)
CONTINUAL = METHODS["continual"].prefers


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Threads that wait for one another cost more than these small nets do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


def digits() -> tuple[RecordSlice, RecordSlice, RecordSlice]:
    """Early digits to learn from, late ones, and both to be measured on."""
    data = load_digits()
    x, labels = (data.data / 8 - 1).astype(np.float32), data.target.astype(np.int64)
    fields = np.stack([labels < 5, labels >= 5], axis=1)
    rows = np.random.default_rng(0).permutation(len(x))
    test, rest = rows[:500], rows[500:]

    def part(which: Any) -> RecordSlice:
        return RecordSlice(inputs={"x": x[which]}, labels=labels[which], fields=fields[which], dataset="d")

    return part(rest[labels[rest] < 5]), part(rest[labels[rest] >= 5]), part(test)


def learn(elastic: float, distillation: float, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Figures after the early digits, and after the late ones that follow."""
    task = numerics_for(CONTRACT.task, CONTRACT)
    early, late, test = digits()
    torch.manual_seed(seed)
    model, state = Net(), ModelState()
    training = Training(batch_size=32, batches=150, learning_rate=0.02, elastic=elastic, distillation=distillation)
    found: list[dict[str, float]] = []
    for name, records in (("early", early), ("late", late)):
        source = MemorySlice(DataSetId(f"{name}/digits"), records)
        state = train(model, task, source, training, state, seeds=Seeds(seed, seed)).state
        figures = evaluate(model, task, [test], ["accuracy@early", "accuracy@late", "accuracy"])
        found.append({one.name: one.value for one in figures})
    return found[0], found[1]


def test_less_is_forgotten_of_digits_learnt_before_at_little_cost_to_the_new_ones():
    plain = [learn(0.0, 0.0, seed) for seed in (0, 1)]
    kept = [learn(CONTINUAL.elastic, CONTINUAL.distillation, seed) for seed in (0, 1)]

    def mean(runs: Any, when: int, name: str) -> float:
        return float(np.mean([run[when][name] for run in runs]))

    assert mean(plain, 0, "accuracy@early") >= 0.95
    assert mean(plain, 1, "accuracy@early") <= 0.1, "the other digits are forgotten without it"
    assert mean(kept, 1, "accuracy@early") >= 0.55
    assert mean(kept, 1, "accuracy@late") >= 0.9
    assert mean(kept, 1, "accuracy") >= mean(plain, 1, "accuracy") + 0.25


def test_plan_of_a_continual_run_holds_what_was_learnt_and_says_so():
    request = make_request(method="continual")

    plan = draft_plan(make_view(make_candidate("s1"), make_candidate("s2")), request, make_package(), None)

    assert (plan.training.elastic, plan.training.distillation) == (CONTINUAL.elastic, CONTINUAL.distillation)
    assert plan.training.carry_optimizer
    assert any("held by" in choice.chosen and "kept up" in choice.chosen for choice in plan.choices)


# --- elastic weights ------------------------------------------------------------------------------------------------


def linear(value: float = 1.0) -> dict[str, Any]:
    return {"w": nn.Parameter(torch.full((2,), value))}


def test_weight_goes_back_by_how_much_it_mattered_and_never_beyond_where_it_was():
    parameters = linear()
    slots = {"importance/w": torch.tensor([0.0, 1e9])}
    elastic = Elastic(Training(batch_size=1, batches=1, learning_rate=0.5, elastic=2.0), parameters, slots)
    parameters["w"].data.copy_(torch.tensor([3.0, 3.0]))

    elastic.pull()

    assert parameters["w"].tolist() == pytest.approx([3.0, 1.0])


def test_pull_is_the_implicit_step_of_the_penalty():
    parameters = linear()
    slots = {"importance/w": torch.tensor([4.0, 0.5])}
    elastic = Elastic(Training(batch_size=1, batches=1, learning_rate=0.5, elastic=2.0), parameters, slots)
    parameters["w"].data.copy_(torch.tensor([2.0, 2.0]))

    elastic.pull()

    k = 0.5 * 2.0 * np.array([4.0, 0.5])
    assert parameters["w"].tolist() == pytest.approx(((2.0 + k * 1.0) / (1 + k)).tolist())


def test_importance_is_the_mean_square_of_gradients_and_fades_from_visit_to_visit():
    parameters = linear()
    slots = {"importance/w": torch.tensor([10.0, 0.0])}
    elastic = Elastic(Training(batch_size=8, batches=2, learning_rate=0.1, elastic=1.0), parameters, slots)
    for gradient in ([1.0, 2.0], [3.0, 0.0]):
        parameters["w"].grad = torch.tensor(gradient)
        elastic.see()

    (found,) = elastic.end().values()

    assert found.tolist() == pytest.approx([FADING * 10.0 + 8 * (1 + 9) / 2, 8 * 4 / 2])


@pytest.mark.parametrize("slot", [torch.ones(3), torch.tensor([-1.0, 0.0]), torch.ones(2, dtype=torch.float64)])
def test_importance_that_cannot_be_one_is_refused(slot):
    with pytest.raises(InputError, match="importance/w"):
        Elastic(TRAINING, linear(), {"importance/w": slot})


# --- distillation ---------------------------------------------------------------------------------------------------


def batch_of(count: int = 4) -> Batch:
    return Batch(inputs={"x": torch.randn(count, 64)}, labels=torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize("classes", [True, False])
def test_answers_of_before_cost_nothing_and_others_do(classes):
    task, model, batch = numerics_for(CONTRACT.task, CONTRACT), Net(), batch_of()
    taught = Distillation(model, task, 2.0, classes=classes)

    assert float(taught.loss(model(**batch.inputs), batch).detach()) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        model.layers[2].bias[0] += 3.0
    assert float(taught.loss(model(**batch.inputs), batch).detach()) > 0.1


def test_teacher_shares_what_is_frozen():
    model = Net()
    model.layers[0].requires_grad_(False)

    taught = Distillation(model, numerics_for(CONTRACT.task, CONTRACT), 1.0, classes=True)

    mine = {one.data_ptr() for one in model.parameters()}
    theirs = {one.data_ptr() for one in taught._teacher.parameters()}
    assert len(mine & theirs) == 2


# --- forgetting -----------------------------------------------------------------------------------------------------


def figures(**values: float) -> tuple[Measurement, ...]:
    return tuple(one for name, value in values.items() for one in measure(value, name.replace("_", "@")))


def test_forgetting_is_told_from_the_best_of_before_figure_by_figure():
    looks = [figures(accuracy_low=0.5, accuracy_high=0.9, loss=0.1), figures(accuracy_low=0.8, accuracy_high=0.7)]

    fell = forgotten(looks, figures(accuracy_low=0.6, accuracy_high=0.95, loss=0.5))

    assert fell == {"accuracy@low": pytest.approx(0.2)}
    assert said_of(fell) == "forgotten since its best: accuracy@low 0.20"
    assert said_of({"accuracy@low": 0.001}) == ""
    assert forgotten(looks, figures(accuracy_low=float("nan"))) == {}
