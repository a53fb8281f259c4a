"""Link gateway–gateway, data plane: an answer that nobody waited for, handed to the terminal where it is fetched
(paper II-B: a response's destination is the query's choice).

A stream for each: `AnswerHanded`, then the answer's bytes in messages of at most `PART_BYTES`; back, one `HandedSaid`.
The same answer twice is one: it is named by its query.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.decoding import from_msgpack
from daitn.base.units import MIB

STREAM_WORD: Final = "handed"
"""First word of the tag of such a stream."""

PART_BYTES: Final = 1 * MIB

ANSWER_BYTES: Final = 64 * MIB
"""Of one answer: what a client reads at most."""

KEPT_MOST_S: Final = 2 * 86_400.0

_Told = Annotated[str, msgspec.Meta(max_length=4096)]


class AnswerHanded(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway → gateway: keep this outcome of a query for keys of that owner; its bytes follow. One that cannot says
    why (`HandedSaid`), one that was not told that the sender is a gateway ends the stream."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    owner: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]
    model: Annotated[str, msgspec.Meta(max_length=64)]
    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    """What the door of the sender would have said."""
    told: Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], _Told], msgspec.Meta(max_length=32)] = {}
    """Headers of that."""
    kind: Annotated[str, msgspec.Meta(max_length=128)]
    """Content type of the bytes."""
    bytes: Annotated[int, msgspec.Meta(ge=0, le=ANSWER_BYTES)]
    kept_s: Annotated[float, msgspec.Meta(gt=0, le=KEPT_MOST_S)]
    """How long it is kept yet."""


class HandedSaid(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway → gateway: it is on my disk; or why not, and whether another moment may change that."""

    taken: bool
    what: Annotated[str, msgspec.Meta(max_length=1000)] = ""


def decode_handed(data: bytes) -> AnswerHanded:
    """What a gateway hands on; PeerError where it does not decode."""
    return from_msgpack(data, AnswerHanded, "the answer that was handed")


def decode_handed_said(data: bytes) -> HandedSaid:
    """What the other gateway says to it; PeerError where it does not decode."""
    return from_msgpack(data, HandedSaid, "the gateway's word")
