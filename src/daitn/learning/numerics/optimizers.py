"""Optimizers whose memory travels: every slot is a plain named tensor, written into the artifact beside the weights.

`torch.optim` keeps its state in dictionaries keyed by position and Python numbers; a model that moves from site to site
needs it by name, as tensors that can be chunked, hashed and averaged. The arithmetic is torch's, operation for
operation (`torch.optim.SGD`, `Adam`, `AdamW`, single-tensor form), so results are equal bit for bit; a test holds us to
it. A slot that is missing begins at zero, which for all of these is what a fresh optimizer does.

Names and shapes of the slots: `daitn.learning.numerics.slots`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import torch
from torch import Tensor

from daitn.base.errors import InputError
from daitn.descriptors.work import Training
from daitn.learning.numerics.slots import STEPS, slot_name

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8


class Optimizer(Protocol):
    """One step after another over named parameters that have gradients."""

    slots: dict[str, Tensor]

    def step(self) -> None:
        """Change every parameter that has a gradient; slots are changed in place."""
        ...


def make_optimizer(training: Training, parameters: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> Optimizer:
    """The optimizer that `training` names, going on from `slots` (by name; others than its own are ignored).

    InputError where a slot has another shape than its parameter.
    """
    if training.optimizer in ("adam", "adamw"):
        return Adam(training, parameters, slots, decoupled=training.optimizer == "adamw")
    momentum = training.momentum if training.optimizer == "momentum" else 0.0
    return Descent(training, parameters, slots, momentum)


class Descent:
    """Gradient descent with or without momentum (torch.optim.SGD, dampening 0, no Nesterov)."""

    def __init__(
        self, training: Training, parameters: Mapping[str, Tensor], slots: Mapping[str, Tensor], momentum: float
    ) -> None:
        self._rate = training.learning_rate
        self._decay = training.weight_decay
        self._momentum = momentum
        self._parameters = dict(parameters)
        self.slots: dict[str, Tensor] = {}
        if training.optimizer == "momentum":
            for name, parameter in parameters.items():
                self.slots[slot_name("momentum", name)] = _slot(slots, "momentum", name, parameter)

    @torch.no_grad()
    def step(self) -> None:
        """v = momentum · v + g; p = p - rate · v."""
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            if self._decay:
                gradient = gradient.add(parameter, alpha=self._decay)
            if self.slots:
                gradient = self.slots[slot_name("momentum", name)].mul_(self._momentum).add_(gradient)
            parameter.add_(gradient, alpha=-self._rate)


class Adam:
    """Adam (D. Kingma, J. Ba, ICLR 2015), with decay in the gradient or decoupled (AdamW, Loshchilov, Hutter 2019)."""

    def __init__(
        self, training: Training, parameters: Mapping[str, Tensor], slots: Mapping[str, Tensor], *, decoupled: bool
    ) -> None:
        self._rate = training.learning_rate
        self._decay = training.weight_decay
        self._decoupled = decoupled
        self._parameters = dict(parameters)
        steps = slots.get(STEPS)
        self._steps = 0 if steps is None else int(steps)
        if self._steps < 0:
            raise InputError(f"the optimizer's step counter is {self._steps}", todo="train without carry_optimizer")
        self.slots: dict[str, Tensor] = {STEPS: torch.tensor(self._steps, dtype=torch.int64)}
        for kind in ("mean", "variance"):
            for name, parameter in parameters.items():
                self.slots[slot_name(kind, name)] = _slot(slots, kind, name, parameter)

    @torch.no_grad()
    def step(self) -> None:
        """p = p - rate · m̂ / (√v̂ + ε), with decay where it belongs."""
        self._steps += 1
        self.slots[STEPS].fill_(self._steps)
        first, second = BETAS
        size = self._rate / (1 - first**self._steps)
        root = (1 - second**self._steps) ** 0.5
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            if self._decay and self._decoupled:
                parameter.mul_(1 - self._rate * self._decay)
            elif self._decay:
                gradient = gradient.add(parameter, alpha=self._decay)
            mean, variance = self.slots[slot_name("mean", name)], self.slots[slot_name("variance", name)]
            mean.lerp_(gradient, 1 - first)
            variance.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            denominator = (variance.sqrt() / root).add_(EPSILON)
            parameter.addcdiv_(mean, denominator, value=-size)


@torch.no_grad()
def add_proximal(parameters: Mapping[str, Tensor], arrived: Mapping[str, Tensor], weight: float) -> None:
    """FedProx (T. Li et al., MLSys 2020): the gradient of `weight / 2 · |w - w_arrived|²`, added in place."""
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - arrived[name], alpha=weight)


def clip_gradients(parameters: Mapping[str, Tensor], norm: float) -> None:
    """Scale all gradients together so that their Euclidean norm is at most `norm`."""
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), norm)


def _slot(slots: Mapping[str, Tensor], kind: str, name: str, parameter: Tensor) -> Tensor:
    """The slot as it arrived, or zeros."""
    slot = slots.get(slot_name(kind, name))
    if slot is None:
        return torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
    if slot.shape != parameter.shape or slot.dtype != parameter.dtype:
        raise InputError(
            f"optimizer slot {slot_name(kind, name)!r} has shape {tuple(slot.shape)} and type {slot.dtype}, "
            f"the parameter {tuple(parameter.shape)} and {parameter.dtype}",
            todo="train without carry_optimizer, or submit the model without optimizer slots",
        )
    return slot.to(parameter.device)
