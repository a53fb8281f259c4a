"""Figures and intervals of every task, held against scikit-learn and against plain oracles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByColumn,
    LanguageModelling,
    NumberColumn,
    NumbersInput,
    Regression,
    Reinforcement,
    Retrieval,
    TextColumn,
    TokensInput,
)
from daitn.descriptors.work import Measurement
from daitn.learning.numerics.evaluate import evaluate
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice, take_rows
from daitn.learning.tasks.intervals import bootstrap, mean, proportion, wilson
from daitn.learning.tasks.reinforcement import make_environment, returns_to_go
from daitn.learning.tasks.retrieval import candidates

LABELS = ("a", "b", "c")


class Fixed(nn.Module):
    """Returns the input as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x * self.scale}


def classification(labels: tuple[str, ...] = LABELS) -> DataContract:
    return DataContract(
        name="t",
        columns=(
            NumberColumn(name="n"),
            CategoryColumn(name="y", values=labels),
            CategoryColumn(name="where", values=("low", "high", "empty")),
        ),
        inputs=(NumbersInput(name="x", columns=("n",)),),
        task=Classification(label="y"),
        fields=(FieldByColumn(column="where"),),
    )


def draw(count: int, classes: int, seed: int = 0, groups: int | None = None) -> RecordSlice:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 0.8
    high = rng.random(count) < 0.3
    fields = np.stack([~high, high, np.zeros(count, bool)], axis=1)
    numbers = None if groups is None else rng.integers(0, groups, count)
    return RecordSlice({"x": logits}, labels, fields, "site/d", numbers)


def by_name(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in measurements}


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_figures_equal_scikit_learn_per_field(classes: int) -> None:
    contract = classification(LABELS[:classes])
    records = draw(600, classes)
    names = [
        f"{metric}{field}"
        for field in ("", "@low", "@high")
        for metric in ("accuracy", "balanced_accuracy", "f1", "auc", "loss", "recall[b]", "precision[a]")
    ]
    found = by_name(evaluate(Fixed(), numerics_for(contract.task, contract), [records], names))
    for number, field in enumerate(("", "@low", "@high")):
        mask = np.ones(600, bool) if number == 0 else records.fields[:, number - 1]
        assert records.labels is not None
        truth, logits = records.labels[mask], records.inputs["x"][mask].astype(np.float64)
        guess = logits.argmax(axis=1)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected = {
            "accuracy": sk.accuracy_score(truth, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
            "f1": sk.f1_score(truth, guess, average="macro"),
            "auc": sk.roc_auc_score(truth, shares[:, 1] if classes == 2 else shares, multi_class="ovr"),
            "loss": sk.log_loss(truth, shares),
            "recall[b]": sk.recall_score(truth, guess, labels=[1], average="macro"),
            "precision[a]": sk.precision_score(truth, guess, labels=[0], average="macro"),
        }
        for metric, value in expected.items():
            figure = found[metric + field]
            assert figure.value == pytest.approx(value, abs=1e-5), figure
            assert figure.low <= figure.value <= figure.high
        assert found["accuracy" + field].records == mask.sum()
        assert found["recall[b]" + field].records == (truth == 1).sum()


def test_field_without_records_is_nan_and_unknown_names_are_refused() -> None:
    contract = classification()
    task = numerics_for(contract.task, contract)
    (empty,) = evaluate(Fixed(), task, [draw(50, 3)], ["accuracy@empty"])
    assert math.isnan(empty.value)
    assert empty.records == 0
    assert math.isnan(evaluate(Fixed(), task, [], ["accuracy"])[0].value)
    for name in ("speed", "accuracy@nowhere", "recall", "recall[z]"):
        with pytest.raises(InputError):
            evaluate(Fixed(), task, [draw(20, 3)], [name])


def test_records_outside_the_vocabulary_are_left_out() -> None:
    contract = classification()
    task = numerics_for(contract.task, contract)
    records = draw(100, 3)
    assert records.labels is not None
    spoilt = RecordSlice(records.inputs, np.where(np.arange(100) < 40, 3, records.labels), records.fields, "d")
    (figure,) = evaluate(Fixed(), task, [spoilt], ["accuracy"])
    kept = RecordSlice({"x": records.inputs["x"][40:]}, records.labels[40:], records.fields[40:], "d")
    assert figure == evaluate(Fixed(), task, [kept], ["accuracy"])[0]
    assert torch.isfinite(task.loss(torch.zeros(100, 3), task.prepare(spoilt)))


def test_two_sets_measure_like_one() -> None:
    contract = classification()
    task = numerics_for(contract.task, contract)
    whole = draw(301, 3)
    assert whole.labels is not None
    parts = [
        RecordSlice({"x": whole.inputs["x"][cut]}, whole.labels[cut], whole.fields[cut], "d")
        for cut in (slice(0, 100), slice(100, 301))
    ]
    names = ["accuracy", "f1@high", "auc"]
    assert evaluate(Fixed(), task, parts, names) == evaluate(Fixed(), task, [whole], names)


def test_regression_figures_equal_scikit_learn_in_the_labels_unit() -> None:
    contract = DataContract(
        name="t",
        columns=(NumberColumn(name="n"), NumberColumn(name="y")),
        inputs=(NumbersInput(name="x", columns=("n",)),),
        task=Regression(label="y", center=50.0, scale=10.0),
    )
    rng = np.random.default_rng(1)
    truth = rng.normal(50, 10, 400)
    guess = truth + rng.normal(0, 4, 400)
    records = RecordSlice(
        {"x": ((guess - 50) / 10).astype(np.float32)[:, None]},
        ((truth - 50) / 10).astype(np.float32),
        np.zeros((400, 0), bool),
        "d",
    )
    task = numerics_for(contract.task, contract)
    found = by_name(evaluate(Fixed(), task, [records], ["mse", "mae", "r2", "loss"]))
    assert found["mse"].value == pytest.approx(sk.mean_squared_error(truth, guess), rel=1e-4)
    assert found["mae"].value == pytest.approx(sk.mean_absolute_error(truth, guess), rel=1e-4)
    assert found["r2"].value == pytest.approx(sk.r2_score(truth, guess), abs=1e-4)
    assert all(f.low < f.value < f.high for f in found.values())
    batch = task.prepare(records)
    assert float(task.loss(task.forward(Fixed(), batch), batch)) == pytest.approx(found["mse"].value / 100, rel=1e-4)


def test_language_modelling_counts_tokens_and_leaves_padding_out() -> None:
    contract = DataContract(
        name="t",
        columns=(TextColumn(name="words"),),
        inputs=(TokensInput(name="ids", column="words", length=5),),
        task=LanguageModelling(input="ids"),
    )

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.table[ids]

    ids = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2], [3, 0, 0, 0, 0]])
    records = RecordSlice({"ids": ids}, None, np.zeros((3, 0), bool), "d")
    model = Table()
    task = numerics_for(contract.task, contract)
    found = by_name(evaluate(model, task, [records], ["loss", "perplexity", "accuracy"]))
    pairs = [(1, 2), (2, 3), (4, 5), (5, 6), (6, 1), (1, 2)]
    logs = torch.log_softmax(model.table.detach().double(), dim=1)
    losses = [-float(logs[a, b]) for a, b in pairs]
    assert found["loss"].value == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert found["perplexity"].value == pytest.approx(math.exp(sum(losses) / 6), rel=1e-5)
    hits = [int(logs[a].argmax()) == b for a, b in pairs]
    assert found["accuracy"].value == pytest.approx(sum(hits) / 6)
    batch = task.prepare(records)
    assert float(task.loss(task.forward(model, batch), batch)) == pytest.approx(found["loss"].value, rel=1e-5)


def retrieval(count: int = 5) -> DataContract:
    return DataContract(
        name="t",
        columns=(TextColumn(name="q"), TextColumn(name="a")),
        inputs=(
            TokensInput(name="query", column="q", length=4, mask="query_mask"),
            TokensInput(name="answer", column="a", length=4, mask="answer_mask"),
        ),
        task=Retrieval(query="query", answer="answer", candidates=count),
    )


class Encoder(nn.Module):
    """One row of an orthogonal table per first token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.eye(64))

    def forward(self, query: torch.Tensor, query_mask: torch.Tensor) -> torch.Tensor:
        return self.table[query]


class Constant(Encoder):
    """Answers everything alike."""

    def forward(self, query: torch.Tensor, query_mask: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(query), 8) * self.table.sum()


def pairs_of(ids: list[int]) -> RecordSlice:
    tokens = np.array([[number, 0, 0, 0] for number in ids])
    mask = (np.arange(4) < 1).astype(np.int64)[None].repeat(len(ids), axis=0)
    inputs = {"query": tokens, "query_mask": mask, "answer": tokens.copy(), "answer_mask": mask}
    return RecordSlice(inputs, None, np.zeros((len(ids), 0), bool), "d")


def test_retrieval_ranks_the_right_answer_and_a_constant_model_scores_nothing() -> None:
    contract = retrieval()
    task = numerics_for(contract.task, contract)
    records = pairs_of(list(range(1, 21)))
    right = by_name(evaluate(Encoder(), task, [records], ["accuracy", "mrr"]))
    assert right["accuracy"].value == 1.0
    assert right["accuracy"].records == 20
    wrong = by_name(evaluate(Constant(), task, [records], ["accuracy", "mrr"]))
    assert wrong["accuracy"].value == 0.0
    assert wrong["mrr"].value == pytest.approx(1 / 5)
    doubled = by_name(evaluate(Encoder(), task, [pairs_of([1] * 10)], ["accuracy"]))
    assert doubled["accuracy"].records == 0


def test_retrieval_with_uncounted_records_measures_the_others_among_all() -> None:
    contract = retrieval()
    task = numerics_for(contract.task, contract)
    records = pairs_of([1, 2, 3, 4])
    counted = np.array([True, False, False, True])
    found = by_name(evaluate(Constant(), task, [replace(records, counted=counted)], ["accuracy", "mrr"]))
    assert found["mrr"].records == 2
    assert found["mrr"].value == pytest.approx(1 / 4)
    few = by_name(evaluate(Constant(), task, [take_rows(records, np.array([0, 3]))], ["mrr"]))
    assert few["mrr"].value == pytest.approx(1 / 2)


def test_retrieval_candidates_do_not_depend_on_order_and_rival_equally_often() -> None:
    digests = np.array([bytes([value]) * 32 for value in (9, 3, 7, 1, 5)], dtype="V32")
    rivals = candidates(digests, 3)
    assert rivals.shape == (5, 2)
    assert all(row not in set(rivals[row]) for row in range(5))
    assert (np.bincount(rivals.reshape(-1)) == 2).all()
    shuffled = candidates(digests[::-1], 3)
    named = {bytes(digests[row]): {bytes(digests[rival]) for rival in rivals[row]} for row in range(5)}
    for row in range(5):
        assert {bytes(digests[::-1][rival]) for rival in shuffled[row]} == named[bytes(digests[::-1][row])]


def test_reinforcement_without_gymnasium_says_what_to_install() -> None:
    with pytest.raises(InputError, match="not allowed"):
        make_environment("os:system")
    try:
        import gymnasium  # noqa: F401
    except ImportError:
        with pytest.raises(UnavailableError, match="pip install gymnasium"):
            make_environment("CartPole-v1")
    assert returns_to_go([1.0, 0.0, 2.0], 0.5) == [1.5, 1.0, 2.0]
    assert Reinforcement(environment="x").discount == 0.99


def test_wilson_equals_its_closed_form_and_covers() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == 1.0
    rng = np.random.default_rng(0)
    covered = sum(low <= 0.9 <= high for low, high in (wilson(share, 60) for share in rng.binomial(60, 0.9, 2000) / 60))
    assert 0.92 <= covered / 2000 <= 0.98


def test_intervals_widen_when_records_of_a_group_are_copies() -> None:
    rng = np.random.default_rng(3)
    hits, groups = rng.random(50) < 0.8, np.arange(50)
    single = proportion(hits)
    copied = proportion(np.repeat(hits, 8), np.repeat(groups, 8))
    naive = proportion(np.repeat(hits, 8))
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high), abs=0.01)
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)
    values = rng.normal(size=50)
    assert mean(np.repeat(values, 8), np.repeat(groups, 8))[:3] == pytest.approx(mean(values)[:3], abs=1e-9)
    assert mean(values).high == pytest.approx(values.mean() + 1.96 * values.std(ddof=1) / 50**0.5, rel=1e-3)
    perfect = proportion(np.ones(400), np.repeat(groups, 8))
    assert perfect.low == pytest.approx(wilson(1.0, 50)[0])


def test_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(5).normal(2.0, 1.0, 300)

    def average(weights_RN: np.ndarray) -> np.ndarray:
        return (weights_RN @ values) / weights_RN.sum(axis=1)

    first, second = bootstrap(average, 300), bootstrap(average, 300)
    normal = mean(values)
    assert first == second
    assert first.value == pytest.approx(normal.value)
    assert (first.low, first.high) == pytest.approx((normal.low, normal.high), abs=0.02)
