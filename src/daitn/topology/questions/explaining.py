"""Why a thing is, or is not, in the answer to a question: each condition with what it read, and the rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_check import ID, check_question, resolve
from daitn.descriptors.question_writing import condition_text
from daitn.descriptors.questions import (
    AllOf,
    AnyOf,
    Between,
    Clause,
    Compare,
    Condition,
    Explanation,
    Find,
    Known,
    Measure,
    Not,
    OneOf,
    Shown,
    StartsWith,
)
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.matching import holds, matching_rows, positive
from daitn.topology.questions.ordering import first_by, order_keys
from daitn.topology.questions.reading import Reading


def explain(book: FactBook, question: Find, thing: str, now_ns: int) -> Explanation:
    """How a thing of the kind asked for stands to each condition, and where it ranks. A terminal may be given by name.

    InputError for a wrong question, or a thing that is not on the map. Cost: that of the question.
    """
    check_question(question)
    reading = Reading(book, now_ns)
    row = reading.row_of(question.kind, thing)
    clauses = tuple(_clauses(reading, question.kind, question.where, row, 0)) if question.where is not None else ()
    rows = matching_rows(reading, question.kind, question.where)
    place = int(np.searchsorted(rows, row))
    matches = place < len(rows) and int(rows[place]) == row
    keys, ordered_by = order_keys(reading, question, rows)
    if keys is None:
        keys = np.arange(len(rows), dtype=np.float64)
    best = first_by(keys, question.limit)
    sign = 1.0 if ordered_by.endswith("ascending") or not ordered_by else -1.0
    rank: int | None = None
    if matches:
        own = keys[place]
        ahead = int(np.count_nonzero(~np.isnan(keys))) if math.isnan(own) else int(np.count_nonzero(keys < own))
        equal = np.isnan(keys[:place]) if math.isnan(own) else keys[:place] == own
        rank = ahead + int(np.count_nonzero(equal)) + 1
    return Explanation(
        id=book[question.kind].id_of(row),
        inside=matches and rank is not None and rank <= question.limit,
        matches=matches,
        clauses=clauses,
        rank=rank,
        matched=len(rows),
        limit=question.limit,
        ordered_by=ordered_by,
        value=_number(sign * keys[place]) if matches and ordered_by else None,
        last_inside=_number(sign * keys[best[-1]]) if len(best) and ordered_by else None,
    )


def _clauses(reading: Reading, kind: Kind, condition: Condition, row: int, depth: int) -> Iterator[Clause]:
    """The condition and those inside it, outermost first; conjunctions at the top are not clauses of their own."""
    if not (isinstance(condition, AllOf) and depth == 0):
        said = _read(reading, kind, condition, row)
        text = condition_text(condition)
        yield Clause(text=text, depth=depth, holds=_holds(reading, kind, condition, row), **said)
        depth += 1
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.conditions:
            yield from _clauses(reading, kind, part, row, depth)
    elif isinstance(condition, Not) and isinstance(condition.condition, AllOf | AnyOf):
        yield from _clauses(reading, kind, condition.condition, row, depth)


def _holds(reading: Reading, kind: Kind, condition: Condition, row: int) -> bool:
    return bool(holds(reading, kind, positive(condition), np.asarray([row], np.intp))[0])


def _read(reading: Reading, kind: Kind, condition: Condition, row: int) -> dict[str, Any]:
    """What a condition read of the thing: value, unit, age and deviation."""
    if isinstance(condition, Not):
        return _read(reading, kind, condition.condition, row)
    match condition:
        case Compare(measure=measure) | Between(measure=measure):
            asked = measure
        case OneOf(fact=fact) | StartsWith(fact=fact) | Known(fact=fact):
            asked = Measure(fact=fact)
        case _:
            return {}
    rows = np.asarray([row], np.intp)
    if asked.fact == ID:
        return {"value": reading.book[kind].id_of(row)}
    _, end, _, fact_there = resolve(kind, asked.fact)
    value: Shown
    if asked.of == "value":
        value = reading.book[end].shown(fact_there, reading.values(kind, asked.fact, rows)[0].item())
        unit = fact_there.unit
    else:
        value = _number(float(reading.numbers(kind, asked, rows)[0]))
        unit = fact_there.unit if asked.of == "deviation" else "s"
    age = _number(float(reading.numbers(kind, Measure(fact=asked.fact, of="age"), rows)[0]))
    told = _number(float(reading.deviations(kind, asked.fact, rows)[0])) if fact_there.numeric else None
    return {"value": value, "unit": unit, "age_s": age, "deviation": told}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
