"""Whether a model is what it should be: of the package's tensors, of the weights its maker signed for, all finite.

Known without torch, from manifests and mapped payloads, so that a node can look before it hands a model to a child, and
a receiver before it moves a byte of one. What it does not see: weights that are finite, of the right shape, and wrong;
those are found by measuring. One bit changed makes other weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.artifacts.manifest import Manifest, TensorEntry
from daitn.base.errors import UnfitError
from daitn.base.ids import ArtifactId
from daitn.descriptors.origin import Origin
from daitn.learning.numerics.blocks import blocks, from_bfloat16, tensor_view
from daitn.learning.numerics.slots import AVERAGED_STEPS, IMPORTANCE, KINDS, NEWEST, STEPS

SLOT_KINDS: Final = frozenset({*(kind for kinds in KINDS.values() for kind in kinds), NEWEST, IMPORTANCE})
COUNTERS: Final = frozenset({STEPS, AVERAGED_STEPS})
EXPONENT: Final = np.uint16(0x7F80)
"""Bits of a bfloat16 that are all set in what is not finite, and in nothing else."""
FLOATS: Final = ("float64", "float32", "float16", "bfloat16")


def shapes_digest(entries: Iterable[TensorEntry]) -> str:
    """Names the tensors of a model by name, role, type and shape, without optimizer slots. O(tensors)."""
    lines = sorted(f"{one.name}\n{_kind(one)}" for one in entries if one.role != "optimizer")
    return blake3("\n".join(lines).encode()).hexdigest()


def weights_digest(manifest: Manifest) -> str:
    """Names all numbers of a model, with its slots, whoever made it: a digest over those of its chunks. Empty for one
    without tensors. O(chunks)."""
    if not manifest.payload_bytes:
        return ""
    return blake3(" ".join(ref.id for ref in manifest.chunks).encode()).hexdigest()


def check_origin(artifact: ArtifactId, manifest: Manifest, origin: Origin) -> None:
    """UnfitError unless a model's manifest is of the visit, the tensors and the weights that it should be of."""
    if manifest.kind != origin.kind or manifest.lineage.visit != origin.visit:
        said = f"a {manifest.kind} of visit {manifest.lineage.visit}, not a {origin.kind} of visit {origin.visit}"
        raise UnfitError(f"model {artifact[:16]} is somebody else's: {said}", artifact=artifact, fault="foreign")
    if origin.shapes and shapes_digest(manifest.tensors) != origin.shapes:
        what = f"model {artifact[:16]} has other tensors than the package it comes from"
        raise UnfitError(what, artifact=artifact, fault="shape")
    if excess := slots_fault(manifest.tensors):
        raise UnfitError(f"model {artifact[:16]} is too large: {excess}", artifact=artifact, fault="oversized")
    if origin.weights and weights_digest(manifest) != origin.weights:
        what = f"model {artifact[:16]} has other weights than its maker signed for"
        raise UnfitError(what, artifact=artifact, fault="weights")


def slots_fault(entries: Iterable[TensorEntry]) -> str:
    """What a model carries beside its tensors that no optimizer leaves; empty where there is nothing."""
    entries = tuple(entries)
    kinds = {one.name: (one.dtype, one.shape) for one in entries if one.role == "parameter"}
    for one in entries:
        if one.role != "optimizer" or (one.name in COUNTERS and one.nbytes <= 8):
            continue
        kind, _, parameter = one.name.partition("/")
        if kind not in SLOT_KINDS or kinds.get(parameter) != (one.dtype, one.shape):
            return f"slot {one.name[:80]!r} of {one.nbytes} bytes belongs to no parameter"
    return ""


def unsound_tensor(entries: Iterable[TensorEntry], payload: memoryview) -> str:
    """The first tensor with a number that is not finite; empty where all are.

    Buffers may hold infinities: masks do. Cost: one pass over the payload, about 2 GB/s on one core of a busy machine.
    """
    for entry in entries:
        if entry.dtype in FLOATS and entry.role != "record":
            view = tensor_view(payload, entry)
            for block in blocks(len(view)):
                values = view[block]
                if entry.dtype == "bfloat16":
                    if not ((values & EXPONENT) == EXPONENT).any():
                        continue
                    values = from_bfloat16(values)
                if not _is_sound(values, infinite=entry.role == "buffer"):
                    return entry.name
    return ""


def _is_sound(values: NDArray[Any], *, infinite: bool) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64 if values.dtype == np.float16 else None)):
            return True  # what is not finite stays so in a sum, which is three times as quick
    return not np.isnan(values).any() if infinite else bool(np.isfinite(values).all())


def _kind(entry: TensorEntry) -> str:
    return f"{entry.role} {entry.dtype} {list(entry.shape)}"
