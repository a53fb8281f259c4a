"""What a store holds: opening it, finding and reading, pins, durability. The half that makes no new artifacts.

All state is behind one lock that is held for look-ups, inserts and unlinks only, never while hashing or copying.

Private artifacts (samples given to a verification unit) are unservable: `locate` refuses them, and their chunks are
never copied into an artifact that may be served, or a peer could draw them out by naming their digests.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from daitn.artifacts.codec import NO_MODELS, decode_manifest
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId
from daitn.base.units import MIB
from daitn.node.store import files
from daitn.node.store.files import OutputFile
from daitn.node.store.index import ChunkPlace, Pack, PackedChunk, PackIndex, pack_bytes
from daitn.node.store.receipt import Receipt
from daitn.node.store.shelf import SERVING_S, WEAKLY, Shelf
from daitn.node.store.spares import Spares
from daitn.node.store.tensors import TensorMap

MANIFESTS_CACHED: Final = 64
"""Decoded manifests kept: a visit asks for the same few again and again."""

MANIFESTS_CACHED_BYTES: Final = 4 * MIB
"""Their encoded sizes together; decoded they take up to ten times as much. One of 1,000 chunks has 80 kB."""


class StoreSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The store at one moment, for operations. `counts`: evicted, dropped_at_opening, corrupt, …, since opening."""

    quota_bytes: int
    used_bytes: int
    packs: int
    artifacts: int
    pinned_bytes: int
    partials: int
    unsynced: int
    counts: dict[str, int]


class HeldArtifacts:
    """See the module's docstring; `ChunkStore` adds receiving and making."""

    def __init__(self, folder: Path, quota_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._packs = folder / "packs"
        self._output_folder = folder / "output"
        with files.disk_errors("the store's folders cannot be made", folder / "packs"):
            for path in (folder, self._packs, self._output_folder):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = files.lock_folder(folder)
        for path in self._output_folder.iterdir():
            path.unlink()  # results of visits that a killed process was waiting for
        self._lock = threading.RLock()
        self._index = PackIndex(folder / "index.sqlite")
        self._spares = Spares(folder / "spares", quota_bytes)
        self._shelf = Shelf(self._packs, self._index, quota_bytes, self._spares, clock)
        self._receipts: dict[ArtifactId, Receipt] = {}
        self._outputs: dict[OutputFile, int] = {}
        self._manifests: OrderedDict[ArtifactId, Manifest] = OrderedDict()
        self._manifest_sizes: dict[ArtifactId, int] = {}

    # Finding

    def locate(self, chunk: ChunkId, artifact: ArtifactId | None = None) -> ChunkPlace | None:
        """Where a chunk (or a manifest, by its artifact's id) can be read to be served; None if it is not held.

        With `artifact`, only as part of it: what a grant for that artifact permits. PolicyError if it is held for this
        node's own use only.
        """
        with self._lock:
            held = [place for place in self._shelf.find(chunk) if artifact is None or place[0].artifact == artifact]
            for pack, place in held:
                if pack.servable:
                    self._shelf.touch(pack)
                    pack.busy_until_s = max(pack.busy_until_s, self._shelf.clock() + SERVING_S)
                    return place
        if held:
            raise PolicyError(f"chunk {chunk} was given to this node alone and is not served", ids={"chunk": chunk})
        return None

    def holds(self, artifact: ArtifactId) -> bool:
        """Whether the whole artifact is here, servable or not."""
        with self._lock:
            return artifact in self._shelf.artifacts

    def manifest(self, artifact: ArtifactId) -> Manifest:
        """The manifest of an artifact held here; UnavailableError if it is not."""
        with self._lock:
            if (known := self._manifests.get(artifact)) is not None and artifact in self._shelf.artifacts:
                self._manifests.move_to_end(artifact)
                return known
        data = self.manifest_bytes(artifact)
        manifest = decode_manifest(data)
        with self._lock:
            self._manifests[artifact] = manifest
            self._manifest_sizes[artifact] = len(data)
            while (
                len(self._manifests) > MANIFESTS_CACHED or sum(self._manifest_sizes.values()) > MANIFESTS_CACHED_BYTES
            ):
                oldest, _ = self._manifests.popitem(last=False)
                del self._manifest_sizes[oldest]
        return manifest

    def manifest_bytes(self, artifact: ArtifactId) -> bytes:
        """The canonical manifest as it is sent to a peer."""
        with self._using(artifact) as pack:
            span = pack.chunks[-1]
            return self._read(pack, span.offset, span.size)

    def part(self, artifact: ArtifactId, name: str) -> bytes:
        """A part of an artifact held here; InputError if it has no such part."""
        manifest = self.manifest(artifact)
        offset = manifest.payload_bytes
        for part in manifest.parts:
            if part.name == name:
                with self._using(artifact) as pack:
                    return self._read(pack, offset, part.size)
            offset += part.size
        raise InputError(f"artifact {manifest.name!r} has no part {name!r}", ids={"artifact": artifact})

    def payload_place(self, artifact: ArtifactId) -> ChunkPlace:
        """The payload as a span of a file, for a child process to map; pin the artifact while it does."""
        with self._using(artifact) as pack:
            return ChunkPlace(self._shelf.path(pack.name), 0, pack.payload_bytes)

    def read_tensor_map(self, artifact: ArtifactId) -> TensorMap:
        """The artifact's tensors, mapped; close it (or leave its context) to let the pack go."""
        manifest = self.manifest(artifact)
        pack = self._enter(artifact)
        try:
            with files.disk_errors("a pack cannot be mapped", self._shelf.path(pack.name)):
                area = _map_payload(self._shelf.path(pack.name), pack.payload_bytes)
        except BaseException:
            self._leave_packs([pack])
            raise
        return TensorMap(manifest, area, lambda: self._leave_packs([pack]))

    # Keeping

    def pin(self, artifact: ArtifactId, reason: str) -> None:
        """Keep an artifact, held or still to come, until each reason it was pinned for is unpinned; durable."""
        with self._lock:
            self._index.set_pin(artifact, reason, True)
            self._shelf.pins.setdefault(artifact, set()).add(reason)

    def unpin(self, artifact: ArtifactId, reason: str) -> None:
        """Take one reason back; harmless if there was none."""
        with self._lock:
            self._index.set_pin(artifact, reason, False)
            reasons = self._shelf.pins.get(artifact, set())
            reasons.discard(reason)
            if not reasons:
                self._shelf.pins.pop(artifact, None)

    def unpin_all(self, reason: str) -> tuple[ArtifactId, ...]:
        """Take one reason back, also as a weak one, from every artifact that has it; returns those."""
        with self._lock:
            either = {reason, WEAKLY + reason}
            found = tuple(artifact for artifact, reasons in self._shelf.pins.items() if either & reasons)
            for artifact in found:
                for one in either:
                    self.unpin(artifact, one)
            return found

    def let_go(self, job: str, artifacts: Sequence[ArtifactId]) -> None:
        """A job that goes on needs these no more, the newest last: they are dropped, their files free for its next.

        But where no other model of the job stays here, the newest does, while its room is not needed: the job's next
        model will share with it what training does not change, which is then copied instead of fetched.
        """
        with self._lock:
            for artifact in artifacts:
                self.unpin(artifact, job)
            stays = any(job in reasons and self._is_model(one) for one, reasons in self._shelf.pins.items())
            weakly = [one for one, reasons in self._shelf.pins.items() if WEAKLY + job in reasons]
            last = next((one for one in (*reversed(artifacts), *weakly) if self._is_model(one)), None)
            for artifact in dict.fromkeys((*artifacts, *weakly)):
                if artifact == last and not stays:
                    self.pin(artifact, WEAKLY + job)
                else:
                    self.unpin(artifact, WEAKLY + job)
                    self.release(artifact, job=job)

    def _is_model(self, artifact: ArtifactId) -> bool:
        return self.holds(artifact) and self.manifest(artifact).kind not in NO_MODELS

    def pinned_for(self, reason: str) -> tuple[ArtifactId, ...]:
        """What is held here and pinned for a reason."""
        with self._lock:
            pins = self._shelf.pins.items()
            return tuple(one for one, reasons in pins if reason in reasons and one in self._shelf.artifacts)

    def pin_reasons(self) -> frozenset[str]:
        """Every reason for which something is pinned, if only weakly: at a terminal, jobs."""
        with self._lock:
            return frozenset(reason.removeprefix(WEAKLY) for reasons in self._shelf.pins.values() for reason in reasons)

    def room_bytes(self) -> int:
        """Largest artifact that would be taken in now: what quota and disk leave, and what may be evicted."""
        with self._lock:
            return self._shelf.room_bytes()

    def capacity_bytes(self) -> int:
        """Largest artifact that would be taken in if nothing held here were in use."""
        with self._lock:
            return self._shelf.capacity_bytes()

    def release(self, artifact: ArtifactId, *, job: str = "") -> bool:
        """Drop an artifact now; False if it is pinned or in use (then it stays), True if it is gone.

        `job`: whose next artifacts may take over its file while others may still have it open (see `spares`).
        """
        with self._lock:
            pack = self._shelf.artifacts.get(artifact)
            if pack is None:
                return True
            if pack.users or self._shelf.is_pinned(artifact):
                return False
            self._shelf.remove(pack, job)
            return True

    def end_job(self, job: str) -> None:
        """No further artifacts of this job come, and its children have ended: its spare files are anyone's."""
        self._spares.end_job(job)

    def verify(self, artifact: ArtifactId) -> bool:
        """Hash all of an artifact; one that is damaged is dropped and counted, even if pinned. Cost: hashing it."""
        with self._using(artifact) as pack:
            whole = files.file_has_digests(self._shelf.path(pack.name), pack.chunks)
        if not whole:
            self._drop_damaged(pack.name)
        return whole

    def sync(self) -> int:
        """Make everything indexed so far survive a power cut; returns how many packs were synced. Slow: run aside."""
        with self._lock:
            packs = [pack for pack in self._shelf.packs.values() if not pack.synced]
        with files.disk_errors("packs cannot be synced", self._packs / "packs"):
            files.sync_files([self._shelf.path(pack.name) for pack in packs], self._packs)
        with self._lock:
            self._index.set_synced([pack.name for pack in packs])
            self._shelf.flush()
            for pack in packs:
                pack.synced = True
        return len(packs)

    def snapshot(self) -> StoreSnapshot:
        """Figures for operations."""
        with self._lock:
            shelf = self._shelf
            return StoreSnapshot(
                quota_bytes=shelf.quota_bytes,
                used_bytes=shelf.used_bytes,
                packs=len(shelf.packs),
                artifacts=len(shelf.artifacts),
                pinned_bytes=sum(pack.size for artifact, pack in shelf.artifacts.items() if shelf.is_pinned(artifact)),
                partials=len(shelf.partials) + len(self._receipts),
                unsynced=sum(not pack.synced for pack in shelf.packs.values()),
                counts=dict(shelf.counts),
            )

    def close(self) -> None:
        """Close files and let another process use the folder. Receipts under way can be taken up again there."""
        with self._lock:
            for receipt in self._receipts.values():
                receipt.close()
            self._receipts.clear()
            for output in list(self._outputs):
                output.discard()
            self._shelf.flush()
            self._index.close()
            self._spares.close()
            os.close(self._lock_fd)

    # For ChunkStore

    def _enter(self, artifact: ArtifactId) -> Pack:
        """The pack of an artifact, kept from eviction until `_leave_packs`; UnavailableError if it is not here."""
        with self._lock:
            pack = self._shelf.artifacts.get(artifact)
            if pack is None:
                raise UnavailableError(
                    f"artifact {artifact} is not in this store", todo="fetch it from a node that holds it"
                )
            pack.users += 1
            self._shelf.touch(pack)
            return pack

    def _leave_packs(self, packs: Iterable[Pack]) -> None:
        with self._lock:
            for pack in packs:
                pack.users -= 1

    @contextmanager
    def _using(self, artifact: ArtifactId) -> Iterator[Pack]:
        pack = self._enter(artifact)
        try:
            yield pack
        finally:
            self._leave_packs([pack])

    @contextmanager
    def _holding(self, chunks: Iterable[str], *, private: bool) -> Iterator[dict[str, ChunkPlace]]:
        """Places of those chunks that are held, kept from eviction meanwhile; unservable ones only if `private`."""
        places: dict[str, ChunkPlace] = {}
        packs: set[Pack] = set()
        with self._lock:
            for chunk in chunks:
                for pack, place in self._shelf.find(chunk):
                    if pack.servable or private:
                        places[chunk] = place
                        packs.add(pack)
                        break
            for pack in packs:
                pack.users += 1
                self._shelf.touch(pack)
        try:
            yield places
        finally:
            self._leave_packs(packs)

    def _add(
        self, name: str, artifact: ArtifactId | None, payload_bytes: int, spans: tuple[PackedChunk, ...], servable: bool
    ) -> Pack:
        """Index a pack whose file is in place and whose room is reserved."""
        with self._lock:
            pack = Pack(
                name=name,
                artifact=artifact,
                size=pack_bytes(spans),
                payload_bytes=payload_bytes,
                servable=servable,
                synced=False,
                boot=self._shelf.boot,
                used=0,
                chunks=spans,
            )
            self._shelf.add(pack)
            return pack

    def _drop_damaged(self, name: str) -> None:
        """Drop a pack whose bytes are not what they were, even if it is pinned or in use, and count it."""
        with self._lock:
            if (pack := self._shelf.packs.get(name)) is not None:
                self._shelf.remove(pack)
                self._shelf.counts["corrupt"] += 1

    def _restrict(self, pack: Pack, servable: bool) -> None:
        """A pack that was given privately once is never served again."""
        if pack.servable and not servable:
            self._index.set_servable(pack.name, False)
            pack.servable = False

    def _forget_output(self, output: OutputFile) -> None:
        """Remove an output that nobody adopted."""
        with self._lock:
            reserved = self._outputs.pop(output, None)
            if reserved is not None:
                output.path.unlink(missing_ok=True)
                self._shelf.unreserve(reserved)

    def _read(self, pack: Pack, offset: int, size: int) -> bytes:
        path = self._shelf.path(pack.name)
        with files.disk_errors("a pack cannot be read", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return files.read_all(fd, size, offset)
            finally:
                os.close(fd)


def _map_payload(path: Path, size: int) -> mmap.mmap | None:
    if not size:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
