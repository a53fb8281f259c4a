"""Questions on the map (G-KRRM) and their answers: a small closed form that can be checked, shipped and evaluated.

Paper II-A: orchestrators and the control centre find what a request can use by asking the map. A question filters,
scores and orders the things of one kind (`Find`), counts them by a category (`Summarise`), or finds a way between two
terminals (`Path`). It names facts of the registry and nothing else: no expression language, no code, so another domain
may ask it. A fact of a thing that this one refers to is named through the reference: `terminal.trust` of a data set.

What is not known satisfies no comparison, nor its negation; `Known` asks for it. `descriptors.question_check` tells
what is wrong with a question, `question_text` reads and writes it as people do.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.descriptors.fact_kinds import Kind

DEPTH_MOST: Final = 8
"""Conditions inside one another; people's stay below five."""

PARTS_MOST: Final = 64
"""Conditions of one question in all: each is a pass over a column of a million values, about a millisecond."""

LIMIT_MOST: Final = 10_000
"""Rows of one answer: with ten columns about what one control message holds."""

SHOWN_MOST: Final = 32
TERMS_MOST: Final = 16
VALUES_MOST: Final = 1000
TEXT_CHARS: Final = 256
QUESTION_CHARS: Final = 8192
"""Longest question as text: `PARTS_MOST` conditions of 128 characters."""

FactPath = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}(\.[a-z][a-z0-9_]{0,63}){0,3}$", max_length=256)]
"""A fact, through at most three references: `trust`, `terminal.trust`, `data.terminal.trust`."""

Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)]
Sought = float | bool | Text
"""What a value is compared with."""

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
Certainty = Literal["told", "surely", "possibly"]
"""`told`: the value as reported. `surely`: every value within `DEVIATIONS_SURE` deviations of it, widened by age, would
do; `possibly`: some value within them would."""

DEVIATIONS_SURE: Final = 2.0
"""95 % of a normal distribution."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a question."""


class Measure(Part, frozen=True, kw_only=True):
    """A number or word read off each thing: a fact, or what is known about it."""

    fact: FactPath
    of: Literal["value", "age", "deviation", "since"] = "value"
    """`age`: seconds since the fact was generated. `deviation`: in the fact's unit, widened by age. `since`: seconds
    since the moment that the fact is."""


class Compare(Part, frozen=True, kw_only=True, tag_field="is", tag="compare"):
    """A measure against a value."""

    measure: Measure
    by: Comparison
    value: Sought
    certainty: Certainty = "told"


class Between(Part, frozen=True, kw_only=True, tag_field="is", tag="between"):
    """A measure within a range, its ends included."""

    measure: Measure
    least: float
    most: float
    certainty: Certainty = "told"


class OneOf(Part, frozen=True, kw_only=True, tag_field="is", tag="one_of"):
    """A word, choice or id among some; `id` is each thing's own."""

    fact: FactPath
    values: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=VALUES_MOST)]


class StartsWith(Part, frozen=True, kw_only=True, tag_field="is", tag="starts_with"):
    """A word, choice or id that begins so."""

    fact: FactPath
    text: Text


class Known(Part, frozen=True, kw_only=True, tag_field="is", tag="known"):
    """A fact that is known at all."""

    fact: FactPath


class Not(Part, frozen=True, kw_only=True, tag_field="is", tag="not"):
    """The condition is known not to hold."""

    condition: Condition


class AllOf(Part, frozen=True, kw_only=True, tag_field="is", tag="all"):
    """All of the conditions hold."""

    conditions: Annotated[tuple[Condition, ...], msgspec.Meta(min_length=1, max_length=PARTS_MOST)]


class AnyOf(Part, frozen=True, kw_only=True, tag_field="is", tag="any"):
    """One of the conditions holds."""

    conditions: Annotated[tuple[Condition, ...], msgspec.Meta(min_length=1, max_length=PARTS_MOST)]


class Exists(Part, frozen=True, kw_only=True, tag_field="is", tag="exists"):
    """Something of another kind refers to this thing, and satisfies a condition."""

    kind: Kind
    by: FactPath
    """Its fact that refers to things of this kind."""
    where: Condition | None = None


class Within(Part, frozen=True, kw_only=True, tag_field="is", tag="within"):
    """A terminal that satisfies a condition is so near: by network positions. Of kinds that refer to a terminal, that
    one's position counts; the thing's own terminal is near itself."""

    most_s: Annotated[float, msgspec.Meta(ge=0, le=600)]
    """Round trip."""
    where: Condition | None = None


Condition = Compare | Between | OneOf | StartsWith | Known | Not | AllOf | AnyOf | Exists | Within


class Term(Part, frozen=True, kw_only=True):
    """One part of a score."""

    measure: Measure
    weight: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] = 1.0
    """Factor in a sum, exponent in a product; negative: less is better."""
    scale: Literal["linear", "log"] = "linear"
    """`log`: log(1 + value); values below 0 have no score."""


class Score(Part, frozen=True, kw_only=True):
    """How good each thing is; things that lack a fact of it have no score and come last."""

    terms: Annotated[tuple[Term, ...], msgspec.Meta(min_length=1, max_length=TERMS_MOST)]
    combine: Literal["sum", "product"] = "sum"
    normalised: bool = True
    """Sum: each term is scaled to 0 to 1 over the things found. Product: each is divided by the largest of them."""


class Order(Part, frozen=True, kw_only=True):
    """What the rows are ordered by; equal ones and those of which it is not known in the map's own order."""

    measure: Measure | None = None
    """None: the score."""
    descending: bool = True


class Nearest(Part, frozen=True, kw_only=True):
    """By distance to a terminal, the nearest first."""

    to: Text
    """Id of the terminal."""
    by: Literal["position", "round_trip"] = "position"
    """`position`: round trip as network positions have it. `round_trip`: as measured on a link from there."""


Limit = Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MOST)]


class Find(Part, frozen=True, kw_only=True, tag_field="ask", tag="find"):
    """Things of one kind: those that satisfy a condition, the best first."""

    kind: Kind
    where: Condition | None = None
    score: Score | None = None
    nearest: Nearest | None = None
    order: Order | None = None
    """None: by score, else by distance, where there is one; else as the map has them."""
    limit: Limit = 50
    show: Annotated[tuple[FactPath, ...], msgspec.Meta(max_length=SHOWN_MOST)] = ()
    """Facts shown of each, besides those that the question speaks of."""


class Total(Part, frozen=True, kw_only=True):
    """One figure of each group."""

    what: Literal["count", "sum", "mean", "quantile"]
    measure: Measure | None = None
    """Of what; for a count, things of which it is known (None: all)."""
    quantile: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class Summarise(Part, frozen=True, kw_only=True, tag_field="ask", tag="summarise"):
    """Figures of things by a category, largest first figure first."""

    kind: Kind
    by: FactPath
    """A word, choice or flag; things of which it is not known form a group without a name."""
    totals: Annotated[tuple[Total, ...], msgspec.Meta(min_length=1, max_length=TERMS_MOST)] = (Total(what="count"),)
    where: Condition | None = None
    limit: Limit = 50


class Path(Part, frozen=True, kw_only=True, tag_field="ask", tag="path"):
    """The best way between two terminals over measured links."""

    start: Text
    end: Text
    by: Literal["round_trip", "bandwidth"] = "round_trip"
    """Least sum of round trips, or widest at its narrowest link."""
    where: Condition | None = None
    """Links that may be used; None: all."""


Question = Find | Summarise | Path

Shown = float | bool | str | None


class AnswerColumn(msgspec.Struct, frozen=True, kw_only=True):
    """What one value of each row is."""

    name: str
    unit: str = ""


class AnswerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing, group, or stop on a path; values, ages and deviations by column."""

    id: str
    """Of a group: its category, empty where that is not known."""
    values: tuple[Shown, ...]
    ages_s: tuple[float | None, ...] = ()
    deviations: tuple[float | None, ...] = ()
    score: float | None = None
    stale: bool = False
    """Something shown was not confirmed since the map restarted."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question, as true as the map at that version was."""

    version: int
    made_at_unix_s: float
    columns: tuple[AnswerColumn, ...]
    rows: tuple[AnswerRow, ...]
    matched: int
    """Things that satisfied the condition, or groups; `rows` are the first of them."""
    considered: int
    """Things of the kind."""


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a question and how a thing stands to it."""

    text: str
    depth: int
    holds: bool
    value: Shown = None
    unit: str = ""
    age_s: float | None = None
    deviation: float | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a thing is, or is not, in the answer to a question."""

    id: str
    inside: bool
    matches: bool
    clauses: tuple[Clause, ...]
    rank: int | None = None
    """Its place among all that match, from 1; None where it does not."""
    matched: int = 0
    limit: int = 0
    ordered_by: str = ""
    value: float | None = None
    """What it is ordered by: its own, and that of the last row inside."""
    last_inside: float | None = None
