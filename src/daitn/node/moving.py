"""Moving artifacts: pulled chunk by chunk under a grant, verified, resumed, taken from whoever holds them.

The heart of model-follow-data. A receiver asks for the manifest, takes what its store has already, and pulls the rest
from several holders at once (`gathering`); what has arrived is never asked for again. A holder checks the centre's
signature on each grant, and that the chunk belongs to the artifact the grant is for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from typing import Final
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from daitn.artifacts.codec import NO_MODELS, PART_BYTES, decode_manifest
from daitn.artifacts.grants import check_grant
from daitn.artifacts.layout import artifact_digest
from daitn.artifacts.manifest import Manifest, Part
from daitn.artifacts.signatures import verify_parts
from daitn.base import limits
from daitn.base.errors import DaitnError, NotHeldError, PeerError, PolicyError, UnavailableError, UnfitError
from daitn.base.ids import ArtifactId, ChunkId, DomainId, GrantId, NodeId
from daitn.base.metrics import Counters
from daitn.base.units import MIB
from daitn.descriptors.grant import Holder, Lacking
from daitn.learning.numerics.likeness import check_origin
from daitn.node.clock import NodeClock
from daitn.node.fabric.contract import ChunkPlace, ChunkWant, Fabric, Plane
from daitn.node.fabric.contract import Holder as FabricHolder
from daitn.node.gathering import Gathering, not_fetched
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import InputRef
from daitn.wire.data_plane import (
    PAGE_BYTES,
    ManifestPage,
    ManifestWanted,
    decode_page,
    decode_wanted,
    encode_data_plane,
)

MANIFEST_S: Final = 5.0
"""How long a holder may take to answer for one page of a manifest."""

ALONE_S: Final = 1.0
"""How long the first holder is waited for alone before the next one is asked as well: several round trips over the
slowest line, and a page of 1 MB at 10 Mbit/s."""

GRANTS_CACHED: Final = 4096
"""Checked grants remembered, so that a signature is verified once and not per chunk; 0.5 kB each."""

PARTS_CACHED: Final = 16
"""Packages whose parts are remembered."""

PARTS_CACHED_BYTES: Final = 32 * MIB
"""What they take together: MiniLM's graph with its tokenizer is 1 MB. The newest is remembered whatever its size."""

_log = logging.getLogger(__name__)


class Moving:
    """Serves this node's store and fetches into it. `center_key` signs the domain's grants."""

    def __init__(
        self, domain: DomainId, fabric: Fabric, store: ChunkStore, center_key: Ed25519PublicKey, clock: NodeClock
    ) -> None:
        self._domain = domain
        self._fabric = fabric
        self._store = store
        self._center_key = center_key
        self._clock = clock
        self._checked: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._parts: OrderedDict[ArtifactId, tuple[Manifest, dict[str, bytes]]] = OrderedDict()
        self._turns: WeakValueDictionary[ArtifactId, asyncio.Lock] = WeakValueDictionary()
        """Artifacts being fetched; others who want one of them wait."""
        self.fetched_bytes = 0
        self.counters = Counters()

    async def start(self) -> None:
        """Serve what the store holds, from now on."""
        await self._fabric.serve_chunks(self)
        await self._fabric.serve(self._serve_manifest, plane=Plane.DP)

    # --- holding ----------------------------------------------------------------------------------------------------

    def authorise(self, requester: NodeId, grant: GrantId, artifact: ArtifactId) -> None:
        """PolicyError unless the grant lets the requester take the artifact now; called from worker threads."""
        key = (requester, grant, artifact)
        now_unix_s = self._clock.now_ns() // 1_000_000_000
        if self._checked.get(key, 0) > now_unix_s:
            return
        try:
            checked = check_grant(
                grant,
                self._center_key,
                requester=requester,
                artifact=artifact,
                now_unix_s=now_unix_s,
                revoked=(),
                domain=self._domain,
            )
        except DaitnError:
            self.counters.count("grants_refused")
            raise
        self._checked[key] = checked.expires_unix_s
        while len(self._checked) > GRANTS_CACHED:
            self._checked.popitem(last=False)

    def locate(self, chunk: ChunkId, artifact: ArtifactId) -> ChunkPlace | None:
        """Where a chunk lies in the store, as part of the artifact that a grant was shown for and of no other."""
        place = self._store.locate(chunk, artifact)
        return None if place is None else ChunkPlace(path=place.path, offset=place.offset, size=place.size)

    async def _serve_manifest(self, sender: NodeId, payload: bytes) -> bytes:
        wanted = decode_wanted(payload)
        self.authorise(sender, GrantId(wanted.grant), wanted.artifact)
        if self._store.locate(ChunkId(wanted.artifact), wanted.artifact) is None:
            raise NotHeldError(f"artifact {wanted.artifact[:16]} is not held here")
        try:
            data = self._store.manifest_bytes(wanted.artifact)
        except UnavailableError as error:  # its file was lost or cannot be read: ask somebody else
            raise NotHeldError(f"artifact {wanted.artifact[:16]} cannot be read here: {error.what}") from error
        page = ManifestPage(total_bytes=len(data), data=data[wanted.offset : wanted.offset + PAGE_BYTES])
        return encode_data_plane(page)

    # --- fetching ---------------------------------------------------------------------------------------------------

    async def fetch(self, wanted: InputRef, pin: str, *, servable: bool = True, job: str = "") -> int:
        """Bring an artifact into the store and pin it for the reason `pin`; returns the bytes that were moved.

        Whoever asks for the same artifact meanwhile waits for it. UnavailableError naming what each holder said where
        they have not all of it, NotHeldError where some of them answered so, PolicyError where all refused, NoRoomError
        where there is none here, UnfitError where it is not of its `origin`.
        """
        turn = self._turns.setdefault(wanted.artifact, asyncio.Lock())
        async with turn:
            self._store.pin(wanted.artifact, pin)
            try:
                return await self._bring(wanted, servable=servable, job=job)
            except BaseException:
                self._store.unpin(wanted.artifact, pin)
                raise

    async def _bring(self, wanted: InputRef, *, servable: bool, job: str) -> int:
        if await self._is_here(wanted.artifact):
            if wanted.origin is not None:
                check_origin(wanted.artifact, self._store.manifest(wanted.artifact), wanted.origin)
            return 0
        began = time.monotonic()
        manifest, holders = await self._first_manifest(wanted)
        if wanted.origin is not None:  # before any room is taken: it may speak of as many bytes as it likes
            check_origin(wanted.artifact, manifest, wanted.origin)
        with await asyncio.to_thread(self._store.begin, manifest, servable=servable, job=job) as receipt:
            if receipt.finished:
                return 0
            gathering = Gathering(self._fabric, receipt, GrantId(wanted.grant), holders)
            try:
                await gathering.run()
            finally:
                self.fetched_bytes += gathering.moved_bytes
            receipt.finish()
        took_s = time.monotonic() - began
        _log.debug("fetched %s: %d bytes in %.3f s", wanted.artifact[:16], gathering.moved_bytes, took_s)
        return gathering.moved_bytes

    async def _is_here(self, artifact: ArtifactId) -> bool:
        """Whether the store has it as it was: one whose bytes changed on the disk since is dropped, and fetched again.

        Cost: hashing it once for each visit that uses it, 2 to 3 GB/s on one core; training reads it many times.
        """
        if not self._store.holds(artifact):
            return False
        whole = await asyncio.to_thread(self._store.verify, artifact)
        if not whole:
            _log.warning("artifact %s has changed on this disk; it is dropped and fetched again", artifact[:16])
        return whole

    async def _first_manifest(self, wanted: InputRef) -> tuple[Manifest, list[FabricHolder]]:
        """The manifest from the first holder that gives it, and the holders left to pull from, that one first.

        One after the other, but none waits long for one that says nothing, which may be starting, stopped or cut off:
        the next is asked beside it. Those that have not answered by then are pulled from last.
        """
        reasons: list[DaitnError] = []
        lacking: list[NodeId] = []
        waiting = deque(wanted.holders)
        asked: dict[asyncio.Task[Manifest], Holder] = {}
        try:
            while waiting or asked:
                if waiting:
                    holder = waiting.popleft()
                    asked[asyncio.ensure_future(self._manifest(holder, wanted))] = holder
                done, _ = await asyncio.wait(
                    asked, timeout=ALONE_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    holder = asked.pop(task)
                    try:
                        manifest = task.result()
                    except (UnavailableError, PeerError, PolicyError) as error:
                        _log.info("holder %s of %s: %s", holder.node, wanted.artifact[:16], error)
                        reasons.append(error)
                        lacking += [holder.node] if isinstance(error, NotHeldError) else []
                        continue
                    left = [holder, *waiting, *asked.values()]
                    return manifest, [FabricHolder(one.node, one.direct) for one in left]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise not_fetched(wanted.artifact, reasons, lacking)

    async def fetch_parts(self, wanted: InputRef) -> tuple[Manifest, dict[str, bytes]]:
        """Manifest and small parts of a package (graph, contract, configuration), without its tensors."""
        known = self._parts.get(wanted.artifact)
        if known is not None:
            return known
        if self._store.holds(wanted.artifact):
            return self.parts_of(wanted.artifact)
        reasons: list[str] = []
        for holder in wanted.holders:
            try:
                manifest = await self._manifest(holder, wanted)
                parts = {part.name: await self._part(holder, wanted, part) for part in _small_parts(manifest)}
            except (UnavailableError, PeerError, PolicyError) as error:
                reasons.append(error.what)
                continue
            return self._remember(wanted.artifact, manifest, parts)
        raise UnavailableError(f"package {wanted.artifact[:16]} cannot be fetched: {'; '.join(reasons) or 'no holder'}")

    def parts_of(self, artifact: ArtifactId) -> tuple[Manifest, dict[str, bytes]]:
        """Manifest and parts of an artifact that is in the store."""
        known = self._parts.get(artifact)
        if known is not None:
            return known
        manifest = self._store.manifest(artifact)
        parts = {part.name: self._store.part(artifact, part.name) for part in _small_parts(manifest)}
        return self._remember(artifact, manifest, parts)

    def _remember(
        self, artifact: ArtifactId, manifest: Manifest, parts: dict[str, bytes]
    ) -> tuple[Manifest, dict[str, bytes]]:
        """A few packages' parts stay in memory: every visit of a job asks for the same."""
        self._parts[artifact] = (manifest, parts)
        while len(self._parts) > 1 and (len(self._parts) > PARTS_CACHED or self._parts_bytes() > PARTS_CACHED_BYTES):
            self._parts.popitem(last=False)
        return manifest, parts

    def _parts_bytes(self) -> int:
        return sum(part.size for manifest, _ in self._parts.values() for part in _small_parts(manifest))

    async def _manifest(self, holder: Holder, wanted: InputRef) -> Manifest:
        data = b""
        while True:
            request = ManifestWanted(artifact=wanted.artifact, grant=wanted.grant, offset=len(data))
            answer = await self._fabric.call(
                holder.node, encode_data_plane(request), plane=Plane.DP, timeout_s=MANIFEST_S
            )
            page = decode_page(answer)
            data += page.data
            if not page.data or len(data) > min(page.total_bytes, limits.MANIFEST_BYTES):
                raise PeerError(f"{holder.node} sent {len(data)} bytes of a manifest of {page.total_bytes}")
            if len(data) == page.total_bytes:
                break
        if artifact_digest(data) != wanted.artifact:
            raise PeerError(f"{holder.node} sent a manifest that is not that of {wanted.artifact[:16]}")
        try:
            manifest = decode_manifest(data)
            if manifest.kind not in NO_MODELS:
                verify_parts(manifest)
        except DaitnError as error:
            if wanted.origin is None:
                raise
            # It is what its maker named, whoever gave it: nobody else has another.
            raise UnfitError(error.what, artifact=wanted.artifact, fault="manifest") from None
        return manifest

    async def _part(self, holder: Holder, wanted: InputRef, part: Part) -> bytes:
        buffer = bytearray(part.size)
        wants, offset = [], 0
        for ref in part.chunks:
            wants.append(ChunkWant(ChunkId(ref.id), ref.size, offset))
            offset += ref.size
        if wants:
            with memoryview(buffer) as view:
                await self._fabric.fetch_chunks(
                    FabricHolder(holder.node, holder.direct),
                    wanted.artifact,
                    GrantId(wanted.grant),
                    wants,
                    view,
                    on_chunk=lambda _: None,
                )
        return bytes(buffer)

    async def sync(self) -> None:
        """Make all that was received survive a power cut; aside, since it is slow."""
        await asyncio.to_thread(self._store.sync)


def lacking_of(error: DaitnError) -> Lacking | None:
    """What a fetch that failed says of holders that do not hold what they were named for."""
    if not isinstance(error, NotHeldError) or error.artifact is None or not error.holders:
        return None
    return Lacking(artifact=error.artifact, holders=error.holders[: limits.HOLDERS])


def _small_parts(manifest: Manifest) -> tuple[Part, ...]:
    """The parts that are read whole, each within its bound; weights in parts (ONNX, GGUF) are mapped by who serves."""
    return tuple(part for part in manifest.parts if part.name in PART_BYTES)
