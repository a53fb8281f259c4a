"""The chunk store of a node: how artifacts get in, received from holders or made here.

Room is reserved before a file is made, so a full disk or quota is a refusal with numbers, not a half-written artifact.
What is held, and under which lock, is in `held`.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from daitn.artifacts.codec import artifact_id, encode_manifest, with_parts
from daitn.artifacts.layout import Buffer, digest_of, fill_payload, hash_chunks, hash_part, plan_layout, sum_sizes
from daitn.artifacts.manifest import ChunkRef, Manifest, Part
from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.node.store import files
from daitn.node.store.files import OutputFile
from daitn.node.store.held import HeldArtifacts
from daitn.node.store.index import ChunkPlace, PackedChunk, pack_bytes, plan_pack
from daitn.node.store.receipt import Receipt
from daitn.node.store.shelf import LOOSE_S

_NO_PARTS: Final[Mapping[str, Buffer]] = MappingProxyType({})


class Adopted(NamedTuple):
    """An artifact that came into the store from this node itself."""

    artifact: ArtifactId
    manifest: Manifest


class ChunkStore(HeldArtifacts):
    """Thread-safe; one process per folder; `quota_bytes` bounds all files but the index."""

    # Receiving

    def begin(self, manifest: Manifest, *, servable: bool = True, job: str = "") -> Receipt:
        """Start or take up receiving an artifact: what this store holds of it is copied, the rest is wanted.

        If it is here already the receipt is finished. `servable=False` keeps it for this node alone, also when it was
        here before. `job`: whose spare file may be taken. NoRoomError where quota or disk have none.
        """
        data = encode_manifest(manifest)
        artifact = artifact_id(data)
        spans = plan_pack(manifest, artifact, len(data))
        path = self._shelf.path(artifact)
        with self._lock:
            if (pack := self._shelf.artifacts.get(artifact)) is not None:
                self._restrict(pack, servable)
                self._shelf.touch(pack)
                path = self._shelf.path(pack.name)
                return Receipt(self, artifact, manifest, data, spans, path, servable=pack.servable, held=True)
            if (receipt := self._receipts.get(artifact)) is not None:
                receipt.users += 1
                receipt.servable &= servable
            else:
                self._reserve_receipt(artifact, spans)
                receipt = Receipt(self, artifact, manifest, data, spans, path, servable=servable)
                self._receipts[artifact] = receipt
        try:
            self._spares.take(path, job, pack_bytes(spans))
            with self._holding([span.id for span in spans], private=not receipt.servable) as held:
                receipt.prepare(held)
            for name in receipt.damaged:
                self._drop_damaged(name)
        except BaseException:
            self.leave(receipt, keep=False)
            raise
        return receipt

    def complete(self, receipt: Receipt) -> bool:
        """Make a receipt's file a pack; called by `Receipt.finish`. Whether nobody else uses the receipt."""
        manifest, artifact = receipt.manifest, receipt.artifact
        with self._lock:
            if (held := self._shelf.artifacts.get(artifact)) is not None:
                self._restrict(held, receipt.servable)
                receipt.path.unlink(missing_ok=True)
                self._shelf.unreserve(pack_bytes(receipt.spans))
            else:
                self._add(artifact, artifact, manifest.payload_bytes, receipt.spans, receipt.servable)
            receipt.progress_path.unlink(missing_ok=True)
            self._shelf.settle([span.id for span in receipt.spans])
            self._receipts.pop(artifact, None)
            return receipt.users <= 1

    def leave(self, receipt: Receipt, *, keep: bool = True) -> None:
        """One user less of a receipt; after the last its files are closed and, with `keep`, can be taken up again."""
        with self._lock:
            receipt.users -= 1
            if receipt.users > 0:
                return
            if self._receipts.get(receipt.artifact) is receipt:
                del self._receipts[receipt.artifact]
                self._shelf.leave_partial(receipt.artifact, pack_bytes(receipt.spans))
                if not keep:
                    self._shelf.remove_partial(receipt.artifact)
        receipt.close()

    # Making

    def new_output(self, size: int, *, job: str = "") -> OutputFile:
        """A file with room for a payload of `size` bytes, for a child process of `job` to write its result into."""
        path = self._output_folder / secrets.token_hex(8)
        with self._lock:
            self._shelf.reserve(size)
        try:
            self._spares.take(path, job, size)
            output = OutputFile(path, size, files.create(path, size), self._forget_output)
        except BaseException:
            with self._lock:
                self._shelf.unreserve(size)
            raise
        with self._lock:
            self._outputs[output] = size
        return output

    def adopt(self, output: OutputFile, draft: Manifest, *, servable: bool = True, pin: str = "") -> Adopted:
        """Make a written output an artifact: hash it in place, add parts and manifest, index it; nothing is copied.

        `draft` says all but the payload's chunks; its parts must be in the store. The writer must have ended. `pin`: a
        reason to keep it, which holds from the moment it is there, so that no eviction comes between.
        InputError if draft and file do not fit, UnavailableError where a part is missing or there is no room; the
        output then stays the caller's.
        """
        return self._adopt(output, draft, _NO_PARTS, servable, pin)

    def put_artifact(
        self,
        draft: Manifest,
        parts: Mapping[str, Buffer],
        tensors: Mapping[str, Buffer],
        *,
        servable: bool = True,
        pin: str = "",
    ) -> Adopted:
        """An artifact from memory or a package: parts and row-major, little-endian tensors by name. Errors as `adopt`.

        Parts of the draft, where it has any, must be those given; else they follow the order given.
        """
        draft = with_parts(draft, parts)
        layout = plan_layout(draft.tensors)
        with self.new_output(layout.payload_bytes) as output:
            if layout.payload_bytes:
                with mmap.mmap(output.fileno(), layout.payload_bytes) as area, memoryview(area) as view:
                    fill_payload(layout.entries, tensors, view)
            return self._adopt(output, draft, parts, servable, pin)

    def put_bytes(self, data: Buffer, *, servable: bool = True) -> tuple[ChunkRef, ...]:
        """Keep loose bytes, such as a part, until an artifact made here takes them; they may be evicted after that."""
        refs = hash_part(data)
        boundaries = sum_sizes(refs)
        if not refs:
            return ()
        name = f"{'bytes' if servable else 'private'}-{digest_of(data)}"
        size = boundaries[-1]
        with self._lock:
            until_s = self._shelf.clock() + LOOSE_S
            if (pack := self._shelf.packs.get(name)) is not None:
                pack.busy_until_s = until_s
                return refs
            self._shelf.reserve(size)
            path = self._shelf.path(name)
            try:
                fd = files.create(path, size)
                try:
                    with files.disk_errors(f"{size} bytes cannot be written", path):
                        files.write_all(fd, data, 0)
                finally:
                    os.close(fd)
                spans = tuple(PackedChunk(ref.id, at, ref.size) for ref, at in zip(refs, boundaries, strict=False))
                self._add(name, None, 0, spans, servable).busy_until_s = until_s
            except BaseException:
                path.unlink(missing_ok=True)
                self._shelf.unreserve(size)
                raise
        return refs

    # Private

    def _reserve_receipt(self, artifact: ArtifactId, spans: tuple[PackedChunk, ...]) -> None:
        """Room for a receipt, taking over what an earlier one left; packs to copy from are evicted last."""
        size = pack_bytes(spans)
        if (partial := self._shelf.partials.get(artifact)) is not None:
            if partial.size == size:
                del self._shelf.partials[artifact]
                return
            self._shelf.remove_partial(artifact)
        sources = {pack for span in spans for pack, _ in self._shelf.find(span.id)}
        self._shelf.reserve(size, keep=sources)

    def _adopt(
        self, output: OutputFile, draft: Manifest, parts: Mapping[str, Buffer], servable: bool, pin: str
    ) -> Adopted:
        layout = plan_layout(draft.tensors)
        written = os.fstat(output.fileno()).st_size
        if not written == output.size == layout.payload_bytes == draft.payload_bytes:
            raise InputError(
                f"the output of {draft.name!r} has {written} bytes of {output.size} asked for, its tensors take "
                f"{layout.payload_bytes}, its manifest says {draft.payload_bytes}"
            )
        with (
            files.disk_errors("an output cannot be mapped", output.path),
            files.mapped(output.fileno(), written) as view,
        ):
            chunks = hash_chunks(view, layout.boundaries)
        manifest = msgspec.structs.replace(draft, chunks=chunks)
        data = encode_manifest(manifest)
        artifact = artifact_id(data)
        if pin:
            self.pin(artifact, pin)
        try:
            self._settle_output(output, artifact, manifest, data, parts, servable)
        except BaseException:
            if pin and not self.holds(artifact):
                self.unpin(artifact, pin)
            raise
        return Adopted(artifact, manifest)

    def _settle_output(
        self,
        output: OutputFile,
        artifact: ArtifactId,
        manifest: Manifest,
        data: bytes,
        parts: Mapping[str, Buffer],
        servable: bool,
    ) -> None:
        """Make a hashed output the pack of an artifact, or drop it where that is here already."""
        if not self._discard_if_held(artifact, output, servable):
            spans = plan_pack(manifest, artifact, len(data))
            extra = pack_bytes(spans) - output.size
            self._reserve_output(output, extra)
            try:
                self._write_rest(output, manifest, data, parts, servable)
                self._move_in(output, artifact, spans, servable)
            except BaseException:
                if output.is_open:
                    os.ftruncate(output.fileno(), output.size)
                self._reserve_output(output, -extra)
                raise

    def _discard_if_held(self, artifact: ArtifactId, output: OutputFile, servable: bool) -> bool:
        with self._lock:
            if (pack := self._shelf.artifacts.get(artifact)) is None:
                return False
            self._restrict(pack, servable)
            self._shelf.touch(pack)
            output.discard()
            return True

    def _reserve_output(self, output: OutputFile, extra: int) -> None:
        with self._lock:
            if output not in self._outputs:
                return
            if extra > 0:
                self._shelf.reserve(extra)
            else:
                self._shelf.unreserve(-extra)
            self._outputs[output] += extra

    def _write_rest(
        self, output: OutputFile, manifest: Manifest, data: bytes, parts: Mapping[str, Buffer], servable: bool
    ) -> None:
        """Append parts, given or held, and the manifest's bytes to a payload."""
        offset = manifest.payload_bytes
        refs = [ref.id for part in manifest.parts if part.name not in parts for ref in part.chunks]
        with (
            self._holding(refs, private=not servable) as held,
            files.disk_errors("parts cannot be added to an output", output.path),
        ):
            os.posix_fallocate(output.fileno(), offset, sum(part.size for part in manifest.parts) + len(data))
            for part in manifest.parts:
                if part.name in parts:
                    files.write_all(output.fileno(), parts[part.name], offset)
                else:
                    self._copy_part(output, part, offset, held)
                offset += part.size
            files.write_all(output.fileno(), data, offset)

    def _copy_part(self, output: OutputFile, part: Part, offset: int, held: Mapping[str, ChunkPlace]) -> None:
        for ref in part.chunks:
            place = held.get(ref.id)
            if place is None:
                raise UnavailableError(
                    f"part {part.name!r} of an output is not in this store (chunk {ref.id})",
                    todo="pin the artifact it comes from, or put its bytes first",
                )
            source = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.copy_range(source, place.offset, output.fileno(), offset, place.size)
            finally:
                os.close(source)
            offset += ref.size

    def _move_in(
        self, output: OutputFile, artifact: ArtifactId, spans: tuple[PackedChunk, ...], servable: bool
    ) -> None:
        """Rename an output into the folder of packs and index it; undone if it cannot be indexed."""
        with self._lock:
            if self._discard_if_held(artifact, output, servable):
                return
            name = f"made-{output.path.name}"
            target = self._shelf.path(name)
            with files.disk_errors("an output cannot be moved in", target):
                os.rename(output.path, target)
            try:
                self._add(name, artifact, output.size, spans, servable)
            except BaseException:
                os.rename(target, output.path)
                raise
            self._shelf.settle([span.id for span in spans])
            del self._outputs[output]
            output.close()
