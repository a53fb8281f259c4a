"""From a package's parts to a module, and from a payload to its tensors, with as few copies as can be.

The module is built before any tensor is there (a child warms up while the model is still on its way). Then a payload is
*bound*: a tensor that the visit will change is copied once into memory of the module, which is kept and used again by
the next visit; every other tensor is a view of the read-only mapped file, so a frozen base model costs neither time nor
memory. A tensor's bytes in the file stay what they were, which gives the model as it arrived for free.

A graph says itself which tensors it has; a `transformers` description is built with zeros of the package's tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from daitn.artifacts.graph import decode_graph_pair
from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import PeerError
from daitn.learning.graphs.rebuild import rebuild
from daitn.learning.numerics.slots import is_trained

DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


class Structure(NamedTuple):
    """A module, and its tensors (sharing its memory) under the names they have in the package."""

    module: nn.Module
    tensors: Mapping[str, Tensor]


def build_structure(
    kind: Literal["graph", "transformers"], parts: Mapping[str, bytes], entries: Sequence[TensorEntry]
) -> Structure:
    """The model without its numbers, its memory touched, so that no visit pays for page faults.

    `entries`: the package's tensors; a graph needs none. PeerError or InputError where the parts are unfit.
    """
    if kind == "transformers":
        return _build_pretrained(parts, entries)
    pair = decode_graph_pair(_part(parts, "graph"))
    empty = {spec.name: _room(spec.shape, spec.dtype.value) for spec in pair.parameters}
    empty |= {spec.name: _room(spec.shape, spec.dtype.value) for spec in pair.buffers}
    return Structure(rebuild(pair, empty), empty)


def _build_pretrained(parts: Mapping[str, bytes], entries: Sequence[TensorEntry]) -> Structure:
    from daitn.learning.pretrained import build_pretrained, describe_pretrained

    kept = [entry for entry in entries if entry.role in ("parameter", "frozen", "buffer")]
    zeros = {entry.name: _room(entry.shape, entry.dtype) for entry in kept}
    module = build_pretrained(_part(parts, "config"), parts.get("adapter_config"), zeros)
    described = describe_pretrained(module)
    return Structure(module, {**described.base, **described.adapter})


def _room(shape: tuple[int, ...], dtype: str) -> Tensor:
    # zeros() would be pages not yet there; filling them takes the faults out of the first visit.
    return torch.empty(shape, dtype=DTYPES[dtype]).fill_(0)


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    try:
        return parts[name]
    except KeyError:
        raise PeerError(f"the package has no part {name!r}", todo="fetch it again, or make it anew") from None


class BoundModule:
    """A module whose tensors come from payloads, one visit after another."""

    def __init__(self, structure: Structure, device: torch.device) -> None:
        places: dict[int, tuple[nn.Module, str]] = {}
        for owner in structure.module.modules():
            for leaf, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is not None and tensor.data_ptr():
                    places.setdefault(tensor.data_ptr(), (owner, leaf))
        # Found by memory, not by name: adapters rename what they wrap, and the package keeps the owner's names.
        self._places = {
            name: places[tensor.data_ptr()] for name, tensor in structure.tensors.items() if tensor.data_ptr() in places
        }
        self.module = structure.module.to(device)
        self._device = device
        self._own = {name: self._now(*place) for name, place in self._places.items()}
        self._known = set(structure.tensors)
        self.slots: dict[str, Tensor] = {}
        self.arrived: dict[str, Tensor] = {}

    def bind(self, entries: Sequence[TensorEntry], payload: memoryview, *, changing: bool) -> None:
        """Make the module compute with the tensors of `payload`, which must stay mapped until the next `bind`.

        `changing`: whether the visit changes the model; then parameters, buffers and slots are copied out of it.
        PeerError where names, types or shapes are not the module's.
        """
        self.arrived, slots = {}, {}
        missing = set(self._places)
        for entry in entries:
            view = view_tensor(entry, payload)
            if entry.role == "optimizer":
                slots[entry.name] = self._claim_slot(entry, view) if changing else view
                continue
            if entry.role in ("random", "record"):
                continue
            if entry.name not in self._known:
                raise PeerError(f"the payload's tensor {entry.name[:80]!r} is not in the model")
            missing.discard(entry.name)
            if entry.name in self._places:  # empty tensors have no memory to be found by, and no numbers
                self._place(entry, view, *self._places[entry.name], changing=changing)
        if missing:
            raise PeerError(f"the payload lacks tensors of the model: {', '.join(sorted(missing)[:5])}")
        self.slots = slots

    def _place(self, entry: TensorEntry, view: Tensor, owner: nn.Module, leaf: str, *, changing: bool) -> None:
        own = self._own[entry.name]
        if own.shape != view.shape or own.dtype != view.dtype:
            raise PeerError(
                f"tensor {entry.name!r} is {view.dtype} {list(view.shape)}, the model has {own.dtype} {list(own.shape)}"
            )
        trained = is_trained(entry)
        if self._device.type != "cpu" or (changing and entry.role != "frozen"):
            own.copy_(view)
            tensor = own
        else:
            tensor = view
        if trained:
            self.arrived[entry.name] = view
        parameter = owner._parameters.get(leaf)
        if parameter is None:
            owner._buffers[leaf] = tensor
        else:
            parameter.data = tensor
            parameter.requires_grad_(trained)

    def _claim_slot(self, entry: TensorEntry, view: Tensor) -> Tensor:
        """Memory for a slot, kept from visit to visit."""
        own = self._own.get(entry.name)
        if own is None or own.shape != view.shape or own.dtype != view.dtype:
            own = self._own[entry.name] = torch.empty_like(view, device=self._device)
        own.copy_(view)
        return own

    def release(self) -> None:
        """Forget the payload, so that its mapping can go; what was views of it is the module's own memory again."""
        self.arrived, self.slots = {}, {}
        for name, (owner, leaf) in self._places.items():
            parameter = owner._parameters.get(leaf)
            if parameter is None:
                owner._buffers[leaf] = self._own[name]
            else:
                parameter.data = self._own[name]
                parameter.grad = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that a visit trains, by their names in the package."""
        found = {name: owner._parameters.get(leaf) for name, (owner, leaf) in self._places.items()}
        return {name: one for name, one in found.items() if one is not None and one.requires_grad}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer as it is now."""
        place = self._places.get(name)
        return None if place is None else self._now(*place)

    def _now(self, owner: nn.Module, leaf: str) -> Tensor:
        parameter = owner._parameters.get(leaf)
        found = owner._buffers.get(leaf) if parameter is None else parameter
        assert found is not None
        return found.detach()


def view_tensor(entry: TensorEntry, payload: memoryview) -> Tensor:
    """A tensor over a payload's bytes, without a copy; it must not be written to where the payload is read-only."""
    if entry.offset + entry.nbytes > len(payload):
        raise PeerError(f"tensor {entry.name[:80]!r} ends at {entry.offset + entry.nbytes}, the payload {len(payload)}")
    if entry.nbytes == 0:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    with warnings.catch_warnings():
        # torch warns that a read-only buffer is not protected; here the mapping itself is, by the kernel.
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.frombuffer(payload[entry.offset : entry.offset + entry.nbytes], dtype=DTYPES[entry.dtype])
    return flat.reshape(entry.shape)
