"""Proof of an export: the rebuilt pair runs beside the owner's module and must agree with it bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import torch
from torch.utils import _pytree as pytree

from daitn.artifacts.graph_schema import Dimension, DimensionRange, GraphPair
from daitn.base.errors import DaitnError, InputError
from daitn.learning.graphs.rebuild import RebuiltModule, rebuild

_SEED: Final = 1729
_WHY: Final = (
    "everything the model computes must come from its tensors: no Python or NumPy randomness, no counters or lists "
    "kept as plain attributes"
)


def check_example(inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, tuple[str | None, ...]]) -> None:
    """InputError if the example does not fit the names of its sides, or is too small to tell them from 1."""
    for name, labels in dynamic.items():
        if name not in inputs:
            raise InputError(f"`dynamic` speaks of input {name!r}, which is not in the example")
        if len(labels) != inputs[name].dim():
            raise InputError(
                f"`dynamic` names {len(labels)} sides of input {name!r}, the example has {inputs[name].dim()}",
                todo="give one name, or None for a fixed size, per side",
            )
    sizes: dict[str, int] = {}
    for name, labels in dynamic.items():
        for side, label in zip(inputs[name].shape, labels, strict=True):
            if label is None:
                continue
            if side < 2:
                raise InputError(
                    f"the example has {label!r} = {side} in input {name!r}, which cannot be told from a fixed size",
                    todo="give an example with at least 2, better 3",
                )
            if sizes.setdefault(label, side) != side:
                raise InputError(f"the example has {label!r} = {sizes[label]} and {side} in input {name!r}")


def prove(
    module: torch.nn.Module, pair: GraphPair, tensors: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> GraphPair:
    """`pair`, with dimensions that do not hold for a size of 1 starting at 2; InputError where it is not the module.

    Runs both on the example in training and evaluation, with the same random numbers, and in evaluation once more with
    each dimension at 1. The module's buffers and the caller's random state are as before.
    Cost: two forward passes of each, and one more per dimension.
    """
    saved = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for train in (True, False):
            copy = rebuild(pair, {name: tensor.detach().clone() for name, tensor in tensors.items()})
            difference = _difference(module, copy, inputs, train=train)
            _restore(module, saved)
            if difference is not None:
                mode = "training" if train else "evaluation"
                raise InputError(f"the graph does not compute what the module does in {mode}: {difference}", todo=_WHY)
        copy = rebuild(pair, {name: tensor.detach().clone() for name, tensor in tensors.items()})
        narrowed = tuple(
            dimension if _holds_for_one(module, copy, pair, dimension, inputs) else _from_two(dimension)
            for dimension in pair.dimensions
        )
        return msgspec.structs.replace(pair, dimensions=narrowed)
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        _restore(module, saved)


def _from_two(dimension: DimensionRange) -> DimensionRange:
    return DimensionRange(dimension.name, max(2, dimension.minimum), dimension.maximum)


def _holds_for_one(
    module: torch.nn.Module,
    copy: RebuiltModule,
    pair: GraphPair,
    dimension: DimensionRange,
    inputs: Mapping[str, torch.Tensor],
) -> bool:
    """Whether both agree with `dimension` at 1; false too where the module itself cannot take it."""
    if dimension.minimum > 1:
        return True
    small = dict(inputs)
    for port in pair.inputs:
        for side, size in enumerate(port.shape):
            if isinstance(size, Dimension) and size.name == dimension.name:
                small[port.name] = small[port.name].narrow(side, 0, 1)
    try:
        return _difference(module, copy, small, train=False) is None
    except (RuntimeError, IndexError, ValueError, TypeError, DaitnError):
        return False


def _difference(
    module: torch.nn.Module, copy: RebuiltModule, inputs: Mapping[str, torch.Tensor], *, train: bool
) -> str | None:
    """What differs between the module and its copy on `inputs`, in words; None if nothing does."""
    results = []
    for candidate in (module, copy):
        candidate.train(train)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(_SEED)
            results.append(candidate(**{name: tensor.detach().clone() for name, tensor in inputs.items()}))
    theirs = [leaf for leaf in pytree.tree_leaves(results[0]) if isinstance(leaf, torch.Tensor)]
    ours = list(results[1].items())
    if len(theirs) != len(ours):
        return f"{len(ours)} outputs instead of {len(theirs)}"
    for expected, (name, got) in zip(theirs, ours, strict=True):
        if not _same(expected, got):
            return f"output {name!r} differs"
    mine = dict(copy.named_buffers())
    for name, buffer in module.named_buffers():
        if name in mine and not _same(buffer, mine[name]):
            return f"buffer {name!r} differs afterwards"
    return None


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal types, shapes and bits, where NaN equals NaN."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool(((left == right) | ((left != left) & (right != right))).all())


def _restore(module: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Put buffers back as they were."""
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(saved[name])
