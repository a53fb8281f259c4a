"""The shelf: packs in memory and on disk, room, pins, and what goes when room is needed.

The half of the store that is bookkeeping; it neither hashes nor copies except when it is opened after a power cut.
Least recently used packs and cut receipts go first. Never: what is pinned (a job pins what its visits fetched and made
until the centre says that it is held elsewhere or not needed), packs with readers, packs being served to a peer, loose
bytes that wait for their artifact. A pack holds all of its artifact, so nothing that stays can depend on something that
goes. Room means both: within the quota, and on the disk, of which a headroom is left to the journals beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from daitn.base.errors import NoRoomError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.base.units import show_bytes
from daitn.node.store import files
from daitn.node.store.index import ChunkPlace, Pack, PackedChunk, PackIndex, pack_bytes
from daitn.node.store.spares import Spares

PACKS: Final = 100_000
"""Packs held at once: bounds memory (about 1 kB each) and the folder, where artifacts are tiny."""

WEAKLY: Final = "~"
"""Begins reasons that name for whom an artifact is kept, but only while its room is not needed."""

SERVING_S: Final = 15.0
"""A receiver that took a chunk is still on it for this long, twice what a slow line needs for the next: until then the
pack is not evicted under it."""

LOOSE_S: Final = 3600.0
"""Loose bytes wait this long for the artifact they belong to; an owner who walks away in the middle of an upload must
not hold their room for ever."""

PACK_SUFFIX: Final = ".pack"
PROGRESS_SUFFIX: Final = ".progress"


class Partial(NamedTuple):
    """A receipt that was cut: bytes reserved for it, and when it was last worked on (the store's logical clock)."""

    size: int
    used: int


class Shelf:
    """See the module's docstring. Not thread-safe: the store calls it under its lock."""

    def __init__(
        self, folder: Path, index: PackIndex, quota_bytes: int, spares: Spares, clock: Callable[[], float]
    ) -> None:
        self.quota_bytes = quota_bytes
        self.used_bytes = 0
        """Packs, partials and files being written, at their full size."""
        self.counts: Counter[str] = Counter()
        self.packs: dict[str, Pack] = {}
        self.artifacts: dict[ArtifactId, Pack] = {}
        self.pins: dict[ArtifactId, set[str]] = {}
        self.partials: dict[str, Partial] = {}
        """Receipts that nobody works on, by pack name."""
        self.clock = clock
        self.boot = files.boot_id()
        self._folder = folder
        self._headroom_bytes = files.headroom_bytes(folder)
        self._index = index
        self._spares = spares
        self._places: dict[str, list[tuple[Pack, PackedChunk]]] = {}
        self._clock = 0
        self._touched: set[Pack] = set()
        self._open()

    def path(self, name: str) -> Path:
        """The file of a pack."""
        return self._folder / (name + PACK_SUFFIX)

    def is_pinned(self, artifact: ArtifactId) -> bool:
        """Whether something keeps it even where room is needed."""
        return any(not reason.startswith(WEAKLY) for reason in self.pins.get(artifact, ()))

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

        The file may be kept as a spare: see `spares`.
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

    def leave_partial(self, name: str, size: int) -> None:
        """Nobody works on this receipt for now; its room stays counted."""
        self._clock += 1
        self.partials[name] = Partial(size, self._clock)

    def settle(self, chunks: Iterable[str]) -> None:
        """These chunks are in an artifact now: loose bytes that were kept for it go."""
        settled = set(chunks)
        loose = {pack for chunk in settled for pack, _ in self.find(chunk) if pack.artifact is None and not pack.users}
        for pack in loose:
            if all(span.id in settled for span in pack.chunks):
                self.remove(pack)

    def remove_partial(self, name: str) -> None:
        """Drop what was received of an artifact that nobody receives any more."""
        self.used_bytes -= self.partials.pop(name).size
        self.path(name).unlink(missing_ok=True)
        self.path(name).with_suffix(PROGRESS_SUFFIX).unlink(missing_ok=True)

    def reserve(self, size: int, *, keep: Collection[Pack] = ()) -> None:
        """Count `size` bytes as used, evicting as much as needed, least recently used first; packs in `keep` go last.

        NoRoomError, and nothing evicted, if it cannot fit.
        """
        self._spares.give_way(self._excess(size))
        excess = self._excess(size)
        going = self._going(keep) if self._is_tight(excess) else []
        evictable = sum(self._size_of(one) for one in going)
        if excess > evictable:
            room = size - excess + evictable
            raise NoRoomError(
                f"the store needs {show_bytes(size)} and has room for {show_bytes(max(0, room))}: its quota is "
                f"{show_bytes(self.quota_bytes)}, {show_bytes(self.used_bytes)} are used, only "
                f"{show_bytes(evictable)} of them may be evicted, and its disk has "
                f"{show_bytes(files.free_bytes(self._folder))} free",
                required_bytes=size,
                available_bytes=max(0, room),
                todo="raise the store's quota, free space on its disk, or end jobs that pin artifacts here",
            )
        for one in going:
            if not self._is_tight(excess):
                break
            excess -= self._size_of(one)
            self._evict(one)
        if len(self.packs) >= PACKS:
            raise UnavailableError(
                f"the store holds {len(self.packs)} packs, all in use or pinned; the limit is {PACKS}"
            )
        self.used_bytes += size

    def room_bytes(self) -> int:
        """Largest artifact that would be taken in now, after evicting all that may go."""
        evictable = sum(self._size_of(one) for one in self._going())
        return max(0, evictable + self._spares.held_bytes - self._excess(0))

    def capacity_bytes(self) -> int:
        """Largest artifact that would be taken in if nothing held here were in use: the quota, or what the disk has."""
        held = self.used_bytes + self._spares.held_bytes
        return max(0, min(self.quota_bytes, held + files.free_bytes(self._folder) - self._headroom_bytes))

    def eviction_order(self) -> list[str]:
        """Names of what may go, in the order in which it would."""
        return [one if isinstance(one, str) else one.name for one in self._going()]

    def unreserve(self, size: int) -> None:
        """Give back room of a file that did not become a pack."""
        self.used_bytes -= size

    def _is_tight(self, excess: int) -> bool:
        return excess > 0 or len(self.packs) >= PACKS

    def _excess(self, size: int) -> int:
        """By how much `size` more bytes are too many, for the quota or for the disk with its headroom."""
        over_quota = self.used_bytes + size + self._spares.held_bytes - self.quota_bytes
        over_disk = size - (files.free_bytes(self._folder) - self._headroom_bytes)
        return max(over_quota, over_disk)

    def _going(self, keep: Collection[Pack] = ()) -> list[Pack | str]:
        """Packs and (by name) partials that may go, in that order."""
        order: list[tuple[bool, int, Pack | str]] = [
            (pack in keep, pack.used, pack) for pack in self.packs.values() if self._may_go(pack)
        ]
        order += [
            (False, partial.used, name)
            for name, partial in self.partials.items()
            if not self.is_pinned(ArtifactId(name))
        ]
        return [one for _, _, one in sorted(order, key=lambda entry: entry[:2])]

    def _size_of(self, one: Pack | str) -> int:
        return self.partials[one].size if isinstance(one, str) else one.size

    def _evict(self, one: Pack | str) -> None:
        if isinstance(one, str):
            self.remove_partial(one)
            self.counts["evicted_partial"] += 1
        else:
            self.remove(one)
            self.counts["evicted"] += 1

    def _may_go(self, pack: Pack) -> bool:
        pinned = pack.artifact is not None and self.is_pinned(pack.artifact)
        return not (pack.users or pinned or pack.busy_until_s > self.clock())

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
                self.leave_partial(name, path.stat().st_size)
                self.used_bytes += self.partials[name].size
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
