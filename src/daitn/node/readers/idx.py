"""IDX: the format of MNIST and its kin: a file of images beside a file of labels, plain or gzip.

Columns `image` (uint8 (H, W)) and `label` (number). The path is an image file, whose label file has the same name with
`labels` for `images` and `idx1` for `idx3`, or a folder, then all pairs in it are read in the order of their names.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from daitn.describe.fit import Batch
from daitn.node.readers.contract import BATCH_BYTES, BATCH_ROWS, IMAGE_PIXELS, LocalType, broken

_UINT8: Final = 0x08
_IMAGES_MAGIC: Final = bytes((0, 0, _UINT8, 3))


class _Open(NamedTuple):
    """An IDX file behind its header."""

    path: Path
    file: BinaryIO
    rows: int
    tail: tuple[int, ...]

    def take(self, rows: int) -> NDArray[np.uint8]:
        """The next rows; InputError where the file is shorter than its header says."""
        size = rows * math.prod(self.tail)
        try:
            data = self.file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise broken(self.path, f"cannot be read: {error}") from None
        if len(data) != size:
            raise broken(self.path, "is shorter than its header says", todo="fetch the file again")
        return np.frombuffer(data, dtype=np.uint8).reshape(rows, *self.tail)


class IdxReader:
    """One or more pairs of IDX files."""

    format: ClassVar[str] = "idx"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """A file that starts as IDX images do, or a folder with such names."""
        return head[:4] == _IMAGES_MAGIC or (path.is_dir() and bool(_image_files(path)))

    def files(self) -> list[Path]:
        """Images and labels, pair by pair."""
        return [path for pair in self._pairs() for path in pair]

    def columns(self) -> dict[str, str]:
        """Always the same two; the files of a folder must have images of one size."""
        sizes = set()
        for images, labels in self._pairs():
            with _unpack(images) as first, _unpack(labels) as second:
                opened = _read_header(images, first, dimensions=3)
                label_rows = _read_header(labels, second, dimensions=1).rows
            if opened.rows != label_rows:
                raise broken(images, f"{opened.rows} images beside {label_rows} labels in {labels.name}")
            sizes.add(opened.tail)
        if len(sizes) > 1:
            raise broken(self._path, f"images of different sizes: {sorted(sizes)}")
        return {"image": LocalType.IMAGE, "label": LocalType.NUMBER}

    def read(self) -> Iterator[Batch]:
        """Images (B, H, W) and labels (B,)."""
        self.columns()
        for image_path, label_path in self._pairs():
            with _unpack(image_path) as first, _unpack(label_path) as second:
                images = _read_header(image_path, first, dimensions=3)
                labels = _read_header(label_path, second, dimensions=1)
                most = min(BATCH_ROWS, max(1, BATCH_BYTES // math.prod(images.tail)))
                for start in range(0, images.rows, most):
                    rows = min(most, images.rows - start)
                    yield {"image": images.take(rows), "label": labels.take(rows)}
                for opened in (images, labels):
                    if opened.file.read(1):
                        raise broken(opened.path, "is longer than its header says", todo="fetch the file again")

    def _pairs(self) -> list[tuple[Path, Path]]:
        images = _image_files(self._path) if self._path.is_dir() else [self._path]
        pairs: list[tuple[Path, Path]] = []
        root = (self._path if self._path.is_dir() else self._path.parent).resolve()
        for path in images:
            name = path.name.replace("images", "labels").replace("idx3", "idx1")
            candidates = [name, name.removesuffix(".gz"), name.removesuffix(".gz") + ".gz"]
            found = [path.with_name(other) for other in candidates if other != path.name]
            found = [other for other in found if other.is_file()]
            if not found:
                raise broken(path, f"its labels are missing: {name}", todo="put that file beside it")
            for member in (path, found[0]):
                if member.is_symlink() and not member.resolve().is_relative_to(root):
                    raise broken(member, "is a link out of its folder", todo="put the file itself there")
            pairs.append((path, found[0]))
        return pairs


def _image_files(folder: Path) -> list[Path]:
    """Files named like IDX images; of a file and its gzip, the plain one."""
    found = {path.name: path for path in sorted(folder.iterdir()) if "idx3-ubyte" in path.name and path.is_file()}
    return [path for name, path in found.items() if name.removesuffix(".gz") == name or name[:-3] not in found]


def _unpack(path: Path) -> BinaryIO:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")
    except OSError as error:
        raise broken(path, f"cannot be read: {error}") from None


def _read_header(path: Path, file: Any, dimensions: int) -> _Open:
    """Magic number and lengths; unsigned bytes only, and no image above the limit."""
    try:
        head = file.read(4 + 4 * dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, f"cannot be read: {error}") from None
    if len(head) != 4 + 4 * dimensions or head[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise broken(path, f"is not an IDX file of unsigned bytes in {dimensions} dimensions")
    rows, *tail = (int.from_bytes(head[place : place + 4], "big") for place in range(4, len(head), 4))
    if math.prod(tail) > IMAGE_PIXELS or (tail and not math.prod(tail)):
        raise broken(path, f"images of {'×'.join(str(length) for length in tail)}, the limit is {IMAGE_PIXELS} pixels")
    return _Open(path, file, rows, tuple(tail))
