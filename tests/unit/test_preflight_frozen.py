"""A preflight leaves frozen tensors alone: they may be views of a read-only file, which no one may write to."""

from __future__ import annotations

import torch
from torch import nn

from daitn.learning.numerics.evaluate import keep_state, restore_state


def test_restoring_a_model_writes_to_no_frozen_or_unchanged_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    frozen, trained = model[0].weight, model[2].weight
    model[0].requires_grad_(False)
    kept = keep_state(model)
    assert "0.weight" not in kept
    with torch.no_grad():
        trained.add_(1)
    versions = {name: tensor._version for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    restore_state(model, kept)
    assert torch.equal(trained, kept["2.weight"])
    changed = {
        name
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor._version != versions[name]
    }
    assert changed == {"2.weight"}
    assert frozen._version == versions["0.weight"]
