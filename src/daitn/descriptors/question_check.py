"""What is wrong with a question, told with the column and the nearest known ones, before anything is evaluated.

Pure: the registry of facts is all that is needed. Cost: O(parts of the question).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from daitn.base.errors import InputError
from daitn.base.nearest import nearest_known
from daitn.descriptors.fact_kinds import Fact, Form, Group, Kind
from daitn.descriptors.facts import fact_named, facts_of
from daitn.descriptors.questions import (
    DEPTH_MOST,
    PARTS_MOST,
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
    Path,
    Question,
    StartsWith,
    Summarise,
    Within,
)

ID: Final = "id"
"""The column that is each thing's own id."""

WORDY: Final = (Form.WORD, Form.CHOICE)


def resolve(kind: Kind, path: str) -> tuple[tuple[str, ...], Kind, Group, Fact]:
    """References to follow from a kind, the kind at their end, and the fact there with its group.

    InputError naming the part of the path that is wrong, and the nearest known ones.
    """
    *steps, last = path.split(".")
    for step in steps:
        kind = referred_by(kind, step)
    group, fact = fact_named(kind, last)
    return tuple(steps), kind, group, fact


def referred_by(kind: Kind, step: str) -> Kind:
    """The kind that a reference leads to. InputError for a fact that is none."""
    _, reference = fact_named(kind, step)
    if reference.refers_to is None:
        known = [fact.name for fact in facts_of(kind) if fact.refers_to is not None]
        raise InputError(
            f"{step} of {kind.value} is no reference: nothing of it can be asked for",
            todo=f"{kind.value} refers to others by: {', '.join(known)}" if known else "",
        )
    return reference.refers_to


def check_question(question: Question) -> None:
    """InputError for the first thing that is wrong with a question."""
    match question:
        case Find():
            _check_conditions(question.kind, question.where)
            for measure in measures_of(question):
                check_measure(question.kind, measure, numeric=measure is not _ordered(question))
            for path in question.show:
                resolve(question.kind, path)
            if question.order is not None and question.order.measure is None and question.score is None:
                raise InputError("the order is by score, and the question has none", todo="give a score, or a measure")
            if question.nearest is not None:
                terminal_path(question.kind)
        case Summarise():
            _check_conditions(question.kind, question.where)
            _, _, _, fact = resolve(question.kind, question.by)
            if fact.form not in (*WORDY, Form.FLAG):
                raise InputError(
                    f"{question.by} is a number, not a category",
                    todo="group by one of: " + ", ".join(_categories(question.kind)),
                )
            for total in question.totals:
                if total.what != "count" and total.measure is None:
                    raise InputError(f"a {total.what} needs a measure", todo=f"say of what, as {total.what}(records)")
                if total.measure is not None:
                    check_measure(question.kind, total.measure, numeric=total.what != "count")
        case Path():
            _check_conditions(Kind.LINK, question.where)


def measures_of(question: Find) -> Iterator[Measure]:
    """What a question scores and orders by."""
    if question.score is not None:
        yield from (term.measure for term in question.score.terms)
    if question.order is not None and question.order.measure is not None:
        yield question.order.measure


def terminal_path(kind: Kind) -> tuple[str, ...]:
    """The references that lead from a kind to a terminal; empty for terminals. InputError where there are none."""
    if kind is Kind.TERMINAL:
        return ()
    for fact in facts_of(kind):
        if fact.refers_to is Kind.TERMINAL:
            return (fact.name,)
    for fact in facts_of(kind):
        if fact.refers_to is not None and fact.refers_to is not kind:
            return (fact.name, *terminal_path(fact.refers_to))
    raise InputError(f"{kind.value} is not at a terminal: it is near to nothing", todo="ask for terminals, or data")


def reference_between(kind: Kind, to: Kind) -> str:
    """The one fact of a kind that refers to another; InputError where there is none, or more than one."""
    names = [fact.name for fact in facts_of(kind) if fact.refers_to is to]
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{kind.value} refers to {to.value} by {' and by '.join(names)}" if names else _no_relation(kind, to),
        todo=f"say which: some {kind.value} by {names[0]} (…)" if names else "",
    )


def check_measure(kind: Kind, measure: Measure, *, numeric: bool) -> None:
    """InputError unless the measure can be read of things of this kind, and, where `numeric`, is a number."""
    _, _, _, fact = resolve(kind, measure.fact)
    if measure.of == "since" and fact.unit != "unix_s":
        moments = [one.name for one in facts_of(kind) if one.unit == "unix_s"]
        raise InputError(
            f"{measure.fact} is no moment, so nothing is since it",
            todo=f"moments of {kind.value}: {', '.join(moments) or 'none'}; how old a fact is: age_of({measure.fact})",
        )
    if measure.of == "deviation" and not fact.numeric:
        raise InputError(f"{measure.fact} is a {fact.form.value}: only numbers have a deviation")
    if numeric and measure.of == "value" and not (fact.numeric or fact.form is Form.FLAG):
        raise InputError(f"{measure.fact} is a {fact.form.value}, not a number", todo="count it, or group by it")


def _ordered(question: Find) -> Measure | None:
    return question.order.measure if question.order is not None else None


def _check_conditions(kind: Kind, where: Condition | None) -> None:
    if where is None:
        return
    waiting: list[tuple[Kind, Condition, int]] = [(kind, where, 1)]
    parts = 0
    while waiting:
        kind, condition, depth = waiting.pop()
        parts += 1
        if depth > DEPTH_MOST or parts > PARTS_MOST:
            raise InputError(
                f"the question has more than {DEPTH_MOST} conditions inside one another"
                if depth > DEPTH_MOST
                else f"the question has more than {PARTS_MOST} conditions",
                todo="ask for less at once, or with `in (…)`",
            )
        waiting += [(inner, one, depth + 1) for inner, one in _check_condition(kind, condition)]


def _check_condition(kind: Kind, condition: Condition) -> list[tuple[Kind, Condition]]:
    """Checks one condition; returns those inside it with the kind they speak of."""
    match condition:
        case Compare():
            _check_compare(kind, condition)
        case Between():
            check_measure(kind, condition.measure, numeric=True)
            if not -math.inf < condition.least <= condition.most < math.inf:
                raise InputError(
                    f"{condition.measure.fact} between {condition.least:g} and {condition.most:g} is empty"
                )
            _check_certainty(kind, condition)
        case OneOf(fact=path) | StartsWith(fact=path):
            if path != ID:
                _, _, _, fact = resolve(kind, path)
                if fact.form not in WORDY:
                    raise InputError(f"{path} is a {fact.form.value}, not a word", todo="compare it, or use `between`")
                for value in condition.values if isinstance(condition, OneOf) else ():
                    _check_choice(path, fact, value)
        case Known(fact=path):
            resolve(kind, path)
        case Not(condition=inner):
            return [(kind, inner)]
        case AllOf(conditions=inside) | AnyOf(conditions=inside):
            return [(kind, one) for one in inside]
        case Exists(kind=other, by=by, where=where):
            _, reference = fact_named(other, by)
            if reference.refers_to is not kind:
                known = [fact.name for fact in facts_of(other) if fact.refers_to is kind]
                raise InputError(
                    f"{by} of {other.value} does not refer to {kind.value}" if known else _no_relation(other, kind),
                    todo=f"known: {', '.join(known)}" if known else "",
                )
            return [(other, where)] if where is not None else []
        case Within(where=where):
            terminal_path(kind)
            return [(Kind.TERMINAL, where)] if where is not None else []
    return []


def _check_compare(kind: Kind, condition: Compare) -> None:
    measure, value = condition.measure, condition.value
    if measure.fact == ID and measure.of == "value":
        if condition.by not in ("=", "!=") or not isinstance(value, str):
            raise InputError("an id can only be compared by = and != with text", todo="or use `id starts with '…'`")
        return
    check_measure(kind, measure, numeric=False)
    _, _, _, fact = resolve(kind, measure.fact)
    form = fact.form if measure.of == "value" else Form.NUMBER
    wanted = {Form.FLAG: "yes or no", Form.WORD: "a word", Form.CHOICE: "a word"}.get(form, "a number")
    fits = {"yes or no": isinstance(value, bool), "a word": isinstance(value, str)}.get(
        wanted, isinstance(value, float | int) and not isinstance(value, bool)
    )
    if form is Form.REFERENCE:
        raise InputError(
            f"{measure.fact} refers to a {fact.refers_to}; it is no value",
            todo=f"ask for one of its facts, as {measure.fact}.{'name' if fact.refers_to is Kind.TERMINAL else '…'}",
        )
    if not fits:
        raise InputError(f"{measure.fact} is {wanted}, it cannot be compared with {str(value)[:80]!r}")
    if wanted != "a number" and condition.by not in ("=", "!="):
        raise InputError(f"{measure.fact} is {wanted}: it can be compared by = and != only")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{measure.fact} is compared with {value}", todo="ask whether it `is known`")
    if isinstance(value, str):
        _check_choice(measure.fact, fact, value)
    _check_certainty(kind, condition)


def _check_certainty(kind: Kind, condition: Compare | Between) -> None:
    if condition.certainty == "told":
        return
    _, _, _, fact = resolve(kind, condition.measure.fact)
    if not fact.numeric or condition.measure.of not in ("value", "since"):
        raise InputError(f"{condition.measure.fact} has no deviation, so nothing of it is {condition.certainty} so")


def _check_choice(path: str, fact: Fact, value: str) -> None:
    if fact.form is Form.CHOICE and value not in fact.choices:
        raise InputError(f"{path} is never {value[:80]!r}", todo=nearest_known(value, fact.choices))


def _categories(kind: Kind) -> list[str]:
    return [fact.name for fact in facts_of(kind) if fact.form in (*WORDY, Form.FLAG)]


def _no_relation(kind: Kind, to: Kind) -> str:
    known = [f"{fact.name} (a {fact.refers_to.value})" for fact in facts_of(kind) if fact.refers_to is not None]
    return f"{kind.value} does not refer to {to.value}; it refers to: {', '.join(known) or 'nothing'}"
