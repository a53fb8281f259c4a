"""Pack files that are served: found by name each time, since a file moves on to another use while it is open."""

from __future__ import annotations

from pathlib import Path

import pytest

from daitn.base.errors import NotHeldError
from daitn.node.fabric.chunks import fill_from_pack
from daitn.node.fabric.contract import ChunkPlace


def read(path: Path, size: int = 3) -> bytes:
    """The first bytes of a pack."""
    buffer = bytearray(size)
    fill_from_pack(ChunkPlace(path, 0, size), memoryview(buffer))
    return bytes(buffer)


def test_pack_whose_file_serves_another_artifact_by_now_is_opened_anew(tmp_path: Path) -> None:
    path, spare = tmp_path / "a.pack", tmp_path / "spare"
    path.write_bytes(b"old")
    assert read(path) == b"old"

    path.rename(spare)
    path.write_bytes(b"new")
    spare.write_bytes(b"zzz")

    assert read(path) == b"new"


def test_pack_that_was_removed_under_the_node_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(b"old")
    read(path)
    path.unlink()

    with pytest.raises(NotHeldError, match=r"a\.pack cannot be read"):
        read(path)


def test_pack_that_is_too_short_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(b"o")

    with pytest.raises(NotHeldError, match="ends before byte 3"):
        read(path)
