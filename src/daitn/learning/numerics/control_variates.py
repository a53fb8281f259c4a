"""SCAFFOLD at a site (S. P. Karimireddy et al., ICML 2020): each step's gradient, corrected for how this site differs.

With c what all sites' gradients were like and c_i what this data set's were, every step uses g + c - c_i: local steps
then go where the steps of all sites together would, and many of them do not lead away to the site's own optimum. After
K steps at rate r from x to y the data set's own variate becomes (the paper's option II)

    c_i + ((x - y) / (K r) - c)

which is the mean of its uncorrected gradients along the way, with decay and clipping as they were applied. That holds
for plain gradient descent only. Both variates arrive as artifacts of their own and the new one leaves as one, so that a
site remembers nothing; c_i never leaves its site, unless its data set is trained elsewhere the next time.

What differs from the paper: data sets weigh by their records, in c as in the mean of models. Cost of a visit: 2 P
numbers of memory and one addition a step, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from daitn.base.errors import InputError
from daitn.learning.numerics.slots import CONTROL, slot_name


class ControlVariates:
    """See the module's docstring. One visit's."""

    def __init__(
        self, shared: Mapping[str, Tensor] | None, own: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor]
    ) -> None:
        """`shared`, `own`: c and c_i as they arrived, by slot name; None: not known yet, which is zero.

        `parameters`: those that are trained. InputError where a variate is of another model.
        """
        self._parameters = dict(parameters)
        self._shared = _of_model(shared, parameters)
        self._own = _of_model(own, parameters)
        self._correction = {name: self._shared[name] - self._own[name] for name in parameters}

    @torch.no_grad()
    def correct(self) -> None:
        """Add c - c_i to every gradient; a parameter that the loss did not reach has a gradient of zero."""
        for name, parameter in self._parameters.items():
            correction = self._correction[name].to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = correction.clone()
            else:
                parameter.grad.add_(correction)

    @torch.no_grad()
    def end(self, arrived: Mapping[str, Tensor], reach: float) -> dict[str, Tensor]:
        """c_i for the next visit, by slot name. `arrived`: parameters at the start; `reach`: batches times rate."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            start = arrived[name].to(parameter.device).float()
            found[slot_name(CONTROL, name)] = (start - parameter.float()) / reach - self._correction[name]
        return found


def _of_model(variate: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A variate by parameter, on the parameter's device."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if variate is None:
            found[name] = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            continue
        given = variate.get(slot_name(CONTROL, name))
        if given is None or given.shape != parameter.shape or given.dtype != torch.float32:
            said = "none" if given is None else f"one of {given.dtype} {list(given.shape)}"
            raise InputError(
                f"the control variate for parameter {name!r} of shape {list(parameter.shape)}: there is {said}",
                todo="start the run anew: a control variate goes with one model only",
            )
        if not bool(torch.isfinite(given).all()):
            raise InputError(
                f"the control variate for parameter {name!r} is not finite", todo="look at the site that made it"
            )
        found[name] = given.to(parameter.device)
    return found
