"""What an engine of texts promises: continuations told piece by piece, vectors and labels for some texts at once.

The laws that `tests/contract/test_text_engines.py` holds every one to:

1. the pieces of a continuation, joined, are the same whenever the same is asked, and end before a stop;
2. asked again with the beginning as `given`, an engine tells the rest and nothing of the beginning;
3. whoever takes no more pieces, by closing the iterator, stops the work: the engine is free again at once;
4. a query that does not fit is an InputError, an engine that is gone raises UnavailableError and says so by `alive`;
5. after `close` nothing of it is left.

Many queries may be under way at a time, as many as `concurrency`; who asks more of it waits elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from daitn.descriptors.serving import EngineKind
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask


class Said(NamedTuple):
    """A piece of a continuation. The text may be empty where a token is only part of a character, or may be the
    beginning of a stop."""

    tokens: tuple[int, ...]
    text: str


class Ended(NamedTuple):
    """A continuation's end. `stop`: by itself or by a stop of the query; `length`: as long as it may be."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    tokens: int
    """Of the continuation, `given` included."""


class BatchMade(NamedTuple):
    """(N, D) vectors, or (N, labels) scores that sum to one, of float32."""

    values: NDArray[Any]
    labels: tuple[str, ...]
    prompt_tokens: int


class TextEngine(Protocol):
    """See the module's docstring."""

    @property
    def kind(self) -> EngineKind:
        """What it is."""
        ...

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """What it can be asked."""
        ...

    @property
    def concurrency(self) -> int:
        """Queries that may be under way at a time."""
        ...

    @property
    def alive(self) -> bool:
        """Whether more can be asked."""
        ...

    def generate(self, asked: Generation, given: Given) -> AsyncGenerator[Said | Ended, None]:
        """The pieces of a continuation behind `given`, then its end. InputError, UnavailableError."""
        ...

    async def batch(self, asked: TextBatch) -> BatchMade:
        """Vectors or labels. InputError, UnavailableError."""
        ...

    def memory_bytes(self) -> int:
        """Private memory in use."""
        ...

    async def close(self) -> None:
        """End it; may be called again."""
        ...
