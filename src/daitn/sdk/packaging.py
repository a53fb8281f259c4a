"""Packaging: from an `nn.Module` and a contract to a signed package on disk, and from a package back to a module.

Two kinds. A model of `transformers` (with a PEFT adapter or without) is described by name and numbers; any other module
is exported to the closed graph format and proven equal to itself. A module with one input may call it what it likes:
the contract's name is put in its place. torch is imported only when something is packed or unpacked.
"""

from __future__ import annotations

import copy
import inspect
import mmap
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.codec import complete_manifest
from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.layout import Buffer, TensorSpec, boundaries_of, digest_of, plan_layout
from daitn.artifacts.manifest import ChunkRef, DType, Manifest
from daitn.artifacts.package import Package, read_package, write_package
from daitn.artifacts.signatures import sign_parts
from daitn.base.errors import InputError, PeerError
from daitn.base.ids import ArtifactId
from daitn.descriptors.contract import DataContract, TokensInput, check_contract, decode_contract
from daitn.sdk.examples import batch_sides, example_inputs, model_inputs

if TYPE_CHECKING:
    import torch

_STATE_ROLES: Final = ("parameter", "frozen", "buffer")

_EXPORTING: Final = threading.Lock()
"""`torch.export` is not thread-safe."""


def package_module(
    module: torch.nn.Module,
    contract: DataContract,
    folder: Path,
    *,
    key: Ed25519PrivateKey,
    name: str,
    example: Mapping[str, torch.Tensor] | None = None,
    dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
    tokenizer: bytes | None = None,
) -> ArtifactId:
    """Write `module` as a package signed with `key` into `folder` (missing or empty); returns the artifact's id.

    `example` and `dynamic` as in `export_pair`; made from the contract if not given. InputError where the module does
    not take the contract's inputs or cannot be exported. Cost: 2 to 10 s for a graph.
    """
    check_contract(contract)
    parts: dict[str, Buffer] = {"contract": msgspec.json.encode(contract, order="deterministic")}
    parts |= _tokenizer_part(contract, tokenizer)
    kind: Literal["graph", "transformers"]
    if _is_pretrained(module):
        from daitn.learning.pretrained import describe_pretrained

        kind, described = "transformers", describe_pretrained(module)
        parts["config"] = described.config_json
        if described.adapter_json is not None:
            parts["adapter_config"] = described.adapter_json
        tensors = {**described.base, **described.adapter}
        roles = dict.fromkeys(described.base, "frozen" if described.adapter_json else "parameter")
        roles |= dict.fromkeys(described.adapter, "parameter")
    else:
        from daitn.learning.graphs.export import export_pair

        kind = "graph"
        given = dict(example) if example is not None else example_inputs(contract)
        with _EXPORTING:
            pair, tensors = export_pair(_with_names(module, contract), given, dynamic or batch_sides(given))
        parts["graph"] = encode_graph_pair(pair)
        roles = {one.name: "parameter" if one.trainable else "frozen" for one in pair.parameters}
        roles |= {one.name: "buffer" for one in pair.buffers}
    specs = [
        TensorSpec(name=each, dtype=_dtype(tensor), shape=tuple(tensor.shape), role=roles[each])  # type: ignore[arg-type]
        for each, tensor in tensors.items()
    ]
    layout = plan_layout(specs)
    draft = Manifest(
        kind=kind, name=name, parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    arrays = {each: _tensor_bytes(tensor) for each, tensor in tensors.items()}
    manifest = sign_parts(complete_manifest(draft, parts, arrays), key)
    return write_package(folder, manifest, parts, arrays)


def load_module(package: Package | Path) -> torch.nn.Module:
    """The model of a package, in evaluation mode, holding copies of its tensors. InputError for kinds without one."""
    import torch

    package = read_package(package) if isinstance(package, Path) else package
    manifest = package.manifest
    tensors: dict[str, torch.Tensor] = {}
    for entry in manifest.tensors:
        if entry.role in _STATE_ROLES:
            data = bytearray(package.tensors[entry.name])
            kind = getattr(torch, entry.dtype)
            tensor = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            tensors[entry.name] = tensor.reshape(entry.shape)
    match manifest.kind:
        case "graph":
            from daitn.learning.graphs.rebuild import rebuild

            return rebuild(decode_graph_pair(bytes(package.parts["graph"])), tensors).eval()
        case "transformers":
            from daitn.learning.pretrained import build_pretrained

            adapter = package.parts.get("adapter_config")
            config = bytes(package.parts["config"])
            return build_pretrained(config, None if adapter is None else bytes(adapter), tensors).eval()
        case _:
            raise InputError(f"a package of kind {manifest.kind!r} holds no model that can be called here")


def contract_of(package: Package) -> DataContract:
    """The contract of a package; InputError if it has none."""
    if "contract" not in package.parts:
        raise InputError(f"package {package.manifest.name!r} has no contract")
    return decode_contract(bytes(package.parts["contract"]), "the package's contract")


def chunks_of(package: Package) -> Iterator[tuple[ChunkRef, bytes]]:
    """Every chunk of a package with its bytes, in manifest order; one chunk in memory at a time."""
    manifest = package.manifest
    for part in manifest.parts:
        data, start = memoryview(package.parts[part.name]), 0
        for ref in part.chunks:
            yield ref, bytes(data[start : start + ref.size])
            start += ref.size
    cuts = boundaries_of(manifest)
    entries = [entry for entry in manifest.tensors if entry.nbytes]
    first = 0
    for ref, start, end in zip(manifest.chunks, cuts, cuts[1:], strict=False):
        chunk = bytearray(ref.size)
        while first < len(entries) and entries[first].offset + entries[first].nbytes <= start:
            first += 1
        for entry in entries[first:]:
            if entry.offset >= end:
                break
            low, high = max(start, entry.offset), min(end, entry.offset + entry.nbytes)
            chunk[low - start : high - start] = package.tensors[entry.name][low - entry.offset : high - entry.offset]
        yield ref, bytes(chunk)


def package_from_chunks(manifest: Manifest, fetch: Callable[[str], bytes], folder: Path) -> ArtifactId:
    """Write the package of a manifest into `folder`, with chunks that `fetch` gives by digest; each is asked for once.

    PeerError for a chunk that is not what its name says. Tensors go to disk as they come: memory stays constant.
    """
    parts = {part.name: b"".join(_checked(ref.id, fetch) for ref in part.chunks) for part in manifest.parts}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        places: dict[str, list[int]] = {}
        for ref, start in zip(manifest.chunks, boundaries_of(manifest), strict=False):
            places.setdefault(ref.id, []).append(start)
        for chunk, starts in places.items():
            data = _checked(chunk, fetch)
            for start in starts:
                file.seek(start)
                file.write(data)
        file.flush()
        if not manifest.payload_bytes:
            return write_package(folder, manifest, parts, {entry.name: b"" for entry in manifest.tensors})
        with mmap.mmap(file.fileno(), manifest.payload_bytes, prot=mmap.PROT_READ) as area, memoryview(area) as payload:
            views = {one.name: payload[one.offset : one.offset + one.nbytes] for one in manifest.tensors}
            try:
                return write_package(folder, manifest, parts, views)
            finally:
                for view in views.values():
                    view.release()


def _checked(chunk: str, fetch: Callable[[str], bytes]) -> bytes:
    data = fetch(chunk)
    if digest_of(data) != chunk:
        raise PeerError(f"chunk {chunk[:16]}… has other bytes than its name says", todo="fetch it again")
    return data


def _tokenizer_part(contract: DataContract, tokenizer: bytes | None) -> dict[str, Buffer]:
    wanted = {one.tokenizer for one in contract.inputs if isinstance(one, TokensInput)} - {"bytes"}
    if not wanted:
        return {}
    if tokenizer is None or {digest_of(tokenizer)} != wanted:
        named = ", ".join(sorted(digest[:16] + "…" for digest in wanted))
        raise InputError(f"the contract names the tokenizer {named}", todo="give its tokenizer.json as `tokenizer`")
    return {"tokenizer": tokenizer}


def _is_pretrained(module: Any) -> bool:
    """Whether a module is one of transformers or peft, told without importing either."""
    return any(kind.__module__.split(".")[0] in ("transformers", "peft") for kind in type(module).__mro__)


def _with_names(module: torch.nn.Module, contract: DataContract) -> torch.nn.Module:
    """The module, callable with the contract's input names. InputError naming both where they do not match."""
    wanted = [spec.name for spec in model_inputs(contract)]
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return module
    taken = [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_POSITIONAL]
    needed = [one.name for one in parameters if one.default is inspect.Parameter.empty]
    if set(wanted) <= set(taken) and set(needed) <= set(wanted):
        return module
    if len(wanted) == 1 and len(needed) == 1:
        return _renamed(module, wanted[0])
    raise InputError(
        f"the contract's inputs are {', '.join(wanted)}; forward() of {type(module).__name__} takes {', '.join(taken)}",
        todo="name the arguments of forward() as the inputs of the contract",
    )


def _renamed(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """A shallow copy that shares all tensors, whose one argument is called `name`; tensor names stay the owner's."""
    kind: type[Any] = type(module)

    def forward(self: Any, **inputs: Any) -> Any:
        return kind.forward(self, inputs[name])

    signature = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ]
    )
    forward.__signature__ = signature  # type: ignore[attr-defined]
    renamed: Any = copy.copy(module)
    renamed.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return renamed  # type: ignore[no-any-return]


def _dtype(tensor: torch.Tensor) -> DType:
    return str(tensor.dtype).removeprefix("torch.")  # type: ignore[return-value]


def _tensor_bytes(tensor: torch.Tensor) -> Buffer:
    """Row-major little-endian bytes of a tensor on any device."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
