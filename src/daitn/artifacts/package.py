"""A model package on disk: a directory that people can read, check and hand over.

`manifest.json` says kind, parts, tensor files with their digests, roles, lineage and signature; beside it lie the parts
(`graph.bin`, `contract.json`, …), `model.safetensors` (weights and buffers) and, where it travels, `state.safetensors`
(optimizer slots, random state). What it does not say is the layout of chunks: that follows from the tensors, so that
the artifact's id is recomputed from what lies there and compared with the one written down.

A package may come from anyone. Names cannot leave the directory, links and special files are refused, sizes are bounded
before anything is read, archives and pickles are named and refused, and tensors are mapped, never loaded.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
from numpy.typing import NDArray

from daitn.artifacts import tensor_file
from daitn.artifacts.codec import OTHER_PART_BYTES, PART_BYTES, artifact_id, complete_manifest, encode_manifest
from daitn.artifacts.layout import Buffer, Role, TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import Digest, Lineage, Manifest, Size, TensorEntry, TravellingState
from daitn.artifacts.signatures import verify_parts
from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.base.names import check_name
from daitn.base.units import GIB, show_bytes
from daitn.descriptors.contract import Name, decode_contract

MANIFEST_FILE: Final = "manifest.json"

PART_FILES: Final[dict[str, str]] = {
    "graph": "graph.bin",
    "contract": "contract.json",
    "config": "config.json",
    "adapter_config": "adapter_config.json",
    "tokenizer": "tokenizer.json",
    "python": "trainer.py",
    "onnx": "model.onnx",
    "gguf": "model.gguf",
}
"""Usual file of each part; a part of another name lies in `<name>.part`."""

ROLE_FILES: Final[dict[Role, str]] = {
    "frozen": "model.safetensors",
    "parameter": "model.safetensors",
    "buffer": "model.safetensors",
    "optimizer": "state.safetensors",
    "random": "state.safetensors",
    "record": "records.safetensors",
}

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WEIGHT_PARTS: Final = ("onnx", "gguf")


class PartFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part and the file it lies in; `digest` is the BLAKE3 of the whole file."""

    name: Name
    file: Name
    size: Size
    digest: Digest


class TensorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A safetensors file; `digest` is the BLAKE3 of the whole file."""

    file: Name
    size: Size
    digest: Digest


class PackageIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json`: see the module's docstring."""

    format: Literal[1] = 1
    kind: Literal[
        "graph", "transformers", "onnx", "gguf", "python", "records", "sample", "state", "masked", "compressed"
    ]
    name: Name
    artifact: Digest
    contract: str = ""
    """Digest of the data contract (`DataContract.digest`), by which sites know it; empty where there is none."""
    parts: tuple[PartFile, ...] = ()
    tensors: tuple[TensorFile, ...] = ()
    roles: dict[Role, tuple[Name, ...]] = {}
    """Which tensor has which role; each stands once."""
    state: TravellingState = TravellingState()
    lineage: Lineage = Lineage()
    signer: str = ""
    signature: str = ""


class Package(NamedTuple):
    """A package that passed every check. Parts of weights (ONNX, GGUF) and tensors are views of mapped files."""

    artifact: ArtifactId
    manifest: Manifest
    parts: Mapping[str, Buffer]
    tensors: Mapping[str, memoryview]


def write_package(
    folder: Path,
    manifest: Manifest,
    parts: Mapping[str, Buffer],
    tensors: Mapping[str, NDArray[Any] | Buffer],
) -> ArtifactId:
    """Write a package; `manifest` may be a draft, its chunks are computed. Returns the artifact's id.

    `folder` must not exist or be empty; it appears whole or not at all. InputError if parts or tensors are not those
    the manifest speaks of, UnavailableError where the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already", todo="give a folder that does not exist yet, or is empty")
    unknown = set(tensors) - {entry.name for entry in manifest.tensors}
    missing = {entry.name for entry in manifest.tensors} - set(tensors)
    if unknown or missing:
        wrong = sorted(unknown | missing)[:5]
        raise InputError(f"tensors given and those in the manifest of {manifest.name!r} differ: {', '.join(wrong)}")
    data = {entry.name: tensor_file.tensor_bytes(entry, tensors[entry.name]) for entry in manifest.tensors}
    complete = complete_manifest(manifest, parts, data)
    artifact = artifact_id(encode_manifest(complete))
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        draft.mkdir(parents=True)
        index = _write_files(draft, complete, artifact, parts, data)
        text = msgspec.json.format(msgspec.json.encode(index, order="deterministic"), indent=2)
        (draft / MANIFEST_FILE).write_bytes(text + b"\n")
        os.rename(draft, folder)
    except OSError as error:
        raise UnavailableError(
            f"package {folder} cannot be written: {error.strerror}", todo="check room and rights"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return artifact


def read_package(folder: Path) -> Package:
    """Read and check a package. InputError with file, fault and what to do, or PeerError for a false signature.

    Cost: every file is hashed twice (as a file and as chunks), about 1 s per GB; memory does not grow with tensors.
    """
    if folder.is_file():
        with folder.open("rb") as file:
            tensor_file.refuse_archive(file.read(tensor_file.SNIFF_BYTES), str(folder))
        raise InputError(
            f"{folder} is a file", todo="a package is a directory with a manifest.json; make one with the SDK"
        )
    with _opened(folder) as directory:
        index = _read_index(directory, folder)
        _check_index(index, folder)
        parts = {part.name: _read_part(directory, part, folder) for part in index.parts}
        tensors: dict[str, memoryview] = {}
        specs: list[TensorSpec] = []
        roles = {name: role for role, names in index.roles.items() for name in names}
        for listed in index.tensors:
            _read_tensors(directory, listed, folder, roles, tensors, specs)
    if unused := sorted(set(roles) - set(tensors)):
        raise InputError(f"{folder / MANIFEST_FILE} gives a role to {unused[0]!r}, which is in no tensor file")
    manifest = _rebuild(index, parts, tensors, specs, folder)
    if manifest.signer:
        verify_parts(manifest)
    return Package(ArtifactId(index.artifact), manifest, parts, tensors)


def _rebuild(
    index: PackageIndex,
    parts: Mapping[str, Buffer],
    tensors: Mapping[str, memoryview],
    specs: list[TensorSpec],
    folder: Path,
) -> Manifest:
    """The artifact's manifest from what lies in the folder, which must have the id written down."""
    layout = plan_layout(specs)
    draft = Manifest(
        kind=index.kind,
        name=index.name,
        parts=(),
        tensors=layout.entries,
        payload_bytes=layout.payload_bytes,
        chunks=(),
        state=index.state,
        lineage=index.lineage,
        signer=index.signer,
        signature=index.signature,
    )
    manifest = complete_manifest(draft, parts, tensors)
    found = artifact_id(encode_manifest(manifest))
    if found != index.artifact:
        raise InputError(
            f"{folder / MANIFEST_FILE} says artifact {index.artifact}, what lies there is {found}",
            todo="a role, state, lineage or signature was changed by hand: write the package again",
        )
    contract = decode_contract(bytes(parts["contract"]), str(folder)).digest() if "contract" in parts else ""
    if contract != index.contract:
        raise InputError(f"{folder / MANIFEST_FILE} says contract {index.contract!r}, the one there is {contract!r}")
    return manifest


def _write_files(
    folder: Path, manifest: Manifest, artifact: ArtifactId, parts: Mapping[str, Buffer], data: Mapping[str, Buffer]
) -> PackageIndex:
    part_files = []
    for part in manifest.parts:
        name = PART_FILES.get(part.name) or f"{check_name('part', part.name)}.part"
        (folder / name).write_bytes(parts[part.name])
        part_files.append(PartFile(name=part.name, file=name, size=part.size, digest=digest_of(parts[part.name])))
    by_file: dict[str, list[TensorEntry]] = {}
    roles: dict[Role, list[str]] = {}
    for entry in manifest.tensors:
        by_file.setdefault(ROLE_FILES[entry.role], []).append(entry)
        roles.setdefault(entry.role, []).append(entry.name)
    tensor_files = []
    for name, entries in by_file.items():
        with (folder / name).open("w+b") as file:
            tensor_file.write_tensors(file, [(entry.name, entry.dtype, entry.shape) for entry in entries], data)
            file.flush()
            size = file.tell()
            with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as area:
                tensor_files.append(TensorFile(file=name, size=size, digest=digest_of(memoryview(area))))
    contract = parts.get("contract")
    return PackageIndex(
        kind=manifest.kind,
        name=manifest.name,
        artifact=artifact,
        contract="" if contract is None else decode_contract(bytes(contract)).digest(),
        parts=tuple(part_files),
        tensors=tuple(tensor_files),
        roles={role: tuple(names) for role, names in roles.items()},
        state=manifest.state,
        lineage=manifest.lineage,
        signer=manifest.signer,
        signature=manifest.signature,
    )


def _read_index(directory: int, folder: Path) -> PackageIndex:
    where = folder / MANIFEST_FILE
    with _file(directory, MANIFEST_FILE, folder) as (fd, size):
        if size > limits.MANIFEST_BYTES:
            raise InputError(f"{where} has {size} bytes, the limit is {limits.MANIFEST_BYTES}")
        data = _read(fd, size)
    tensor_file.refuse_archive(data[: tensor_file.SNIFF_BYTES], str(where))
    try:
        return msgspec.json.decode(data, type=PackageIndex)
    except UNDECODABLE as error:
        raise InputError(
            f"{where} is not the manifest of a package: {str(error)[:200]}",
            todo="write the package again with the SDK",
        ) from None


def _check_index(index: PackageIndex, folder: Path) -> None:
    """InputError listing every fault of names and sizes, before any file is opened."""
    faults: list[str] = []
    files = [part.file for part in index.parts] + [tensors.file for tensors in index.tensors]
    for name in files:
        if _FILE_NAME.fullmatch(name) is None or name == MANIFEST_FILE:
            faults.append(f"{name[:80]!r} is not a plain file name inside the package")
    role_names = [name for names in index.roles.values() for name in names]
    for what, listed in (("file", files), ("part", [part.name for part in index.parts]), ("tensor", role_names)):
        faults += [f"{what} {name[:80]!r} is listed twice" for name, count in Counter(listed).items() if count > 1]
    for part in index.parts:
        limit = PART_BYTES.get(part.name, OTHER_PART_BYTES)
        if part.size > limit:
            faults.append(f"part {part.name!r} has {part.size} bytes, the limit is {limit}")
    total = sum(part.size for part in index.parts) + sum(tensors.size for tensors in index.tensors)
    if total > limits.ARTIFACT_BYTES:
        faults.append(f"its files have {show_bytes(total)}, the limit is {limits.ARTIFACT_BYTES // GIB} GiB")
    if faults:
        raise InputError(
            f"package {folder} is not acceptable: " + "; ".join(faults[:20]),
            todo="write the package again with the SDK",
        )


def _read_part(directory: int, part: PartFile, folder: Path) -> Buffer:
    where = f"{folder / part.file}"
    with _file(directory, part.file, folder) as (fd, size):
        _check_size(size, part.size, where)
        data: Buffer = _read(fd, size) if part.name in PART_BYTES else _map(fd, size)
    if part.name not in _WEIGHT_PARTS:
        tensor_file.refuse_archive(bytes(data[: tensor_file.SNIFF_BYTES]), where)
    _check_digest(data, part.digest, where)
    return data


def _read_tensors(
    directory: int,
    listed: TensorFile,
    folder: Path,
    roles: Mapping[str, Role],
    tensors: dict[str, memoryview],
    specs: list[TensorSpec],
) -> None:
    """Add the tensors of one file to `tensors` and `specs`."""
    where = f"{folder / listed.file}"
    with _file(directory, listed.file, folder) as (fd, size):
        _check_size(size, listed.size, where)
        with os.fdopen(os.dup(fd), "rb") as file:
            headers, start = tensor_file.read_header(file.read(tensor_file.SNIFF_BYTES), file, size, where)
        view = _map(fd, size)
    _check_digest(view, listed.digest, where)
    for header in headers:
        if header.name in tensors:
            raise InputError(f"tensor {header.name!r} is in two files of {folder}")
        if header.name not in roles:
            raise InputError(f"tensor {header.name!r} of {where} has no role in {MANIFEST_FILE}")
        tensors[header.name] = view[start + header.begin : start + header.end]
        specs.append(TensorSpec(name=header.name, dtype=header.dtype, shape=header.shape, role=roles[header.name]))


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"package {folder} cannot be opened: {error.strerror}", todo="give the package's directory"
        ) from None
    try:
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _file(directory: int, name: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a plain file of the directory; links are refused unopened, pipes and devices unread."""
    where = folder / name
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        word = "is a link" if where.is_symlink() else f"cannot be opened: {error.strerror}"
        raise InputError(f"{where} {word}", todo="a package holds plain files only; write it again") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{where} is not a plain file", todo="a package holds plain files only; write it again")
        yield fd, status.st_size
    except OSError as error:
        raise UnavailableError(f"{where} cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read(size)


def _map(fd: int, size: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ)) if size else memoryview(b"")
    except ValueError:
        raise InputError("a file of a package became shorter while it was read", todo="copy it again") from None


def _check_size(found: int, listed: int, where: str) -> None:
    if found != listed:
        raise InputError(
            f"{where} has {found} bytes, its manifest says {listed}", todo="it was cut or changed: copy it again"
        )


def _check_digest(data: Buffer, listed: str, where: str) -> None:
    found = digest_of(data)
    if found != listed:
        raise InputError(
            f"{where} has the digest {found[:16]}…, its manifest says {listed[:16]}…",
            todo="it was damaged or changed: copy it again, or write the package again",
        )
