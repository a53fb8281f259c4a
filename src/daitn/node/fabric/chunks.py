"""What both ways of fetching chunks share: reading a place, checking a digest, writing the sink, sizing the window.

A chunk is written only after its BLAKE3 digest was checked in a buffer of our own, so wrong bytes never reach the sink
and memory is the buffers' (a few chunks), whatever the artifact's size. Reading and writing use `preadv` and `pwrite`
rather than memory maps: a mapped file that someone truncates kills the process, and writing fresh pages through a map
was half as fast here (1.6 against 2.9 GB/s).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, NoRoomError, NotHeldError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.base.limits import CHUNK_BYTES
from daitn.base.units import KIB
from daitn.node.fabric.contract import ChunkPlace, ChunkProvider, ChunkWant, FabricCounters, Sink

PIECE_BYTES: Final = 128 * KIB
"""What is asked for at a time where a link is slow, or not known yet. A router cuts a link that does not take what
waits for it within 0.2 s: so much fits into its queue and the sockets' buffers, where a chunk of 2 MiB does not."""

PIECES: Final = CHUNK_BYTES // PIECE_BYTES

WINDOW_MAX: Final = 16 * PIECES
"""Pieces in flight through the router: 32 MiB, which fills 1 Gbit/s over 250 ms."""

WINDOW_WHOLE: Final = 2 * PIECES
"""From this window on chunks are asked for whole, two at least."""

FAST_BYTES_PER_S: Final = 16e6
"""A link that carries so much takes two chunks within a quarter of a second."""

WINDOW_GAIN: Final = 1.1
"""A larger window is kept only if it carried this much more; else it only makes queues longer."""


LOST: Final = (errno.ENOENT, errno.EIO, errno.ESTALE)
"""Faults of a pack's file that do not pass: who asks has to ask somebody else."""


class ChunkAsk(msgspec.Struct, frozen=True, array_like=True):
    """Requester → holder: this chunk of that artifact under that grant, or `size` bytes of it from `start` (0: all of
    it). Answer: the bytes, or a `Refusal`."""

    artifact: ArtifactId
    grant: GrantId
    chunk: ChunkId
    start: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_BYTES)] = 0
    size: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_BYTES)] = 0


class WrongChunkError(PeerError):
    """A holder gave other bytes than those of the chunk: its copy is damaged, or it lies."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Whoever was asked → asker: why there is no answer; `kind` as in `DaitnError.kind`, `what` one sentence."""

    kind: str
    what: str

    def error(self, node: str) -> PolicyError | UnavailableError | PeerError:
        """The exception to raise at the asker."""
        what = f"{node}: {self.what[:500]}"
        if self.kind == NotHeldError.kind:
            return NotHeldError(what)
        if self.kind == PolicyError.kind:
            return PolicyError(what)
        if self.kind == UnavailableError.kind:
            return UnavailableError(what, todo="try again later or elsewhere")
        return PeerError(what)


def decode_refusal(body: bytes) -> Refusal:
    """What a peer gave as its reason; one that does not decode is its fault."""
    try:
        return msgspec.msgpack.decode(body, type=Refusal)
    except UNDECODABLE:
        return Refusal(PeerError.kind, "refused without a reason that decodes")


def fill_from_pack(place: ChunkPlace, buffer: memoryview) -> None:
    """Fill `buffer` (of `place.size` bytes) from its place in a pack file.

    NotHeldError if the file is gone, damaged or too short, UnavailableError if it cannot be read now.
    Opened for each chunk, which costs microseconds: a file that is kept open cannot go to another job (`store.spares`),
    and by then a new pack may have its name.
    """
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < place.size:
                count = os.preadv(descriptor, [buffer[done:]], place.offset + done)
                if count == 0:
                    raise NotHeldError(f"pack {place.path.name} ends before byte {place.offset + place.size}")
                done += count
        finally:
            os.close(descriptor)
    except OSError as fault:
        kind = NotHeldError if fault.errno in LOST else UnavailableError
        raise kind(f"pack {place.path.name} cannot be read: {fault.strerror}") from fault


class ChunkLedger:
    """What one fetch has got so far: checks and writes chunks for several threads."""

    def __init__(
        self, holder: NodeId, sink: Sink, counters: FabricCounters, on_chunk: Callable[[ChunkId], None]
    ) -> None:
        self._holder = holder
        self._sink = sink
        self._counters = counters
        self._on_chunk = on_chunk
        self._lock = threading.Lock()
        self._stopped = False
        self.arrived: set[ChunkWant] = set()

    def accept(self, want: ChunkWant, content: memoryview | bytes) -> None:
        """Check `content` and write it; PeerError if it is not the chunk. After `stop` nothing is written."""
        digest = blake3(content).hexdigest() if len(content) == want.size else ""
        if digest != want.id:
            with self._lock:
                self._counters.chunks_wrong += 1
            raise WrongChunkError(
                f"{self._holder} sent {len(content)} bytes that are not chunk {want.id[:16]}… of {want.size} bytes",
                todo="fetch it from another holder",
                ids={"chunk": want.id, "node": self._holder},
            )
        if self._stopped:
            raise UnavailableError("the fetch was cancelled")
        write_sink(self._sink, want.destination, content)
        with self._lock:
            self.arrived.add(want)
        self._on_chunk(want.id)

    def stop(self) -> None:
        """Write nothing more."""
        self._stopped = True


class Window:
    """How many pieces to keep in flight: grows while that carries more bytes per second, else steps back.

    The plain form of a bandwidth × delay search: it begins with one piece and doubles until the rate no longer rises by
    WINDOW_GAIN. A link that proves fast goes on with whole chunks, two at least; one that turns slow goes back to one
    piece.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._best_rate = 0.0
        self._growing = True
        self._round_bytes = 0
        self._round_pieces = 0
        self._round_start: float | None = None

    def arrived(self, size: int, now_s: float) -> None:
        """Count an arrival; at the end of a round of twice the window set the next size."""
        if self._round_start is None:
            self._round_start = now_s
            return
        self._round_bytes += size
        self._round_pieces += pieces_of(size)
        if self._round_pieces < 2 * self.size:
            return
        rate = self._round_bytes / max(now_s - self._round_start, 1e-6)
        least = WINDOW_WHOLE if self.size >= WINDOW_WHOLE else 1
        if self.size < WINDOW_WHOLE and rate >= FAST_BYTES_PER_S:
            self._search(WINDOW_WHOLE)
        elif self.size >= WINDOW_WHOLE and rate < FAST_BYTES_PER_S / 4:
            self._search(1)
        elif self._growing and rate > self._best_rate * WINDOW_GAIN:
            self.size = min(self.size * 2, WINDOW_MAX)
            self._best_rate = rate
        elif self._growing:
            self.size = max(self.size // 2, least)
            self._growing = False
        elif rate < self._best_rate / 2:  # the link has changed
            self._search(self.size)
        self._round_bytes = self._round_pieces = 0
        self._round_start = now_s

    def _search(self, size: int) -> None:
        """Look for the best size anew, from this one on."""
        self.size = size
        self._growing = True
        self._best_rate = 0.0


def pieces_of(size: int) -> int:
    """How many pieces so many bytes count as."""
    return -(-size // PIECE_BYTES)


def read_chunk(
    provider: ChunkProvider,
    chunk: ChunkId,
    artifact: ArtifactId,
    buffer: memoryview,
    start: int = 0,
    size: int = 0,
) -> memoryview:
    """The bytes of a chunk of an artifact, or `size` of them from `start`, in `buffer` (CHUNK_BYTES long); NotHeldError
    if it is not held, PeerError for a part beyond its end."""
    place = provider.locate(chunk, artifact)
    if place is None:
        raise NotHeldError(f"chunk {chunk[:16]}… is not held here")
    if not 0 < place.size <= CHUNK_BYTES:
        raise UnavailableError(f"chunk {chunk[:16]}… of {place.size} bytes is larger than {CHUNK_BYTES}")
    wanted = min(size or place.size, place.size - start)
    if wanted <= 0:
        raise PeerError(f"chunk {chunk[:16]}… has {place.size} bytes, asked for those from {start}")
    content = buffer[:wanted]
    fill_from_pack(ChunkPlace(place.path, place.offset + start, wanted), content)
    return content


def check_wants(chunks: list[ChunkWant], sink: Sink) -> None:
    """InputError for sizes out of range or a destination outside the sink."""
    end = None if isinstance(sink, int) else sink.nbytes
    for want in chunks:
        if not 0 < want.size <= CHUNK_BYTES or want.destination < 0:
            raise InputError(f"chunk {want.id[:16]}… of {want.size} bytes at {want.destination} is out of range")
        if end is not None and want.destination + want.size > end:
            raise InputError(f"chunk {want.id[:16]}… ends behind the sink of {end} bytes")


def write_sink(sink: Sink, offset: int, content: memoryview | bytes) -> None:
    """Write `content` at `offset`; UnavailableError if the disk refuses."""
    if not isinstance(sink, int):
        sink[offset : offset + len(content)] = content
        return
    rest = memoryview(content)
    try:
        while rest:
            count = os.pwrite(sink, rest, offset)
            rest, offset = rest[count:], offset + count
    except OSError as fault:
        what = f"the sink cannot be written: {fault.strerror}"
        if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoRoomError(
                what, required_bytes=len(rest), available_bytes=0, todo="free space on this disk"
            ) from fault
        raise UnavailableError(what, todo="look at this disk") from fault
