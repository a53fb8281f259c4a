"""Payload layout: where each tensor lies in an artifact's payload, and where the payload is cut into chunks.

Moving models (design, section 4) is cheap only if equal tensors give equal chunks whatever stands beside them, so the
layout is a function of the tensors' names, types, shapes and roles alone. Tensors are ordered by role, then those of
`SMALL_TENSOR_BYTES` or more before smaller ones, then by name; each fills a slot of whole 64 bytes, padded with zeros.
A large tensor is cut on its own, every `CHUNK_BYTES`; small neighbours of one role share chunks, closed before they
would grow beyond `CHUNK_BYTES`. Hence frozen layers, adapters and optimizer slots never share a chunk, and a thousand
biases are a few requests. Cutting by content (rolling hash) was rejected: a weight update changes every byte of a
tensor, so only tensor boundaries carry information.

A manifest that is laid out in any other way is refused, although it could be read: one layout per set of tensors means
that two sites that make the same model make the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import msgspec
from blake3 import blake3

from daitn.artifacts.manifest import ITEM_BYTES, ChunkRef, DType, Manifest, TensorEntry
from daitn.base import limits
from daitn.base.errors import BugError, InputError, PeerError
from daitn.base.ids import ArtifactId
from daitn.base.units import MIB

Role = Literal["parameter", "frozen", "buffer", "optimizer", "random", "record"]
Buffer = bytes | bytearray | memoryview

ALIGNMENT_BYTES: Final = 64
"""Slots are multiples of a cache line and of the widest vector register, so that mapped tensors need no copy."""

HASH_THREADS: Final = 2
"""Threads of one hashing call: BLAKE3 does 2–3 GB/s on one core, so two already outrun a 25 Gbit/s link."""

PARALLEL_BYTES: Final = 8 * MIB
"""Below this a second thread costs more (0.1 ms to start) than it gains."""

FAULTS_SHOWN: Final = 20
"""Faults named in one error; a hostile manifest could otherwise make an error of megabytes."""

ROLE_ORDER: Final[dict[str, int]] = {
    role: rank for rank, role in enumerate(("frozen", "parameter", "buffer", "optimizer", "random", "record"))
}
_ZEROS: Final = bytes(ALIGNMENT_BYTES)


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor before it has a place: what `TensorEntry` says, without the offset."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    role: Role = "parameter"

    @property
    def nbytes(self) -> int:
        """Size in bytes, without padding."""
        count = ITEM_BYTES[self.dtype]
        for length in self.shape:
            count *= length
        return count


class Layout(NamedTuple):
    """Places of tensors and chunks. `boundaries` starts with 0 and ends with `payload_bytes`; chunk i lies between
    entries i and i + 1."""

    entries: tuple[TensorEntry, ...]
    payload_bytes: int
    boundaries: tuple[int, ...]


def plan_layout(specs: Iterable[TensorSpec | TensorEntry]) -> Layout:
    """Lay tensors out; the order of `specs` does not matter, offsets of entries are ignored.

    InputError where two have one name, a length is negative, or limits are exceeded. O(n log n).
    """
    ordered = sorted(specs, key=_order)
    if len(ordered) > limits.TENSORS:
        raise InputError(f"{len(ordered)} tensors, the limit is {limits.TENSORS}")
    entries: list[TensorEntry] = []
    names: set[str] = set()
    offset = 0
    for spec in ordered:
        if spec.name in names:
            raise InputError(f"two tensors are named {spec.name[:80]!r}", todo="give each its own name")
        if min(spec.shape, default=0) < 0:
            raise InputError(
                f"tensor {spec.name[:80]!r} has the shape {spec.shape}", todo="lengths must not be negative"
            )
        names.add(spec.name)
        entry = TensorEntry(name=spec.name, dtype=spec.dtype, shape=spec.shape, role=spec.role, offset=offset)
        offset += _slot_bytes(entry)
        if offset > limits.ARTIFACT_BYTES:
            raise InputError(f"the payload exceeds {limits.ARTIFACT_BYTES} bytes at tensor {spec.name[:80]!r}")
        entries.append(entry)
    return Layout(tuple(entries), offset, _boundaries(entries, offset))


def boundaries_of(manifest: Manifest) -> tuple[int, ...]:
    """Chunk boundaries in the payload of a checked manifest, from its chunk sizes."""
    return sum_sizes(manifest.chunks)


def sum_sizes(chunks: Sequence[ChunkRef]) -> tuple[int, ...]:
    """Boundaries between chunks that follow each other, starting with 0."""
    ends = [0]
    for ref in chunks:
        ends.append(ends[-1] + ref.size)
    return tuple(ends)


def cut_bytes(size: int) -> tuple[int, ...]:
    """Boundaries of a part of `size` bytes: a cut every `CHUNK_BYTES`."""
    return (*range(0, size, limits.CHUNK_BYTES), size) if size else (0,)


def hash_chunks(view: Buffer, boundaries: Sequence[int]) -> tuple[ChunkRef, ...]:
    """Digest and size of each chunk of `view`. BLAKE3 releases the interpreter's lock; two threads when large."""
    whole = memoryview(view).cast("B")
    if boundaries[0] != 0 or boundaries[-1] != len(whole):
        raise BugError(f"boundaries {boundaries[0]}..{boundaries[-1]} do not cover a payload of {len(whole)} bytes")
    return _in_threads([(whole[start:end],) for start, end in _spans(boundaries)])


def hash_part(data: Buffer) -> tuple[ChunkRef, ...]:
    """Chunks of a part, cut every `CHUNK_BYTES`; an empty part has none."""
    return hash_chunks(data, cut_bytes(memoryview(data).nbytes))


def hash_tensors(layout: Layout, tensors: Mapping[str, Buffer]) -> tuple[ChunkRef, ...]:
    """Chunks of the payload that `tensors` (row-major, little-endian bytes by name) would fill, without building it.

    BugError where a tensor is missing or has not the size its entry says.
    """
    pieces = _pieces(layout.entries, tensors)
    chunks: list[tuple[Buffer, ...]] = []
    rest: Buffer = b""
    for start, end in _spans(layout.boundaries):
        chunk: list[Buffer] = []
        missing = end - start
        while missing:
            piece = memoryview(rest or next(pieces))
            chunk.append(piece[:missing])
            rest = piece[missing:]
            missing -= len(chunk[-1])
        chunks.append(tuple(chunk))
    return _in_threads(chunks)


def fill_payload(entries: Sequence[TensorEntry], tensors: Mapping[str, Buffer], payload: memoryview) -> None:
    """Write tensors to their places in a zeroed, writable `payload`. BugError as in `hash_tensors`."""
    for entry in entries:
        payload[entry.offset : entry.offset + entry.nbytes] = _tensor_bytes(entry, tensors)


def check_layout(manifest: Manifest) -> None:
    """PeerError listing the faults unless tensors, payload and chunks are exactly as `plan_layout` says."""
    faults = layout_faults(manifest)
    if faults:
        raise PeerError(
            f"layout of artifact {manifest.name[:80]!r} is wrong: " + show_faults(faults),
            todo="its maker must lay tensors out as daitn.artifacts.layout does",
        )


def layout_faults(manifest: Manifest) -> list[str]:
    """Every fault of the layout, in the order of the payload."""
    faults: list[str] = []
    end, before = 0, ""
    for entry in sorted(manifest.tensors, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.nbytes and entry.offset < end:
            faults.append(f"tensor {entry.name[:80]!r} at {entry.offset} overlaps {before[:80]!r}, which ends at {end}")
        if entry.offset + entry.nbytes > manifest.payload_bytes:
            faults.append(
                f"tensor {entry.name[:80]!r} ends at {entry.offset + entry.nbytes}, "
                f"the payload at {manifest.payload_bytes}"
            )
        if entry.offset + entry.nbytes > end:
            end, before = entry.offset + entry.nbytes, entry.name
    total = sum(ref.size for ref in manifest.chunks)
    if total != manifest.payload_bytes:
        faults.append(f"chunks sum to {total} bytes, the payload has {manifest.payload_bytes}")
    try:
        planned = plan_layout(manifest.tensors)
    except InputError as error:
        return [*faults, error.what]
    if planned.payload_bytes != manifest.payload_bytes:
        faults.append(f"tensors fill {planned.payload_bytes} bytes, the payload has {manifest.payload_bytes}")
    for given, right in zip(manifest.tensors, planned.entries, strict=True):
        if given != right:
            faults.append(
                f"tensor {given.name[:80]!r} at {given.offset} stands where "
                f"{right.name[:80]!r} at {right.offset} belongs"
            )
            break
    if not faults and boundaries_of(manifest) != planned.boundaries:
        given_cuts, right_cuts = set(boundaries_of(manifest)), set(planned.boundaries)
        faults.append(f"the first wrong cut between chunks is at byte {min(given_cuts ^ right_cuts)}")
    return faults


def layout_of(manifest: Manifest) -> Layout:
    """The layout of a checked manifest."""
    return Layout(manifest.tensors, manifest.payload_bytes, boundaries_of(manifest))


def show_faults(faults: Sequence[str]) -> str:
    """The first faults in one line, and how many more there are."""
    more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
    return "; ".join(faults[:FAULTS_SHOWN]) + more


def artifact_bytes(manifest: Manifest) -> int:
    """Payload and parts together, without the manifest."""
    return manifest.payload_bytes + sum(part.size for part in manifest.parts)


def digest_of(data: Buffer) -> str:
    """BLAKE3 of `data` in hexadecimal."""
    return blake3(data).hexdigest()


def artifact_digest(manifest_bytes: bytes) -> ArtifactId:
    """The id of an artifact: the digest of its manifest's bytes."""
    return ArtifactId(digest_of(manifest_bytes))


def _order(spec: TensorSpec | TensorEntry) -> tuple[int, bool, str]:
    return ROLE_ORDER[spec.role], _is_small(spec.nbytes), spec.name


def _is_small(nbytes: int) -> bool:
    return nbytes < limits.SMALL_TENSOR_BYTES


def _slot_bytes(entry: TensorEntry) -> int:
    return -(-entry.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _boundaries(entries: Sequence[TensorEntry], payload_bytes: int) -> tuple[int, ...]:
    """Cuts for entries in payload order: see the module's docstring for the rule."""
    cuts = [0]
    role = ""
    for entry in entries:
        start, end = entry.offset, entry.offset + _slot_bytes(entry)
        small = _is_small(entry.nbytes)
        if cuts[-1] < start and (not small or entry.role != role or end - cuts[-1] > limits.CHUNK_BYTES):
            cuts.append(start)
        if not small:
            cuts.extend(range(start + limits.CHUNK_BYTES, end, limits.CHUNK_BYTES))
            cuts.append(end)
        role = entry.role
    if cuts[-1] < payload_bytes:
        cuts.append(payload_bytes)
    return tuple(cuts)


def _spans(boundaries: Sequence[int]) -> Iterator[tuple[int, int]]:
    return pairwise(boundaries)


def _tensor_bytes(entry: TensorEntry, tensors: Mapping[str, Buffer]) -> memoryview:
    try:
        given = memoryview(tensors[entry.name])
        data = given.cast("B") if given.nbytes else memoryview(b"")  # a view without elements cannot be cast
    except KeyError:
        raise BugError(f"tensor {entry.name!r} of the layout was not given") from None
    if len(data) != entry.nbytes:
        raise BugError(f"tensor {entry.name!r} has {len(data)} bytes, {entry.dtype} {entry.shape} takes {entry.nbytes}")
    return data


def _pieces(entries: Sequence[TensorEntry], tensors: Mapping[str, Buffer]) -> Iterator[Buffer]:
    """Bytes of the payload in order: each tensor, then its padding."""
    for entry in entries:
        data = _tensor_bytes(entry, tensors)
        if len(data):
            yield data
        if padding := _slot_bytes(entry) - entry.nbytes:
            yield _ZEROS[:padding]


def _hash(pieces: tuple[Buffer, ...]) -> ChunkRef:
    hasher = blake3()
    size = 0
    for piece in pieces:
        hasher.update(piece)
        size += len(piece)
    return ChunkRef(id=hasher.hexdigest(), size=size)


def _in_threads(chunks: Sequence[tuple[Buffer, ...]]) -> tuple[ChunkRef, ...]:
    if sum(len(piece) for chunk in chunks for piece in chunk) < PARALLEL_BYTES:
        return tuple(map(_hash, chunks))
    with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="hash") as pool:
        return tuple(pool.map(_hash, chunks))
