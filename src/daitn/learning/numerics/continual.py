"""Learning on without forgetting: what mattered for earlier visits is held, and answers of before are kept up.

Two means, both without a record of an earlier visit and each at its own strength (`Training.elastic`, `distillation`):

*Elastic weights* (J. Kirkpatrick et al., PNAS 2017; the running form of J. Schwarz et al., ICML 2018). How much each
weight mattered is the mean square of its gradients, summed over visits and fading with each. It travels as slots
`importance/…` beside the model. After each step a weight w goes back towards where it was when the visit began, a:

    w ← (w + k a) / (1 + k),   k = rate · elastic · importance

which is the step of the quadratic penalty taken implicitly: at any strength it cannot overshoot, where the papers'
explicit one diverges as soon as rate · strength · importance exceeds 2. The importance is the papers' per-example
square up to the mean of a batch: the square of a batch's gradient, times its records.

*Distillation* (Z. Li, D. Hoiem, ECCV 2016). The model as it arrived, in evaluation mode, answers each batch too, and
the loss grows with how far the new answers are from its own: for classes and tokens the divergence of softened
probabilities, else the mean square of the difference.

Memory: one copy of the parameters for the importance, one for where they were, one model as it arrived. Squares of
gradients travel, as an optimizer's slots do; docs/security.md says what gradients tell.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.descriptors.work import Training
from daitn.learning.numerics.slots import IMPORTANCE, slot_name
from daitn.learning.tasks.contract import Batch, Outputs, TaskNumerics, only_output

FADING: Final = 0.9
"""Of the importance from visit to visit: what ten visits ago mattered counts a third."""

TEMPERATURE: Final = 2.0
"""By which logits are softened, as in the paper."""


class Elastic:
    """Holds weights by how much they mattered. `see` each gradient, `pull` after each step, `end`."""

    def __init__(self, training: Training, parameters: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> None:
        """InputError where a slot has another shape than its parameter, or holds what no square can be."""
        self._rate = training.learning_rate * training.elastic
        self._share = training.batch_size / training.batches
        self._parameters = dict(parameters)
        self._anchors = {name: one.detach().clone() for name, one in parameters.items()}
        self._before: dict[str, Tensor] = {}
        self._sums = {name: torch.zeros_like(one) for name, one in parameters.items()}
        for name, parameter in parameters.items():
            slot = slots.get(slot_name(IMPORTANCE, name))
            if slot is None:
                continue
            if slot.shape != parameter.shape or slot.dtype != parameter.dtype or bool((slot < 0).any()):
                raise InputError(
                    f"slot {slot_name(IMPORTANCE, name)!r} has shape {tuple(slot.shape)} and type {slot.dtype}, or a "
                    f"value below 0; the parameter is {tuple(parameter.shape)} and {parameter.dtype}",
                    todo="submit the model without optimizer slots",
                )
            self._before[name] = slot.to(parameter.device)

    @torch.no_grad()
    def see(self) -> None:
        """The gradient of a batch is there."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[name].addcmul_(parameter.grad, parameter.grad, value=self._share)

    @torch.no_grad()
    def pull(self) -> None:
        """A step was made: weights that mattered before go back towards where they were."""
        for name, importance in self._before.items():
            parameter = self._parameters[name]
            k = importance * self._rate
            parameter.add_(self._anchors[name] * k).div_(k + 1)

    @torch.no_grad()
    def end(self) -> dict[str, Tensor]:
        """The slots to travel on."""
        for name, before in self._before.items():
            self._sums[name].add_(before, alpha=FADING)
        return {slot_name(IMPORTANCE, name): one for name, one in self._sums.items()}


class Distillation:
    """The model as it is now, as a teacher of what it becomes. `classes`: whether outputs are logits."""

    def __init__(self, model: nn.Module, task: TaskNumerics, strength: float, *, classes: bool) -> None:
        shared = {id(one): one for one in model.parameters() if not one.requires_grad}
        self._teacher = copy.deepcopy(model, shared).eval()  # frozen parameters are not copied
        self._task = task
        self._strength = strength
        self._classes = classes

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How far `outputs` are from what the model as it arrived says to the batch, times the strength."""
        with torch.no_grad():
            taught = _answers(self._task.forward(self._teacher, batch))
        apart = [self._apart(now, before) for now, before in zip(_answers(outputs), taught, strict=True)]
        return self._strength * torch.stack(apart).mean()

    def _apart(self, now: Tensor, before: Tensor) -> Tensor:
        if not self._classes:
            return (now - before).square().mean()
        soft, sure = torch.log_softmax(now / TEMPERATURE, -1), torch.log_softmax(before / TEMPERATURE, -1)
        return TEMPERATURE**2 * (sure.exp() * (sure - soft)).sum(-1).mean()


def _answers(outputs: Outputs) -> list[Tensor]:
    """What a model says: one tensor, or one for each side of a pair."""
    if isinstance(outputs, tuple) and all(isinstance(one, Tensor) for one in outputs):
        return list(outputs)
    return [only_output(outputs)]
