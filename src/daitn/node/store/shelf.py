"""The shelf: packs in memory and on disk, room, pins, and what goes when room is needed.

The half of the store that is bookkeeping; it neither hashes nor copies except when it is opened after a power cut.
Least recently used packs go first. Never: pinned artifacts, packs with users, fresh loose bytes. A pack holds all of
its artifact, so nothing that stays can depend on something that goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from daitn.base.errors import UnavailableError
from daitn.base.ids import ArtifactId
from daitn.base.units import show_bytes
from daitn.node.store import files
from daitn.node.store.index import ChunkPlace, Pack, PackedChunk, PackIndex, pack_bytes
from daitn.node.store.spares import Spares

PACKS: Final = 100_000
"""Packs held at once: bounds memory (about 1 kB each) and the folder, where artifacts are tiny."""

PACK_SUFFIX: Final = ".pack"
PROGRESS_SUFFIX: Final = ".progress"


class Shelf:
    """See the module's docstring. Not thread-safe: the store calls it under its lock."""

    def __init__(self, folder: Path, index: PackIndex, quota_bytes: int, spares: Spares) -> None:
        self.quota_bytes = quota_bytes
        self.used_bytes = 0
        """Packs, partials and files being written, at their full size."""
        self.counts: Counter[str] = Counter()
        self.packs: dict[str, Pack] = {}
        self.artifacts: dict[ArtifactId, Pack] = {}
        self.pins: dict[ArtifactId, set[str]] = {}
        self.partials: dict[str, int] = {}
        """Receipts that nobody works on: pack name to reserved bytes."""
        self.boot = files.boot_id()
        self._folder = folder
        self._index = index
        self._spares = spares
        self._places: dict[str, list[tuple[Pack, PackedChunk]]] = {}
        self._clock = 0
        self._touched: set[Pack] = set()
        self._open()

    def path(self, name: str) -> Path:
        """The file of a pack."""
        return self._folder / (name + PACK_SUFFIX)

    def find(self, chunk: str) -> list[tuple[Pack, ChunkPlace]]:
        """Everywhere a chunk is held, servable or not."""
        return [
            (pack, ChunkPlace(self.path(pack.name), span.offset, span.size))
            for pack, span in self._places.get(chunk, ())
        ]

    def add(self, pack: Pack) -> None:
        """Take in a pack whose file is in place and whose room is reserved; durable against a killed process."""
        self._clock += 1
        pack.used = self._clock
        self._index.add(pack)
        self._take(pack)

    def touch(self, pack: Pack) -> None:
        """Note a use, in memory; kept durably now and then."""
        self._clock += 1
        pack.used = self._clock
        self._touched.add(pack)

    def flush(self) -> None:
        """Keep the uses noted since the last time."""
        touched = [(pack.name, pack.used) for pack in self._touched if pack.name in self.packs]
        self._touched.clear()
        if touched:
            self._index.set_used(touched)

    def remove(self, pack: Pack, job: str = "") -> None:
        """Drop a pack: first from the index, then its file, so that a cut between leaves an orphan, not a lie.

        With `job` the file may be kept as a spare of that job.
        """
        self._index.remove([pack.name])
        self.packs.pop(pack.name, None)
        if pack.artifact is not None and self.artifacts.get(pack.artifact) is pack:
            del self.artifacts[pack.artifact]
        for span in pack.chunks:
            if places := self._places.get(span.id):
                places[:] = [place for place in places if place[0] is not pack]
                if not places:
                    del self._places[span.id]
        self.used_bytes -= pack.size
        self._spares.drop(self.path(pack.name), job)

    def remove_partial(self, name: str) -> None:
        """Drop what was received of an artifact that nobody receives any more."""
        self.used_bytes -= self.partials.pop(name)
        self.path(name).unlink(missing_ok=True)
        self.path(name).with_suffix(PROGRESS_SUFFIX).unlink(missing_ok=True)

    def reserve(self, size: int, *, keep: Collection[Pack] = ()) -> None:
        """Count `size` bytes as used, evicting as much as needed; packs in `keep` go last.

        UnavailableError, and nothing evicted, if it cannot fit.
        """
        if self.used_bytes + size + self._spares.held_bytes > self.quota_bytes:
            self._spares.clear()
        excess = self.used_bytes + size - self.quota_bytes
        candidates = [pack for pack in self.packs.values() if self._may_go(pack)] if self._is_tight(excess) else []
        room = sum(pack.size for pack in candidates) + sum(self.partials.values())
        if excess > room:
            raise UnavailableError(
                f"the store needs {show_bytes(size)}, its quota is {show_bytes(self.quota_bytes)}, "
                f"{show_bytes(self.used_bytes)} are used and only {show_bytes(room)} of them may be evicted",
                todo="raise the store's quota, or end jobs that pin artifacts here",
            )
        candidates.sort(key=lambda pack: (pack in keep, pack.used), reverse=True)
        while self.partials and self.used_bytes + size > self.quota_bytes:
            self.remove_partial(next(iter(self.partials)))
            self.counts["evicted_partial"] += 1
        while candidates and self._is_tight(self.used_bytes + size - self.quota_bytes):
            self.remove(candidates.pop())
            self.counts["evicted"] += 1
        if len(self.packs) >= PACKS:
            raise UnavailableError(
                f"the store holds {len(self.packs)} packs, all in use or pinned; the limit is {PACKS}"
            )
        self.used_bytes += size

    def unreserve(self, size: int) -> None:
        """Give back room of a file that did not become a pack."""
        self.used_bytes -= size

    def _is_tight(self, excess: int) -> bool:
        return excess > 0 or len(self.packs) >= PACKS

    def _may_go(self, pack: Pack) -> bool:
        return not (pack.users or pack.fresh or (pack.artifact is not None and self.pins.get(pack.artifact)))

    def _take(self, pack: Pack) -> None:
        self.packs[pack.name] = pack
        if pack.artifact is not None:
            self.artifacts[pack.artifact] = pack
        seen: set[str] = set()
        for span in pack.chunks:
            if span.id not in seen:
                seen.add(span.id)
                self._places.setdefault(span.id, []).append((pack, span))

    def _open(self) -> None:
        """Load the index, drop what is not whole, remove orphans, note what can be resumed."""
        for artifact, reason in self._index.pins():
            self.pins.setdefault(artifact, set()).add(reason)
        for pack in self._index.load():
            self._clock = max(self._clock, pack.used)
            if pack.artifact in self.artifacts or not self._is_whole(pack):
                self._index.remove([pack.name])
                self.path(pack.name).unlink(missing_ok=True)
                self.counts["dropped_at_opening"] += 1
                continue
            self._take(pack)
            self.used_bytes += pack.size
        for name, path in self._files():
            progress = path.with_suffix(PROGRESS_SUFFIX)
            if name in self.packs:
                progress.unlink(missing_ok=True)
            elif path.exists() and progress.exists() and name not in self.artifacts:
                self.partials[name] = path.stat().st_size
                self.used_bytes += self.partials[name]
            else:
                path.unlink(missing_ok=True)
                progress.unlink(missing_ok=True)
                self.counts["orphans_removed"] += 1

    def _files(self) -> Iterator[tuple[str, Path]]:
        names = {path.stem for path in self._folder.iterdir() if path.suffix in (PACK_SUFFIX, PROGRESS_SUFFIX)}
        return ((name, self.path(name)) for name in sorted(names))

    def _is_whole(self, pack: Pack) -> bool:
        """Whether the file has its size and, where it may have been lost in a power cut, its contents."""
        path = self.path(pack.name)
        if not path.is_file() or path.stat().st_size != pack.size or pack_bytes(pack.chunks) != pack.size:
            return False
        if pack.synced or (pack.boot and pack.boot == self.boot):
            return True
        self.counts["verified_at_opening"] += 1
        if not files.file_has_digests(path, pack.chunks):
            return False
        pack.synced = True
        self._index.set_synced([pack.name])
        return True
