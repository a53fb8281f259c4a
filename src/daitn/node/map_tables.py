"""The columns of the map as Arrow tables, without copying numbers: what SQL is asked on.

Paper II-A, G-KRRM. Only the columns that a question names are made: of a number, the values are the map's own memory
and only the bits that say which are known are new (a million in about 0.5 ms). Words and choices are dictionaries; the
vocabulary is shared by all columns and made once.

Tables are called by kind and have a column by fact, `<fact>_age_s` and, of numbers, `<fact>_deviation`, and `id`; a
reference is the id of what it refers to. H rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from daitn.descriptors.fact_kinds import Fact, Form, Group, Kind
from daitn.descriptors.facts import BY_KIND
from daitn.topology.columns import FactTable
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.reading import known_in

ALIVE = "_alive"
"""Which rows are things; the views that questions see leave it out."""

Made = tuple[str, Fact | None, Group | None]


def column_names(kind: Kind) -> dict[str, Made]:
    """All columns of a kind's table: what each is, of which fact and group."""
    named: dict[str, Made] = {"id": ("id", None, None)}
    for group in BY_KIND[kind]:
        for fact in group.facts:
            named[fact.name] = ("value", fact, group)
            named[f"{fact.name}_age_s"] = ("age", fact, group)
            if fact.numeric:
                named[f"{fact.name}_deviation"] = ("deviation", fact, group)
    return named


class MapTables:
    """Makes Arrow tables of a book of facts; keeps the vocabularies it has made."""

    def __init__(self, book: FactBook) -> None:
        self._book = book
        self._words: pa.ChunkedArray | None = None
        self._ids: dict[Kind, tuple[int, pa.Array]] = {}

    def table(self, kind: Kind, wanted: Iterable[str], now_ns: int) -> pa.Table:
        """Some columns of a kind, and `ALIVE`: numbers without copy, H rows. Unknown names are passed over."""
        table = self._book[kind]
        known = column_names(kind)
        arrays: dict[str, Any] = {ALIVE: _bits(table.alive())}
        for name in wanted:
            if name in known:
                arrays[name] = self._column(table, *known[name], now_ns)
        return pa.table(arrays)

    def _column(self, table: FactTable, made: str, fact: Fact | None, group: Group | None, now_ns: int) -> Any:
        if fact is None or group is None:
            return self._ids_of(table.kind)
        if made == "age":
            age = table.age_s(group.name, now_ns, fact=fact.name)
            return _numbers(age, np.isfinite(age))
        if made == "deviation":
            deviation = table.deviation(fact.name, now_ns)
            return _numbers(deviation, np.isfinite(deviation))
        values = table.column(fact.name)
        known = known_in(fact, values)
        match fact.form:
            case Form.FLAG:
                return _bits(values == 1, known)
            case Form.CHOICE:
                return _coded(values.view(np.int8), known, pa.array(fact.choices, pa.string()))
            case Form.WORD:
                return _coded(values, known, self._vocabulary())
            case Form.REFERENCE:
                assert fact.refers_to is not None
                return _coded(values, known, self._ids_of(fact.refers_to))
            case _:
                return _numbers(values, known)

    def _vocabulary(self) -> pa.Array:
        """All words as one array; words are only ever added, so what is there is made once."""
        texts = self._book.words.texts()
        made = 0 if self._words is None else len(self._words)
        if self._words is None or len(texts) > made:
            more = pa.array(texts[made:], pa.string())
            self._words = more if self._words is None else pa.concat_arrays([self._words, more])
        return self._words

    def _ids_of(self, kind: Kind) -> pa.Array:
        table = self._book[kind]
        kept = self._ids.get(kind)
        if kept is None or kept[0] != table.roster_version:
            kept = self._ids[kind] = (table.roster_version, pa.array(table.ids(), pa.string()))
        return kept[1]


def _numbers(values: NDArray[Any], known: NDArray[np.bool_]) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [_packed(known), pa.py_buffer(values)])


def _bits(values: NDArray[np.bool_], known: NDArray[np.bool_] | None = None) -> pa.Array:
    validity = None if known is None else _packed(known)
    return pa.Array.from_buffers(pa.bool_(), len(values), [validity, _packed(values)])


def _coded(codes: NDArray[Any], known: NDArray[np.bool_], words: pa.Array) -> pa.Array:
    indices = _numbers(np.ascontiguousarray(codes), known)
    return pa.DictionaryArray.from_arrays(indices, words, safe=False)


def _packed(bits: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(bits, bitorder="little"))
