"""Which optimizer slots travel with a model, by name and shape: known without torch, so that room can be laid out.

Slots are tensors of role `optimizer`: `momentum/<parameter>` for momentum; `mean/<parameter>`, `variance/<parameter>`
and the counter `adam/steps` for Adam and AdamW. They have the shape and type of their parameter. Where the model that
is handed on is an average (`Training.average_steps`), the newest weights are slots too: `newest/<parameter>`, with the
counter `average/steps`. With elastic weights (`Training.elastic`) `importance/<parameter>` travels, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import TensorEntry
from daitn.descriptors.work import Training

STEPS: Final = "adam/steps"
"""int64, shape (): steps so far, for Adam's bias correction."""
NEWEST: Final = "newest"
"""Kind of the slots that hold the newest weights while the parameters are their running average."""
AVERAGED_STEPS: Final = "average/steps"
"""int64, shape (): steps averaged so far."""
IMPORTANCE: Final = "importance"
"""Kind of the slots that hold how much each weight mattered for earlier visits (`Training.elastic`)."""
CONTROL: Final = "control"
"""Kind of the tensors that hold a control variate: float32, in an artifact of their own, never beside a model."""

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


def slot_specs(training: Training, entries: Iterable[TensorEntry]) -> tuple[TensorSpec, ...]:
    """The slots that travel with a model of these tensors when it is trained so."""
    if not training.carry_optimizer:
        return ()
    kinds = KINDS[training.optimizer] + ((NEWEST,) if training.average_steps else ())
    kinds += (IMPORTANCE,) if training.elastic else ()
    trained = [entry for entry in entries if is_trained(entry)]
    specs = [
        TensorSpec(name=slot_name(kind, entry.name), dtype=entry.dtype, shape=entry.shape, role="optimizer")
        for kind in kinds
        for entry in trained
    ]
    counters = ([STEPS] if "variance" in kinds else []) + ([AVERAGED_STEPS] if NEWEST in kinds else [])
    specs += [TensorSpec(name=name, dtype="int64", shape=(), role="optimizer") for name in counters]
    return tuple(specs)


def plan_result(entries: Sequence[TensorEntry], training: Training) -> Layout:
    """Layout of what a training visit writes: the model as it arrived, with the slots that travel on."""
    kept = [entry for entry in entries if entry.role != "optimizer"]
    return plan_layout([*kept, *slot_specs(training, entries)])


def plan_control(entries: Iterable[TensorEntry]) -> Layout:
    """Layout of a control variate of a model of these tensors: one float32 tensor per trained parameter."""
    return plan_layout(
        TensorSpec(name=slot_name(CONTROL, entry.name), dtype="float32", shape=entry.shape, role="optimizer")
        for entry in entries
        if is_trained(entry)
    )
