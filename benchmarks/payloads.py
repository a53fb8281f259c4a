"""Weights of a torch module as the payload that travels, and back: for benchmarks that average in one process."""

from __future__ import annotations

import torch
from torch import nn

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.learning.numerics.modules import view_tensor


def layout_of(model: nn.Module) -> Layout:
    """Where each parameter lies in a payload."""
    return plan_layout(
        [
            TensorSpec(name=name, dtype="float32", shape=tuple(parameter.shape), role="parameter")
            for name, parameter in model.named_parameters()
        ]
    )


@torch.no_grad()
def store_weights(model: nn.Module, layout: Layout, payload: bytearray) -> None:
    """Parameters → payload."""
    parameters = dict(model.named_parameters())
    for entry in layout.entries:
        data = parameters[entry.name].detach().contiguous().numpy().tobytes()
        payload[entry.offset : entry.offset + entry.nbytes] = data


@torch.no_grad()
def load_weights(model: nn.Module, layout: Layout, payload: bytearray) -> None:
    """Payload → parameters."""
    parameters = dict(model.named_parameters())
    for entry in layout.entries:
        parameters[entry.name].copy_(view_tensor(entry, memoryview(payload)))
