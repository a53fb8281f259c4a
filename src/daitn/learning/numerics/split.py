"""Split learning: one model trained by two members of a group, its middle at the one, all else with the records.

P. Vepakomma et al. (2018), in the U shape: the site with the records computes the front of the model, its back and the
loss; its partner computes the middle. A step is four exchanges: activations there, those of the middle back, their
gradient there, the gradient of the first back. What a member computes is what the whole model would compute at one
site, operator for operator, so the trained model is the same up to rounding (`benchmarks/split.py` measures it; random
layers draw other numbers). At the end both members tell each other the tensors that they trained, and make one model.

At the site with the records the crossing is one node of autograd: whoever trains (`learning.numerics.train`) sees a
module like any other. What comes from a partner is checked for form and finiteness before it is computed with.

Not for models that a batch passes twice (retrieval), nor for policies that play between steps (reinforcement).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from daitn.artifacts.manifest import Cursor, TensorEntry
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.work import Training
from daitn.learning.graphs.cutting import CutGraph
from daitn.learning.graphs.rebuild import RebuiltModule, sizes_of, tensors_of
from daitn.learning.numerics.exchange import Array, Exchange, PartnerError, Tensors
from daitn.learning.numerics.lockstep import COUNT_MOST, is_finite
from daitn.learning.numerics.optimizers import add_proximal, make_optimizer
from daitn.learning.numerics.slots import STEPS
from daitn.learning.numerics.train import (
    ModelState,
    NotFiniteError,
    TrainResult,
    advance_state,
    mix_seed,
    update_norm,
)

RECORDS: Final = 0
"""Rank of the member that holds the records."""
MIDDLE: Final = 1
"""Rank of the member that computes the middle."""

_FLOATS: Final = (torch.float32, torch.float64, torch.float16)


class SplitModel(nn.Module):
    """The model as the site with the records sees it: front and back here, the middle at the partner."""

    def __init__(self, module: RebuiltModule, cut: CutGraph, exchange: Exchange) -> None:
        super().__init__()
        self.whole = module
        self._cut = cut
        self.talk = _Talk(exchange, MIDDLE, _trained(module))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """As the whole module in training. PartnerError where the partner is lost or sends what cannot be used,
        NotFiniteError where what is to be sent is not finite."""
        pair, crossing = self.whole.pair, self._cut.crossing
        sizes, tensors = sizes_of(self.whole, inputs), tensors_of(self.whole)
        ordered = [inputs[port.name] for port in pair.inputs]
        given = (ordered[0].device, *sizes, *ordered, *tensors)
        made = self._cut.front(*given)
        up, kept = made[: len(crossing.up)], made[len(crossing.up) :]
        if any(value.dtype not in _FLOATS for value in up):
            raise InputError("what would cross the cut is not floating", todo="cut the model elsewhere")
        self.talk.step += 1
        # A front without trained weights has no gradient; the middle has, so autograd must pass here all the same.
        up = [value if value.requires_grad else value.detach().requires_grad_() for value in up]
        down = _Crossing.apply(self.talk, sizes, len(crossing.down), *up)  # type: ignore[no-untyped-call]
        results = self._cut.back(*given, *down, *kept)
        return {output.name: result for output, result in zip(pair.train.outputs, results, strict=True)}

    def clip(self, parameters: Mapping[str, Tensor], norm: float) -> None:
        """Scale the gradients of both members together so that their norm is at most `norm`."""
        self.talk.clip(parameters, norm)


def _trained(module: RebuiltModule) -> list[str]:
    return [name for name, one in module.named_parameters() if one.requires_grad]


class _Talk:
    """One member's exchanges, step by step."""

    def __init__(self, exchange: Exchange, partner: int, names: Iterable[str] = ()) -> None:
        """`names`: of what the whole model trains, in its own order."""
        self._exchange = exchange
        self._partner = partner
        self._places = {name: place for place, name in enumerate(names)}
        self.step = 0

    def give(self, what: str, values: Sequence[Tensor], **others: Array) -> None:
        """Tensors of ours to the partner. NotFiniteError where one is not finite."""
        arrays = {f"v{number}": value.detach().cpu().numpy() for number, value in enumerate(values)}
        if not all(is_finite(array) for array in arrays.values()):
            raise NotFiniteError(f"what is given to the partner ({what})", self.step)
        self._exchange.exchange(f"{what}/{self.step}", arrays | others)

    def take(self, what: str, count: int) -> tuple[list[Array], Tensors]:
        """The partner's tensors, copied; and all that it gave. PartnerError unless they are so many finite floats."""
        found = self._exchange.exchange(f"{what}/{self.step}", {})[self._partner]
        arrays: list[Array] = []
        for number in range(count):
            array = found.get(f"v{number}")
            if array is None or array.dtype.kind != "f" or not is_finite(array):
                said = "is missing" if array is None else f"is {array.dtype.name}, or not finite"
                raise self.fault(f"sent {what} of which tensor {number} {said}")
            arrays.append(array.copy())
        return arrays, found

    def fault(self, what: str) -> PartnerError:
        return PartnerError(self._partner, f"partner {self._partner} {what}")

    @torch.no_grad()
    def clip(self, parameters: Mapping[str, Tensor], norm: float) -> None:
        """As `clip_gradients` on the whole model, to the last bit: the norms of single tensors are exchanged and put
        together in the model's own order. A sum in another order would round otherwise, and optimizers that divide by
        a gradient's size (Adam) make weights of it where gradients are nearly nought."""
        mine = {
            self._places[name]: torch.linalg.vector_norm(one.grad).cpu()
            for name, one in parameters.items()
            if one.grad is not None
        }
        given: dict[str, Array] = {
            "places": np.array(list(mine), dtype=np.int64),
            "norms": np.array([float(one) for one in mine.values()], dtype=np.float64),
        }
        found = self._exchange.exchange(f"norm/{self.step}", given)[self._partner]
        norms = dict(mine)
        for place, one in self._norms(found, mine).items():
            norms[place] = torch.tensor(one, dtype=next(iter(mine.values()), torch.empty(0)).dtype)
        if not norms:
            return
        total = torch.linalg.vector_norm(torch.stack([norms[place] for place in sorted(norms)]))
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), norm, total)

    def _norms(self, found: Mapping[str, Array], mine: Mapping[int, Tensor]) -> dict[int, float]:
        """The partner's, by the places of their tensors. PartnerError unless they can be norms of what it trains."""
        places, norms = found.get("places"), found.get("norms")
        if places is None or norms is None or places.dtype != np.int64 or norms.dtype != np.float64:
            raise self.fault("tells no norms of its gradients")
        if places.ndim != 1 or places.shape != norms.shape or len(set(places.tolist())) != len(places):
            raise self.fault(f"tells {norms.size} norms for {places.size} places")
        for place, norm in zip(places.tolist(), norms.tolist(), strict=True):
            if not 0 <= place < len(self._places) or place in mine:
                raise self.fault(f"tells the norm of tensor {place}, which is not one that it trains")
            if not math.isfinite(norm) or norm < 0:
                raise self.fault(f"says that the gradient of tensor {place} has the norm {norm}")
        return dict(zip(places.tolist(), norms.tolist(), strict=True))

    def join(self, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], figures: Sequence[float]) -> list[float]:
        """Give our tensors, write the partner's into `theirs`, and get its figures. PartnerError where they do not
        fit or are not finite."""
        given: dict[str, Array] = {
            "tensors": np.concatenate([_bytes_of(one) for one in own.values()] or [np.empty(0, dtype=np.uint8)]),
            "figures": np.array(figures, dtype=np.float64),
        }
        found = self._exchange.exchange("end", given)[self._partner]
        tensors, told = found.get("tensors"), found.get("figures")
        size = sum(one.numel() * one.element_size() for one in theirs.values())
        if tensors is None or tensors.dtype != np.uint8 or tensors.shape != (size,):
            raise self.fault(f"sent a part of the model that is not of {size} bytes")
        if told is None or told.dtype != np.float64 or told.ndim != 1 or not is_finite(told):
            raise self.fault("told no figures of its part, or none that are finite")
        offset = 0
        for name, target in theirs.items():
            end = offset + target.numel() * target.element_size()
            value = torch.from_numpy(tensors[offset:end].copy()).view(target.dtype).reshape(target.shape)
            offset = end
            if value.is_floating_point() and bool(torch.isnan(value).any()):
                raise self.fault(f"sent tensor {name!r} that is not finite")
            with torch.no_grad():
                target.copy_(value)
        return [float(one) for one in told]


class _Crossing(torch.autograd.Function):
    """The middle, as a node of autograd."""

    @staticmethod
    def forward(ctx: Any, talk: _Talk, sizes: Sequence[int], count: int, *up: Tensor) -> tuple[Tensor, ...]:
        ctx.talk, ctx.like = talk, [(one.shape, one.dtype, one.device) for one in up]
        talk.give("up", up, sizes=np.array(sizes, dtype=np.int64))
        arrays, _ = talk.take("down", count)
        return tuple(torch.from_numpy(array).to(up[0].device) for array in arrays)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        talk: _Talk = ctx.talk
        talk.give("gradient", gradients)
        arrays, _ = talk.take("gradient up", len(ctx.like))
        back: list[Tensor] = []
        for array, (shape, dtype, device) in zip(arrays, ctx.like, strict=True):
            if array.shape != tuple(shape):
                raise talk.fault(f"sent a gradient of shape {list(array.shape)}, of {list(shape)} was asked")
            back.append(torch.from_numpy(array).to(device=device, dtype=dtype))
        return (None, None, None, *back)


def train_middle(
    module: RebuiltModule,
    cut: CutGraph,
    exchange: Exchange,
    training: Training,
    state: ModelState,
    *,
    parameters: Mapping[str, nn.Parameter],
    arrived: Mapping[str, Tensor],
    visit_seed: int = 0,
    on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Compute the middle for `training.batches` steps and train its `parameters`, which were as `arrived`.

    What came of it lacks losses and how far the records were read: the partner tells these (`join_as_middle`).
    PartnerError where the partner is lost or sends what the middle cannot be computed with; NotFiniteError where what
    comes of it is not finite.
    """
    talk, crossing = _Talk(exchange, RECORDS, _trained(module)), cut.crossing
    optimizer = make_optimizer(training, parameters, _carried(training, state))
    torch.manual_seed(mix_seed(mix_seed(visit_seed, state.travelling.steps), MIDDLE))
    module.train()
    device = next((one.device for one in tensors_of(module)), torch.device("cpu"))
    blanks = [None] * len(module.pair.inputs)
    began, stopped = time.perf_counter(), False
    on_start()
    while talk.step < training.batches:
        if should_stop():
            stopped = True
            break
        talk.step += 1
        arrays, found = talk.take("up", len(crossing.up))
        sizes = _sizes(talk, module, found)
        up = [torch.from_numpy(array).to(device).requires_grad_() for array in arrays]
        module.zero_grad(set_to_none=True)
        try:
            down = cut.middle(device, *sizes, *blanks, *tensors_of(module), *up)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise talk.fault(f"sent what the middle cannot be computed with: {str(error)[:200]}") from None
        talk.give("down", down)
        gradients, _ = talk.take("gradient", len(down))
        for value, gradient in zip(down, gradients, strict=True):
            if gradient.shape != tuple(value.shape):
                raise talk.fault(f"sent a gradient of shape {list(gradient.shape)} for {list(value.shape)}")
        pairs = [(v, torch.from_numpy(g).to(v)) for v, g in zip(down, gradients, strict=True) if v.requires_grad]
        if pairs:
            torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])
        talk.give("gradient up", [torch.zeros_like(one) if one.grad is None else one.grad for one in up])
        if training.proximal:
            add_proximal(parameters, arrived, training.proximal)
        if training.gradient_clip:
            talk.clip(parameters, training.gradient_clip)
        optimizer.step()
        on_step(talk.step)
    module.zero_grad(set_to_none=True)
    norm = update_norm(parameters, arrived)
    if not math.isfinite(norm):
        raise NotFiniteError("a weight of the middle", talk.step)
    return TrainResult(
        state=ModelState(travelling=state.travelling, slots=optimizer.slots if training.carry_optimizer else {}),
        batches=talk.step,
        records=0,
        loss_first=0.0,
        loss_last=0.0,
        update_norm=norm,
        seconds=time.perf_counter() - began,
        stopped=stopped,
        last_step_unix_ns=time.time_ns(),
    )


class Parts(NamedTuple):
    """Tensors of a model as it is handed on, by the member that trained them; names and order are both members'."""

    records: dict[str, Tensor]
    middle: dict[str, Tensor]


def parts_of(
    entries: Sequence[TensorEntry],
    cut: CutGraph,
    slots: dict[str, Tensor],
    tensor_of: Callable[[str], Tensor | None],
) -> Parts:
    """What each member has trained of a result laid out as `entries`; `slots` gets room for those of the partner."""
    parts = Parts({}, {})
    for entry in entries:
        if entry.role == "optimizer":
            owner = "" if entry.name == STEPS else entry.name.partition("/")[2]
            if entry.name not in slots:
                slots[entry.name] = torch.zeros(entry.shape, dtype=getattr(torch, entry.dtype))
            tensor: Tensor | None = slots[entry.name]
        elif entry.role in ("parameter", "buffer"):
            owner, tensor = entry.name, tensor_of(entry.name)
        else:
            continue
        if tensor is not None:
            (parts.middle if owner in cut.crossing.middle_tensors else parts.records)[entry.name] = tensor
    return parts


def join_at_records(model: SplitModel, result: TrainResult, dataset: DataSetId, parts: Parts) -> TrainResult:
    """Make one model of both members' parts, at the site with the records. PartnerError as the exchange."""
    cursor = next(one for one in result.state.travelling.cursors if one.dataset == dataset)
    figures = (
        result.loss_first, result.loss_last, result.update_norm, float(cursor.epoch), float(cursor.position)
    )  # fmt: skip
    theirs = model.talk.join(parts.records, parts.middle, figures)
    if len(theirs) != 1 or theirs[0] < 0:
        raise model.talk.fault(f"told {theirs[:4]} of its update")
    return replace(result, update_norm=math.hypot(result.update_norm, theirs[0]))


def join_as_middle(
    exchange: Exchange, result: TrainResult, training: Training, dataset: DataSetId, parts: Parts
) -> TrainResult:
    """The same at the member that computed the middle. Losses and how far `dataset` was read are the partner's word."""
    talk = _Talk(exchange, RECORDS)
    told = talk.join(parts.middle, parts.records, (result.update_norm,))
    if len(told) != 5 or min(told[2:]) < 0 or max(told[3:]) > COUNT_MOST or any(one != int(one) for one in told[3:]):
        raise talk.fault(f"told {told[:8]} of its update")
    first, last, norm, epoch, position = told
    read = Cursor(dataset=dataset, epoch=int(epoch), position=int(position))
    before, done = result.state.travelling, result.batches
    travelling = advance_state(before, training, done, done * training.batch_size, (read,))
    return replace(
        result,
        state=ModelState(travelling=travelling, slots=result.state.slots),
        loss_first=first,
        loss_last=last,
        update_norm=math.hypot(norm, result.update_norm),
    )


def _bytes_of(tensor: Tensor) -> Array:
    found: Array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _carried(training: Training, state: ModelState) -> Mapping[str, Tensor]:
    carried = training.carry_optimizer and state.travelling.optimizer == training.optimizer
    return state.slots if carried else {}


def _sizes(talk: _Talk, module: RebuiltModule, found: Tensors) -> list[int]:
    """The sizes of the dimensions as the partner tells them. PartnerError where they are out of their ranges."""
    told = found.get("sizes")
    ranges = module.pair.dimensions
    if told is None or told.dtype != np.int64 or told.shape != (len(ranges),):
        raise talk.fault(f"told no sizes of the {len(ranges)} dimensions of the model")
    for size, dimension in zip(told.tolist(), ranges, strict=True):
        if size < dimension.minimum or (dimension.maximum is not None and size > dimension.maximum):
            raise talk.fault(f"says that {dimension.name} is {size}")
    return [int(size) for size in told]
