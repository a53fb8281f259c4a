"""What a store holds, read from beside it: for people who look after the machine, whether the node runs or not.

Reads the index and the files, takes no lock and changes nothing; a running store notes uses every two seconds, so the
order of eviction is that old at most. What is being read or served right now is known to the running node alone and
would be passed over by an eviction.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from daitn.artifacts.codec import decode_manifest
from daitn.base.errors import DaitnError, InputError
from daitn.node.store import files
from daitn.node.store.index import Pack, read_index
from daitn.node.store.shelf import PACK_SUFFIX, PROGRESS_SUFFIX, WEAKLY


class HeldPack(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, or loose bytes, in the store."""

    artifact: str
    """Its id; empty for loose bytes that wait for theirs."""
    kind: str
    name: str
    file: str
    """Below the store's folder."""
    size_bytes: int
    pins: tuple[str, ...]
    """Jobs it is kept for; one that begins with `~` keeps it only while its room is not needed."""
    servable: bool
    written_unix_s: float
    goes: int | None
    """Its place in the order of eviction, from 1; None: it stays."""


class PartialPack(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact of which a part has come."""

    artifact: str
    size_bytes: int
    verified_chunks: int


class StoreListing(msgspec.Struct, frozen=True, kw_only=True):
    """The whole store. `room_bytes`: the largest artifact that would be taken in, after eviction."""

    quota_bytes: int
    used_bytes: int
    pinned_bytes: int
    room_bytes: int
    disk_free_bytes: int
    packs: tuple[HeldPack, ...]
    partials: tuple[PartialPack, ...]


def list_store(folder: Path, quota_bytes: int) -> StoreListing:
    """Everything in the store below `folder`, what goes first before the rest; InputError if there is none."""
    database = folder / "index.sqlite"
    if not database.is_file():
        raise InputError(f"{folder} is no store: it has no index", todo="start the node once: daitn join")
    packs, pins = read_index(database)
    held = [pack for pack in packs if (folder / "packs" / (pack.name + PACK_SUFFIX)).exists()]
    pinned = {artifact for artifact, reasons in pins.items() if any(not one.startswith(WEAKLY) for one in reasons)}
    going = sorted((pack for pack in held if pack.artifact not in pinned), key=lambda pack: pack.used)
    rank = {pack.name: number for number, pack in enumerate(going, start=1)}
    listed = [_held(folder, pack, pins.get(pack.artifact or "", ()), rank.get(pack.name)) for pack in held]
    listed.sort(key=lambda one: (one.goes is None, one.goes or 0, -one.size_bytes))
    partials = _partials(folder, {pack.name for pack in held})
    used = sum(pack.size for pack in held) + sum(one.size_bytes for one in partials)
    loose = sum(one.size_bytes for one in partials if one.artifact not in pinned)
    evictable = sum(pack.size for pack in going) + loose
    free = files.free_bytes(folder)
    return StoreListing(
        quota_bytes=quota_bytes,
        used_bytes=used,
        pinned_bytes=used - evictable,
        room_bytes=max(0, evictable + min(quota_bytes - used, free - files.headroom_bytes(folder))),
        disk_free_bytes=free,
        packs=tuple(listed),
        partials=tuple(partials),
    )


def _held(folder: Path, pack: Pack, pins: tuple[str, ...], goes: int | None) -> HeldPack:
    path = folder / "packs" / (pack.name + PACK_SUFFIX)
    kind, name = ("loose bytes", "") if pack.artifact is None else ("damaged", "")
    written = 0.0
    try:
        with path.open("rb") as file:
            written = os.fstat(file.fileno()).st_mtime
            if pack.artifact is not None:
                manifest = decode_manifest(os.pread(file.fileno(), pack.chunks[-1].size, pack.chunks[-1].offset))
                kind, name = manifest.kind, manifest.name
    except (OSError, DaitnError):
        pass  # it went a moment ago, or is damaged: what the index says is shown
    return HeldPack(
        artifact=pack.artifact or "",
        kind=kind,
        name=name,
        file=str(path.relative_to(folder)),
        size_bytes=pack.size,
        pins=pins,
        servable=pack.servable,
        written_unix_s=written,
        goes=goes,
    )


def _partials(folder: Path, known: set[str]) -> list[PartialPack]:
    found: list[PartialPack] = []
    for notes in sorted((folder / "packs").glob("*" + PROGRESS_SUFFIX)):
        pack = notes.with_suffix(PACK_SUFFIX)
        try:
            size, noted = pack.stat().st_size, notes.stat().st_size
        except OSError:
            continue
        if notes.stem not in known:
            found.append(PartialPack(artifact=notes.stem, size_bytes=size, verified_chunks=noted // 32))
    return found
