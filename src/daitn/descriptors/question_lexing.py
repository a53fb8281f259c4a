"""Words, numbers and signs of a question's text, each with its place: what `question_text` reads."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from daitn.base.errors import InputError
from daitn.base.nearest import nearest_known
from daitn.descriptors.questions import QUESTION_CHARS

UNITS: Final = {
    "": 1.0,
    "%": 0.01,
    "k": 1e3,
    "M": 1e6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
    "GiB": 1024.0**3,
    "TiB": 1024.0**4,
    "GFLOPS": 1e9,
    "TFLOPS": 1e12,
}
"""What may follow a number, in the unit of facts: seconds, bytes, shares of one, FLOP/s."""

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>%|[A-Za-z]+)?(?![\w.])"
    r"|(?P<text>'(?:[^']|'')*')"
    r"|(?P<word>[A-Za-z_][\w.:/@-]*)"
    r"|(?P<sign><=|>=|!=|[=<>(),+*^-]))"
)


class Token(NamedTuple):
    """One piece of the text."""

    kind: str
    """`number`, `text`, `word`, `sign`, or `end`."""
    said: str
    value: float
    place: int


def read_tokens(text: str) -> list[Token]:
    """The pieces of a question, the last of kind `end`. InputError naming the place of what is none of them."""
    if len(text) > QUESTION_CHARS:
        raise InputError(f"the question has {len(text)} characters, the limit is {QUESTION_CHARS}")
    text = text.rstrip()
    found: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise InputError(f"at {text[place : place + 20].strip()!r} (character {place + 1}): nothing begins so")
        kind = "number" if match["number"] else str(match.lastgroup)
        begin = match.start(kind)
        value, said = 0.0, match[kind]
        if kind == "number":
            value = float(match["number"]) * _factor(match["unit"] or "", said)
        elif kind == "text":
            said = said[1:-1].replace("''", "'")
        found.append(Token(kind, said, value, begin))
        place = match.end()
    return [*found, Token("end", "the end", 0.0, len(text))]


def _factor(unit: str, number: str) -> float:
    if (factor := UNITS.get(unit)) is None:
        raise InputError(f"{number}{unit} has a unit that is not known", todo=nearest_known(unit, UNITS))
    return factor
