"""The map as an image: columns, ids, words, sources and rosters, as one head of plain values and a list of arrays.

What a snapshot keeps (`node.map_store` writes and reads it). An image is a copy (`image_making`): it can be written by
another thread while the map goes on. Names, not places, say what an array is, so a later version reads an earlier
one's image: facts that it does not have any more are passed over, facts that are new are not known. The other way round
is refused: an image of a later registry could mean anything.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import NodeId
from daitn.descriptors.fact_kinds import UNKNOWN_CODE, Form, Kind
from daitn.descriptors.facts import BY_NAME, REGISTRY_VERSION
from daitn.topology.columns import ROWS_MOST, FactTable
from daitn.topology.fact_book import FactBook
from daitn.topology.group_columns import NO_ROW, NO_SOURCE
from daitn.topology.intake import FactIntake
from daitn.topology.words import NO_WORD

Arrays = dict[str, NDArray[Any]]

_KINDS: Final = {kind.value for kind in Kind}

IDS_CHARS: Final = limits.MESSAGE_BYTES
"""Longest id that is read back: a label of a description, which is one message."""


class DamagedMapError(InputError):
    """A file of the map is cut off or damaged: the one before it can stand in."""


class NewerMapError(InputError):
    """A file of the map was written by a newer version, and is left as it is: the one before it can stand in."""


class TableHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a table has beside its arrays."""

    kind: str
    ids: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=IDS_CHARS)], ...], msgspec.Meta(max_length=ROWS_MOST)]
    """By row; empty for a free row."""
    groups: tuple[str, ...]


class ImageHead(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an image that is no array."""

    registry: int
    taken_ns: int
    words: tuple[str, ...]
    nodes: tuple[NodeId, ...]
    tables: tuple[TableHead, ...]


def check_registry(head: ImageHead, where: str) -> None:
    """NewerMapError for an image of a later version of the registry."""
    if head.registry > REGISTRY_VERSION:
        raise NewerMapError(
            f"{where} was written by a newer version: its registry of facts is {head.registry}, ours is"
            f" {REGISTRY_VERSION}"
        )


def load_image(head: ImageHead, arrays: Arrays, where: str) -> FactIntake:
    """The map of an image. NewerMapError for one of a later version, DamagedMapError where its
    parts do not fit each other."""
    check_registry(head, where)
    intake = FactIntake(FactBook())
    words = [intake.book.words.code(text) for text in head.words]
    if words != list(range(len(words))):
        raise DamagedMapError(f"{where}: a word is there twice")
    for index, node in enumerate(head.nodes):
        if intake.sources.add(node) != index:
            raise DamagedMapError(f"{where}: source {node} is there twice")
    sources = intake.sources
    for name in ("incarnation", "sequence", "dropped"):
        target = getattr(sources, name)[: len(head.nodes)]
        target[:] = _array(arrays, f"source/{name}", len(head.nodes), target.dtype, where)
    if len({table_head.kind for table_head in head.tables}) != len(head.tables):
        raise DamagedMapError(f"{where}: a table is there twice")
    for table_head in head.tables:
        _load_table(intake, table_head, arrays, where)
    for table in intake.book.tables.values():
        _check_codes(intake, table, where)
    for name, rows in arrays.items():
        if name.startswith("roster/"):
            _, kind, number = (*name.split("/"), "", "")[:3]
            if kind not in _KINDS or not number.isdecimal() or int(number) >= len(head.nodes) or rows.dtype != np.int32:
                raise DamagedMapError(f"{where}: {name[:80]} is no roster")
            high = intake.book[Kind(kind)].high
            if len(rows) and not (int(rows.min()) >= NO_ROW and int(rows.max()) < high):
                raise DamagedMapError(f"{where}: {name} names rows that are not there")
            intake.rosters[Kind(kind)].place(int(number), 0, rows)
    intake.recount()
    return intake


def _load_table(intake: FactIntake, head: TableHead, arrays: Arrays, where: str) -> None:
    if head.kind not in _KINDS:
        return
    table = intake.book[Kind(head.kind)]
    owners = _array(arrays, f"{head.kind}/owner", len(head.ids), np.dtype(np.int32), where)
    if len(set(head.ids) - {""}) != sum(map(bool, head.ids)):
        raise DamagedMapError(f"{where}: a {head.kind} is there twice")
    if len(owners) and not (int(owners.min()) >= NO_SOURCE and int(owners.max()) < len(intake.sources)):
        raise DamagedMapError(f"{where}: {head.kind} names sources that are not there")
    table.restore(list(head.ids), owners)
    for name in head.groups:
        if name not in BY_NAME or BY_NAME[name].kind is not table.kind:
            continue
        columns = table.ensure(name)
        if f"{head.kind}/{name}/stamp:part" in arrays:
            columns.parts()
        for part, column in columns.arrays().items():
            kept = arrays.get(f"{head.kind}/{name}/{part}")
            if kept is not None:
                if kept.shape != (len(head.ids),) or kept.dtype != column.dtype:
                    raise DamagedMapError(f"{where}: {head.kind}/{name}/{part} does not fit its table")
                column[: len(kept)] = kept


def _check_codes(intake: FactIntake, table: FactTable, where: str) -> None:
    """DamagedMapError where a word, reference or choice is none."""
    for group in table.groups():
        columns = table.ensure(group.name)
        for fact in group.facts:
            codes = columns.values[fact.name][: table.high]
            match fact.form:
                case Form.WORD:
                    wrong = (codes < NO_WORD) | (codes >= len(intake.book.words))
                case Form.REFERENCE if fact.refers_to is not None:
                    wrong = (codes < NO_ROW) | (codes >= intake.book[fact.refers_to].high)
                case Form.FLAG | Form.CHOICE:
                    wrong = (codes > fact.most) & (codes != UNKNOWN_CODE)
                case _:
                    continue
            if wrong.any():
                raise DamagedMapError(f"{where}: {table.kind.value}.{fact.name} has values that mean nothing")


def _array(arrays: Arrays, name: str, length: int, dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    found = arrays.get(name)
    if found is None or found.shape != (length,) or found.dtype != dtype:
        raise DamagedMapError(f"{where}: {name} is missing, or is not {length} of {dtype}")
    return found
