"""The data shelf: the data sets of one site, mapped, remembered, described; durable in one folder.

    index.json          what was added: source, contract, policy, column map, report (written beside, then renamed)
    tables/<version>/   mapped tables (`describe.table`)
    releases, ledger    what was published of it and what that cost (`node.releases`)

Two processes may use one shelf (a service and the command line): what changes it holds a lock, what reads it sees
whole files. Removing a data set removes its table, never its ledger.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId, JobId, VisitId
from daitn.base.names import check_name
from daitn.base.units import MIB
from daitn.describe import statistics
from daitn.describe.column_map import ColumnMap, nearest
from daitn.describe.family.sketches import base_basis
from daitn.describe.fit import fit
from daitn.describe.ledger import PrivacyLedger
from daitn.describe.mechanisms import Noise
from daitn.describe.preview import Preview, preview
from daitn.describe.report import FitReport
from daitn.describe.statistics import Release
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import DataContract, check_contract
from daitn.descriptors.policy import Policy
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.terminals import DataDescriptor
from daitn.learning.vectors import embedded_inputs, vector_file
from daitn.node.readers.sources import open_reader
from daitn.node.releases import ReleaseBook, ShelfEntry, SourceState, locked, write_whole
from daitn.node.site_files import load_column_map, load_contract, load_policy

__all__ = [
    "DataShelf",
    "ShelfEntry",
    "SourceChangedError",
    "SourceState",
    "load_column_map",
    "load_contract",
    "load_policy",
]

DATA_SETS: Final = 1000
"""Data sets on one shelf: a node describes them all in one message."""


class SourceChangedError(InputError):
    """The files of a data set are not what they were when it was added; says how, with paths: for the site only."""


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    format: Literal[1] = 1
    entries: tuple[ShelfEntry, ...] = ()


class DataShelf:
    """All data sets of one site. `site_secret` (32 bytes) keys versions and identifiers and never leaves."""

    def __init__(
        self,
        folder: Path,
        site_secret: bytes,
        *,
        clock: Callable[[], int] = time.time_ns,
        noise: Noise | None = None,
        activations: Path | None = None,
    ) -> None:
        """`clock`: wall time in ns, for the privacy ledger; `noise`: instead of OpenDP's mechanism, in simulation;
        `activations`: where vectors of frozen bases lie, to sketch texts by them."""
        self._folder, self._secret, self._clock, self._activations = folder, site_secret, clock, activations
        (folder / "tables").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._releases = ReleaseBook(folder, clock, noise)
        self._read: tuple[tuple[int, int, int], dict[str, ShelfEntry]] | None = None
        """The index as it was last read, and which file that was: a visit asks for its data set several times, and
        decoding takes as long as the shelf is full."""

    def add(self, name: str, path: Path, contract: DataContract, policy: Policy, column_map: ColumnMap) -> FitReport:
        """Map the data at `path` and put it on the shelf, replacing an earlier one of that name.

        InputError, with the shelf unchanged, where contract, map or data do not fit. Cost: reads the source twice
        (once to recognise later changes) and writes the table.
        """
        check_name("data set", name)
        check_contract(contract)
        with locked(self._folder, "index"):
            self._sweep()
            entries = self._entries()
            if name not in entries and len(entries) >= DATA_SETS:
                raise InputError(f"the shelf holds {DATA_SETS} data sets, its limit", todo="remove one")
            source_path = path.resolve()
            reader = open_reader(source_path)
            before = source_state(reader.files())
            fitted = fit(contract, reader.columns(), reader.read(), column_map, self._folder / "tables", self._secret)
            if source_state(reader.files(), content=before.content).listing != before.listing:
                raise InputError(f"{path.name} changed while it was read", todo="add it when nothing writes to it")
            entries[name] = ShelfEntry(
                name=name,
                path=str(source_path),
                contract=contract,
                policy=policy,
                column_map=column_map,
                version=fitted.table.version,
                source=before,
                report=fitted.report,
                added_ns=self._clock(),
            )
            self._write_index(entries)
            self._sweep()
        return fitted.report

    def list(self) -> tuple[ShelfEntry, ...]:
        """All data sets, by name."""
        return tuple(entry for _, entry in sorted(self._entries().items()))

    def entry(self, name: str) -> ShelfEntry:
        """One data set; InputError naming the nearest."""
        entries = self._entries()
        if name not in entries:
            raise InputError(f"there is no data set {name!r} on this shelf", todo=nearest(name, entries))
        return entries[name]

    def remove(self, name: str) -> None:
        """Take a data set off the shelf. Its source is untouched, its spent budget stays spent."""
        with locked(self._folder, "index"):
            self.entry(name)
            self._write_index({other: entry for other, entry in self._entries().items() if other != name})
            self._sweep()

    def table(self, name: str) -> MappedTable:
        """The mapped table of a data set."""
        return MappedTable.open(self.path(name))

    def path(self, name: str) -> Path:
        """Folder of the mapped table of a data set, to be bound read-only into a sandbox."""
        return self._folder / "tables" / self.entry(name).version

    @property
    def index_file(self) -> Path:
        """Changes whenever a data set is added, replaced or removed."""
        return self._folder / "index.json"

    def check_unchanged(self, name: str) -> None:
        """SourceChangedError where the source was changed or lost since it was added. Reads it only if a time stamp
        differs."""
        entry = self.entry(name)
        path, again = Path(entry.path), f"add {name!r} again, so that the table is made of the data as it is now"
        if not path.exists():
            raise SourceChangedError(f"the source of data set {name!r} is gone: {entry.path}", todo=again)
        files = open_reader(path).files()
        now = source_state(files, content="")
        if now.listing == entry.source.listing:
            return
        if (now.files, now.size_bytes) != (entry.source.files, entry.source.size_bytes):
            raise SourceChangedError(
                f"the source of data set {name!r} changed: {entry.source.files} files of {entry.source.size_bytes} "
                f"bytes were added, now there are {now.files} of {now.size_bytes}",
                todo=again,
            )
        if source_state(files).content != entry.source.content:
            raise SourceChangedError(f"the source of data set {name!r} changed: same size, other content", todo=again)

    def source_fault(self, name: str) -> str:
        """What became of a data set's files since it was added, and what to do; empty where nothing did."""
        try:
            self.check_unchanged(name)
        except InputError as error:
            return error.render()
        return ""

    def descriptor(self, name: str, node: str) -> DataDescriptor:
        """What the network may see of a data set; draws its statistics on the first call, and when a release is due.

        PolicyError where the privacy budget of the period is spent and no earlier statistics can stand in.
        """
        return self._describe(name, node)[0]

    def preview(self, name: str, node: str = "this-node") -> Preview:
        """Exactly what `descriptor` would publish, and an explanation. Costs what publishing costs, once."""
        descriptor, release = self._describe(name, node)
        return preview(descriptor, release, self.entry(name).policy)

    def ledger(self) -> PrivacyLedger:
        """The privacy ledger as it stands; a copy."""
        return self._releases.ledger()

    def charge(self, name: str, job: JobId, visit: VisitId, private: PrivateSteps, steps: int) -> float:
        """Book a visit of private training, durably, before it begins: see `ReleaseBook.charge`."""
        return self._releases.charge(self.entry(name), job, visit, private, steps)

    def renewal_ns(self) -> int | None:
        """When statistics that have grown stale may next be drawn anew, wall time; None where none have."""
        times = [self._releases.renewal_ns(entry, self._vectors(entry)) for entry in self.list()]
        return min((time_ns for time_ns in times if time_ns is not None), default=None)

    def _describe(self, name: str, node: str) -> tuple[DataDescriptor, Release]:
        entry, table = self.entry(name), self.table(name)
        release = self._releases.release(entry, table, self._vectors(entry))
        dataset = DataSetId(f"{node}/{name}")
        descriptor = statistics.describe_data(dataset, table, entry.contract, entry.policy, release, entry.report)
        return descriptor, release

    def _vectors(self, entry: ShelfEntry) -> dict[str, NDArray[Any]]:
        """Basis of a sketch → vectors of a frozen base, those that are at hand for this version."""
        found: dict[str, NDArray[Any]] = {}
        if self._activations is not None:
            for spec in embedded_inputs(entry.contract):
                path = self._activations / entry.version / vector_file(spec)
                # The note beside a file is written when it is whole.
                if path.with_suffix(".json").exists():
                    with contextlib.suppress(OSError, ValueError):
                        flat = np.memmap(path, dtype="<f2", mode="r")
                        found[base_basis(spec)] = flat.reshape(-1, spec.width)
        return found

    def _entries(self) -> dict[str, ShelfEntry]:
        try:
            about = self.index_file.stat()
            stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
            if self._read is not None and self._read[0] == stamp:
                return dict(self._read[1])
            index = msgspec.json.decode(self.index_file.read_bytes(), type=_Index)
        except FileNotFoundError:
            return {}
        except UNDECODABLE as error:
            raise InputError(
                f"the index of the data shelf is damaged: {error}", todo=f"see {self._folder / 'index.json'}"
            ) from None
        entries = {entry.name: entry for entry in index.entries}
        self._read = (stamp, entries)
        return dict(entries)

    def _write_index(self, entries: dict[str, ShelfEntry]) -> None:
        index = _Index(entries=tuple(entry for _, entry in sorted(entries.items())))
        write_whole(self._folder / "index.json", msgspec.json.encode(index))

    def _sweep(self) -> None:
        """Remove tables that no entry names, those of an interrupted `add` too. Only under the lock."""
        used = {entry.version for entry in self._entries().values()}
        for folder in (self._folder / "tables").iterdir():
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)


def source_state(files: Sequence[Path], content: str | None = None) -> SourceState:
    """Names, sizes and times of a source's files, and the digest of their bytes unless `content` is given. O(bytes)."""
    listing, digest = blake3(), blake3()
    size = 0
    for path in files:
        about = path.stat()
        size += about.st_size
        listing.update(msgspec.json.encode((str(path), about.st_size, about.st_mtime_ns)))
        if content is None:
            digest.update(msgspec.json.encode((str(path), about.st_size)))
            with path.open("rb") as file:
                while block := file.read(4 * MIB):
                    digest.update(block)
    return SourceState(
        files=len(files),
        size_bytes=size,
        listing=str(listing.hexdigest()),
        content=str(digest.hexdigest()) if content is None else content,
    )
