"""Saved questions as they travel: their latest answer, and how it changed."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.descriptors.questions import Answer, AnswerRow, Question

LOOK_S: Final = 0.25
"""Between two looks at what has changed."""

QuestionName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
EverySeconds = Annotated[float, msgspec.Meta(ge=LOOK_S, le=86_400)]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was in the answer before, and has another place now."""

    id: str
    before: int
    now: int
    """Places from 1."""


class AnswerChange(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer changed at a moment."""

    at_ns: int
    version: int
    entered: tuple[AnswerRow, ...] = ()
    left: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    changed: tuple[AnswerRow, ...] = ()
    """Groups of a summary, or stops of a path, whose figures are others now."""


class SavedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A saved question and its latest answer."""

    name: str
    owner: str
    question: Question
    every_s: float
    at_ns: int
    """When the answer was last evaluated and found another; 0: not yet."""
    answer: Answer | None = None
    changes: tuple[AnswerChange, ...] = ()
    """Beyond the moment asked for; empty with an answer where they are not all known: take the whole answer."""
    fault: str = ""
    """Why it could not be evaluated last time."""
