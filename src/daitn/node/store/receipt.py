"""A receipt: one artifact on its way into the store, which survives a killed process.

The destination file has its full size from the start and each chunk a fixed place, so chunks may arrive in any order
and from any holder. A chunk whose digest was verified is noted in a `.progress` file beside it (32 bytes each, one
write); the note follows the data, so a killed process loses at most the chunks in flight. After reopening, noted chunks
are hashed again before they are trusted, because a power cut may have kept the note and lost the data.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from daitn.artifacts.layout import Buffer, digest_of
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import BugError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.node.store import files
from daitn.node.store.index import ChunkPlace, PackedChunk

if TYPE_CHECKING:
    from daitn.node.store.chunks import ChunkStore

DIGEST_BYTES: Final = 32


class Want(NamedTuple):
    """A chunk still missing, and where in the file it goes."""

    id: str
    size: int
    offset: int


class Receipt:
    """See the module's docstring. Made by `ChunkStore.begin`; shared by all who receive the same artifact at once,
    each of whom leaves it with `abandon` or a `with` block.

    Chunks are either handed to `write`, or written to `fileno()` by the caller, who verifies them and says `mark`.
    """

    def __init__(
        self,
        store: ChunkStore,
        artifact: ArtifactId,
        manifest: Manifest,
        manifest_bytes: bytes,
        spans: tuple[PackedChunk, ...],
        path: Path,
        *,
        servable: bool,
        held: bool = False,
    ) -> None:
        self.artifact = artifact
        self.manifest = manifest
        self.path = path
        self.spans = spans
        self.servable = servable
        self.copied_bytes = 0
        """Taken from other packs of this store."""
        self.resumed_bytes = 0
        """Received before a cut, and found whole."""
        self.damaged: set[str] = set()
        """Packs of this store that have changed on the disk; what they should have given is missing."""
        self.users = 1
        self._store = store
        self._manifest_bytes = manifest_bytes
        self._lock = threading.Lock()
        self._offsets: dict[str, list[int]] = {}
        self._sizes: dict[str, int] = {}
        for span in spans:
            self._offsets.setdefault(span.id, []).append(span.offset)
            self._sizes[span.id] = span.size
        self._missing: dict[str, None] = {} if held else dict.fromkeys(self._offsets)
        self._fd = self._progress = -1
        self._prepared = self._finished = held

    @property
    def progress_path(self) -> Path:
        """Where verified chunks are noted."""
        return self.path.with_suffix(".progress")

    @property
    def wants(self) -> tuple[Want, ...]:
        """Chunks still missing, in the file's order."""
        with self._lock:
            return tuple(Want(chunk, self._sizes[chunk], self._offsets[chunk][0]) for chunk in self._missing)

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched."""
        with self._lock:
            return sum(self._sizes[chunk] for chunk in self._missing)

    @property
    def finished(self) -> bool:
        """Whether the artifact is in the store."""
        return self._finished

    def fileno(self) -> int:
        """Descriptor of the destination file, for callers that write chunks themselves."""
        if self._fd < 0:
            raise BugError(f"the receipt of artifact {self.artifact} is closed")
        return self._fd

    def write(self, chunk: str, data: Buffer) -> None:
        """Verify a chunk, write it to its place and note it. PeerError if it is not what its digest says."""
        if chunk not in self._sizes:
            raise PeerError(f"chunk {chunk[:80]!r} does not belong to artifact {self.artifact}")
        size = memoryview(data).nbytes
        if size != self._sizes[chunk] or digest_of(data) != chunk:
            raise PeerError(
                f"{size} bytes sent as chunk {chunk} of {self._sizes[chunk]} bytes have another digest",
                todo="fetch it from another holder",
                ids={"artifact": self.artifact},
            )
        with files.disk_errors(f"chunk of {size} bytes cannot be written", self.path):
            files.write_all(self.fileno(), data, self._offsets[chunk][0])
        self.mark(chunk)

    def mark(self, chunk: str) -> None:
        """Note a chunk that the caller wrote to its place and verified; again is harmless."""
        with self._lock:
            if chunk not in self._sizes:
                raise BugError(f"chunk {chunk[:80]!r} does not belong to artifact {self.artifact}")
            if chunk in self._missing:
                self._note([chunk])

    def finish(self) -> ArtifactId:
        """Make the complete artifact part of the store; no hashing. BugError while chunks are missing."""
        with self._lock:
            if self._finished:
                return self.artifact
            if self._missing:
                raise BugError(f"artifact {self.artifact} cannot be finished: {len(self._missing)} chunks are missing")
            alone = self._store.complete(self)
            self._finished = True
            if alone:  # others may be about to write: for them it is closed when the last one leaves
                self._close()
            return self.artifact

    def abandon(self) -> None:
        """Leave the receipt, once; if it is not finished, what has arrived is kept and `begin` takes it up again."""
        self._store.leave(self)

    def __enter__(self) -> Receipt:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def prepare(self, held: Mapping[str, ChunkPlace]) -> None:
        """Open the file, trust what was received before and is whole, copy what other packs hold. Called by `begin`."""
        with self._lock:
            if self._prepared or self._finished:
                return
            try:
                self._prepare(held)
            except BaseException:
                self._close()
                raise
            self._prepared = True

    def close(self) -> None:
        """Close the files; called by the store when nobody uses the receipt any more."""
        with self._lock:
            self._close()

    def _prepare(self, held: Mapping[str, ChunkPlace]) -> None:
        noted = self._read_progress()
        self._fd = files.create(self.path, self.spans[-1].offset + self.spans[-1].size)
        with files.disk_errors("a receipt cannot be prepared", self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._progress = os.open(self.progress_path, flags, 0o600)
            whole = [chunk for chunk in noted if chunk in self._missing and self._is_whole(chunk)]
            self.resumed_bytes = sum(self._sizes[chunk] for chunk in whole)
            if os.fstat(self._progress).st_size != len(whole) * DIGEST_BYTES:
                os.ftruncate(self._progress, 0)
                self._note(whole)
            else:
                self._settle(whole)
            self._copy_held(held)
            if self.artifact in self._missing:
                files.write_all(self._fd, self._manifest_bytes, self._offsets[self.artifact][0])
                self._note([self.artifact])

    def _read_progress(self) -> list[str]:
        """Chunks noted earlier; nothing if the file beside the notes is not there. A torn last note is left out."""
        if not self.path.exists():
            return []
        try:
            data = self.progress_path.read_bytes()
        except FileNotFoundError:
            return []
        notes = range(0, len(data) - DIGEST_BYTES + 1, DIGEST_BYTES)
        return list(dict.fromkeys(data[start : start + DIGEST_BYTES].hex() for start in notes))

    def _is_whole(self, chunk: str) -> bool:
        size = self._sizes[chunk]
        return files.span_has_digest(self._fd, self._offsets[chunk][0], size, chunk)

    def _copy_held(self, held: Mapping[str, ChunkPlace]) -> None:
        """Copy what other packs hold, and hash it: a bit that flipped there would be in every model that follows."""
        done: list[str] = []
        opened: dict[Path, int] = {}
        try:
            for chunk in list(self._missing):
                if (place := held.get(chunk)) is None or place.size != self._sizes[chunk]:
                    continue
                if place.path not in opened:
                    opened[place.path] = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
                source = opened[place.path]
                files.copy_range(source, place.offset, self._fd, self._offsets[chunk][0], place.size)
                if self._is_whole(chunk):
                    self.copied_bytes += place.size
                    done.append(chunk)
                else:
                    self.damaged.add(place.path.stem)
        finally:
            for source in opened.values():
                os.close(source)
        self._note(done)

    def _note(self, chunks: Sequence[str]) -> None:
        """Settle chunks that are in their first place, and note them."""
        if self._progress < 0:
            raise UnavailableError(f"the receipt of artifact {self.artifact} was closed", todo="begin it again")
        if not chunks:
            return
        notes = b"".join(bytes.fromhex(chunk) for chunk in chunks)
        with files.disk_errors("progress cannot be noted", self.progress_path):
            noted_bytes = os.fstat(self._progress).st_size
            if os.write(self._progress, notes) != len(notes):
                os.ftruncate(self._progress, noted_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._settle(chunks)

    def _settle(self, chunks: Sequence[str]) -> None:
        """Fill the other places of chunks that occur more than once; none of them is missing any more."""
        for chunk in chunks:
            first, *others = self._offsets[chunk]
            with files.disk_errors("a repeated chunk cannot be copied", self.path):
                for offset in others:
                    files.copy_range(self._fd, first, self._fd, offset, self._sizes[chunk])
            self._missing.pop(chunk, None)

    def _close(self) -> None:
        for fd in (self._fd, self._progress):
            if fd >= 0:
                os.close(fd)
        self._fd = self._progress = -1
