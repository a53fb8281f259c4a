"""Replay: a few earlier training records of each field, kept at their site for methods that learn on.

    replay/<data set>/<contract>/<version>/   a table like those of the shelf, of at most `FIELD_MOST` records a field
    replay/<data set>/<contract>/jobs/<job>   the jobs that saw it

A data set changes: records are taken out, or another extract takes its place. What a model learnt of the old ones fades
then, since nothing teaches it any more. So before each visit the records kept so far and those at hand are looked
through together, and of each field those with the smallest digest are kept: a sample drawn evenly from all distinct
records that ever were here when a visit began (bottom-k sampling: E. Cohen, H. Kaplan, PODC 2007), the same whenever it
is drawn again. Records that are held out by the contract are never among them.

The data owner's policy says whether anything is kept (`replay`), and until when. It is read before each visit; where it
says no, what was kept is removed. Nothing here leaves the site: a child that trains gets the folder read-only.

Not for contracts with a frozen base: activations belong to one version of the data.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.base.ids import JobId
from daitn.base.units import MIB
from daitn.describe.splits import field_matrix, training_rows
from daitn.describe.table import MappedTable, Rows, TableWriter, TextArray
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    TextColumn,
    VectorColumn,
)
from daitn.learning.vectors import embedded_inputs
from daitn.node.datasets import DataShelf

_log = logging.getLogger(__name__)

FIELD_MOST: Final = 64
"""Records of each field: two batches. Figures in docs/decisions/0066."""

REPLAY_BYTES: Final = 64 * MIB
"""Of one data set and contract; where more would be needed, fewer records of each field are kept."""


class ReplayShelf:
    """See the module's docstring. Visits of several jobs may ask at once, each in a thread of its own."""

    def __init__(self, folder: Path, shelf: DataShelf, most_bytes: int = REPLAY_BYTES) -> None:
        self._folder, self._shelf, self._most_bytes = folder, shelf, most_bytes
        self._made: dict[Path, tuple[str, Path]] = {}
        self._drawing = threading.Lock()

    def prepare(self, name: str, contract: DataContract, job: JobId) -> Path | None:
        """The folder of the table of earlier records, brought up to date with the data set; None where nothing is kept.

        InputError where the shelf has no such data set. O(records) when the data set has changed, else nothing.
        """
        entry = self._shelf.entry(name)
        if entry.policy.replay == "no":
            shutil.rmtree(self._folder / name, ignore_errors=True)
            return None
        if embedded_inputs(contract):
            return None
        folder = self._folder / name / _key(contract)
        (folder / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "jobs" / _file_name(job)).touch()
        with self._drawing:
            known = self._made.get(folder)
            if known is None or known[0] != entry.version or not known[1].is_dir():
                made = self._draw(folder, MappedTable.open(self._shelf.path(name)), contract, entry.version)
                known = self._made[folder] = (entry.version, made)
        return known[1]

    def end_job(self, job: JobId) -> None:
        """A job is over: what nobody else uses and the policy keeps for a job only is removed."""
        keeps = {entry.name for entry in self._shelf.list() if entry.policy.replay == "keep"}
        for mark in list(self._folder.glob(f"*/*/jobs/{_file_name(job)}")):
            mark.unlink()
            folder = mark.parent.parent
            if folder.parent.name not in keeps and not any(mark.parent.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
                _log.info("what was kept of earlier records of %r is removed", folder.parent.name)

    def sweep(self) -> None:
        """Remove what belongs to data sets that are not on the shelf any more, or whose policy keeps nothing."""
        keeps = {entry.name for entry in self._shelf.list() if entry.policy.replay != "no"}
        for folder in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            if folder.name not in keeps:
                shutil.rmtree(folder, ignore_errors=True)

    def _draw(self, folder: Path, table: MappedTable, contract: DataContract, version: str) -> Path:
        """Make the table anew of what was kept and what is there."""
        earlier = [path for path in folder.iterdir() if path.name != "jobs"]
        sources = [table]
        for path in earlier:
            if (found := _opened(path, table)) is not None:
                sources.append(found)
            else:
                shutil.rmtree(path, ignore_errors=True)
        most = FIELD_MOST
        size = sum(path.stat().st_size for path in table.folder.iterdir()) / max(1, table.rows)
        while most > 1 and size * most * max(1, _strata(table, contract).shape[1]) > self._most_bytes:
            most //= 2
        chosen = _smallest(sources, contract, most)
        key = blake3(version.encode()).digest()
        with TableWriter(folder, table.columns, table.group, key) as writer:
            for source, rows in zip(sources, chosen, strict=True):
                if len(rows):
                    writer.append(take_columns(source, rows), source.groups[rows], source.contents[rows])
            made = writer.finish().folder
        for path in earlier:
            if path != made:
                shutil.rmtree(path, ignore_errors=True)
        return made


def take_columns(table: MappedTable, rows: Rows) -> Mapping[str, NDArray[Any] | TextArray]:
    """All columns of some records, as `TableWriter.append` takes them."""
    found: dict[str, NDArray[Any] | TextArray] = {}
    for column in table.columns:
        match column:
            case NumberColumn(name=name):
                found[name] = table.numbers([name], rows)[:, 0]
            case CategoryColumn(name=name):
                found[name] = table.categories(name, rows)
            case IdentifierColumn(name=name):
                found[name] = table.identifiers(name)[rows]
            case VectorColumn(name=name):
                found[name] = table.vectors(name)[rows]
            case ImageColumn(name=name):
                found[name] = table.images(name)[rows]
            case TextColumn(name=name):
                found[name] = _texts(table.texts(name), rows)
    return found


def _texts(texts: TextArray, rows: Rows) -> TextArray:
    parts = [texts.blob[texts.offsets[row] : texts.offsets[row + 1]] for row in rows]
    ends = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    return TextArray(np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8), ends)


def _smallest(sources: list[MappedTable], contract: DataContract, most: int) -> list[Rows]:
    """Of each stratum the training records with the smallest digests, each content once; rows by source."""
    rows_S = [training_rows(source, contract) for source in sources]
    contents_N = np.concatenate([np.asarray(one.contents)[rows] for one, rows in zip(sources, rows_S, strict=True)])
    strata_NF = np.concatenate([_strata(one, contract, rows) for one, rows in zip(sources, rows_S, strict=True)])
    taken_N = np.zeros(len(contents_N), dtype=bool)
    _, first = np.unique(contents_N, return_index=True)  # in the order of digests
    for inside_N in strata_NF.T:
        taken_N[first[inside_N[first]][:most]] = True
    ends = np.cumsum([len(rows) for rows in rows_S])
    return [rows[part] for rows, part in zip(rows_S, np.split(taken_N, ends[:-1]), strict=True)]


def _strata(table: MappedTable, contract: DataContract, rows: Rows | None = None) -> NDArray[np.bool_]:
    """What is kept of each: fields, else labels, else all records, (N, strata)."""
    if contract.fields:
        return field_matrix(table, contract, rows)
    if isinstance(contract.task, Classification):
        labels = contract.labels()
        codes = table.categories(contract.task.label, rows, labels)
        return np.stack([codes == code for code in range(len(labels))], axis=1)
    return np.ones((table.rows if rows is None else len(rows), 1), dtype=bool)


def _opened(path: Path, like: MappedTable) -> MappedTable | None:
    """A table that was kept; None where it is damaged, unfinished, or of other columns."""
    try:
        found = MappedTable.open(path)
    except InputError:
        return None
    return found if (found.columns, found.group) == (like.columns, like.group) else None


def _key(contract: DataContract) -> str:
    return hashlib.blake2b(msgspec.json.encode(contract, order="deterministic"), digest_size=16).hexdigest()


def _file_name(job: JobId) -> str:
    return hashlib.blake2b(job.encode(), digest_size=16).hexdigest()
