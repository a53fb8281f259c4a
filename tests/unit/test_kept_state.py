"""What a preflight puts back after it tried to learn: what training changes, and nothing that may be mapped."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from daitn.learning.numerics.evaluate import keep_state, restore_state  # noqa: E402  # needs torch


def test_trained_state_is_put_back_and_frozen_parameters_are_not_written() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    frozen = model[0].weight.requires_grad_(False)
    kept = keep_state(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    version = frozen._version
    with torch.no_grad():
        model[0].bias.add_(1.0)
        model[1].running_mean.add_(1.0)

    restore_state(model, kept)

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert frozen._version == version, "a write into a file mapped for reading ends the process"
    assert "0.weight" not in kept, "a frozen base of gigabytes is not copied"
