"""Pretrained models: a `transformers` configuration, by name and numbers only, with an optional PEFT adapter.

The second kind of model package. The architecture is code both sides already have; what travels is a closed
description of it and tensors. Nothing is fetched and no remote code is run: configurations may hold only keys the
architecture itself knows, Auto classes, model types and adapters come from closed lists, and tensors are given by the
caller. With an adapter the base model is frozen and may already be at the site, so that only the adapter travels.

transformers and peft are imported when used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
import torch

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import DaitnError, InputError, PeerError
from daitn.base.units import MIB

CONFIG_BYTES: Final = 1 * MIB
"""Largest configuration: 10,000 labels with their names are 300 kB."""

CONFIG_DEPTH: Final = 8
"""Deepest nesting of a configuration; those of the allowed architectures have 3."""

CONFIG_NUMBER: Final = 1 << 24
"""Largest whole number in a configuration; vocabularies have 262,144, contexts a million tokens."""

CONFIG_LAYERS: Final = 1024
"""Largest number under a key that speaks of layers or experts; public models have 126 layers."""

CONFIG_TEXT: Final = 256
"""Longest string in a configuration: a label's name."""

AUTO_CLASSES: Final = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)
"""transformers' own entry points that may be named."""

MODEL_TYPES: Final = frozenset(
    [
        *("albert", "bart", "bert", "camembert", "convnext", "deberta", "deberta-v2", "deit", "distilbert", "electra"),
        *("gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "modernbert", "mpnet", "opt", "phi", "phi3"),
        *("qwen2", "qwen3", "roberta", "smollm3", "swin", "t5", "vit", "xlm-roberta"),
    ]
)
"""Architectures whose configurations were looked through: flat, and with no key that loads or fetches anything."""

_DROPPED: Final = frozenset({"_name_or_path", "transformers_version", "architectures"})
_REMOTE: Final = frozenset(
    {"auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "code_revision"}
)
_DTYPES: Final = frozenset({None, "float32", "float16", "bfloat16"})
_TODO: Final = "describe the model anew with this version's SDK; models that need remote code cannot travel"

_Rank: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Probability: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_ModuleName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.]{1,256}\Z")]
_ModuleNames: TypeAlias = Annotated[tuple[_ModuleName, ...], msgspec.Meta(max_length=1024)]
_TaskType: TypeAlias = Literal[
    "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"
]


class PretrainedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An architecture: the Auto class, the model type, and the values of its configuration."""

    auto_class: str
    model_type: str
    values: dict[str, Any]


class _Adapter(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="peft_type", tag=str.upper
):
    """What all adapters say. Module names are matched as endings, never as patterns."""

    target_modules: Annotated[_ModuleNames, msgspec.Meta(min_length=1)]
    modules_to_save: _ModuleNames = ()
    task_type: _TaskType | None = None


class Lora(_Adapter, frozen=True):
    """Low-rank adaptation (Hu et al. 2021); `use_dora`, `use_rslora`: its weight-decomposed and rank-stable forms."""

    r: _Rank
    lora_alpha: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    lora_dropout: _Probability = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False


class Ia3(_Adapter, frozen=True):
    """Learned scaling of inner activations (Liu et al. 2022)."""

    feedforward_modules: _ModuleNames = ()
    fan_in_fan_out: bool = False


class Loha(_Adapter, frozen=True):
    """Low-rank Hadamard product (Hyeon-Woo et al. 2021)."""

    r: _Rank
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    rank_dropout: _Probability = 0.0
    module_dropout: _Probability = 0.0


class Lokr(_Adapter, frozen=True):
    """Low-rank Kronecker product (Edalati et al. 2022)."""

    r: _Rank
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    rank_dropout: _Probability = 0.0
    module_dropout: _Probability = 0.0
    decompose_both: bool = False


Adapter: TypeAlias = Lora | Ia3 | Loha | Lokr
_ADAPTERS: Final[dict[str, type[Adapter]]] = {"LORA": Lora, "IA3": Ia3, "LOHA": Loha, "LOKR": Lokr}
_PEFT_CONFIGS: Final[dict[type[Adapter], str]] = {
    Lora: "LoraConfig",
    Ia3: "IA3Config",
    Loha: "LoHaConfig",
    Lokr: "LoKrConfig",
}


class PretrainedParts(msgspec.Struct, frozen=True, kw_only=True):
    """A described model: its bytes, and its tensors by name, base and adapter apart (names never overlap)."""

    config_json: bytes
    adapter_json: bytes | None
    base: dict[str, torch.Tensor]
    adapter: dict[str, torch.Tensor]


def build_pretrained(
    config_json: bytes, adapter_json: bytes | None, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """The model of two JSON texts, in training mode, holding copies of `tensors` (base and adapter together).

    With an adapter everything but the adapter is frozen. PeerError if the description breaks a rule, if transformers or
    peft refuse it, or if names, shapes or types of the tensors are not exactly those of the model. The random state is
    left as it was. Cost: the model's initialisation, plus a shape-only build before anything is allocated.
    """
    from transformers.utils import logging as transformers_logging

    config = _read_config(config_json)
    adapter = None if adapter_json is None else _read_adapter(adapter_json)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            with torch.device("meta"):
                _check_size(_plain_model(config), tensors)
            model = _plain_model(config)
            return _load_plain(model, tensors) if adapter is None else _load_adapted(model, adapter, tensors)
    except DaitnError:
        raise
    except Exception as error:  # transformers and peft raise anything on values they do not like
        raise PeerError(f"the model cannot be built from its description: {str(error)[:300]}", todo=_TODO) from error
    finally:
        transformers_logging.set_verbosity(level)


def describe_pretrained(module: torch.nn.Module) -> PretrainedParts:
    """What `build_pretrained` needs to make `module` again; tensors are the module's own, detached.

    InputError if the model, or its adapter, is not of the closed lists, or uses options that do not travel.
    """
    adapter_json: bytes | None = None
    adapter: dict[str, torch.Tensor] = {}
    plain = module
    if hasattr(module, "peft_config"):
        from peft import get_peft_model_state_dict

        adapter_json = msgspec.json.encode(_describe_adapter(module), order="deterministic")
        found = get_peft_model_state_dict(module, save_embedding_layers=False)
        adapter = {name: tensor.detach() for name, tensor in found.items()}
        plain = module.get_base_model()  # type: ignore[operator]
    config = _describe_config(plain)
    base = {
        _plain_name(name): tensor.detach() for name, tensor in _unique_state(plain).items() if _is_base(name, plain)
    }
    encoded = msgspec.json.encode(config, order="deterministic")
    try:
        _read_config(encoded)
    except PeerError as error:
        raise InputError(f"the model's configuration cannot travel: {error.what}") from None
    return PretrainedParts(config_json=encoded, adapter_json=adapter_json, base=base, adapter=adapter)


def _read_config(data: bytes) -> PretrainedConfig:
    """A configuration under all its limits; PeerError with the key that breaks one."""
    config: PretrainedConfig = _decode(data, PretrainedConfig)
    if config.auto_class not in AUTO_CLASSES:
        raise PeerError(f"{config.auto_class[:80]!r} is not an allowed Auto class", todo=f"one of {AUTO_CLASSES}")
    if config.model_type not in MODEL_TYPES:
        raise PeerError(
            f"{config.model_type[:80]!r} is not an allowed model type", todo=f"one of {sorted(MODEL_TYPES)}"
        )
    _check_values(config.values, "", 0)
    if config.values.get("dtype") not in _DTYPES:
        raise PeerError(f"the configuration asks for the type {str(config.values.get('dtype'))[:40]!r}", todo=_TODO)
    from transformers import AutoConfig

    known = set(AutoConfig.for_model(config.model_type).to_dict()) - _DROPPED - {"model_type"}
    unknown = sorted(set(config.values) - known)
    if unknown:
        raise PeerError(f"{config.model_type} has no configuration keys {unknown[:5]}", todo=_TODO)
    return config


def _check_values(value: Any, path: str, depth: int) -> None:
    """PeerError where a configuration holds something out of range; `path` says where."""
    if depth > CONFIG_DEPTH:
        raise PeerError(f"the configuration nests deeper than {CONFIG_DEPTH} at {path[:80]!r}", todo=_TODO)
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _REMOTE:
                raise PeerError(f"the configuration has the key {key!r}, which stands for remote code", todo=_TODO)
            _check_values(item, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, path, depth + 1)
    elif isinstance(value, str) and len(value) > CONFIG_TEXT:
        raise PeerError(f"the configuration has {len(value)} characters at {path[:80]!r}", todo=_TODO)
    elif isinstance(value, int) and not isinstance(value, bool):
        top = CONFIG_LAYERS if re.search("layer|expert|block", path) and "id2label" not in path else CONFIG_NUMBER
        if abs(value) > top:
            raise PeerError(f"the configuration has {value} at {path[:80]!r}, {top} allowed", todo=_TODO)


def _read_adapter(data: bytes) -> Adapter:
    """An adapter's description; PeerError for anything not in the closed list."""
    adapter: Adapter = _decode(data, Adapter)
    return adapter


def _decode(data: bytes, kind: Any) -> Any:
    """JSON of limited size as `kind`."""
    if len(data) > CONFIG_BYTES:
        raise PeerError(f"a description of {len(data)} bytes, {CONFIG_BYTES} allowed", todo=_TODO)
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        raise PeerError(f"the model's description does not follow the format: {error}", todo=_TODO) from None


def _plain_model(config: PretrainedConfig) -> torch.nn.Module:
    """The bare model, initialised; on the default device."""
    import transformers

    values = transformers.AutoConfig.for_model(config.model_type, **config.values)
    model: torch.nn.Module = getattr(transformers, config.auto_class).from_config(values, trust_remote_code=False)
    if not type(model).__module__.startswith("transformers.models."):
        raise PeerError(f"{config.model_type} is not transformers' own here", todo="unregister the custom model class")
    return model.train()


def _check_size(shape_only: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """PeerError if the model would take far more memory than the tensors that came for it."""
    needed = sum(parameter.numel() for parameter in shape_only.parameters())
    given = sum(tensor.numel() for tensor in tensors.values())
    if needed > 2 * given + MIB:
        raise PeerError(f"the description asks for {needed} parameters, {given} came with it", todo=_TODO)


def _load_plain(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Copy `tensors` into the bare model."""
    own = _unique_state(model)
    _check_tensors(own, tensors)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return model


def _load_adapted(model: torch.nn.Module, adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Copy base tensors into the bare model, wrap it, and copy the adapter's."""
    import peft

    base_names = set(_unique_state(model))
    _load_plain(model, {name: tensor for name, tensor in tensors.items() if name in base_names})
    adapted: torch.nn.Module = peft.get_peft_model(model, _peft_config(adapter))
    rest = {name: tensor for name, tensor in tensors.items() if name not in base_names}
    _check_tensors(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), rest)
    peft.set_peft_model_state_dict(adapted, rest)
    return adapted.train()


def _peft_config(adapter: Adapter) -> Any:
    """peft's own configuration object for an adapter of ours."""
    import peft

    fields = {name: getattr(adapter, name) for name in adapter.__struct_fields__}
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    fields["modules_to_save"] = fields["modules_to_save"] or None
    return getattr(peft, _PEFT_CONFIGS[type(adapter)])(**fields)


def _check_tensors(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    """PeerError unless names, shapes and types are the same."""
    if set(own) != set(given):
        missing, extra = sorted(set(own) - set(given))[:5], sorted(set(given) - set(own))[:5]
        raise PeerError(f"the tensors are not the model's: missing {missing}, not known {extra}", todo=_TODO)
    for name, tensor in own.items():
        if tensor.shape != given[name].shape or tensor.dtype != given[name].dtype:
            raise PeerError(
                f"tensor {name!r} is {given[name].dtype} {list(given[name].shape)}; "
                f"the model has {tensor.dtype} {list(tensor.shape)}",
                todo=_TODO,
            )


def _unique_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state by name, tied tensors once."""
    unique: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


def _describe_config(model: torch.nn.Module) -> PretrainedConfig:
    """The configuration of a bare model, with the Auto class that makes it."""
    import transformers

    config = getattr(model, "config", None)
    if not isinstance(config, transformers.PretrainedConfig):
        raise InputError(f"{type(model).__name__} is no transformers model", todo="send it as a graph instead")
    values = {key: value for key, value in config.to_dict().items() if key not in _DROPPED | {"model_type"}}
    for name in AUTO_CLASSES:
        mapped = getattr(transformers, name)._model_mapping.get(type(config), None)
        if mapped is type(model) or (isinstance(mapped, tuple) and type(model) is mapped[0]):
            plain = msgspec.json.decode(msgspec.json.encode(values))
            return PretrainedConfig(auto_class=name, model_type=str(config.model_type), values=plain)
    raise InputError(
        f"{type(model).__name__} is made by none of {', '.join(AUTO_CLASSES)}", todo="send it as a graph instead"
    )


def _describe_adapter(module: torch.nn.Module) -> Adapter:
    """The adapter of a peft model; InputError if it has several, or options that do not travel."""
    configs: Any = module.peft_config
    if list(configs) != ["default"]:
        raise InputError(f"the model has the adapters {list(configs)}", todo="keep one, called 'default'")
    theirs = configs["default"].to_dict()
    kind = _ADAPTERS.get(str(getattr(theirs["peft_type"], "value", theirs["peft_type"])))
    if kind is None or not isinstance(theirs["target_modules"], (set, list, tuple)):
        raise InputError(
            f"the adapter {theirs['peft_type']} with targets {theirs['target_modules']!r} cannot travel",
            todo=f"use one of {', '.join(_ADAPTERS)} with a list of module names",
        )
    chosen: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        value = theirs[name]
        value = getattr(value, "value", value)
        chosen[name] = (
            tuple(sorted(set(value or ()))) if name.endswith("_modules") or name == "modules_to_save" else value
        )
    try:
        adapter: Adapter = msgspec.convert(chosen | {"peft_type": kind.__struct_config__.tag}, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"the adapter cannot travel: {error}") from None
    ours = _peft_config(adapter).to_dict()
    lost = [name for name, value in theirs.items() if not _is_local(name) and _plain(value) != _plain(ours.get(name))]
    if lost:
        raise InputError(f"the adapter uses options that do not travel: {', '.join(sorted(lost))}")
    return adapter


def _is_local(name: str) -> bool:
    """Whether an adapter's option says nothing about what it computes: where it came from, how it was initialised."""
    local = {"peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "runtime_config"}
    return name in local or name.startswith("init_") or name == "modules_to_save"


def _plain(value: Any) -> Any:
    """An option for comparing: collections without order, enumerations by value, nothing set as None."""
    value = getattr(value, "value", value)
    return sorted(value) if isinstance(value, (set, list, tuple)) else value or None


_BASE_PARTS: Final = (".base_layer.", ".original_module.")


def _plain_name(name: str) -> str:
    """A tensor's name in the model without its adapter."""
    for part in _BASE_PARTS:
        name = name.replace(part, ".")
    return name


def _is_base(name: str, model: torch.nn.Module) -> bool:
    """Whether a tensor belongs to the base: in a wrapped layer, only the wrapped one's own tensors do."""
    if any(part in name for part in _BASE_PARTS):
        return True
    parts = name.split(".")
    for stop in range(1, len(parts)):
        owner = model.get_submodule(".".join(parts[:stop]))
        if hasattr(owner, "base_layer") or hasattr(owner, "original_module"):
            return False
    return True
