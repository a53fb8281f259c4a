"""What a fact is: the types that the registry of facts (`descriptors.facts`) is written in.

Paper II-A, DRRT layer. A *thing* is one row of the map: a terminal, a data set, a model, a link … (`Kind`). A *fact* is
one value of a thing. Facts that are measured at one moment form a *group*: they are reported together and share source,
sequence, generated-at and received-at, so that a million terminals do not pay for them fact by fact.

A terminal is one row whatever roles it has: it has at most one compute facility, verification unit and model host, so
a question about data *and* compute needs no join; groups that nobody reports take no memory. What a thing has many of
(labels of a data set, fields of a model) are rows of a kind of their own that refer to it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec


class Kind(StrEnum):
    """What there are rows of; the value is also the name of the table in questions."""

    TERMINAL = "terminal"
    """A node's edge role, or one of the terminals a site reports for; compute, verification and hosting included."""
    DATA = "data"
    """A data set at a terminal."""
    DATA_LABEL = "data_label"
    """One bar of a data set's published label histogram."""
    DATA_FIELD = "data_field"
    """What a data set has of one field (a subject that targets speak of)."""
    UNIT_FIELD = "unit_field"
    """What a verification unit can test of one field."""
    MODEL = "model"
    """A model at a host."""
    MODEL_FIELD = "model_field"
    """A model's accuracy in one field."""
    QUERY = "query"
    """Queries of one kind from one region: the query topology."""
    LINK = "link"
    """A link that was measured between two terminals, sites or gateways; directed."""


class Form(StrEnum):
    """How a value is kept and travels."""

    NUMBER = "number"
    """32-bit float: 7 digits, more than anything measured has."""
    EXACT = "exact"
    """64-bit float: moments (seconds of Unix time) and counts above 16 million."""
    FLAG = "flag"
    """One byte: 0 no, 1 yes, 255 not known."""
    CHOICE = "choice"
    """One byte: index into `Fact.choices`, the same at every node of this version; 255 not known."""
    WORD = "word"
    """An open vocabulary (region, operator, label): interned at each map, travels as text in descriptions only."""
    REFERENCE = "reference"
    """A row of the kind `Fact.refers_to` in the same map; travels as an id in descriptions only."""


DAY_S: Final = 86_400.0
YEAR_S: Final = 365 * DAY_S

UNKNOWN_CODE: Final = 255
"""A flag or choice that is not known."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One fact: what it is called, in which unit, and which claims of it are refused."""

    name: str
    """Unique within its kind; a column's name in questions."""
    meaning: str
    unit: str = ""
    """Empty for plain numbers, flags and words."""
    form: Form = Form.NUMBER
    least: float = 0.0
    most: float = 1e18
    """Smallest and largest value that is believed; a report with another is refused."""
    choices: tuple[str, ...] = ()
    refers_to: Kind | None = None
    measured_as: str = ""
    """The fact of the same kind in which others measure what this one claims; claims are bounded by it."""
    unmeasured_most: float = 0.0
    """The claim that counts at most while nobody has measured it (0: no such bound)."""

    @property
    def numeric(self) -> bool:
        """Whether it carries an uncertainty."""
        return self.form in (Form.NUMBER, Form.EXACT)

    @property
    def reported(self) -> bool:
        """Whether it can travel in a packed report; words and references come with descriptions."""
        return self.form not in (Form.WORD, Form.REFERENCE)


class Source(StrEnum):
    """Who may report a group."""

    OWNER = "owner"
    """The node that the thing belongs to."""
    OVERSEER = "overseer"
    """The control centre, from what it measured or was told; also the services of the tools layer."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that are measured and reported together."""

    name: str
    """Unique over all kinds."""
    kind: Kind
    number: int
    """What it is called on the wire, 1 to 255; never reused for another layout."""
    meaning: str
    facts: tuple[Fact, ...]
    age_most_s: float
    """Older than this, a fact is *old*: its uncertainty is widened, and a decision that uses it is marked. Where
    `hard`, no decision may rest on it at all."""
    hard: bool = False
    source: Source = Source.OWNER

    @property
    def packed(self) -> bool:
        """Whether it can travel in packed reports."""
        return all(fact.reported for fact in self.facts)

    @property
    def numeric(self) -> tuple[Fact, ...]:
        """The facts that carry an uncertainty, in order."""
        return tuple(fact for fact in self.facts if fact.numeric)


CLAIM_FACTOR: Final = 2.0
"""A claim counts at most this many times what was measured: benchmarks at joining differ from work by about that."""


def number(name: str, unit: str, most: float, meaning: str, least: float = 0.0, **more: Any) -> Fact:
    """A 32-bit number."""
    return Fact(name=name, unit=unit, least=least, most=most, meaning=meaning, **more)


def frac(name: str, meaning: str) -> Fact:
    """A share, 0 to 1."""
    return Fact(name=name, unit="frac", most=1.0, meaning=meaning)


def moment(name: str, meaning: str) -> Fact:
    """A moment of Unix time."""
    return Fact(name=name, unit="unix_s", form=Form.EXACT, most=1e11, meaning=meaning)


def flag(name: str, meaning: str) -> Fact:
    """Yes, no or not known."""
    return Fact(name=name, form=Form.FLAG, most=1.0, meaning=meaning)


def choice(name: str, choices: tuple[str, ...], meaning: str) -> Fact:
    """One of a closed list."""
    return Fact(name=name, form=Form.CHOICE, choices=choices, most=len(choices) - 1, meaning=meaning)


def word(name: str, meaning: str) -> Fact:
    """A word of an open vocabulary."""
    return Fact(name=name, form=Form.WORD, meaning=meaning)


def refers(name: str, to: Kind, meaning: str) -> Fact:
    """A row of a kind."""
    return Fact(name=name, form=Form.REFERENCE, refers_to=to, meaning=meaning)
