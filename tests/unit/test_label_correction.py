"""The loss that makes up for a batch's mix of labels, and how far a plan lets it."""

from __future__ import annotations

import pytest
import torch
from tests.builders import make_candidate, make_view
from torch.nn import functional

from daitn.decision.hyperparameters import AVERAGE_LEAD, CORRECTION_MOST, correction, propose_training
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, NumberColumn, NumbersInput
from daitn.descriptors.request import Hyperparameters
from daitn.learning.tasks.classification import MISSING, ClassificationNumerics
from daitn.learning.tasks.contract import Batch

LABELS = ("a", "b", "c", "d")


def numerics() -> ClassificationNumerics:
    task = Classification(label="y")
    contract = DataContract(
        name="toy",
        columns=(NumberColumn(name="n"), CategoryColumn(name="y", values=LABELS)),
        inputs=(NumbersInput(name="x", columns=("n",)),),
        task=task,
    )
    return ClassificationNumerics(task, contract, torch.device("cpu"))


def gradient(labels: list[int], strength: float) -> torch.Tensor:
    """Of logits that know nothing, summed over the batch."""
    logits = torch.zeros((len(labels), len(LABELS)), requires_grad=True)
    numerics().loss(logits, Batch(inputs={}, labels=torch.tensor(labels), label_correction=strength)).backward()
    assert logits.grad is not None
    return logits.grad.sum(dim=0)


def test_loss_with_a_correction_is_that_of_logits_moved_by_the_batchs_mix():
    logits = torch.randn((8, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, MISSING])
    prior = 0.7 * torch.tensor([5 / 7, 2 / 7, 0.0, 0.0]) + 0.3 / 4

    found = numerics().loss(logits, Batch(inputs={}, labels=labels, label_correction=0.7))

    assert found == pytest.approx(float(functional.cross_entropy(logits + prior.log(), labels, ignore_index=MISSING)))


def test_correction_keeps_most_of_what_would_push_absent_labels_away():
    plain, corrected = gradient([0, 0, 1, 1], 0.0), gradient([0, 0, 1, 1], 0.9)

    assert float(plain[2]) > 5 * float(corrected[2]) > 0


def test_even_batch_needs_no_correction():
    assert torch.allclose(gradient([0, 1, 2, 3], 0.0), gradient([0, 1, 2, 3], 0.9))


def test_batch_without_a_known_label_is_no_fault():
    logits = torch.zeros((2, 4))
    loss = numerics().loss(logits, Batch(inputs={}, labels=torch.tensor([MISSING, MISSING]), label_correction=0.5))

    assert torch.isnan(loss)  # as it is without a correction: nothing to take the mean of


def test_correction_grows_with_the_length_of_visits_and_with_how_far_labels_lie_apart():
    apart = make_view(make_candidate("s1", {"0": 100.0}), make_candidate("s2", {"1": 100.0}))
    alike = make_view(make_candidate("s1"), make_candidate("s2"))

    assert correction(alike, 50) == 0.0
    assert 0 < correction(apart, 15) < correction(apart, 50) < correction(apart, 10_000) == CORRECTION_MOST


def test_steady_methods_average_lead_and_correct_and_the_owner_may_pin_each():
    view = make_view(make_candidate("s1", {"0": 100.0}), make_candidate("s2", {"1": 100.0}))

    steady, choice = propose_training(view, Hyperparameters(batches_per_visit=20), parallel=False, steady=True)
    plain, _ = propose_training(view, Hyperparameters(batches_per_visit=20), parallel=False)
    pinned, _ = propose_training(
        view, Hyperparameters(average_steps=0, label_correction=0.0), parallel=False, steady=True
    )
    unled, _ = propose_training(view, Hyperparameters(average_lead=0.0), parallel=False, steady=True)

    assert (steady.average_steps, steady.label_correction) == (60, correction(view, 20))
    assert "averaged over 60 steps, the newest leading by 0.8" in choice.chosen
    assert (steady.average_lead, unled.average_lead, plain.average_lead) == (AVERAGE_LEAD, 0.0, 0.0)
    assert unled.average_steps > 0
    assert (plain.average_steps, plain.label_correction) == (0, 0.0)
    assert (pinned.average_steps, pinned.average_lead, pinned.label_correction) == (0, 0.0, 0.0)
