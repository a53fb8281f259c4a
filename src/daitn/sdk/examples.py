"""Examples: inputs of the right names, types and ranges, made from a contract alone, to trace a model with.

Tracing looks at shapes and not at values, so any values in range will do; they are drawn from a fixed seed, because a
model that is traced twice should give the same package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract, Reinforcement, Retrieval, TokensInput
from daitn.descriptors.fitting import InputSpec, input_specs

if TYPE_CHECKING:
    import torch

EXAMPLE_RECORDS: Final = 3
"""Records of an example: tracing cannot tell one from a fixed size, and two may be taken for a pair."""

_SEED: Final = 1729


def model_inputs(contract: DataContract) -> tuple[InputSpec, ...]:
    """The inputs a model is called with: all of the contract's, but for retrieval only the query's side."""
    specs = input_specs(contract)
    match contract.task:
        case Retrieval(query=query, answer=answer):
            left_out = {answer, _mask_of(contract, answer)} - {_mask_of(contract, query)}
            return tuple(spec for spec in specs if spec.name not in left_out)
        case Reinforcement() if not specs:
            raise InputError(f"contract {contract.name!r} has no input to make an example of", todo="give `example`")
        case _:
            return specs


def example_inputs(contract: DataContract, records: int = EXAMPLE_RECORDS) -> dict[str, torch.Tensor]:
    """Example tensors by input name, (records, …) each."""
    import torch

    random = np.random.default_rng(_SEED)
    example: dict[str, torch.Tensor] = {}
    for spec in model_inputs(contract):
        shape = (records, *spec.shape)
        if spec.dtype == "int64":
            high = int(spec.high) if spec.high is not None else 1
            array = random.integers(int(spec.low or 0), high + 1, shape).astype(np.int64)
        else:
            array = random.standard_normal(shape).astype(np.float32)
        example[spec.name] = torch.from_numpy(array)
    return example


def batch_sides(example: dict[str, torch.Tensor]) -> dict[str, tuple[str | None, ...]]:
    """What varies: the first side of every input is the batch, all others are fixed by the contract."""
    return {name: ("batch", *(None for _ in tensor.shape[1:])) for name, tensor in example.items()}


def _mask_of(contract: DataContract, name: str) -> str:
    return next((one.mask for one in contract.inputs if isinstance(one, TokensInput) and one.name == name), "")
