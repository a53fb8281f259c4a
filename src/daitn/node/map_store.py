"""The map on the disk: a snapshot now and then, and a journal of what came since; read again when the centre begins.

In one folder, for generation G: `snapshot-G.map`, and `entries-G.log` with what came after it. A new generation first
begins its journal, then writes its snapshot beside and renames it, so at any moment the newest whole snapshot and all
journals from its generation on give the map. The generation before is kept until the next one is whole: a snapshot that
was cut off or damaged, or is of a newer version, is passed over, counted and named, and the one before it takes its
place.

A snapshot is: magic, format version, length of the head, head (MessagePack), arrays, each at a multiple of 64 bytes,
and a BLAKE3 digest of everything before it. Journals are lengths, checksums and entries; a torn end is cut off. They
are not synced to the disk at each entry: whatever a power cut takes is reported again by the nodes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.decoding import UNDECODABLE
from daitn.topology.fact_book import FactBook
from daitn.topology.intake import FactIntake
from daitn.topology.map_entries import MapEntry, apply_entry
from daitn.topology.map_image import Arrays, DamagedMapError, ImageHead, NewerMapError, load_image

MAGIC: Final = b"DAITNMAP"
FORMAT: Final = 1
PREFIX: Final = struct.Struct("<8sIQ")
"""Magic, format version, length of the head."""

ENTRY: Final = struct.Struct("<I8s")
"""Length of an entry, first bytes of its BLAKE3 digest."""

ENTRY_BYTES: Final = 64 * 1024 * 1024
"""Largest entry: a batch of 8,192 messages of a kilobyte is 8 MB."""

HEAD_BYTES: Final = 4 * 1024 * 1024 * 1024
ALIGN: Final = 64
DIGEST_BYTES: Final = 32
DTYPES: Final = frozenset({"|u1", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"})
"""What arrays of a snapshot are made of."""

_log = logging.getLogger(__name__)
_entries: Final = msgspec.msgpack.Encoder()


class _ArrayPlace(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    length: int
    offset: int
    """Bytes from the start of the arrays."""


class _FileHead(msgspec.Struct, frozen=True, kw_only=True):
    image: ImageHead
    arrays: tuple[_ArrayPlace, ...]


class MapStore:
    """See the module's docstring. `count` is told of each snapshot or journal that could not be used."""

    def __init__(self, folder: Path, count: Callable[[str], None]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._count = count
        self._generation = max(self._generations("snapshot", "map") + self._generations("entries", "log"), default=0)
        self._journal: BinaryIO | None = None
        self.damages: list[str] = []
        """What could not be used when the map was loaded, in words: at most two snapshots and their journals."""
        self.journal_bytes = 0
        """What the journal has grown to since the last snapshot."""

    def load(self) -> FactIntake:
        """The map as it was kept; an empty one where nothing was.

        A snapshot of a newer version is passed over like one that was damaged, and left as it is for two snapshots of
        ours: what a map holds is told again by whoever reports it, so a domain whose centre was set back to an earlier
        version goes on.
        """
        intake, begin = FactIntake(FactBook()), 0
        for generation in sorted(self._generations("snapshot", "map"), reverse=True):
            path = self._path("snapshot", generation, "map")
            try:
                head, arrays = read_snapshot(path)
                intake, begin = load_image(head, arrays, str(path)), generation
                break
            except DamagedMapError as damage:
                self._count("map_snapshots_damaged")
                self._say(f"{damage}; the one before it is used, and what came since")
            except NewerMapError as newer:
                self._count("map_snapshots_newer")
                self._say(f"{newer}; what came before and since is used, and the rest asked for")
        for generation in sorted(self._generations("entries", "log")):
            if generation >= begin:
                for entry in self._read_journal(self._path("entries", generation, "log")):
                    apply_entry(intake, entry)
        return intake

    def begin_generation(self) -> int:
        """From now on entries belong to the next snapshot, whose image is made at this moment; its generation."""
        self.close()
        self._generation += 1
        self._journal = self._path("entries", self._generation, "log").open("ab")
        self.journal_bytes = 0
        return self._generation

    def append(self, entry: MapEntry) -> None:
        """Keep an entry. A full disk costs the entries and no more: said once for each generation."""
        body = _entries.encode(entry)
        if self._journal is None or len(body) > ENTRY_BYTES:
            return
        try:
            self._journal.write(ENTRY.pack(len(body), blake3(body).digest(length=8)) + body)
            self._journal.flush()
        except OSError as error:
            self._count("map_entries_lost")
            _log.warning("the map's journal is not written: %s; the next snapshot begins another", error.strerror)
            self.close()
            return
        self.journal_bytes += ENTRY.size + len(body)

    def write_snapshot(self, generation: int, head: ImageHead, arrays: Arrays) -> None:
        """Write an image, durable, and then let older generations but one go. For a thread: seconds for a large map."""
        path = self._path("snapshot", generation, "map")
        beside = path.with_suffix(".new")
        write_snapshot(beside, head, arrays)
        os.replace(beside, path)
        _sync_folder(self.folder)
        whole = sorted(self._generations("snapshot", "map"))
        keep = whole[-2] if len(whole) > 1 else whole[-1]
        for kind, ending in (("snapshot", "map"), ("entries", "log")):
            for old in self._generations(kind, ending):
                if old < keep:
                    with contextlib.suppress(OSError):
                        self._path(kind, old, ending).unlink()

    def close(self) -> None:
        """End the journal."""
        if self._journal is not None:
            with contextlib.suppress(OSError):
                self._journal.close()
            self._journal = None

    def _path(self, kind: str, generation: int, ending: str) -> Path:
        return self.folder / f"{kind}-{generation:010d}.{ending}"

    def _generations(self, kind: str, ending: str) -> list[int]:
        found: list[int] = []
        for path in self.folder.glob(f"{kind}-*.{ending}"):
            digits = path.stem.removeprefix(f"{kind}-")
            if digits.isdigit():
                found.append(int(digits))
        return found

    def _read_journal(self, path: Path) -> Iterator[MapEntry]:
        try:
            yield from read_entries(path)
        except DamagedMapError as damage:
            self._count("map_journals_damaged")
            self._say(f"{damage}; what came after it is asked for again")

    def _say(self, text: str) -> None:
        self.damages.append(text)
        _log.warning("%s", text)


def write_snapshot(path: Path, head: ImageHead, arrays: Arrays) -> None:
    """Write a snapshot and sync it: O(bytes)."""
    places: list[_ArrayPlace] = []
    offset = 0
    for name, array in arrays.items():
        places.append(_ArrayPlace(name, array.dtype.str, len(array), offset))
        offset += -(-array.nbytes // ALIGN) * ALIGN
    encoded = _entries.encode(_FileHead(image=head, arrays=tuple(places)))
    digest = blake3(max_threads=blake3.AUTO)
    with path.open("wb") as file:

        def put(data: Any) -> None:
            digest.update(data)
            file.write(data)

        put(PREFIX.pack(MAGIC, FORMAT, len(encoded)))
        put(encoded)
        put(bytes(-(PREFIX.size + len(encoded)) % ALIGN))
        for array in arrays.values():
            put(np.ascontiguousarray(array).view(np.uint8).data)
            if rest := -array.nbytes % ALIGN:
                put(bytes(rest))
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())


def read_snapshot(path: Path) -> tuple[ImageHead, Arrays]:
    """The image in a snapshot: its arrays lie in the mapped file, read-only. DamagedMapError where it is cut off or was
    changed, NewerMapError where a newer version wrote it."""
    try:
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DamagedMapError(f"{path} is no snapshot of the map: {error}") from None
    if len(data) < PREFIX.size + DIGEST_BYTES:
        raise DamagedMapError(f"{path} has {len(data)} bytes: it was cut off")
    magic, version, length = PREFIX.unpack(data[: PREFIX.size].tobytes())
    if magic != MAGIC:
        raise DamagedMapError(f"{path} is no snapshot of the map")
    if version > FORMAT:
        raise NewerMapError(f"{path} was written by a newer version: its format is {version}, ours is {FORMAT}")
    digest = blake3(data[:-DIGEST_BYTES].data, max_threads=blake3.AUTO).digest()
    if digest != data[-DIGEST_BYTES:].tobytes() or length > min(HEAD_BYTES, len(data)):
        raise DamagedMapError(f"{path} was cut off or changed: its digest does not hold")
    try:
        head = msgspec.msgpack.decode(data[PREFIX.size : PREFIX.size + length].data, type=_FileHead)
    except UNDECODABLE as error:
        raise DamagedMapError(f"{path} does not decode: {str(error)[:200]}") from None
    start = -(-(PREFIX.size + length) // ALIGN) * ALIGN
    try:
        arrays = {place.name: _view(data, start, place) for place in head.arrays}
    except (ValueError, TypeError) as error:
        raise DamagedMapError(f"{path} has an array that does not fit: {error}") from None
    return head.image, arrays


def _view(data: NDArray[np.uint8], start: int, place: _ArrayPlace) -> NDArray[Any]:
    if place.dtype not in DTYPES or place.length < 0 or place.offset < 0:
        raise ValueError(f"{place.name[:80]} is of {place.dtype[:80]}")
    dtype = np.dtype(place.dtype)
    begin = start + place.offset
    return data[begin : begin + place.length * dtype.itemsize].view(dtype)


def read_entries(path: Path) -> Iterator[MapEntry]:
    """The entries of a journal, in order; DamagedMapError at the first that is cut off or was changed."""
    decoder: msgspec.msgpack.Decoder[MapEntry] = msgspec.msgpack.Decoder(MapEntry)
    with path.open("rb") as file:
        while prefix := file.read(ENTRY.size):
            if len(prefix) < ENTRY.size:
                raise DamagedMapError(f"{path} is cut off at byte {file.tell()}")
            length, check = ENTRY.unpack(prefix)
            body = file.read(length) if length <= ENTRY_BYTES else b""
            if len(body) != length or blake3(body).digest(length=8) != check:
                raise DamagedMapError(f"{path} is cut off or changed before byte {file.tell()}")
            try:
                yield decoder.decode(body)
            except UNDECODABLE as error:
                raise DamagedMapError(f"{path} does not decode: {str(error)[:200]}") from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
