"""The data watch: notices records that were appended to the sources of a site's data sets, and has them read again.

A source grows if each of its files begins with the bytes it had, and none is gone; anything else is a change that its
owner has to answer for (`daitn data add`), as before. A source that is still being written is left alone until it has
stood still for one look. Looking costs a stat of each file; only what has grown is read.

What was noticed is told to the site's sensing service, exactly, and stays here. What the network is told are dynamics
made of releases (`describe.dynamics`), which are remembered in `dynamics.json`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from blake3 import blake3

from daitn.base.decoding import UNDECODABLE
from daitn.base.effects import Event
from daitn.base.errors import DaitnError, InputError
from daitn.base.ids import DataSetId
from daitn.base.metrics import Counters
from daitn.base.units import MIB
from daitn.describe.dynamics import RELEASES, Released, dynamics_of, is_another, released
from daitn.descriptors.contract import Classification
from daitn.descriptors.terminals import DataDescriptor
from daitn.node.datasets import DataShelf, ShelfEntry
from daitn.node.readers.sources import open_reader
from daitn.tools.sensing import DataMeasured, DataRemoved, Sensed

LOOK_S: Final = 2.0
"""How often sources are looked at."""

SENSED: Final = "sensed.json"
"""What was sensed, exactly: for the owner's eyes."""

FILES: Final = 100_000
"""Files of one source that are watched; of a source with more, appends are not noticed."""


class _File(msgspec.Struct, frozen=True):
    size: int
    modified_ns: int
    digest: str


class _Dynamics(msgspec.Struct, frozen=True, kw_only=True):
    releases: dict[str, tuple[Released, ...]] = {}


_log = logging.getLogger(__name__)


class DataWatch:
    """See the module's docstring. `post` hands events to the sensing service; `node` is the site's name."""

    def __init__(
        self, shelf: DataShelf, node: str, post: Callable[[Event], None], counters: Counters | None = None
    ) -> None:
        self._shelf = shelf
        self._node = node
        self._post = post
        self._known: dict[str, tuple[str, dict[str, _File]]] = {}
        """By data set: the version that was read, and its files then."""
        self._counters = counters or Counters()
        self._told: dict[str, tuple[tuple[str, int, int], ...]] = {}
        """By data set: the files as they were when it was last refused."""
        self._unsteady: dict[str, tuple[tuple[str, int, int], ...]] = {}

    def look(self) -> tuple[str, ...]:
        """Look at every source once; names of data sets that had grown and were read again. Blocks: for a thread."""
        entries = {entry.name: entry for entry in self._shelf.list()}
        for name in self._known.keys() - entries.keys():
            del self._known[name]
            self._post(DataRemoved(dataset=self._id(name)))
        return tuple(name for name, entry in entries.items() if self._look_at(entry))

    def _look_at(self, entry: ShelfEntry) -> bool:
        known = self._known.get(entry.name)
        try:
            now = _stats(entry)
            if known is None or known[0] != entry.version:
                if self._shelf.source_fault(entry.name):
                    return False  # changed before it was ever watched: nobody can say what was appended
                self._known[entry.name] = (entry.version, _digests(now))
                self._measure(entry.name, appended=False)
                return False
            files = known[1]
            if all(
                path in files and (size, at) == (files[path].size, files[path].modified_ns) for path, size, at in now
            ):
                return False
            if self._unsteady.get(entry.name) != now:
                self._unsteady[entry.name] = now  # perhaps still being written
                return False
            del self._unsteady[entry.name]
            if not _has_grown(files, now):
                self._refused(entry.name, now, "it was changed, and not only appended to")
                return False
            self._shelf.add(entry.name, Path(entry.path), entry.contract, entry.policy, entry.column_map)
        except (DaitnError, OSError) as error:
            if known is not None and known[0] == entry.version:
                self._refused(entry.name, _sizes(entry), str(error))
            return False  # what is wrong with it is said where it is used, with what to do
        self._known[entry.name] = (self._shelf.entry(entry.name).version, _digests(now))
        self._measure(entry.name, appended=True)
        return True

    def _refused(self, name: str, files: tuple[tuple[str, int, int], ...], why: str) -> None:
        """Count files that cannot be read again, once as they are."""
        if self._told.get(name) != files:
            self._told[name] = files
            self._counters.count("data_sets_refused")
            _log.warning("data set %r is not read again: %s", name, why)

    def _measure(self, name: str, *, appended: bool) -> None:
        table, contract = self._shelf.table(name), self._shelf.entry(name).contract
        labels: dict[str, int] = {}
        if isinstance(contract.task, Classification):
            codes = table.categories(contract.task.label, np.arange(table.rows), contract.labels())
            counts = np.bincount(codes[codes >= 0], minlength=len(contract.labels()))
            labels = dict(zip(contract.labels(), counts.tolist(), strict=True))
        self._post(DataMeasured(dataset=self._id(name), rows=table.rows, labels=labels, appended=appended))

    def _id(self, name: str) -> DataSetId:
        return DataSetId(f"{self._node}/{name}")


class ReleasedDynamics:
    """Releases of a site's data sets as they were published, durable in one file, and the dynamics they make."""

    def __init__(self, folder: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self._file = folder / "dynamics.json"
        self._clock = clock

    def with_dynamics(self, name: str, descriptor: DataDescriptor) -> DataDescriptor:
        """A descriptor about to be published, with the dynamics of it and those before. InputError where the file is
        damaged."""
        known = self._load()
        releases = known.get(name, ())
        new = released(descriptor, self._clock())
        if is_another(releases, new):
            releases = (*releases[1 - RELEASES :], new)
            self._save(known | {name: releases})
        return msgspec.structs.replace(descriptor, dynamics=dynamics_of(releases))

    def _load(self) -> dict[str, tuple[Released, ...]]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Dynamics).releases
        except FileNotFoundError:
            return {}
        except UNDECODABLE as error:
            raise InputError(
                f"the releases remembered in {self._file} are damaged: {error}",
                todo="restore the file, or remove it: dynamics then begin anew",
            ) from None

    def _save(self, releases: dict[str, tuple[Released, ...]]) -> None:
        beside = self._file.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(_Dynamics(releases=releases)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._file)


def keep_sensed(folder: Path, sensed: Sensed) -> None:
    """Keep what was sensed where the site's own people look for it."""
    beside = folder / ".sensed.new"
    beside.touch(mode=0o600)
    beside.write_bytes(msgspec.json.encode(sensed))
    os.replace(beside, folder / SENSED)


def read_sensed(folder: Path) -> Sensed:
    """What a node sensed of its data; InputError where it never ran or the file is damaged."""
    try:
        return msgspec.json.decode((folder / SENSED).read_bytes(), type=Sensed)
    except FileNotFoundError:
        raise InputError(
            f"nothing was sensed in {folder} yet", todo="start the node: it looks as long as it runs"
        ) from None
    except UNDECODABLE as error:
        raise InputError(f"{folder / SENSED} does not decode: {error}", todo="it is written anew by the node") from None


def _stats(entry: ShelfEntry) -> tuple[tuple[str, int, int], ...]:
    files = open_reader(Path(entry.path)).files()
    if len(files) > FILES:
        raise InputError(f"{entry.name} has {len(files)} files", todo=f"only up to {FILES} are watched")
    about = [(path, path.stat()) for path in files]
    return tuple((str(path), one.st_size, one.st_mtime_ns) for path, one in about)


def _sizes(entry: ShelfEntry) -> tuple[tuple[str, int, int], ...]:
    """As `_stats`, nothing where the source cannot be opened any more."""
    try:
        return _stats(entry)
    except (DaitnError, OSError):
        return ()


def _digests(files: tuple[tuple[str, int, int], ...]) -> dict[str, _File]:
    return {path: _File(size, at, _digest(Path(path), size)) for path, size, at in files}


def _has_grown(before: dict[str, _File], now: tuple[tuple[str, int, int], ...]) -> bool:
    """Whether nothing but appends happened: every file is there, as long as it was, and begins as it was."""
    sizes = {path: size for path, size, _ in now}
    if any(sizes.get(path, -1) < file.size for path, file in before.items()):
        return False
    if all(path in before and size == before[path].size for path, size in sizes.items()):
        return False
    return all(_digest(Path(path), file.size) == file.digest for path, file in before.items())


def _digest(path: Path, size: int) -> str:
    """Of the first bytes of a file."""
    digest, left = blake3(), size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 4 * MIB))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
