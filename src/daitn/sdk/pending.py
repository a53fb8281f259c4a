"""Pending submissions: the key of a request, kept until its owner was told what became of it.

A submission under one key is one job. A program that is killed between the domain's having a job and its owner's
knowing of it leaves the key here, so that the same command given again asks for the same job instead of a second one.
Once the verdict was told the key is forgotten: the same command then is a new job, as it was meant.

Why not always a key made of the request: whoever submits the same twice on purpose would get the first job back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path
from typing import Final

import msgspec

from daitn.descriptors.request import Request

KEPT_S: Final = 86_400.0
"""A key older than this is not used again: what was killed a day ago and is submitted today is meant anew."""

KEY_BYTES: Final = 64
"""Most that is read of a file; a key has 32."""


def default_folder() -> Path:
    """Where keys are kept, unless another folder is given."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "daitn" / "submissions"


class PendingKeys:
    """See the module's docstring. `whose`: the token that submits, of which only a digest is kept."""

    def __init__(self, folder: Path, whose: str) -> None:
        self._folder = folder
        self._whose = whose
        self._used: list[Path] = []
        self.found = False
        """Whether a key had been left behind for the request that was last asked about."""

    def key_of(self, request: Request) -> str:
        """The key of this request: the one that was left behind, or a new one. One that cannot be kept, on a disk that
        is full or read-only, protects nothing and is as good as any other otherwise."""
        digest = hashlib.sha256(self._whose.encode() + b"\0" + msgspec.json.encode(request, order="deterministic"))
        file = self._folder / digest.hexdigest()
        with contextlib.suppress(OSError, ValueError):
            if time.time() - file.stat().st_mtime < KEPT_S:
                with file.open("r", encoding="ascii") as kept:
                    found = uuid.UUID(kept.read(KEY_BYTES)).hex
                self._used.append(file)
                self.found = True
                return found
        self.found = False
        key = uuid.uuid4().hex
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = file.with_suffix(f".{key}")
            draft.write_text(key, encoding="ascii")
            draft.replace(file)  # whole or not at all
            self._used.append(file)
        return key

    def told(self) -> None:
        """The owner knows of what was submitted under these keys."""
        for file in self._used:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        self._used = []
