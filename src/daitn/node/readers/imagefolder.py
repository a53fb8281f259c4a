"""Image folder: one folder per label, in it (at any depth) PNG or JPEG files. Columns `image`, `label`, `file`.

`label` is the name of the first folder below the root, absent for pictures in the root itself; `file` is the path
below the root. Other files are passed over. A link that leads out of the root is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from daitn.describe.conversion import Unreadable
from daitn.describe.fit import Batch
from daitn.node.readers.contract import BATCH_BYTES, IMAGE_FILE_BYTES, LocalType, broken
from daitn.node.readers.pictures import decode_picture

_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_BATCH_FILES: Final = 256
"""Pictures decoded at a time: 256 of 512 × 512 in colour are 200 MB."""


class ImageFolderReader:
    """A folder of pictures, in the order of their paths."""

    format: ClassVar[str] = "imagefolder"

    def __init__(self, path: Path) -> None:
        self._root = path
        self._files: list[Path] = []

    @classmethod
    def recognises(cls, path: Path, _head: bytes) -> bool:
        """A folder with a picture somewhere in it; the first one found decides."""
        return path.is_dir() and any(
            name.lower().endswith(_SUFFIXES) for _, _, names in os.walk(path) for name in names
        )

    def files(self) -> list[Path]:
        """All pictures."""
        return list(self._list())

    def columns(self) -> dict[str, str]:
        """Always the same three."""
        self._list()
        return {"image": LocalType.IMAGE, "label": LocalType.TEXT, "file": LocalType.TEXT}

    def read(self) -> Iterator[Batch]:
        """Pictures as uint8 arrays; one that cannot be decoded is `Unreadable`."""
        files = self._list()
        pictures: list[Any] = []
        decoded_bytes = 0
        for place, path in enumerate(files, 1):
            pictures.append(self._decode(path))
            decoded_bytes += getattr(pictures[-1], "nbytes", 0)
            if len(pictures) == _BATCH_FILES or decoded_bytes >= BATCH_BYTES or place == len(files):
                below = [one.relative_to(self._root) for one in files[place - len(pictures) : place]]
                yield {
                    "image": pictures,
                    "label": [one.parts[0] if len(one.parts) > 1 else None for one in below],
                    "file": [one.as_posix() for one in below],
                }
                pictures, decoded_bytes = [], 0

    def _list(self) -> list[Path]:
        """All pictures; every entry, folders included, must lie in the root once its links are followed."""
        if self._files:
            return self._files
        real = self._root.resolve()
        found: list[Path] = []
        for folder, folders, names in os.walk(self._root, followlinks=False):
            for name in folders + names:
                path = Path(folder) / name
                if path.is_symlink() and not path.resolve().is_relative_to(real):
                    raise broken(
                        self._root, f"{path.relative_to(self._root)} is a link out of the folder", todo="remove it"
                    )
            found += [Path(folder) / name for name in names if name.lower().endswith(_SUFFIXES)]
        if not found:
            raise broken(self._root, "the folder holds no PNG or JPEG files")
        self._files = sorted(found)
        return self._files

    @staticmethod
    def _decode(path: Path) -> Any:
        try:
            with path.open("rb") as file:
                return decode_picture(file.read(IMAGE_FILE_BYTES + 1))
        except OSError as error:
            return Unreadable(str(error))
