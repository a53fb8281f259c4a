"""From a package's parts to a module, and from a payload to its tensors, with as few copies as can be.

The module is built before any tensor is there (a child warms up while the model is still on its way). Then a payload is
*bound*: a tensor that the visit will change is copied once into memory of the module, which is kept and used again by
the next visit; every other tensor is a view of the read-only mapped file, so a frozen base model costs neither time nor
memory. A tensor's bytes in the file stay what they were, which gives the model as it arrived for free.

`transformers` packages name an architecture that the library itself contains; configuration entries that point to code
(`auto_map`) are refused, and of an adapter only LoRA's own numbers are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import torch
from torch import Tensor, nn

from daitn.artifacts.graph import decode_graph_pair
from daitn.artifacts.graph_schema import DtypeName
from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import InputError, PeerError, UnavailableError
from daitn.descriptors.contract import Classification, DataContract, LanguageModelling, Regression, Retrieval
from daitn.learning.graphs.rebuild import rebuild
from daitn.learning.numerics.slots import is_trained

DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}

_AUTO: Final[dict[type, str]] = {
    Classification: "AutoModelForSequenceClassification",
    Regression: "AutoModelForSequenceClassification",
    LanguageModelling: "AutoModelForCausalLM",
    Retrieval: "AutoModel",
}
_ADAPTER_NUMBERS: Final = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "modules_to_save", "use_rslora",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
)  # fmt: skip
"""Entries of an adapter's configuration that are read; others may point to files or modules."""


def build_module(
    kind: Literal["graph", "transformers"], parts: Mapping[str, bytes], contract: DataContract
) -> nn.Module:
    """The model's structure, its memory touched but not filled. PeerError or InputError where the parts are unfit."""
    if kind == "transformers":
        return _build_transformer(parts, contract)
    pair = decode_graph_pair(_part(parts, "graph"))
    # zeros would be pages not yet there; filling them now takes the page faults out of the visit.
    empty = {spec.name: _room(spec.shape, spec.dtype) for spec in pair.parameters}
    empty |= {spec.name: _room(spec.shape, spec.dtype) for spec in pair.buffers}
    return rebuild(pair, empty)


def _room(shape: tuple[int, ...], dtype: DtypeName) -> Tensor:
    return torch.empty(shape, dtype=DTYPES[dtype.value]).fill_(0)


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    try:
        return parts[name]
    except KeyError:
        raise PeerError(f"the package has no part {name!r}", todo="fetch it again, or make it anew") from None


def _build_transformer(parts: Mapping[str, bytes], contract: DataContract) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise UnavailableError(
            "this package needs transformers, which is not installed here", todo="install daitn[transformers]"
        ) from None
    config = _read_json(_part(parts, "config"), "config")
    if "auto_map" in config or "trust_remote_code" in config:
        raise PeerError("the configuration points to code of its own", todo="use an architecture of transformers")
    if type(contract.task) not in _AUTO:
        raise InputError(f"no transformers architecture for {type(contract.task).__name__}", todo="use a graph")
    if isinstance(contract.task, Classification):
        config |= {"num_labels": len(contract.labels())}
    elif isinstance(contract.task, Regression):
        config |= {"num_labels": 1}
    try:
        # `label` names in a configuration must not disagree with the number of labels.
        ready = transformers.AutoConfig.for_model(
            **{key: value for key, value in config.items() if key not in ("id2label", "label2id")}
        )
        module = getattr(transformers, _AUTO[type(contract.task)]).from_config(ready, trust_remote_code=False)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise InputError(f"transformers cannot build this configuration: {str(error)[:300]}") from None
    if "adapter_config" in parts:
        module = _add_adapter(module, _read_json(parts["adapter_config"], "adapter_config"))
    assert isinstance(module, nn.Module)
    return module


def _add_adapter(module: nn.Module, config: dict[str, Any]) -> nn.Module:
    try:
        import peft
    except ImportError:
        raise UnavailableError("this package needs peft", todo="install daitn[transformers]") from None
    if config.get("peft_type", "LORA") != "LORA":
        raise InputError(f"adapter type {str(config.get('peft_type'))[:40]!r} is not supported", todo="use LoRA")
    chosen = {key: config[key] for key in _ADAPTER_NUMBERS if config.get(key) is not None}
    try:
        adapted = peft.get_peft_model(module, peft.LoraConfig(**chosen))
    except (TypeError, ValueError) as error:
        raise InputError(f"the adapter does not fit the model: {str(error)[:300]}") from None
    assert isinstance(adapted, nn.Module)
    return adapted


def _read_json(data: bytes, what: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError(f"part {what!r} does not decode: {str(error)[:200]}") from None


class BoundModule:
    """A module whose tensors come from payloads, one visit after another."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module.to(device)
        self._device = device
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._own: dict[str, Tensor] = {}
        self._aliases: set[str] = set()
        self._remember_places()
        self.slots: dict[str, Tensor] = {}
        self.arrived: dict[str, Tensor] = {}

    def _remember_places(self) -> None:
        seen: set[int] = set()
        for prefix, owner in self.module.named_modules():
            for leaf, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is None or leaf in owner._non_persistent_buffers_set:
                    continue
                name = f"{prefix}.{leaf}" if prefix else leaf
                if id(tensor) in seen:
                    self._aliases.add(name)
                    continue
                seen.add(id(tensor))
                self._places[name] = (owner, leaf)
                self._own[name] = tensor.detach()

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
            if entry.role in ("random", "record") or entry.name in self._aliases:
                continue
            place = self._places.get(entry.name)
            if place is None:
                raise PeerError(f"the payload's tensor {entry.name[:80]!r} is not in the model")
            missing.discard(entry.name)
            self._place(entry, view, *place, changing=changing)
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

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer as it is now."""
        place = self._places.get(name)
        if place is None:
            return None
        owner, leaf = place
        found = owner._parameters.get(leaf)
        return found.detach() if found is not None else owner._buffers.get(leaf)


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
