"""The manifest: what an artifact is made of. Its BLAKE3 digest is the artifact's id, and it is itself a chunk.

An artifact is *parts* (small named byte strings: graph, contract, tokenizer, configuration) and *tensors* laid out in
one long payload, cut into chunks along tensor boundaries: a tensor of `SMALL_TENSOR_BYTES` or more starts a chunk and
is cut every `CHUNK_BYTES`; smaller neighbours share one. So a step that changes only an adapter changes only the
adapter's chunks, and a receiver that holds the others does not fetch them.

All state that travels is here from the start: weights, buffers, optimizer slots (as tensors of their own role), random
state and data cursor.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId, ChunkId, DataSetId, JobId, VisitId
from daitn.descriptors.contract import Name

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=limits.ARTIFACT_BYTES)]
DType = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]

ITEM_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


class ChunkRef(msgspec.Struct, frozen=True, array_like=True):
    """A chunk by digest and size in bytes."""

    id: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=limits.CHUNK_BYTES)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A named byte string, such as `graph` or `contract`."""

    name: Name
    size: Size
    chunks: tuple[ChunkRef, ...]


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in the payload: row-major, little-endian, starting at byte `offset`."""

    name: Name
    dtype: DType
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**40)], ...], msgspec.Meta(max_length=16)]
    role: Literal["parameter", "frozen", "buffer", "optimizer", "random", "record"]
    offset: Size

    @property
    def nbytes(self) -> int:
        """Size in the payload."""
        count = ITEM_BYTES[self.dtype]
        for length in self.shape:
            count *= length
        return count


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far one data set has been read: permutation seed and position in it, so no record is favoured on return."""

    dataset: DataSetId
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    position: Annotated[int, msgspec.Meta(ge=0)]


class TravellingState(msgspec.Struct, frozen=True, kw_only=True):
    """What a model remembers besides its tensors."""

    optimizer: str = ""
    steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    records: Annotated[int, msgspec.Meta(ge=0)] = 0
    cursors: Annotated[tuple[Cursor, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where an artifact comes from: which visit made it of which artifacts and which version of which data."""

    job: JobId | None = None
    visit: VisitId | None = None
    parents: tuple[ArtifactId, ...] = ()
    dataset: DataSetId | None = None
    data_version: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module's docstring."""

    format: Literal[1] = 1
    kind: Literal[
        "graph", "transformers", "onnx", "gguf", "python", "records", "sample", "state", "masked", "compressed"
    ]
    name: Name
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=64)]
    tensors: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)]
    payload_bytes: Size
    chunks: Annotated[tuple[ChunkRef, ...], msgspec.Meta(max_length=1_000_000)]
    state: TravellingState = TravellingState()
    lineage: Lineage = Lineage()
    signer: str = ""
    """Ed25519 public key (hex) of whoever answers for the executable part (graph, configuration, Python)."""
    signature: str = ""
    """Over the digests of all parts, by `signer`: travels unchanged while weights change."""

    def part(self, name: str) -> Part | None:
        """The part of that name, if there is one."""
        for part in self.parts:
            if part.name == name:
                return part
        return None

    def all_chunks(self) -> tuple[ChunkRef, ...]:
        """Chunks of parts and payload, each once, in order of first use."""
        seen: dict[str, ChunkRef] = {}
        for part in self.parts:
            for ref in part.chunks:
                seen.setdefault(ref.id, ref)
        for ref in self.chunks:
            seen.setdefault(ref.id, ref)
        return tuple(seen.values())


def chunk_id(digest: str) -> ChunkId:
    """A digest as a chunk id."""
    return ChunkId(digest)
