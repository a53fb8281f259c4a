"""Bytes of a manifest: canonical msgpack, checked in size, shape and meaning before anyone relies on it.

The digest of these bytes is the artifact's id, so there is exactly one encoding of a manifest: what decodes but encodes
differently (a default spelt out otherwise, a field unknown to us, a longer integer form) is refused. That also keeps
fields of a newer version from being dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from daitn.artifacts.layout import (
    Buffer,
    artifact_digest,
    cut_bytes,
    hash_part,
    hash_tensors,
    layout_faults,
    plan_layout,
    show_faults,
    sum_sizes,
)
from daitn.artifacts.manifest import Manifest, Part
from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PeerError
from daitn.base.ids import ArtifactId
from daitn.base.units import MIB

NEEDED_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "graph": ("graph", "contract"),
    "transformers": ("config", "contract"),
    "onnx": ("onnx",),
    "gguf": ("gguf",),
    "python": ("python", "contract"),
    "records": (),
    "sample": (),
    "state": (),
    "masked": (),
    "compressed": (),
}
"""Parts without which a kind of artifact means nothing."""

NO_MODELS: Final = frozenset({"records", "sample", "state", "masked", "compressed"})
"""Kinds of artifact that hold no model: nobody answers for what they compute."""

PART_BYTES: Final[dict[str, int]] = {
    "graph": limits.GRAPH_BYTES,
    "contract": limits.MANIFEST_BYTES,
    "config": MIB,
    "adapter_config": MIB,
    "tokenizer": 64 * MIB,
    "python": MIB,
}
"""Largest part by name: each is read whole. The largest public `tokenizer.json` has 34 MB, configurations 20 kB."""

OTHER_PART_BYTES: Final = limits.ARTIFACT_BYTES
"""Parts not listed above (ONNX, GGUF) hold weights; they are mapped, never read whole."""

_FILE_STEM: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""A part lies in a file of its name once its package is fetched, so a name must not lead anywhere else."""
_KEY: Final = re.compile("[0-9a-f]{64}")
_SIGNATURE: Final = re.compile("[0-9a-f]{128}")
_decoder = msgspec.msgpack.Decoder(Manifest)
_encoder = msgspec.msgpack.Encoder()


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest. InputError if they exceed `MANIFEST_BYTES` or the manifest has faults."""
    faults = manifest_faults(manifest)
    if faults:
        raise InputError(f"manifest of {manifest.name[:80]!r} is not consistent: " + show_faults(faults))
    data = _encoder.encode(manifest)
    if len(data) > limits.MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {manifest.name[:80]!r} has {len(data)} bytes, the limit is {limits.MANIFEST_BYTES}",
            todo="shorten tensor names or join tensors",
        )
    return data


def decode_manifest(data: bytes) -> Manifest:
    """A manifest from a peer's bytes. PeerError with the first syntax fault, or all faults of meaning."""
    if len(data) > limits.MANIFEST_BYTES:
        raise PeerError(f"manifest has {len(data)} bytes, the limit is {limits.MANIFEST_BYTES}")
    try:
        manifest = _decoder.decode(data)
    except UNDECODABLE as error:
        raise PeerError(
            f"bytes do not decode as a manifest: {str(error)[:200]}", todo="send what the SDK makes of a package"
        ) from None
    faults = manifest_faults(manifest)
    if faults:
        raise PeerError(
            f"manifest of {manifest.name[:80]!r} is not consistent: " + show_faults(faults),
            todo="make the package again with the SDK",
        )
    if _encoder.encode(manifest) != data:
        raise PeerError(
            f"manifest of {manifest.name[:80]!r} is not in canonical form, so its id would not be unique",
            todo="it may come from a newer version: upgrade, or ask its maker to encode it again",
        )
    return manifest


def complete_manifest(draft: Manifest, parts: Mapping[str, Buffer], tensors: Mapping[str, Buffer]) -> Manifest:
    """`draft` with parts, payload size and all chunks, hashed from `parts` and `tensors` (bytes by name).

    The draft's own parts, where it has any, keep their order; InputError if they are not those given.
    """
    draft = with_parts(draft, parts)
    layout = plan_layout(draft.tensors)
    return msgspec.structs.replace(
        draft,
        tensors=layout.entries,
        payload_bytes=layout.payload_bytes,
        chunks=hash_tensors(layout, tensors),
    )


def with_parts(draft: Manifest, parts: Mapping[str, Buffer]) -> Manifest:
    """`draft` with the chunks of `parts`; InputError if it says other parts already."""
    made = {name: Part(name=name, size=memoryview(data).nbytes, chunks=hash_part(data)) for name, data in parts.items()}
    if not draft.parts:
        return msgspec.structs.replace(draft, parts=tuple(made.values()))
    for part in draft.parts:
        if made.pop(part.name, None) != part:
            raise InputError(f"part {part.name!r} given is not the one that the manifest of {draft.name!r} says")
    if made:
        raise InputError(f"the manifest of {draft.name!r} does not have the part {next(iter(made))!r} given")
    return draft


def artifact_id(manifest_bytes: bytes) -> ArtifactId:
    """The id of the artifact that these canonical bytes describe."""
    return artifact_digest(manifest_bytes)


def manifest_faults(manifest: Manifest) -> list[str]:
    """Every fault of meaning: names, parts that the kind needs, sizes, roles, layout, signature."""
    faults = _part_faults(manifest)
    names = [entry.name for entry in manifest.tensors]
    for name in (manifest.name, *(part.name for part in manifest.parts), *names):
        if not name or len(name) > limits.NAME_CHARS or not name.isprintable():
            faults.append(f"the name {name[:80]!r} is empty, too long or has characters that do not print")
    if len(set(names)) != len(names):
        faults.append("two tensors have the same name")
    holds_records = manifest.kind in ("records", "sample")
    for entry in manifest.tensors:
        if (entry.role == "record") != holds_records:
            faults.append(
                f"tensor {entry.name[:80]!r} has role {entry.role!r} in an artifact of kind {manifest.kind!r}"
            )
            break
    if (manifest.signer or manifest.signature) and not (
        _KEY.fullmatch(manifest.signer) and _SIGNATURE.fullmatch(manifest.signature)
    ):
        faults.append("signer and signature must be 64 and 128 hexadecimal digits, or both be empty")
    if len({cursor.dataset for cursor in manifest.state.cursors}) != len(manifest.state.cursors):
        faults.append("two cursors speak of the same data set")
    return faults + layout_faults(manifest)


def _part_faults(manifest: Manifest) -> list[str]:
    faults: list[str] = []
    names = [part.name for part in manifest.parts]
    if len(set(names)) != len(names):
        faults.append("two parts have the same name")
    for needed in NEEDED_PARTS[manifest.kind]:
        if needed not in names:
            faults.append(f"kind {manifest.kind!r} needs the part {needed!r}; it has {', '.join(names[:12]) or 'none'}")
    for part in manifest.parts:
        if _FILE_STEM.fullmatch(part.name) is None:
            faults.append(f"the name of part {part.name[:80]!r} would not do as the name of a file")
        limit = PART_BYTES.get(part.name, OTHER_PART_BYTES)
        if part.size > limit:
            faults.append(f"part {part.name[:80]!r} has {part.size} bytes, the limit is {limit}")
        elif sum_sizes(part.chunks) != cut_bytes(part.size):
            faults.append(f"chunks of part {part.name[:80]!r} do not cut its {part.size} bytes as they should")
    total = manifest.payload_bytes + sum(part.size for part in manifest.parts)
    if total > limits.ARTIFACT_BYTES:
        faults.append(f"payload and parts have {total} bytes, the limit is {limits.ARTIFACT_BYTES}")
    return faults
