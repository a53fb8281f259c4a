"""The store's memory: which packs there are, which chunks lie where in them, what is pinned.

One row per pack with its chunks in one blob: adopting a 2 GB model is a single insert of 40 kB. The database is SQLite
in WAL mode with `synchronous=NORMAL`: a commit survives a killed process and costs 0.1 ms; after a power cut the last
commits may be missing, then their files are orphans and are removed. What must survive a power cut is committed by
`set_synced`, which fsyncs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from daitn.artifacts.manifest import Manifest
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import NoRoomError, UnavailableError
from daitn.base.ids import ArtifactId

BUSY_MS: Final = 5_000
"""A backup program may hold the database for a moment; longer is an error."""

INDEX_BYTES: Final = 1 << 20
"""What a change of the index may need: its log, and a row of 40 kB for a model of 2 GB."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS packs (
    name TEXT PRIMARY KEY, artifact TEXT, size INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    servable INTEGER NOT NULL, synced INTEGER NOT NULL, boot TEXT NOT NULL, used INTEGER NOT NULL, chunks BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (
    artifact TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (artifact, reason)
) WITHOUT ROWID;
"""


class ChunkPlace(NamedTuple):
    """Where a chunk's bytes are. The file may be evicted before it is opened: then locate again."""

    path: Path
    offset: int
    size: int


class PackedChunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A span of a pack with its digest."""

    id: str
    offset: int
    size: int


@dataclass(slots=True, eq=False)
class Pack:
    """One pack file. `used` is the store's logical clock at last use, `boot` the machine's run that wrote it."""

    name: str
    artifact: ArtifactId | None
    size: int
    payload_bytes: int
    servable: bool
    synced: bool
    boot: str
    used: int
    chunks: tuple[PackedChunk, ...]
    users: int = 0
    """Readers and copies under way; not evicted while there are any."""
    busy_until_s: float = 0.0
    """Not evicted before this moment of the monotonic clock: being served to a peer, or loose bytes that an artifact
    is about to take."""


def plan_pack(manifest: Manifest, artifact: ArtifactId, manifest_bytes: int) -> tuple[PackedChunk, ...]:
    """Spans of an artifact's pack: payload, parts in the manifest's order, the manifest itself (as one chunk)."""
    spans: list[PackedChunk] = []
    offset = 0
    for chunks in (manifest.chunks, *(part.chunks for part in manifest.parts)):
        for ref in chunks:
            spans.append(PackedChunk(ref.id, offset, ref.size))
            offset += ref.size
    spans.append(PackedChunk(artifact, offset, manifest_bytes))
    return tuple(spans)


def pack_bytes(spans: tuple[PackedChunk, ...]) -> int:
    """Size of a pack with these spans."""
    return spans[-1].offset + spans[-1].size if spans else 0


def read_index(path: Path) -> tuple[list[Pack], dict[str, tuple[str, ...]]]:
    """Packs and pins (reasons by artifact) of an index that may be in use; changes nothing.

    UnavailableError where it cannot be read.
    """
    chunks = msgspec.msgpack.Decoder(tuple[PackedChunk, ...])
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_MS / 1000)
        try:
            rows = database.execute("SELECT * FROM packs").fetchall()
            reasons = database.execute("SELECT artifact, reason FROM pins ORDER BY reason").fetchall()
        finally:
            database.close()
        packs = [
            Pack(name, artifact, size, payload_bytes, bool(servable), bool(synced), boot, used, chunks.decode(spans))
            for name, artifact, size, payload_bytes, servable, synced, boot, used, spans in rows
        ]
    except (sqlite3.Error, *UNDECODABLE) as error:
        raise UnavailableError(f"the store's index {path} cannot be read: {error}") from None
    pins: dict[str, tuple[str, ...]] = {}
    for artifact, reason in reasons:
        pins[artifact] = (*pins.get(artifact, ()), reason)
    return packs, pins


class PackIndex:
    """The durable half of the store's memory. Not thread-safe: the store calls it under its lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._database = sqlite3.connect(
                path, timeout=BUSY_MS / 1000, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_SCHEMA)
        self._chunks = msgspec.msgpack.Decoder(tuple[PackedChunk, ...])

    def load(self) -> Iterator[Pack]:
        """All packs; rows that do not decode are removed and passed over."""
        with self._errors():
            rows = self._database.execute("SELECT * FROM packs").fetchall()
        for name, artifact, size, payload_bytes, servable, synced, boot, used, chunks in rows:
            try:
                spans = self._chunks.decode(chunks)
            except UNDECODABLE:
                self.remove([name])
                continue
            yield Pack(name, artifact, size, payload_bytes, bool(servable), bool(synced), boot, used, spans)

    def pins(self) -> list[tuple[ArtifactId, str]]:
        """All pins with their reasons."""
        with self._errors():
            rows = self._database.execute("SELECT artifact, reason FROM pins").fetchall()
        return [(ArtifactId(artifact), reason) for artifact, reason in rows]

    def add(self, pack: Pack) -> None:
        """Remember a pack, in place of one of the same name."""
        chunks = msgspec.msgpack.encode(pack.chunks)
        row = (
            pack.name, pack.artifact, pack.size, pack.payload_bytes,
            pack.servable, pack.synced, pack.boot, pack.used, chunks,
        )  # fmt: skip
        with self._errors():
            self._database.execute("INSERT OR REPLACE INTO packs VALUES (?,?,?,?,?,?,?,?,?)", row)

    def remove(self, names: Iterable[str]) -> None:
        """Forget packs."""
        with self._transaction() as database:
            database.executemany("DELETE FROM packs WHERE name = ?", [(name,) for name in names])

    def set_servable(self, name: str, servable: bool) -> None:
        """Change whether a pack may be served."""
        with self._errors():
            self._database.execute("UPDATE packs SET servable = ? WHERE name = ?", (servable, name))

    def set_used(self, uses: Iterable[tuple[str, int]]) -> None:
        """Keep when packs were last used (name, logical clock)."""
        with self._transaction() as database:
            database.executemany("UPDATE packs SET used = ?2 WHERE name = ?1", list(uses))

    def set_synced(self, names: Iterable[str]) -> None:
        """Note that packs are on the disk for good; returns when this note, and all before it, are so too."""
        with self._errors():
            self._database.execute("PRAGMA synchronous=FULL")
        try:
            with self._transaction() as database:
                database.executemany("UPDATE packs SET synced = 1 WHERE name = ?", [(name,) for name in names])
        finally:
            self._database.execute("PRAGMA synchronous=NORMAL")

    def set_pin(self, artifact: ArtifactId, reason: str, pinned: bool) -> None:
        """Add or remove one pin."""
        with self._errors():
            if pinned:
                self._database.execute("INSERT OR IGNORE INTO pins VALUES (?,?)", (artifact, reason))
            else:
                self._database.execute("DELETE FROM pins WHERE artifact = ? AND reason = ?", (artifact, reason))

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise NoRoomError(
                    f"the disk of the store's index {self._path} is full",
                    required_bytes=INDEX_BYTES,
                    available_bytes=0,
                    todo="free space there",
                ) from None
            raise UnavailableError(
                f"the store's index {self._path} cannot be used: {error}",
                todo="check room and rights there; if it is damaged remove it, and artifacts are fetched again",
            ) from None
