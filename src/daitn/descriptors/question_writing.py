"""Questions as text again: what explanations, saved questions and messages to people show; `question_text` reads it."""

from __future__ import annotations

import re
from typing import Final

from daitn.descriptors.questions import (
    AllOf,
    AnyOf,
    Between,
    Compare,
    Condition,
    Exists,
    Find,
    Known,
    Measure,
    Not,
    OneOf,
    Order,
    Path,
    Question,
    Score,
    StartsWith,
    Summarise,
    Total,
    Within,
)

_PLAIN: Final = re.compile(r"[A-Za-z_][\w.:/@-]*", re.ASCII)
_RESERVED: Final = frozenset(("yes", "no"))
_OF: Final = {"age": "age_of({})", "deviation": "deviation_of({})", "since": "since({})", "value": "{}"}


def question_text(question: Question) -> str:
    """The text that asks this question."""
    match question:
        case Find():
            parts = [question.kind.value, _where(question.where)]
            if question.score is not None:
                parts.append("score " + score_text(question.score))
            if question.nearest is not None:
                parts.append(f"nearest to {_quoted(question.nearest.to)} by {question.nearest.by}")
            if question.show:
                parts.append("show " + ", ".join(question.show))
            parts.append(f"top {question.limit}")
            if question.order is not None:
                parts.append("by " + order_text(question.order))
        case Summarise():
            totals = ", ".join(total_text(total) for total in question.totals)
            parts = [f"summarise {question.kind.value} by {question.by} {totals}", _where(question.where)]
            parts.append(f"top {question.limit}")
        case Path():
            parts = [f"path from {_quoted(question.start)} to {_quoted(question.end)} by {question.by}"]
            parts.append(_where(question.where))
    return " ".join(part for part in parts if part)


def condition_text(condition: Condition) -> str:
    """A condition as text."""
    match condition:
        case Compare(measure=measure, by="=", value=True):
            return _certain(condition) + measure_text(measure)
        case Compare(measure=measure, by=by, value=value):
            return f"{_certain(condition)}{measure_text(measure)} {by} {_value(value)}"
        case Between(measure=measure, least=least, most=most):
            return f"{_certain(condition)}{measure_text(measure)} between {_number(least)} and {_number(most)}"
        case OneOf(fact=fact, values=values):
            return f"{fact} in ({', '.join(_quoted(value) for value in values)})"
        case StartsWith(fact=fact, text=text):
            return f"{fact} starts with {_quoted(text)}"
        case Known(fact=fact):
            return f"{fact} is known"
        case Not(condition=inner):
            return f"not {_bracketed(inner)}"
        case AllOf(conditions=inside):
            return " and ".join(_bracketed(one) for one in inside)
        case AnyOf(conditions=inside):
            return " or ".join(_bracketed(one) for one in inside)
        case Exists(kind=kind, by=by, where=where):
            return f"some {kind.value} by {by}" + (f" ({condition_text(where)})" if where is not None else "")
        case Within(most_s=most_s, where=where):
            return f"within {_number(most_s)}s of" + (f" ({condition_text(where)})" if where is not None else "")


def measure_text(measure: Measure) -> str:
    """A measure as text."""
    return _OF[measure.of].format(measure.fact)


def order_text(order: Order) -> str:
    """What rows are ordered by, as text."""
    measure = "score" if order.measure is None else measure_text(order.measure)
    return measure + ("" if order.descending else " ascending")


def total_text(total: Total) -> str:
    """A figure of a group as text; also its column's name."""
    if total.measure is None:
        return total.what
    if total.what == "quantile":
        return f"quantile({_number(total.quantile)}, {measure_text(total.measure)})"
    return f"{total.what}({measure_text(total.measure)})"


def score_text(score: Score) -> str:
    """A score as text."""
    pieces: list[str] = []
    for term in score.terms:
        measure = measure_text(term.measure)
        scaled = f"log({measure})" if term.scale == "log" else measure
        if score.combine == "product":
            pieces.append(f"{scaled} ^ {_number(term.weight)}")
        else:
            pieces.append(f"{_number(term.weight)} {scaled}")
    joined = (" * " if score.combine == "product" else " + ").join(pieces)
    return joined if score.normalised else f"raw {joined}"


def _where(condition: Condition | None) -> str:
    return "" if condition is None else f"where {condition_text(condition)}"


def _certain(condition: Compare | Between) -> str:
    return "" if condition.certainty == "told" else f"{condition.certainty} "


def _bracketed(condition: Condition) -> str:
    text = condition_text(condition)
    return f"({text})" if isinstance(condition, AllOf | AnyOf) else text


def _quoted(text: str) -> str:
    plain = _PLAIN.fullmatch(text) is not None and text not in _RESERVED
    return text if plain else "'" + text.replace("'", "''") + "'"


def _value(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _quoted(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else repr(float(value))
