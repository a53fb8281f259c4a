"""Scores and the best of many: weighted sums and products of facts, scaled over what was found; top k by partition.

M things found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daitn.descriptors.fact_kinds import Form, Kind
from daitn.descriptors.question_check import resolve
from daitn.descriptors.question_writing import order_text
from daitn.descriptors.questions import Find, Score, Term
from daitn.topology.questions.near import distances_to
from daitn.topology.questions.reading import Reading, known_in

Keys = NDArray[np.float64]


def scores(reading: Reading, kind: Kind, score: Score, rows: NDArray[np.intp]) -> Keys:
    """Scores of the things found; NaN where a fact of it is not known, or has no logarithm or power: (M,)."""
    total = np.zeros(len(rows)) if score.combine == "sum" else np.ones(len(rows))
    for term in score.terms:
        part = _scaled(reading, kind, term, rows)
        if score.combine == "sum":
            total += term.weight * (_to_range(part) if score.normalised else part)
        else:
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                power = np.power(_to_largest(part) if score.normalised else part, term.weight)
            total *= np.where(np.isfinite(power), power, np.nan)
    return total


def _scaled(reading: Reading, kind: Kind, term: Term, rows: NDArray[np.intp]) -> Keys:
    values = np.asarray(reading.numbers(kind, term.measure, rows), np.float64)
    if term.scale == "log":
        values = np.log1p(np.where(values >= 0, values, np.nan))
    return np.where(np.isfinite(values), values, np.nan)


def _to_range(values: Keys) -> Keys:
    """Scaled so that the least known is 0 and the largest 1; all equal ones are 1."""
    known = values[~np.isnan(values)]
    if not len(known):
        return values
    least, most = known.min(), known.max()
    return (values - least) / (most - least) if most > least else np.where(np.isnan(values), np.nan, 1.0)


def _to_largest(values: Keys) -> Keys:
    known = values[~np.isnan(values)]
    most = known.max() if len(known) else 0.0
    return values / most if most > 0 else values


def order_keys(reading: Reading, question: Find, rows: NDArray[np.intp]) -> tuple[Keys | None, str]:
    """What the things found are ordered by, the smallest first, NaN last, and what that is called; None: no order."""
    order = question.order
    if order is not None:
        if order.measure is None:
            assert question.score is not None
            keys = scores(reading, question.kind, question.score, rows)
        else:
            _, _, _, fact = resolve(question.kind, order.measure.fact)
            if order.measure.of == "value" and fact.form in (Form.WORD, Form.CHOICE, Form.REFERENCE):
                codes = reading.values(question.kind, order.measure.fact, rows)
                keys = np.where(known_in(fact, codes), _places(reading, fact.form, fact.choices, codes), np.nan)
            else:
                keys = np.asarray(reading.numbers(question.kind, order.measure, rows), np.float64)
        return (-keys if order.descending else keys), order_text(order)
    if question.score is not None:
        return -scores(reading, question.kind, question.score, rows), "score"
    if question.nearest is not None:
        target = reading.row_of(Kind.TERMINAL, question.nearest.to)
        return distances_to(reading, question.kind, rows, target, question.nearest.by), "distance_s ascending"
    return None, ""


def _places(reading: Reading, form: Form, choices: tuple[str, ...], codes: NDArray[np.int32]) -> Keys:
    """The place of each word in the alphabet of those there; a reference's own row."""
    if form is Form.REFERENCE:
        return np.asarray(codes, np.float64)
    unique, inverse = np.unique(codes, return_inverse=True)
    if form is Form.WORD:
        texts = [reading.book.words.text(int(code)) for code in unique]
    else:
        texts = [choices[code] if code < len(choices) else "" for code in unique]
    place = np.empty(len(unique))
    place[sorted(range(len(unique)), key=texts.__getitem__)] = np.arange(len(unique))
    return place[inverse]


def first_by(keys: Keys, limit: int) -> NDArray[np.intp]:
    """Places of the `limit` smallest keys, in order; equal ones as they come, NaN last: O(M + limit log limit)."""
    total = len(keys)
    chosen = np.arange(total)
    if limit < total:
        edge = np.partition(keys, limit - 1)[limit - 1]  # NaN counts as the largest
        if np.isnan(edge):
            known = np.flatnonzero(~np.isnan(keys))
            chosen = np.concatenate([known, np.flatnonzero(np.isnan(keys))[: limit - len(known)]])
        else:
            below = np.flatnonzero(keys < edge)
            chosen = np.concatenate([below, np.flatnonzero(keys == edge)[: limit - len(below)]])
    return chosen[np.lexsort((chosen, keys[chosen]))]
