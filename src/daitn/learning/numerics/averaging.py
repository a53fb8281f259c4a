"""The model handed on as the running average of its weights; the newest weights travel beside it.

A model that moves between sites of different labels sways: after each visit it leans towards what it saw last. The
sways of a round of visits cancel in the average of the weights, at no further transfer (B. Polyak, A. Juditsky, 1992;
for networks P. Izmailov et al., UAI 2018). What is verified, delivered and served are the package's parameters, so
those are the average, and training goes on from slots `newest/…`; nothing outside this file has to know. (The other
way round, everyone who reads a model would have to choose.)

The average forgets: a step k moves it by m = max(1 / `average_steps`, S / (S + k)) of its distance to the newest
weights, so that early on it reaches back over about a share 1 / S of all steps, and later over `average_steps`.

What is left when the sways have cancelled is creeping: where newest weights and average err alike, noise is not what
holds a model back. So the newest weights *lead*: after each step they go on, away from the average, by `average_lead` ·
r⁴ · m of their distance to it, where r = 1 / (m · `average_steps`), at most 1, says how far grown its reach is. A
direction that many visits have in common is so travelled up to 1 / (1 - `average_lead`) times as fast, and one that the
next visits take back hardly faster. It is a heavy ball (B. Polyak, 1964) over visits instead of steps; what it
remembers is the average, which travels anyway. The fourth power keeps young models from it, which sway more than they
creep: at r and r² the way to 90 % became longer by a third on a hard split (MNIST, 5 sites).

It costs one more copy of the weights in every transfer of the travelling state. Buffers (running statistics of batch
normalisation) are not averaged: they belong to the newest weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from daitn.base.errors import InputError
from daitn.learning.numerics.slots import AVERAGED_STEPS, NEWEST, slot_name

EARLY: Final = 10.0
"""S above: the average of a young model spans a tenth of its steps."""


class Averaging:
    """Holds the average while a visit trains the newest weights. `begin`, a `step` after each batch, `end`."""

    def __init__(self, steps: int, lead: float, parameters: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> None:
        """`steps`, `lead`: `average_steps` and `average_lead`, in [0, 1). `slots`: as they arrived; without those of an
        average, the model as it arrived is the newest.

        InputError where a slot has another shape than its parameter, or the counter is negative.
        """
        self._most, self._lead = steps, lead
        self._parameters = dict(parameters)
        self._arrived = {
            name: slots[slot_name(NEWEST, name)] for name in parameters if slot_name(NEWEST, name) in slots
        }
        for name, slot in self._arrived.items():
            parameter = parameters[name]
            if slot.shape != parameter.shape or slot.dtype != parameter.dtype:
                raise InputError(
                    f"slot {slot_name(NEWEST, name)!r} has shape {tuple(slot.shape)} and type {slot.dtype}, "
                    f"the parameter {tuple(parameter.shape)} and {parameter.dtype}",
                    todo="train without average_steps, or submit the model without optimizer slots",
                )
        counter = slots.get(AVERAGED_STEPS)
        self._steps = int(counter) if counter is not None and self._arrived else 0
        if self._steps < 0:
            raise InputError(f"the average's step counter is {self._steps}", todo="train without average_steps")
        self._averages: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Set the average aside and put the newest weights into the model."""
        self._averages = [parameter.detach().clone() for parameter in self._parameters.values()]
        for name, slot in self._arrived.items():
            self._parameters[name].copy_(slot)

    @torch.no_grad()
    def step(self) -> None:
        """The newest weights have made a step: the average follows, and they go on ahead of it."""
        self._steps += 1
        weight = max(1.0 / self._most, EARLY / (EARLY + self._steps))
        torch._foreach_lerp_(self._averages, list(self._parameters.values()), weight)
        if self._lead:
            ahead = self._lead * weight / (weight * self._most) ** 4
            torch._foreach_lerp_(list(self._parameters.values()), self._averages, -ahead)

    @torch.no_grad()
    def end(self) -> dict[str, Tensor]:
        """Put the average into the model; the slots to travel on."""
        slots: dict[str, Tensor] = {AVERAGED_STEPS: torch.tensor(self._steps, dtype=torch.int64)}
        for (name, parameter), average in zip(self._parameters.items(), self._averages, strict=True):
            slot = self._arrived.get(name)
            newest = torch.empty_like(parameter) if slot is None else slot
            slots[slot_name(NEWEST, name)] = newest.copy_(parameter)
            parameter.copy_(average)
        return slots
