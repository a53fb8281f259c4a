"""Server optimizers: the mean of a round is a direction, and the aggregator steps along it.

Federated averaging takes the mean as the next model. S. Reddi et al. (Adaptive Federated Optimization, ICLR 2021) take
its difference to the model that the round began from as a gradient of their own optimizer: FedAvgM with momentum,
FedAdam and FedYogi with a step of its own for each weight. DiLoCo (A. Douillard et al. 2023) does the same with
Nesterov's momentum after hundreds of local steps. With x the model of before, d = mean - x, all elementwise:

    momentum   v = b v + d                      x + r v
    nesterov   v = b v + d                      x + r (d + b v)
    adam       m = b m + (1 - b) d              v = c v + (1 - c) d²                    x + r m / (√v + t)
    yogi       m as adam                        v = v - (1 - c) d² sign(v - d²)         x + r m / (√v + t)
    scaffold   v = ((n - s) v - s d / h) / n'    x + r d

r, b, c, t: `ServerStep.learning_rate`, `momentum`, `second_moment`, `adaptivity`; v begins at 0, for Adam and Yogi at
t² (their Algorithm 2). Of SCAFFOLD (S. P. Karimireddy et al., ICML 2020) v is the server's control variate, h
`ControlRound.reach`, and s, n, n' are the records of the round's data sets, of all before it and of all after it. Its
paper has every site send the change of its own variate, -v + (x - y) / h; their mean follows from the mean of the
models, so here no site sends one. Only trained parameters take the step: buffers, counters and frozen tensors are the
mean's.

What the optimizer remembers is an artifact of its own, kept where models are averaged; only SCAFFOLD's goes to sites.
Without torch, in blocks, on mapped payloads: memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import BugError, PeerError
from daitn.descriptors.work import ControlRound, ServerStep
from daitn.learning.numerics.blocks import blocks, narrow, tensor_view, widen
from daitn.learning.numerics.slots import CONTROL, is_trained, slot_name

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("mean", "variance"),
    "yogi": ("mean", "variance"),
    "scaffold": (CONTROL,),
}
"""What each optimizer remembers of every trained parameter, as float32."""


@dataclass(frozen=True, slots=True)
class Area:
    """Tensors and the mapped payload that they lie in."""

    entries: Sequence[TensorEntry]
    payload: memoryview

    def places(self) -> dict[str, TensorEntry]:
        """Tensors by name."""
        return {entry.name: entry for entry in self.entries}


def plan_state(entries: Sequence[TensorEntry], step: ServerStep) -> Layout:
    """Layout of what `step` remembers of a model of these tensors."""
    return plan_layout(
        TensorSpec(name=slot_name(kind, entry.name), dtype="float32", shape=entry.shape, role="optimizer")
        for kind in KINDS[step.optimizer]
        for entry in entries
        if is_trained(entry)
    )


class Moved(NamedTuple):
    """How a round moves SCAFFOLD's control variate: v becomes kept · v - moved · d."""

    kept: float
    moved: float


def control_moves(control: ControlRound, records: float) -> Moved:
    """What a round does to the control variate; `records`: of the updates that are in the mean."""
    return Moved(
        (control.records_before - records) / control.records_after, records / control.records_after / control.reach
    )


def take_step(
    step: ServerStep, base: Area, mean: Area, before: Area | None, after: Area, control: Moved | None = None
) -> None:
    """Turn `mean` (written in place) into the next model, and write what is remembered of it into `after`.

    `before`: what was remembered, or None; a tensor that it lacks, or has in another shape, begins anew. `control`: for
    scaffold. PeerError where `base` is another model, or the step leads beyond what the type can hold. Cost: one pass.
    """
    bases, befores = base.places(), before.places() if before is not None else {}
    afters = after.places()
    for entry in mean.entries:
        if not is_trained(entry):
            continue
        origin = bases.get(entry.name)
        if origin is None or (origin.shape, origin.dtype) != (entry.shape, entry.dtype):
            raise PeerError(
                f"the round began from another model: parameter {entry.name!r} is {entry.dtype} {list(entry.shape)} in "
                "the mean and is not in the model before",
                todo="average without a server optimizer",
            )
        kinds = KINDS[step.optimizer]
        slots = [tensor_view(after.payload, afters[slot_name(kind, entry.name)]) for kind in kinds]
        for kind, slot in zip(kinds, slots, strict=True):
            known = befores.get(slot_name(kind, entry.name))
            if before is not None and known is not None and known.shape == entry.shape and known.dtype == "float32":
                slot[...] = tensor_view(before.payload, known)
            else:
                slot.fill(step.adaptivity**2 if kind == "variance" else 0.0)
        target, start = tensor_view(mean.payload, entry), tensor_view(base.payload, origin)
        for block in blocks(len(target)):
            x = widen(start[block], entry.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = x + _change(
                    step, widen(target[block], entry.dtype) - x, [slot[block] for slot in slots], control
                )
                stored = narrow(moved, entry.dtype)
            if not np.isfinite(widen(stored, entry.dtype)).all():
                raise PeerError(
                    f"the server's step ({step.optimizer}, rate {step.learning_rate:g}) leads parameter "
                    f"{entry.name!r} beyond its type",
                    todo="lower the server's learning rate",
                )
            target[block] = stored


def first_slots(step: ServerStep, count: int) -> list[NDArray[np.float32]]:
    """What is remembered of `count` weights before the first step."""
    first = step.adaptivity**2
    return [np.full(count, first if kind == "variance" else 0.0, np.float32) for kind in KINDS[step.optimizer]]


def stepped(
    step: ServerStep, base: NDArray[np.float64], mean: NDArray[np.float64], slots: list[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """The next weights of a trained tensor from the mean of a round that began at `base`; `slots` are brought up to
    date in place. Not for scaffold. May hold infinities."""
    with np.errstate(over="ignore", invalid="ignore"):
        return base + _change(step, mean - base, slots, None)


def _change(
    step: ServerStep, d: NDArray[np.float64], slots: list[NDArray[np.float32]], control: Moved | None
) -> NDArray[np.float64]:
    """How far the weights of a block move; `slots` are brought up to date in place."""
    rate, b, c = step.learning_rate, step.momentum, step.second_moment
    if step.optimizer == "scaffold":
        if control is None:
            raise BugError("a step of scaffold was asked for without the round's records")
        (variate,) = slots
        variate[...] = control.kept * variate.astype(np.float64) - control.moved * d
        return rate * d
    if step.optimizer in ("momentum", "nesterov"):
        (velocity,) = slots
        v = b * velocity.astype(np.float64) + d
        velocity[...] = v
        return rate * (v if step.optimizer == "momentum" else d + b * v)
    mean, variance = slots
    m = b * mean.astype(np.float64) + (1 - b) * d
    v, squared = variance.astype(np.float64), d * d
    v = c * v + (1 - c) * squared if step.optimizer == "adam" else v - (1 - c) * squared * np.sign(v - squared)
    mean[...], variance[...] = m, v
    return np.asarray(rate * m / (np.sqrt(v) + step.adaptivity))
