"""An artifact being read: its tensors as arrays over a mapping of the pack, without a copy."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.manifest import Manifest, TensorEntry
from daitn.artifacts.tensor_file import NUMPY_TYPES
from daitn.base.errors import InputError


class TensorMap:
    """Read-only tensors of one artifact; the pack is not evicted until `close`, nor are arrays invalid after it."""

    def __init__(self, manifest: Manifest, area: mmap.mmap | None, leave: Callable[[], None]) -> None:
        self.manifest = manifest
        self._area = area
        self._view = memoryview(area) if area is not None else memoryview(b"")
        self._entries = {entry.name: entry for entry in manifest.tensors}
        self._leave = leave
        self._open = True

    def entry(self, name: str) -> TensorEntry:
        """What the manifest says of a tensor; InputError if there is none of that name."""
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(list(self._entries)[:8])
            raise InputError(
                f"artifact {self.manifest.name!r} has no tensor {name!r}", todo=f"it has: {known}"
            ) from None

    @property
    def payload(self) -> memoryview:
        """All tensors' bytes, as laid out."""
        return self._view

    def raw(self, name: str) -> memoryview:
        """The tensor's bytes."""
        entry = self.entry(name)
        return self._view[entry.offset : entry.offset + entry.nbytes]

    def array(self, name: str) -> NDArray[Any]:
        """The tensor; bfloat16 as uint16 bits."""
        entry = self.entry(name)
        flat = np.frombuffer(self.raw(name), dtype=NUMPY_TYPES[entry.dtype])
        return flat.reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Let the pack go. Arrays still alive keep the mapping, not the store's promise, alive."""
        if self._open:
            self._open = False
            self._leave()
            self._view = memoryview(b"")
            self._area = None  # unmapped when the last array over it is gone; closing it here would fail

    def __enter__(self) -> TensorMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
