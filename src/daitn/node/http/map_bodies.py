"""Bodies of the map's part of the interface: questions as they are sent; answers are `descriptors.questions`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.descriptors.questions import QUESTION_CHARS, Question
from daitn.descriptors.saved_questions import LOOK_S

Asked = Question | Annotated[str, msgspec.Meta(max_length=QUESTION_CHARS)]
"""A question in its typed form, or as text."""


class MapQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question on the map."""

    question: Asked
    of: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """A neighbour, whose map is asked; empty: this domain's own."""


class ExplanationAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a thing is, or is not, in an answer."""

    question: Asked
    thing: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """Its id; of a terminal, its name will do."""


class SqlAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A SELECT on the map."""

    sql: str


class SavingAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question whose answer is watched."""

    question: Asked
    every_s: Annotated[float, msgspec.Meta(ge=LOOK_S, le=86_400)] = 1.0
    """It is evaluated at most so often."""
