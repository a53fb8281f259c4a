"""Which facts an answer depends on: only when one of those changed can the answer have changed."""

from __future__ import annotations

from collections.abc import Iterator

from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import fact_named
from daitn.descriptors.question_check import ID, measures_of, referred_by, terminal_path
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
    Path,
    Question,
    StartsWith,
    Summarise,
    Within,
)
from daitn.topology.fact_book import FactBook

Read = tuple[Kind, str]
"""A group of facts of a kind; with an empty name, which things of the kind there are."""

_POSITION = (Kind.TERMINAL, "place")


def groups_read(question: Question) -> frozenset[Read]:
    """The groups that decide which rows the answer has, and in which order; of summaries and paths, its figures too."""
    return frozenset(_of_question(question))


def stamp(book: FactBook, read: frozenset[Read]) -> tuple[int, ...]:
    """Differs when something changed in what is read: O(groups)."""
    return tuple(book[kind].changes(group) if group else book[kind].roster_version for kind, group in sorted(read))


def reads_time(question: Question) -> bool:
    """Whether the answer changes as time passes, with nothing said: it speaks of ages, or of what is certain."""
    match question:
        case Find():
            measures = [*_measures(question.where), *((one, "told") for one in measures_of(question))]
        case Summarise():
            totals = [(total.measure, "told") for total in question.totals if total.measure is not None]
            measures = [*_measures(question.where), *totals]
        case Path():
            measures = [*_measures(question.where)]
    return any(measure.of != "value" or certainty != "told" for measure, certainty in measures)


def _of_question(question: Question) -> Iterator[Read]:
    match question:
        case Find():
            yield question.kind, ""
            yield from _of_condition(question.kind, question.where)
            for measure in measures_of(question):
                yield from _of_path(question.kind, measure.fact)
            if question.nearest is not None:
                yield from _of_steps(question.kind, terminal_path(question.kind))
                if question.nearest.by == "position":
                    yield _POSITION
                else:
                    yield from ((Kind.LINK, ""), (Kind.LINK, "link_identity"), (Kind.LINK, "link_state"))
        case Summarise():
            yield question.kind, ""
            yield from _of_path(question.kind, question.by)
            yield from _of_condition(question.kind, question.where)
            for total in question.totals:
                if total.measure is not None:
                    yield from _of_path(question.kind, total.measure.fact)
        case Path():
            yield from ((Kind.LINK, ""), (Kind.LINK, "link_identity"), (Kind.LINK, "link_state"), (Kind.TERMINAL, ""))
            yield from ((Kind.TERMINAL, "path"), (Kind.TERMINAL, "reach"))
            yield from _of_condition(Kind.LINK, question.where)


def _of_path(kind: Kind, path: str) -> Iterator[Read]:
    if path == ID:
        return
    *steps, last = path.split(".")
    yield from _of_steps(kind, tuple(steps))
    for step in steps:
        kind = referred_by(kind, step)
    yield kind, fact_named(kind, last)[0].name


def _of_steps(kind: Kind, steps: tuple[str, ...]) -> Iterator[Read]:
    for step in steps:
        yield kind, fact_named(kind, step)[0].name
        kind = referred_by(kind, step)
        yield kind, ""


def _of_condition(kind: Kind, where: Condition | None) -> Iterator[Read]:
    match where:
        case Not(condition=inner):
            yield from _of_condition(kind, inner)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            for part in parts:
                yield from _of_condition(kind, part)
        case Compare(measure=Measure(fact=fact)) | Between(measure=Measure(fact=fact)):
            yield from _of_path(kind, fact)
        case OneOf(fact=fact) | StartsWith(fact=fact) | Known(fact=fact):
            yield from _of_path(kind, fact)
        case Exists(kind=other, by=by, where=inner):
            yield other, ""
            yield from _of_path(other, by)
            yield from _of_condition(other, inner)
        case Within(where=inner):
            yield from _of_steps(kind, terminal_path(kind))
            yield from (_POSITION, (Kind.TERMINAL, ""))
            yield from _of_condition(Kind.TERMINAL, inner)
        case None:
            return


def _measures(where: Condition | None) -> Iterator[tuple[Measure, str]]:
    match where:
        case Not(condition=inner) | Exists(where=inner) | Within(where=inner):
            yield from _measures(inner)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            for part in parts:
                yield from _measures(part)
        case Compare(measure=measure, certainty=certainty) | Between(measure=measure, certainty=certainty):
            yield measure, certainty
        case _:
            return
