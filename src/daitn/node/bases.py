"""The bases of one site: frozen encoders that its operator has put there, by digest (`learning.bases`).

    bases/<digest>/config.json, model.safetensors, tokenizer.json

What a contract names is found here or not at all: a base never comes over the network, and never leaves.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.errors import InputError
from daitn.base.units import GIB
from daitn.learning.base_files import BASE_FILES, base_digest, base_width, check_weights

BASES: Final = 64
"""Bases of one node: it tells the network of each."""
BASE_BYTES: Final = 64 * GIB
"""Largest base; encoders of texts have 0.1 to 15 GB."""


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """One base as it is listed."""

    digest: str
    width: int
    size_bytes: int


class BaseShelf:
    """See the module's docstring."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, source: Path) -> Base:
        """Copy a base's files here; returns what it is. InputError where `source` is no base, or there are too many."""
        digest = base_digest(source)
        base_width(source)
        check_weights(source / "model.safetensors")
        size = sum((source / name).stat().st_size for name in BASE_FILES)
        if size > BASE_BYTES:
            raise InputError(f"{source} has {size} bytes, a base may have {BASE_BYTES}", todo="take a smaller encoder")
        if digest not in self.digests():
            if len(self.digests()) >= BASES:
                raise InputError(f"this site has {BASES} bases, its limit", todo="daitn base remove DIGEST")
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = self._folder / f".{digest}.{secrets.token_hex(4)}"
            beside.mkdir(mode=0o700)
            try:
                for name in BASE_FILES:
                    shutil.copyfile(source / name, beside / name)
                if base_digest(beside) != digest:
                    raise InputError(f"{source} changed while it was copied", todo="add it when nothing writes to it")
                os.rename(beside, self._folder / digest)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return self._read(digest)

    def bases(self) -> tuple[Base, ...]:
        """All bases, by digest."""
        return tuple(self._read(digest) for digest in self.digests())

    def digests(self) -> tuple[str, ...]:
        """What the network is told."""
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in self._folder.iterdir() if not path.name.startswith(".")))

    def path(self, digest: str) -> Path:
        """Folder of a base, to be bound read-only into a sandbox; InputError where it is not here."""
        if digest not in self.digests():
            raise InputError(f"base {digest[:16]}… is not at this site", todo="daitn base add DIR")
        return self._folder / digest

    def remove(self, digest: str) -> None:
        """Remove a base, named by its digest or the beginning of it."""
        found = [one for one in self.digests() if digest and one.startswith(digest)]
        if len(found) != 1:
            raise InputError(f"{digest!r} names {len(found)} bases of this site", todo="see daitn base list")
        shutil.rmtree(self._folder / found[0])

    def _read(self, digest: str) -> Base:
        folder = self._folder / digest
        size = sum((folder / name).stat().st_size for name in BASE_FILES)
        return Base(digest=digest, width=base_width(folder), size_bytes=size)
