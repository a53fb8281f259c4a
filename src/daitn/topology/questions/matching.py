"""Conditions as masks over the columns: which things satisfy them.

Negations are first pushed down to the leaves, where what is not known satisfies neither a comparison nor its opposite:
with no negation left above, that is exactly "known to hold" (Kleene's logic), in one mask instead of two.

The parts of a conjunction are taken cheapest first; once few rows are left, the rest is evaluated on those alone.
A pass over a million values takes 0.2 to 0.5 ms, a gather through a reference about 5 ms.

H rows of the kind, R rows asked for (all, where rows is None).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError
from daitn.descriptors.fact_kinds import Form, Kind
from daitn.descriptors.question_check import ID, resolve
from daitn.descriptors.questions import (
    DEVIATIONS_SURE,
    AllOf,
    AnyOf,
    Between,
    Certainty,
    Compare,
    Condition,
    Exists,
    Known,
    Measure,
    Not,
    OneOf,
    StartsWith,
    Within,
)
from daitn.topology.columns import Rows
from daitn.topology.group_columns import Column
from daitn.topology.questions.near import near_any
from daitn.topology.questions.reading import Reading, known_in

Mask = NDArray[np.bool_]

SPARSE_FRAC: Final = 0.05
"""Below this share of rows, gathering them from a column is cheaper than passing over all of it."""

COSTLY: Final = 8
COSTLY_FRAC: Final = 0.5
"""The same for conditions of this cost, which gather anyway or compute as they go."""

_OPPOSITE: Final = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_DUAL: Final[dict[str, Certainty]] = {"told": "told", "surely": "possibly", "possibly": "surely"}


def matching_rows(reading: Reading, kind: Kind, where: Condition | None) -> NDArray[np.intp]:
    """Rows of the things that satisfy a condition, in the map's order."""
    alive = reading.book[kind].alive()
    if where is None:
        return np.flatnonzero(alive)
    mask: Mask = alive.copy()
    rows: Rows = None
    flat = conjuncts(positive(where))
    for cost, condition in sorted(((_cost(kind, one), one) for one in flat), key=lambda one: one[0]):
        frac = SPARSE_FRAC if cost < COSTLY else COSTLY_FRAC
        if rows is None and np.count_nonzero(mask) < frac * len(mask):
            rows = np.flatnonzero(mask)
        if rows is None:
            mask &= holds(reading, kind, condition, None)
        else:
            rows = rows[holds(reading, kind, condition, rows)]
    return np.flatnonzero(mask) if rows is None else rows


def conjuncts(condition: Condition) -> list[Condition]:
    """The parts that must all hold."""
    if isinstance(condition, AllOf):
        return [part for one in condition.conditions for part in conjuncts(one)]
    return [condition]


def positive(condition: Condition, denied: bool = False) -> Condition:
    """The same condition with negations at its leaves only: before what is known, exists or is near, and words."""
    match condition:
        case Not(condition=inner):
            return positive(inner, not denied)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            inside = tuple(positive(one, denied) for one in parts)
            return AllOf(conditions=inside) if isinstance(condition, AllOf) is not denied else AnyOf(conditions=inside)
        case Exists(kind=kind, by=by, where=where):
            kept: Condition = Exists(kind=kind, by=by, where=None if where is None else positive(where))
        case Within(most_s=most_s, where=where):
            kept = Within(most_s=most_s, where=None if where is None else positive(where))
        case Compare(measure=measure, by=by, value=value, certainty=certainty) if denied:
            return Compare(measure=measure, by=_OPPOSITE[by], value=value, certainty=_DUAL[certainty])  # type: ignore[arg-type]
        case Between(measure=measure, least=least, most=most, certainty=certainty) if denied:
            dual = _DUAL[certainty]
            below = Compare(measure=measure, by="<", value=least, certainty=dual)
            return AnyOf(conditions=(below, Compare(measure=measure, by=">", value=most, certainty=dual)))
        case _:
            kept = condition
    return Not(condition=kept) if denied else kept


def holds(reading: Reading, kind: Kind, condition: Condition, rows: Rows) -> Mask:
    """Where a condition with negations at its leaves only holds: (R,)."""
    match condition:
        case AllOf(conditions=parts):
            every = holds(reading, kind, parts[0], rows)
            for part in parts[1:]:
                every = every & holds(reading, kind, part, rows)
            return every
        case AnyOf(conditions=parts):
            some = holds(reading, kind, parts[0], rows)
            for part in parts[1:]:
                some = some | holds(reading, kind, part, rows)
            return some
        case Not(condition=OneOf(fact=path) as inner) | Not(condition=StartsWith(fact=path) as inner):
            outside = ~holds(reading, kind, inner, rows)
            return outside if path == ID else outside & reading.known(kind, path, rows)
        case Not(condition=inner):
            return ~holds(reading, kind, inner, rows)
        case Known(fact=path):
            return reading.known(kind, path, rows)
        case OneOf(fact=path, values=values):
            return _one_of(reading, kind, path, values, rows)
        case StartsWith(fact=path, text=text):
            return _starts_with(reading, kind, path, text, rows)
        case Compare():
            return _compare(reading, kind, condition, rows)
        case Between():
            return _between(reading, kind, condition, rows)
        case Exists(kind=other, by=by, where=where):
            return _exists(reading, kind, other, by, where, rows)
        case Within(most_s=most_s, where=where):
            targets = matching_rows(reading, Kind.TERMINAL, where)
            return near_any(reading, kind, rows, targets, most_s)
    raise BugError(f"a condition of {type(condition).__name__} cannot be evaluated")


def _compare(reading: Reading, kind: Kind, condition: Compare, rows: Rows) -> Mask:
    measure, value = condition.measure, condition.value
    if measure.of == "value":
        if measure.fact == ID:
            same = _one_of(reading, kind, ID, (str(value),), rows)
            return same if condition.by == "=" else ~same
        _, _, _, fact = resolve(kind, measure.fact)
        if fact.form in (Form.WORD, Form.CHOICE, Form.FLAG):
            values = reading.values(kind, measure.fact, rows)
            code = reading.book.words.find(str(value)) if fact.form is Form.WORD else _code(fact.choices, value)
            if condition.by == "!=":
                return np.asarray((values != code) & known_in(fact, values))
            return np.asarray(values == code) & (code >= 0)
    sought = float(value)
    if condition.certainty != "told":
        return _certain(reading, kind, condition, sought, rows)
    numbers = reading.numbers(kind, measure, rows)
    match condition.by:
        case "=":
            return np.asarray(numbers == sought)
        case "!=":
            return np.asarray((numbers != sought) & ~np.isnan(numbers))
        case "<":
            return np.asarray(numbers < sought)
        case "<=":
            return np.asarray(numbers <= sought)
        case ">":
            return np.asarray(numbers > sought)
        case _:
            return np.asarray(numbers >= sought)


def _certain(reading: Reading, kind: Kind, condition: Compare, sought: float, rows: Rows) -> Mask:
    """A comparison with every value (surely) or some value (possibly) within the uncertainty."""
    low, high = _bounds(reading, kind, condition.measure, rows)
    surely = condition.certainty == "surely"
    match condition.by:
        case "=":
            return (low == sought) & (high == sought) if surely else (low <= sought) & (high >= sought)
        case "!=":
            return (low > sought) | (high < sought) if surely else (low < sought) | (high > sought)
        case "<":
            return np.asarray((high if surely else low) < sought)
        case "<=":
            return np.asarray((high if surely else low) <= sought)
        case ">":
            return np.asarray((low if surely else high) > sought)
        case _:
            return np.asarray((low if surely else high) >= sought)


def _bounds(reading: Reading, kind: Kind, measure: Measure, rows: Rows) -> tuple[Column, Column]:
    """Least and largest value within the uncertainty, NaN where the value is not known: (R,), (R,)."""
    numbers = np.asarray(reading.numbers(kind, measure, rows), np.float64)
    reach = DEVIATIONS_SURE * np.asarray(reading.deviations(kind, measure.fact, rows), np.float64)
    return numbers - reach, numbers + reach


def _between(reading: Reading, kind: Kind, condition: Between, rows: Rows) -> Mask:
    if condition.certainty == "told":
        numbers = reading.numbers(kind, condition.measure, rows)
        return np.asarray((numbers >= condition.least) & (numbers <= condition.most))
    low, high = _bounds(reading, kind, condition.measure, rows)
    if condition.certainty == "surely":
        return np.asarray((low >= condition.least) & (high <= condition.most))
    return np.asarray((high >= condition.least) & (low <= condition.most))


def _one_of(reading: Reading, kind: Kind, path: str, values: tuple[str, ...], rows: Rows) -> Mask:
    if path == ID:
        table = reading.book[kind]
        wanted = [row for value in values if (row := table.row_of(value)) is not None]
        return np.isin(np.arange(table.high) if rows is None else rows, wanted)
    _, _, _, fact = resolve(kind, path)
    column = reading.values(kind, path, rows)
    if fact.form is Form.CHOICE:
        return np.isin(column, [fact.choices.index(value) for value in values])
    codes = [code for value in values if (code := reading.book.words.find(value)) >= 0]
    if len(codes) == 1:
        return np.asarray(column == codes[0])
    return np.isin(column, codes)


def _starts_with(reading: Reading, kind: Kind, path: str, text: str, rows: Rows) -> Mask:
    """By the vocabulary, not by the things: each word is looked at once."""
    if path == ID:
        ids = reading.book[kind].ids()
        asked = ids if rows is None else [ids[row] for row in rows]
        return np.fromiter((name.startswith(text) for name in asked), np.bool_, len(asked))
    _, _, _, fact = resolve(kind, path)
    column = reading.values(kind, path, rows)
    if fact.form is Form.CHOICE:
        return np.isin(column, [code for code, name in enumerate(fact.choices) if name.startswith(text)])
    words = reading.book.words
    begins = np.zeros(len(words) + 1, np.bool_)  # the last stands for what is not known, -1
    begins[:-1] = np.fromiter((word.startswith(text) for word in words.texts()), np.bool_, len(words))
    return np.asarray(begins[column])


def _exists(reading: Reading, kind: Kind, other: Kind, by: str, where: Condition | None, rows: Rows) -> Mask:
    referring = matching_rows(reading, other, where)
    found = np.zeros(reading.book[kind].high, np.bool_)
    at = reading.values(other, by, referring)
    found[at[at >= 0]] = True
    return found if rows is None else np.asarray(found[rows])


def _code(choices: tuple[str, ...], value: object) -> int:
    return int(bool(value)) if not choices else choices.index(str(value))


def _cost(kind: Kind, condition: Condition) -> int:
    """Passes over columns that a condition takes, roughly; 10 for each reference that is followed."""
    match condition:
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            return sum(_cost(kind, part) for part in parts)
        case Not(condition=inner):
            return 1 + _cost(kind, inner)
        case Exists():
            return 40
        case Within():
            return 1000
        case StartsWith():
            return 200
        case OneOf(fact=path, values=values):
            return (1 if len(values) == 1 else 8) + 10 * path.count(".")
        case Compare(measure=measure, certainty=certainty) | Between(measure=measure, certainty=certainty):
            own = 1 if measure.of == "value" else 8
            return own + (16 if certainty != "told" else 0) + 10 * measure.fact.count(".")
        case Known(fact=path):
            return 1 + 10 * path.count(".")
