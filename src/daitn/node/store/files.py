"""What the store asks of the kernel: room, copies without passing through us, hashes of spans of a file, locks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blake3 import blake3

from daitn.artifacts.layout import Buffer
from daitn.base.errors import NoRoomError, UnavailableError
from daitn.base.units import MIB, show_bytes
from daitn.node.store.index import PackedChunk

HEADROOM_BYTES: Final = 64 * MIB
"""Left free on the store's disk, so that a store that fills it does not stop the journals that lie beside it."""

HEADROOM_SHARE: Final = 16
"""On a small disk, the headroom is this part of it."""

COPY_BYTES: Final = 1 * MIB
"""Buffer of a copy where the kernel cannot copy for us: constant memory, few system calls."""

NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Answers that mean that a disk, a quota of the system or a limit on files is full."""

_CANNOT_COPY: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
"""Answers of copy_file_range that mean `not on these file systems`, not that something is wrong."""


class OutputFile:
    """A file in the store for a child process to write a payload into; `adopt` makes it an artifact.

    `fileno()` may be passed to a child. Leaving the context without adoption removes the file.
    """

    def __init__(self, path: Path, size: int, fd: int, forget: Callable[[OutputFile], None]) -> None:
        self.path = path
        self.size = size
        self._fd = fd
        self._forget = forget
        self._open = True

    @property
    def is_open(self) -> bool:
        """Whether the descriptor is open: not closed, adopted or discarded."""
        return self._open

    def fileno(self) -> int:
        """The descriptor: readable, writable, not inherited unless passed."""
        return self._fd

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""
        write_all(self._fd, data, offset)

    def close(self) -> None:
        """Close the descriptor; the file stays until adopted or discarded."""
        if self._open:
            self._open = False
            os.close(self._fd)

    def discard(self) -> None:
        """Remove the file, unless it was adopted, and give its room back."""
        self.close()
        self._forget(self)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def boot_id() -> str:
    """What changes when the machine restarts, or empty where the system does not tell: then nothing is trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def lock_folder(folder: Path) -> int:
    """A descriptor that holds the folder for this store; UnavailableError if another one does."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise UnavailableError(
            f"the store {folder} is used by another process", todo="stop it, or give this node its own folder"
        ) from None
    return fd


def create(path: Path, size: int) -> int:
    """Open `path` for reading and writing with room for exactly `size` bytes; what it held stays if it had that size.

    NoRoomError where the disk has none; a file that was not there before is then not there afterwards.
    """
    with disk_errors(f"a file of {show_bytes(size)} cannot be made", path, size):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, 0)
            if size:
                os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
    return fd


@contextmanager
def disk_errors(what: str, path: Path, size_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError within into UnavailableError that names the path and the room left on the disk; into NoRoomError
    with `size_bytes`, what was to be written, where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            free = free_bytes(path.parent)
            raise NoRoomError(
                f"{what}: {error.strerror} at {path}, {show_bytes(free)} free on that disk",
                required_bytes=size_bytes,
                available_bytes=free,
                todo="free space there, or lower the store's quota",
            ) from None
        raise UnavailableError(
            f"{what}: {error.strerror} at {path}, {show_bytes(free_bytes(path.parent))} free on that disk",
            todo="free space there, lower the store's quota, or check the folder's rights and limits",
        ) from None


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at `offset`; OSError where the disk is full."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def read_all(fd: int, size: int, offset: int) -> bytes:
    """Exactly `size` bytes at `offset`; OSError if the file is shorter."""
    pieces: list[bytes] = []
    while size:
        piece = os.pread(fd, size, offset)
        if not piece:
            raise OSError(errno.EIO, "file is shorter than its index says")
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def copy_range(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    """Copy bytes between files (or within one, not overlapping), in the kernel where it can."""
    while size:
        try:
            done = os.copy_file_range(source, target, size, source_offset, target_offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
            done = 0
        if not done:
            data = read_all(source, min(size, COPY_BYTES), source_offset)
            write_all(target, data, target_offset)
            done = len(data)
        size, source_offset, target_offset = size - done, source_offset + done, target_offset + done


@contextmanager
def mapped(fd: int, size: int) -> Iterator[memoryview]:
    """The first `size` bytes of a file, mapped for reading; empty files too."""
    if not size:
        yield memoryview(b"")
        return
    with mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ) as area:
        view = memoryview(area)
        try:
            yield view
        finally:
            view.release()


def span_has_digest(fd: int, offset: int, size: int, digest: str) -> bool:
    """Whether the span of the file has this BLAKE3 digest; False if the file is too short."""
    hasher = blake3()
    try:
        while size:
            data = read_all(fd, min(size, COPY_BYTES), offset)
            hasher.update(data)
            size, offset = size - len(data), offset + len(data)
    except OSError:
        return False
    return hasher.hexdigest() == digest


def file_has_digests(path: Path, spans: Sequence[PackedChunk]) -> bool:
    """Whether every span of the file has its digest; False if the file cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return all(span_has_digest(fd, span.offset, span.size, span.id) for span in spans)
    finally:
        os.close(fd)


def sync_files(paths: Sequence[Path], folder: Path) -> None:
    """Make contents and names durable; files that are gone are passed over."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_alone(fd: int) -> bool:
    """Whether no other opening of this file stands, in any process, and no other mapping; `fd` is open for writing.

    False where the file system cannot tell. Asked by a write lease, which the kernel gives on no other terms, and which
    is given back at once; the signal that would tell of somebody who opens the file in between is one that is ignored.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """What this process may still write on the disk of a folder; 0 where it cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def headroom_bytes(folder: Path) -> int:
    """What the store leaves free on its disk: see `HEADROOM_BYTES`."""
    try:
        return min(HEADROOM_BYTES, shutil.disk_usage(folder).total // HEADROOM_SHARE)
    except OSError:
        return HEADROOM_BYTES
