"""Spare files: whose they may become, what is in them, how many are kept and for how long."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daitn.base.units import GIB
from daitn.node.store import files, spares
from daitn.node.store.spares import FILES, KEPT_S, LEAST_BYTES, Spares

SIZE = LEAST_BYTES
SECRET = b"of another owner"


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watched(Spares):
    """Tells whoever waits when its wiper has done a piece of work."""

    def __init__(self, folder: Path, quota_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = threading.Condition()
        super().__init__(folder, quota_bytes, clock)

    def _wipe(self, spare: Path) -> None:
        super()._wipe(spare)
        with self.done:
            self.done.notify_all()

    def _expire(self) -> None:
        super()._expire()
        with self.done:
            self.done.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the wiper has come so far."""
        with self.done:
            assert self.done.wait_for(condition, 30)


@pytest.fixture
def kept(tmp_path: Path, clock: Clock) -> Iterator[Watched]:
    made = Watched(tmp_path / "spares", 1 * GIB, clock)
    yield made
    made.close()


def pack(folder: Path, size: int = SIZE, name: str = "a.pack") -> Path:
    """A file as of a pack, full of what nobody else may see."""
    path = folder / name
    path.write_bytes((SECRET * (size // len(SECRET) + 1))[:size])
    return path


def settle(kept: Watched) -> None:
    """Until nothing is being wiped."""
    kept.wait_for(lambda: not kept._wiping)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def taken(kept: Watched, folder: Path, job: str, size: int = SIZE) -> bytes | None:
    """What a job finds in the file that it is given; None if there was none for it."""
    target = folder / "new.pack"
    kept.take(target, job, size)
    if not target.exists():
        return None
    content = target.read_bytes()
    target.unlink()
    return content


def test_file_that_nobody_has_open_goes_to_another_job_and_is_wiped(tmp_path: Path, kept: Watched) -> None:
    path = pack(tmp_path)
    number = path.stat().st_ino
    kept.drop(path, "one")
    assert not path.exists()
    settle(kept)

    target = tmp_path / "new.pack"
    kept.take(target, "two", SIZE)

    assert target.stat().st_ino == number
    assert target.read_bytes() == bytes(SIZE)
    assert kept.held_bytes == 0


def test_file_without_a_job_goes_to_anyone(tmp_path: Path, kept: Watched) -> None:
    kept.drop(pack(tmp_path))
    settle(kept)
    assert taken(kept, tmp_path, "") == bytes(SIZE)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_file_that_is_still_mapped_goes_round_within_its_job_alone(tmp_path: Path, kept: Watched, flags: int) -> None:
    path = pack(tmp_path)
    fd = os.open(path, flags)
    with mmap.mmap(fd, SIZE, prot=mmap.PROT_READ):
        os.close(fd)  # the mapping alone keeps it
        kept.drop(path, "one")
        settle(kept)

        assert taken(kept, tmp_path, "two") is None
        assert taken(kept, tmp_path, "") is None
        assert taken(kept, tmp_path, "one") == bytes(SIZE)


def test_file_that_is_still_open_and_nobodys_is_deleted(tmp_path: Path, kept: Watched) -> None:
    path = pack(tmp_path)
    with path.open("rb"):
        kept.drop(path)
        settle(kept)
    assert kept.held_bytes == 0
    assert list((tmp_path / "spares").iterdir()) == []


def test_what_was_written_through_an_old_mapping_after_the_wipe_reaches_no_other_job(
    tmp_path: Path, kept: Watched
) -> None:
    path = pack(tmp_path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as area:
        kept.drop(path, "one")
        settle(kept)
        area[:4] = b"late"
    kept.end_job("one")
    settle(kept)

    assert taken(kept, tmp_path, "two") == bytes(SIZE)


def test_file_that_is_open_when_its_job_ends_is_deleted(tmp_path: Path, kept: Watched) -> None:
    path = pack(tmp_path)
    with path.open("rb"):
        kept.drop(path, "one")
        settle(kept)
        assert kept.held_bytes == SIZE
        kept.end_job("one")
        settle(kept)
    assert kept.held_bytes == 0
    assert list((tmp_path / "spares").iterdir()) == []


def test_job_that_ends_leaves_the_files_of_others(tmp_path: Path, kept: Watched) -> None:
    path = pack(tmp_path)
    with path.open("rb"):
        kept.drop(path, "one")
        kept.end_job("two")
        kept.end_job("")
        settle(kept)
        assert taken(kept, tmp_path, "one") == bytes(SIZE)


def test_spare_of_about_the_size_is_taken_and_brought_to_it(tmp_path: Path, kept: Watched) -> None:
    sizes = [SIZE, SIZE * 3 // 2, SIZE * 4]
    for number, size in enumerate(sizes):
        kept.drop(pack(tmp_path, size, f"{number}.pack"))
    settle(kept)

    assert taken(kept, tmp_path, "one", SIZE + SIZE // 10) == bytes(SIZE + SIZE // 10)  # of the first, grown
    assert taken(kept, tmp_path, "one", SIZE) == bytes(SIZE)  # of the second, cut
    assert taken(kept, tmp_path, "one", SIZE) is None  # the third is too large to be cut
    assert taken(kept, tmp_path, "one", SIZE * 4) == bytes(SIZE * 4)


def test_small_files_are_not_kept_and_not_asked_for(tmp_path: Path, kept: Watched) -> None:
    kept.drop(pack(tmp_path, SIZE - 1))
    kept.drop(pack(tmp_path))
    settle(kept)
    assert kept.held_bytes == SIZE
    assert taken(kept, tmp_path, "one", SIZE - 1) is None


def test_file_that_is_there_is_not_replaced(tmp_path: Path, kept: Watched) -> None:
    kept.drop(pack(tmp_path))
    settle(kept)
    there = pack(tmp_path, 3, "new.pack")
    kept.take(there, "one", SIZE)
    assert there.read_bytes() == SECRET[:3]


def test_newest_are_kept_when_there_are_too_many(tmp_path: Path, kept: Watched) -> None:
    for number in range(FILES + 2):
        kept.drop(pack(tmp_path, SIZE + number, "a.pack"))
        settle(kept)
    assert kept.held_bytes == sum(SIZE + number for number in range(2, FILES + 2))


@pytest.mark.parametrize("bound", ["quota", "memory", "disk"])
def test_spares_take_a_share_of_quota_memory_and_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    quota = 8 * SIZE if bound == "quota" else 1 * GIB
    if bound == "memory":
        monkeypatch.setattr(files, "memory_bytes", lambda: 8 * SIZE)
    if bound == "disk":
        monkeypatch.setattr(files, "free_bytes", lambda folder: 16 * SIZE - size_of(folder))
    kept = Watched(tmp_path / "spares", quota)
    for number in range(4):
        kept.drop(pack(tmp_path, SIZE, f"{number}.pack"))
        settle(kept)
    assert kept.held_bytes == 2 * SIZE
    kept.drop(pack(tmp_path, 4 * SIZE))
    assert kept.held_bytes == 2 * SIZE
    kept.close()


def test_spare_that_nobody_needs_goes(
    tmp_path: Path, kept: Watched, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "KEPT_S", 0.0)
    kept.drop(pack(tmp_path))
    kept.wait_for(lambda: kept.held_bytes == 0)
    assert list((tmp_path / "spares").iterdir()) == []
    assert KEPT_S > 0


def test_room_that_is_needed_is_given_back_at_once_also_while_a_file_is_wiped(tmp_path: Path, kept: Watched) -> None:
    for number in range(3):
        kept.drop(pack(tmp_path, SIZE * 2, f"{number}.pack"), "one")
    kept.give_way(SIZE * 6)
    assert kept.held_bytes == 0
    settle(kept)
    kept.drop(pack(tmp_path), "one")
    settle(kept)  # the wiper has come to the end of what was cleared
    assert [path.stat().st_size for path in (tmp_path / "spares").iterdir()] == [SIZE]


def test_oldest_give_way_and_no_more_than_are_needed(tmp_path: Path, kept: Watched) -> None:
    for number in range(3):
        kept.drop(pack(tmp_path, SIZE, f"{number}.pack"), "one")
        settle(kept)
    kept.give_way(SIZE + 1)
    assert kept.held_bytes == SIZE
    assert [path.name for path in (tmp_path / "spares").iterdir()] == ["3"]
    kept.give_way(0)
    assert kept.held_bytes == SIZE


def test_what_an_earlier_process_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "spares").mkdir()
    pack(tmp_path / "spares", SIZE, "1")
    kept = Watched(tmp_path / "spares", 1 * GIB)
    assert list((tmp_path / "spares").iterdir()) == []
    kept.close()
    kept.drop(path := pack(tmp_path))
    assert not path.exists()
    assert kept.held_bytes == 0


def test_missing_file_is_dropped_without_a_word(tmp_path: Path, kept: Watched) -> None:
    kept.drop(tmp_path / "not there")
    assert kept.held_bytes == 0
