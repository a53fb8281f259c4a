"""Activations of frozen bases: each text of a data set encoded once, and kept at its site as its policy says.

    activations/<data version>/<key>.f16    N × width, float16, one row per record of the table
    activations/<data version>/<key>.json   what it is (`Cached`), written when all rows are there
    activations/<data version>/jobs/<job>   the jobs that use it

The key names base, column, length and pooling, the folder the data: other data, another base or another cut is another
file, so nothing can be stale. A child computes it that runs no model but the site's own base, in the sandbox, without
network, and writes through a descriptor into a file of the size laid out here; a child that trains gets the folder
read-only. `cache_activations` of the policy says how long it stays: `job` until the last job that used it has ended,
`keep` as long as the data is on the shelf, `no` never: then a contract that needs a base is refused here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import JobId
from daitn.descriptors.contract import DataContract, EmbeddedInput, decode_contract
from daitn.learning.vectors import embedded_inputs, map_vectors, vector_file
from daitn.node.bases import BaseShelf
from daitn.node.datasets import DataShelf, ShelfEntry
from daitn.node.replay import ReplayShelf
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.sandbox.protocol import Embed, EmbedColumn
from daitn.node.sandbox.visits import Beside, embed

_log = logging.getLogger(__name__)


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """One file of activations: of what, how large, and how long it took."""

    dataset: str
    version: str
    base: str
    column: str
    length: int
    pooling: str
    records: int
    width: int
    size_bytes: int
    seconds: float
    made_unix_s: float
    stays: str
    """`job` or `keep`, as the policy said when it was made."""


class ActivationCache:
    """See the module's docstring. Used by the node, and by the command line beside it: files are renamed into place."""

    def __init__(self, folder: Path, shelf: DataShelf, bases: BaseShelf, limit_bytes: int) -> None:
        self._folder, self._shelf, self._bases, self._limit = folder, shelf, bases, limit_bytes
        self._locks: dict[Path, asyncio.Lock] = {}

    async def make(
        self,
        name: str,
        contract: DataContract,
        sandbox: Sandbox,
        *,
        threads: int = 1,
        job: JobId | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Path | None:
        """Have the activations that a contract asks for; their folder, or None where it asks for none.

        PolicyError where the policy keeps none; InputError where the base is not here or the site has no room.
        """
        wanted = embedded_inputs(contract)
        if not wanted:
            return None
        entry = self._shelf.entry(name)
        if entry.policy.cache_activations == "no":
            raise PolicyError(
                f'data set {name!r} keeps no activations of a base (cache_activations = "no")',
                todo="its owner may allow it in the policy",
            )
        folder = self._folder / entry.version
        (folder / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        if job is not None:
            (folder / "jobs" / _file_name(job)).touch()
        of_base: dict[str, list[EmbeddedInput]] = {}
        for spec in wanted:
            of_base.setdefault(spec.base, []).append(spec)
        for base, specs in of_base.items():
            async with self._locks.setdefault(folder / base, asyncio.Lock()):
                missing = {
                    path: spec
                    for spec in specs
                    if read_about((path := folder / vector_file(spec)).with_suffix(".json")) is None
                }
                if missing:
                    await self._make(entry, base, missing, sandbox, threads, tell)
        return folder

    async def _make(
        self,
        entry: ShelfEntry,
        name: str,
        wanted: Mapping[Path, EmbeddedInput],
        sandbox: Sandbox,
        threads: int,
        tell: Callable[[str], None],
    ) -> None:
        """All columns through one base by one child: loading it takes seconds, a small column less."""
        base, records = self._bases.path(name), entry.report.records
        size = records * sum(spec.width for spec in wanted.values()) * 2
        used = sum(one.size_bytes for one in self.cached())
        if used + size > self._limit:
            raise InputError(
                f"activations of {entry.name!r} take {size} bytes, this site has {self._limit - used} of "
                f"{self._limit} left",
                todo="daitn data cached --wipe, or raise activation_bytes in node.json",
            )
        for spec in wanted.values():
            tell(f"column {spec.column!r} of {entry.name!r}: {records} texts through base {name[:16]}")
        ask = Embed(
            columns=tuple(
                EmbedColumn(column=spec.column, length=spec.length, pooling=spec.pooling, width=spec.width)
                for spec in wanted.values()
            ),
            threads=threads,
        )
        besides = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in wanted}
        try:
            with ExitStack() as files:
                outputs = [
                    _laid_out(files, beside, records * spec.width * 2)
                    for beside, spec in zip(besides.values(), wanted.values(), strict=True)
                ]
                done = await embed(ask, outputs, sandbox=sandbox, data=self._shelf.path(entry.name), base=base)
            if done.records != records:
                raise InputError(f"{done.records} of {records} texts of {entry.name!r} were encoded")
            for (path, spec), seconds in zip(wanted.items(), done.seconds, strict=True):
                besides[path].rename(path)
                self._note(entry, spec, path, seconds)
        finally:
            for beside in besides.values():
                beside.unlink(missing_ok=True)

    def _note(self, entry: ShelfEntry, spec: EmbeddedInput, path: Path, seconds: float) -> None:
        """Write beside a file of activations what it is: from now on it is there."""
        records = entry.report.records
        about = Cached(
            dataset=entry.name,
            version=entry.version,
            base=spec.base,
            column=spec.column,
            length=spec.length,
            pooling=spec.pooling,
            records=records,
            width=spec.width,
            size_bytes=records * spec.width * 2,
            seconds=seconds,
            made_unix_s=time.time(),
            stays=entry.policy.cache_activations,
        )
        path.with_suffix(".json").write_bytes(msgspec.json.encode(about))
        said = (
            f"activations of {entry.name!r}, column {spec.column!r}: {records} texts, {about.size_bytes} bytes, "
            f"{seconds:.1f} s"
        )
        _log.info("%s; they stay here (%s)", said, about.stays)

    def vectors(self, name: str, contract: DataContract) -> dict[str, NDArray[Any]]:
        """Input name → (N, width) float16, mapped; what `make` has made."""
        return map_vectors(self._folder / self._shelf.entry(name).version, contract)

    def cached(self) -> tuple[Cached, ...]:
        """All that is cached here, by data set and column."""
        found = [about for path in sorted(self._folder.glob("*/*.json")) if (about := read_about(path)) is not None]
        return tuple(sorted(found, key=lambda one: (one.dataset, one.column, one.base)))

    def end_job(self, job: JobId) -> tuple[Cached, ...]:
        """A job is over: what nobody else uses and the policy keeps for a job only is wiped; returns that."""
        wiped: list[Cached] = []
        if not self._folder.is_dir():
            return ()
        for folder in self._folder.iterdir():
            mark = folder / "jobs" / _file_name(job)
            if not mark.exists():
                continue
            mark.unlink()
            if not any((folder / "jobs").iterdir()):
                wiped += self._wipe(folder, only_of_jobs=True)
        return tuple(wiped)

    def wipe(self) -> tuple[Cached, ...]:
        """Remove all activations, whatever the policies say; running visits keep what they have mapped."""
        folders = list(self._folder.iterdir()) if self._folder.is_dir() else []
        return tuple(one for folder in folders for one in self._wipe(folder, only_of_jobs=False))

    def replay_shelf(self) -> ReplayShelf:
        """What the same data sets' policies keep of earlier records, in a folder beside this one."""
        return ReplayShelf(self._folder.parent / "replay", self._shelf)

    def sweep(self) -> None:
        """Remove what belongs to data that is no longer on the shelf."""
        if self._folder.is_dir():
            used = {entry.version for entry in self._shelf.list()}
            for folder in self._folder.iterdir():
                if folder.name not in used:
                    shutil.rmtree(folder, ignore_errors=True)

    def _wipe(self, folder: Path, *, only_of_jobs: bool) -> list[Cached]:
        gone: list[Cached] = []
        for path in folder.glob("*.json"):
            about = read_about(path)
            if only_of_jobs and about is not None and about.stays == "keep":
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".f16").unlink(missing_ok=True)
            if about is None:
                continue
            gone.append(about)
            _log.info("activations of %r, column %r: %d bytes wiped", about.dataset, about.column, about.size_bytes)
        return gone


def read_about(path: Path) -> Cached | None:
    """What a file of activations is; None where the note beside it is gone or damaged, so that nothing rests on it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cached)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        _log.warning("%s is damaged, what it speaks of is made anew: %s", path.name, error)
        return None


class SiteActivations:
    """The cache with the sandbox and threads of one node: what its visits ask."""

    def __init__(self, cache: ActivationCache, sandbox: Sandbox, threads: int) -> None:
        self._cache, self._sandbox, self._threads = cache, sandbox, threads
        self._replay = cache.replay_shelf()

    async def ensure(self, name: str, contract: bytes, job: JobId) -> Beside:
        """Have what a package's contract asks for of a data set (`ActivationCache.make`), and what its policy keeps of
        earlier records (`ReplayShelf.prepare`)."""
        wanted = decode_contract(contract, "the package's contract")
        threads = self._threads
        vectors = await self._cache.make(name, wanted, self._sandbox, threads=threads, job=job, tell=_log.info)
        return Beside(vectors, await asyncio.to_thread(self._replay.prepare, name, wanted, job))

    def vectors(self, name: str, contract: DataContract) -> dict[str, NDArray[Any]]:
        """Input name → (N, width) float16, mapped; what `ensure` has made."""
        return self._cache.vectors(name, contract)

    def end_job(self, job: JobId) -> None:
        """A job is over."""
        self._cache.end_job(job)
        self._replay.end_job(job)

    def sweep(self) -> None:
        """Data sets have changed: what belongs to none of them goes."""
        self._cache.sweep()
        self._replay.sweep()


def _laid_out(files: ExitStack, path: Path, size_bytes: int) -> int:
    """A new file of this size; its descriptor, open until `files` is left."""
    file = files.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b"))
    file.truncate(size_bytes)
    return file.fileno()


def _file_name(job: JobId) -> str:
    return hashlib.blake2b(job.encode(), digest_size=16).hexdigest()
