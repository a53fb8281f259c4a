"""Synchronous data-parallel steps: every member's gradient is averaged before each step, so all models stay equal.

Each member computes the gradient of a batch of its own, the members exchange them, and every one takes the same mean,
weighted by how many training records each holds: the step is one of the loss over all records together (large-batch
SGD, P. Goyal et al. 2017, with weights for unequal sites). The mean is summed in the order of ranks, in float64, so it
is the same number everywhere, bit for bit, and so are the models after any number of steps. What a step changes besides
parameters is made equal at the end: floating buffers (running statistics) become their mean, others those of rank 0,
and every member's data cursor is told to all.

Cost of a step, P parameters and M members: each sends its P numbers to M - 1 partners and takes theirs. Partners see
one another's gradients; see docs/security.md for what that tells of records.

Legend: P numbers of one exchange, R ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daitn.artifacts.manifest import Cursor
from daitn.base.ids import DataSetId
from daitn.learning.numerics.exchange import Array, Exchange, PartnerError, Tensors

BLOCK_ELEMENTS: Final = 1 << 16
"""Numbers averaged at once: half a megabyte of float64 stays in the cache."""

COUNT_MOST: Final = 2**53
"""Largest count a partner may state: float64 has it exactly."""


class GradientError(ArithmeticError):
    """This member's own gradient is not finite."""


class Lockstep:
    """See the module's docstring. One visit's; `datasets` are the members', by rank."""

    def __init__(
        self,
        exchange: Exchange,
        records: int,
        buffers: Callable[[], Mapping[str, Tensor]],
        datasets: Sequence[DataSetId],
    ) -> None:
        """`records`: training records here. `buffers`: what training has changed besides parameters, by name."""
        self._exchange = exchange
        self._records = records
        self._buffers = buffers
        self._datasets = tuple(datasets)
        self._weights: tuple[float, ...] = ()
        self._flat: dict[str, Array] = {}

    @property
    def rank(self) -> int:
        """This member's place."""
        return self._exchange.rank

    @property
    def members(self) -> int:
        """How many there are."""
        return self._exchange.members

    def begin(self) -> None:
        """Meet the others and learn how much each weighs. PartnerError as the exchange."""
        mine = np.array([max(1, self._records)], dtype=np.int64)
        found = self._exchange.exchange("begin", {"records": mine}, alike=True)
        counts = [int(one["records"][0]) for one in found]
        for rank, count in enumerate(counts):
            if not 0 < count <= COUNT_MOST:
                raise PartnerError(rank, f"partner {rank} says that it has {count} training records")
        self._weights = tuple(count / sum(counts) for count in counts)

    def average_gradients(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Replace each gradient by the mean of all members'; one that only some have counts as zero at the others.

        GradientError where ours is not finite, PartnerError where a partner's is not or the exchange fails.
        """
        given: dict[str, Array] = self._flatten(
            {name: parameter.grad for name, parameter in parameters.items()}, parameters
        )
        for array in given.values():
            if not is_finite(array):
                raise GradientError
        given["present"] = np.array([one.grad is not None for one in parameters.values()], dtype=np.uint8)
        found = self._exchange.exchange(f"gradient/{step}", given, alike=True)
        present = np.any([one["present"] for one in found], axis=0)
        means = self._means(found, given)
        offsets = dict.fromkeys(means, 0)
        for (_, parameter), there in zip(parameters.items(), present, strict=True):
            kind = _kind(parameter)
            start = offsets[kind]
            offsets[kind] = end = start + parameter.numel()
            if there:
                mean = torch.from_numpy(means[kind][start:end]).view(parameter.shape)
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(mean)

    def finish(self, cursor: Cursor | None) -> tuple[Cursor, ...]:
        """Make buffers equal, and learn how far every member has read. PartnerError as above."""
        buffers = dict(sorted(self._buffers().items()))
        floating = {name: one for name, one in buffers.items() if one.is_floating_point()}
        whole = {name: one for name, one in buffers.items() if not one.is_floating_point()}
        given = self._flatten(floating, floating)
        for name, tensor in whole.items():
            given[f"whole/{name}"] = tensor.detach().cpu().contiguous().numpy()
        read = (-1, -1) if cursor is None else (cursor.epoch, cursor.position)
        given["cursor"] = np.array(read, dtype=np.int64)
        found = self._exchange.exchange("end", given, alike=True)
        means = self._means(found, given)
        offsets = dict.fromkeys(means, 0)
        for tensor in floating.values():
            kind = _kind(tensor)
            start = offsets[kind]
            offsets[kind] = end = start + tensor.numel()
            tensor.copy_(torch.from_numpy(means[kind][start:end]).view(tensor.shape))
        for name, tensor in whole.items():
            tensor.copy_(torch.from_numpy(np.array(found[0][f"whole/{name}"])))
        return self._cursors([one["cursor"] for one in found])

    def _cursors(self, read: Sequence[Array]) -> tuple[Cursor, ...]:
        cursors: list[Cursor] = []
        for rank, (dataset, array) in enumerate(zip(self._datasets, read, strict=True)):
            epoch, position = int(array[0]), int(array[1])
            if (epoch, position) == (-1, -1):
                continue
            if epoch < 0 or position < 0:
                raise PartnerError(rank, f"partner {rank} says that it has read to {epoch}, {position}")
            cursors.append(Cursor(dataset=dataset, epoch=epoch, position=position))
        return tuple(cursors)

    def _flatten(self, values: Mapping[str, Tensor | None], like: Mapping[str, Tensor]) -> dict[str, Array]:
        """All numbers one behind the other, by kind, in memory that is kept from step to step."""
        sizes: dict[str, int] = {}
        for tensor in like.values():
            sizes[_kind(tensor)] = sizes.get(_kind(tensor), 0) + tensor.numel()
        flat: dict[str, Array] = {}
        for kind, size in sizes.items():
            kept = self._flat.get(kind)
            if kept is None or len(kept) != size:
                kept = self._flat[kind] = np.zeros(size, dtype=kind)
            flat[kind] = kept
        offsets = dict.fromkeys(sizes, 0)
        for name, tensor in like.items():
            kind, value = _kind(tensor), values[name]
            start = offsets[kind]
            offsets[kind] = end = start + tensor.numel()
            room = torch.from_numpy(flat[kind][start:end])
            if value is None:
                room.zero_()
            else:
                room.copy_(value.detach().reshape(-1))
        return flat

    def _means(self, found: Sequence[Tensors], given: Tensors) -> dict[str, Array]:
        """The mean of what is summed, by kind. PartnerError naming who sent what is not finite."""
        means: dict[str, Array] = {}
        for kind in [name for name in given if name in ("float32", "float64")]:
            views = [one[kind] for one in found]
            mean = weighted_mean(views, self._weights)
            if not is_finite(mean):
                for rank, view in enumerate(views):
                    if not is_finite(view):
                        raise PartnerError(rank, f"partner {rank} sent numbers that are not finite")
                raise GradientError
            means[kind] = mean
        return means


def weighted_mean(views: Sequence[Array], weights: Sequence[float]) -> Array:
    """Mean of arrays of one type, in the order given; weights sum to one. Equal values stay exact.

    Differences to the first are summed in float64: O(P) memory for the result, one block beside it.
    """
    first = views[0]
    mean = np.empty_like(first)
    total = np.empty(min(BLOCK_ELEMENTS, len(first)), dtype=np.float64)
    part = np.empty_like(total)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(first), BLOCK_ELEMENTS):
            block = slice(start, min(start + BLOCK_ELEMENTS, len(first)))
            size = block.stop - block.start
            sums, scratch = total[:size], part[:size]
            sums[:] = first[block]
            for view, weight in zip(views[1:], weights[1:], strict=True):
                np.subtract(view[block], first[block], out=scratch, dtype=np.float64)
                scratch *= weight
                sums += scratch
            mean[block] = sums
    return mean


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite; the sum is looked at first, which costs a third."""
    with np.errstate(invalid="ignore", over="ignore"):
        return math.isfinite(float(array.sum(dtype=np.float64))) or bool(np.isfinite(array).all())


def _kind(tensor: Tensor) -> str:
    """The type numbers are exchanged in: halves as float32, which has them exactly."""
    return "float64" if tensor.dtype == torch.float64 else "float32"
