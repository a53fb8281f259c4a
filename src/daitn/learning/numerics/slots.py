"""Which optimizer slots travel with a model, by name and shape: known without torch, so that room can be laid out.

Slots are tensors of role `optimizer`: `momentum/<parameter>` for momentum; `mean/<parameter>`, `variance/<parameter>`
and the counter `adam/steps` for Adam and AdamW. They have the shape and type of their parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import TensorEntry
from daitn.descriptors.work import Training

STEPS: Final = "adam/steps"
"""int64, shape (): steps so far, for Adam's bias correction."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "sgd": (),
    "momentum": ("momentum",),
    "adam": ("mean", "variance"),
    "adamw": ("mean", "variance"),
}
"""Slots per parameter of each optimizer."""


def slot_name(kind: str, parameter: str) -> str:
    """`momentum/encoder.weight`."""
    return f"{kind}/{parameter}"


def is_trained(entry: TensorEntry) -> bool:
    """Whether a tensor is changed by training's gradient: floating, and not frozen."""
    return entry.role == "parameter" and entry.dtype in ("float64", "float32", "float16", "bfloat16")


def slot_specs(optimizer: str, entries: Iterable[TensorEntry]) -> tuple[TensorSpec, ...]:
    """The slots that `optimizer` keeps for a model of these tensors."""
    specs = [
        TensorSpec(name=slot_name(kind, entry.name), dtype=entry.dtype, shape=entry.shape, role="optimizer")
        for kind in KINDS[optimizer]
        for entry in entries
        if is_trained(entry)
    ]
    if "variance" in KINDS[optimizer]:
        specs.append(TensorSpec(name=STEPS, dtype="int64", shape=(), role="optimizer"))
    return tuple(specs)


def plan_result(entries: Sequence[TensorEntry], training: Training) -> Layout:
    """Layout of what a training visit writes: the model as it arrived, with the slots that travel on."""
    kept = [entry for entry in entries if entry.role != "optimizer"]
    slots = slot_specs(training.optimizer, entries) if training.carry_optimizer else ()
    return plan_layout([*kept, *slots])
