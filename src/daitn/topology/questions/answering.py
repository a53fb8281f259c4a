"""Answers to questions from the columns of the map.

Cost at a million things, two cores, is measured in `benchmarks.map`: filter, score and the best 50 below 20 ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Fact, Form, Kind
from daitn.descriptors.question_check import ID, check_question, measures_of, resolve
from daitn.descriptors.question_writing import total_text
from daitn.descriptors.questions import (
    AllOf,
    Answer,
    AnswerColumn,
    AnswerRow,
    AnyOf,
    Between,
    Compare,
    Condition,
    Find,
    Known,
    Measure,
    Not,
    OneOf,
    Question,
    Shown,
    StartsWith,
    Summarise,
    Total,
)
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.matching import matching_rows
from daitn.topology.questions.near import distances_to
from daitn.topology.questions.ordering import first_by, order_keys, scores
from daitn.topology.questions.paths import find_path
from daitn.topology.questions.reading import Reading, known_in

NAMES = {Kind.TERMINAL: "name", Kind.MODEL: "model"}
"""The fact that is shown first of each kind, because people know things by it."""

DISTANCE = AnswerColumn(name="distance_s", unit="s")

SPREAD_LEAST: Final = 4096
"""Codes that lie as far apart as this, and one more for each of them, are counted in a table of places."""


def answer_question(book: FactBook, question: Question, now_ns: int) -> Answer:
    """The answer at a moment of Unix time. InputError for a question that is wrong."""
    check_question(question)
    reading = Reading(book, now_ns)
    match question:
        case Find():
            return _find(reading, question)
        case Summarise():
            return _summarise(reading, question)
        case _:
            columns, rows, links = find_path(reading, question)
            return _answer(reading, columns, rows, len(rows), links)


def shown_facts(question: Find) -> tuple[str, ...]:
    """The facts that an answer shows: name, those asked for, those that the question speaks of."""
    spoken = [measure.fact for measure in measures_of(question)]
    first = [NAMES[question.kind]] if question.kind in NAMES else []
    named = [*first, *question.show, *(facts_spoken_of(question.where) if question.where is not None else ()), *spoken]
    return tuple(name for name in dict.fromkeys(named) if name != ID)


def facts_spoken_of(where: Condition) -> Iterator[str]:
    """Facts of the things themselves (or through references) that a condition names."""
    match where:
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            for part in parts:
                yield from facts_spoken_of(part)
        case Not(condition=inner):
            yield from facts_spoken_of(inner)
        case Compare(measure=measure) | Between(measure=measure):
            yield measure.fact
        case OneOf(fact=fact) | StartsWith(fact=fact) | Known(fact=fact):
            yield fact
        case _:
            return


def _find(reading: Reading, question: Find) -> Answer:
    kind = question.kind
    rows = matching_rows(reading, kind, question.where)
    keys, _ = order_keys(reading, question, rows)
    best = rows[: question.limit] if keys is None else rows[first_by(keys, question.limit)]
    facts = shown_facts(question)
    columns = [_column(kind, path) for path in facts]
    values = [_shown(reading, kind, path, best) for path in facts]
    ages = [_finite(reading.numbers(kind, _age(path), best)) for path in facts]
    told = [_deviations(reading, kind, path, best) for path in facts]
    stale = np.zeros(len(best), np.bool_)
    for path in facts:
        stale |= reading.stale(kind, path, best)
    if question.nearest is not None:
        target = reading.row_of(Kind.TERMINAL, question.nearest.to)
        columns.append(DISTANCE)
        values.append([*_finite(distances_to(reading, kind, best, target, question.nearest.by))])
        ages.append([None] * len(best))
        told.append([None] * len(best))
    marks: list[float | None] = [None] * len(best)
    if question.score is not None:
        # Scores are scaled over all that was found, so they are taken of all, and read off at the best.
        whole = -keys if keys is not None and question.order is None else scores(reading, kind, question.score, rows)
        marks = _finite(whole[np.searchsorted(rows, best)])
    table = reading.book[kind]
    found = tuple(
        AnswerRow(
            id=table.id_of(int(row)),
            values=tuple(column[place] for column in values),
            ages_s=tuple(column[place] for column in ages),
            deviations=tuple(column[place] for column in told),
            score=marks[place],
            stale=bool(stale[place]),
        )
        for place, row in enumerate(best)
    )
    return _answer(reading, columns, found, len(rows), len(table))


def _summarise(reading: Reading, question: Summarise) -> Answer:
    kind = question.kind
    rows = matching_rows(reading, kind, question.where)
    _, _, _, fact = resolve(kind, question.by)
    codes = np.asarray(reading.values(kind, question.by, rows))
    unique, group = distinct(codes)
    figures = [_figures(reading, kind, total, rows, group, len(unique)) for total in question.totals]
    order = first_by(-np.nan_to_num(figures[0], nan=-np.inf), question.limit)
    found = tuple(
        AnswerRow(
            id=_category(reading, fact, unique[place]),
            values=tuple(_finite(figure[place : place + 1])[0] for figure in figures),
        )
        for place in order
    )
    columns = [_total_column(kind, total) for total in question.totals]
    return _answer(reading, columns, found, len(unique), len(reading.book[kind]))


def distinct(codes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The codes there are, in order, and the place of each among them, as `np.unique` gives with `return_inverse`.

    O(n) where they lie close together, as words and choices do: sorting half a million takes twenty times as long.
    """
    low, high = (int(codes.min()), int(codes.max())) if len(codes) and codes.dtype.kind in "iu" else (0, -1)
    if not 0 <= high - low < SPREAD_LEAST + len(codes):
        unique, group = np.unique(codes, return_inverse=True)
        return unique, group.astype(np.intp)
    shifted = codes.astype(np.intp) - low
    there = np.flatnonzero(np.bincount(shifted))
    places = np.zeros(high - low + 1, np.intp)
    places[there] = np.arange(len(there))
    return (there + low).astype(codes.dtype), places[shifted]


def _figures(
    reading: Reading, kind: Kind, total: Total, rows: NDArray[np.intp], group: NDArray[np.intp], groups: int
) -> NDArray[np.float64]:
    """One figure of each group, over those of which it is known; NaN where it is known of none."""
    if total.measure is None:
        return np.bincount(group, minlength=groups).astype(np.float64)
    if total.what == "count":
        _, _, _, fact = resolve(kind, total.measure.fact)
        known = known_in(fact, reading.values(kind, total.measure.fact, rows))
        return np.bincount(group[known], minlength=groups).astype(np.float64)
    values = np.asarray(reading.numbers(kind, total.measure, rows), np.float64)
    known = np.isfinite(values)
    values, group = values[known], group[known]
    counts = np.bincount(group, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        if total.what == "sum":
            return np.where(counts > 0, np.bincount(group, values, minlength=groups), np.nan)
        if total.what == "mean":
            return np.bincount(group, values, minlength=groups) / counts
    order = np.lexsort((values, group))
    cuts = np.cumsum(counts)[:-1]
    parts = np.split(values[order], cuts)
    return np.asarray([np.quantile(part, total.quantile) if len(part) else np.nan for part in parts])


def _answer(
    reading: Reading, columns: list[AnswerColumn], rows: tuple[AnswerRow, ...], matched: int, considered: int
) -> Answer:
    return Answer(
        version=reading.book.version,
        made_at_unix_s=reading.now_ns / NS_PER_S,
        columns=tuple(columns),
        rows=rows,
        matched=matched,
        considered=considered,
    )


def _column(kind: Kind, path: str) -> AnswerColumn:
    _, _, _, fact = resolve(kind, path)
    return AnswerColumn(name=path, unit=fact.unit)


def _total_column(kind: Kind, total: Total) -> AnswerColumn:
    if total.measure is None or total.what == "count":
        return AnswerColumn(name=total_text(total), unit="1")
    _, _, _, fact = resolve(kind, total.measure.fact)
    unit = fact.unit if total.measure.of in ("value", "deviation") else "s"
    return AnswerColumn(name=total_text(total), unit=unit)


def _age(path: str) -> Measure:
    return Measure(fact=path, of="age")


def _shown(reading: Reading, kind: Kind, path: str, rows: NDArray[np.intp]) -> list[Shown]:
    _, end, _, fact = resolve(kind, path)
    table = reading.book[end]
    kept = reading.values(kind, path, rows)
    if fact.form is Form.REFERENCE and fact.refers_to is not None:
        other = reading.book[fact.refers_to]
        return [other.id_of(int(row)) if row >= 0 else None for row in kept]
    return [table.shown(fact, value) for value in kept.tolist()]


def _deviations(reading: Reading, kind: Kind, path: str, rows: NDArray[np.intp]) -> list[float | None]:
    _, _, _, fact = resolve(kind, path)
    return _finite(reading.deviations(kind, path, rows)) if fact.numeric else [None] * len(rows)


def _finite(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values.tolist()]


def _category(reading: Reading, fact: Fact, code: int) -> str:
    match fact.form:
        case Form.WORD:
            return reading.book.words.text(int(code))
        case Form.CHOICE:
            return fact.choices[code] if code < len(fact.choices) else ""
        case _:
            return {0: "no", 1: "yes"}.get(int(code), "")
