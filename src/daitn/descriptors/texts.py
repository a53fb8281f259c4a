"""What is asked of models that read and write text: a continuation, vectors, labels (paper II-B: queries of any kind).

A query of tensors names its inputs; one of text has a form of its own here, the same for every engine. A continuation
is a function of what was asked, its seed included: the same query with the text so far goes on where it was.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError

TEXT_CHARS: Final = 450_000
"""Longest text of a query: with four bytes a character it fits one message of the data plane."""

TURNS: Final = 1024
"""Turns of one conversation."""

TEXTS: Final = 2048
"""Texts of one query for vectors or labels, as OpenAI's interface allows."""

TOKENS_MOST: Final = 131_072
"""Longest continuation: the longest context of models in common use."""

STOPS: Final = 16
STOP_CHARS: Final = 256

Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)]


class TextTask(StrEnum):
    """What a model does with text."""

    GENERATE = "generate"
    """Continues it."""
    EMBED = "embed"
    """Gives a vector for it."""
    CLASSIFY = "classify"
    """Gives each of its labels a score."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: Text


class Generation(msgspec.Struct, frozen=True, kw_only=True, tag="generation"):
    """Continue a text, or answer a conversation: one of `prompt` and `turns` is given."""

    prompt: Text = ""
    turns: Annotated[tuple[Turn, ...], msgspec.Meta(max_length=TURNS)] = ()
    tokens_most: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MOST)] = 256
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    """0: the likeliest token each time."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Drawn from the likeliest tokens that have this share of the probability together."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Of what is drawn."""
    stops: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=STOP_CHARS)], ...], msgspec.Meta(max_length=STOPS)
    ] = ()
    """The continuation ends before any of these."""


class TextBatch(msgspec.Struct, frozen=True, kw_only=True, tag="texts"):
    """Vectors or labels for some texts."""

    task: Literal["embed", "classify"]
    texts: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=TEXTS)]


TextAsk = Generation | TextBatch


def task_of(asked: TextAsk) -> TextTask:
    """What a query wants done."""
    return TextTask.GENERATE if isinstance(asked, Generation) else TextTask(asked.task)


def texts_of(asked: TextAsk) -> tuple[str, ...]:
    """All text that a query has."""
    if isinstance(asked, TextBatch):
        return asked.texts
    return (asked.prompt, *(turn.text for turn in asked.turns), *asked.stops)


def text_bytes(asked: TextAsk) -> int:
    """Of all text that a query has."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts_of(asked))


def check_text_ask(asked: TextAsk) -> TextAsk:
    """The query, if it holds together and can be carried; InputError saying what does not."""
    if isinstance(asked, Generation) and bool(asked.prompt) == bool(asked.turns):
        raise InputError("a continuation needs a prompt or a conversation, one of them")
    size = text_bytes(asked)
    if size > limits.QUERY_BYTES - 65_536:
        raise InputError(f"the query's texts have {size} bytes, {limits.QUERY_BYTES - 65_536} are carried")
    if any("\ud800" <= char <= "\udfff" for text in texts_of(asked) for char in text):
        raise InputError("the query's text holds half of a surrogate pair, which no encoding carries")
    return asked


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What of a continuation is there already: the next engine goes on behind it, and says none of it again."""

    tokens: Annotated[tuple[int, ...], msgspec.Meta(max_length=TOKENS_MOST)] = ()
    """Empty where the engine that made the text tells none."""
    text: Text = ""
