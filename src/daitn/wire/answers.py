"""Link gateway–host, data plane: queries and their answers, whole or piece by piece, many on one stream (paper II-B).

Gateway and host keep one stream between them; every frame names its query by a number that the gateway chose. A host
may send as many pieces of a query as the gateway allowed (`TextAsked.pieces`, then `MoreWanted`), so what waits for a
slow client is bounded and no query holds up another. The end of the stream ends all its queries at both ends. Nothing
of a query is logged or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError
from daitn.base.ids import ArtifactId, ModelName
from daitn.descriptors.serving import NamedTensor
from daitn.descriptors.texts import TEXT_CHARS, TOKENS_MOST, Given, TextAsk
from daitn.wire.queries import HostLoad, KeyCall, KeyTold, QueryAnswer, QueryCall, QueryRefused, RefusalReason, Seconds
from daitn.wire.secret_queries import SEALED_BYTES, SealedPart

STREAM_WORD: Final = "answers"
"""First word of the tag of such a stream."""

FRAMES: Final = 4096
"""Frames of one message."""

PIECES_MOST: Final = 1024
"""Pieces of a query that may be allowed at a time."""

QueryNumber = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Pieces = Annotated[int, msgspec.Meta(ge=1, le=PIECES_MOST)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="frame"):
    query: QueryNumber


class TextAsked(_Frame, frozen=True, kw_only=True, tag="asked"):
    """Gateway → host: a query; of its continuation `given` is there already. Answered by pieces and their end, by a
    batch, or by a refusal."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    artifact: ArtifactId
    left_s: Seconds
    """Time left when it was sent."""
    asked: TextAsk
    given: Given = Given()
    pieces: Pieces


class SecretTextAsked(_Frame, frozen=True, kw_only=True, tag="secret"):
    """Gateway → host: a query that only the host can read (`wire.secret_queries.SecretText`). Answered by sealed pieces
    and their end, or by a refusal; what is wrong with what was asked is a sealed piece, too."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    artifact: ArtifactId
    left_s: Seconds
    sealed: SealedPart
    pieces: Pieces


class QueryAsked(_Frame, frozen=True, kw_only=True, tag="query"):
    """Gateway → host: a query of tensors. Answered by `QueryDone`."""

    call: QueryCall | KeyCall


class QueryDone(_Frame, frozen=True, kw_only=True, tag="done"):
    """Host → gateway: the answer to a query of tensors, or why there is none."""

    answer: QueryAnswer | QueryRefused | KeyTold


class MoreWanted(_Frame, frozen=True, kw_only=True, tag="more"):
    """Gateway → host: so many pieces more may be sent."""

    pieces: Pieces


class NoMoreWanted(_Frame, frozen=True, kw_only=True, tag="enough"):
    """Gateway → host: whoever asked is gone; stop. Not answered; pieces may still be under way."""


class TextPiece(_Frame, frozen=True, kw_only=True, tag="piece"):
    """Host → gateway: what comes next."""

    at: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    """Characters of the continuation before it, `given` included: a piece that is not next is the host's fault."""
    tokens: Annotated[tuple[int, ...], msgspec.Meta(max_length=TOKENS_MOST)] = ()
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)] = ""


class SealedPiece(_Frame, frozen=True, kw_only=True, tag="sealed"):
    """Host → gateway: what comes next of a secret query, encrypted for its client."""

    number: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    """Pieces of this query before it, from this host: one that is not next is the host's fault."""
    data: Annotated[bytes, msgspec.Meta(max_length=SEALED_BYTES)]


class TextEnded(_Frame, frozen=True, kw_only=True, tag="ended"):
    """Host → gateway: the continuation is whole."""

    reason: Literal["stop", "length"]
    prompt_tokens: Count = 0
    tokens: Count = 0
    simulated: bool = False
    queued_s: Seconds = 0.0
    """It waited so long."""
    first_s: Seconds = 0.0
    """From its turn to its first piece."""
    engine_s: Seconds = 0.0
    """From its turn to its end, less what it waited for the gateway to take pieces; 0: not told."""
    load: HostLoad = HostLoad()


class BatchAnswered(_Frame, frozen=True, kw_only=True, tag="batch"):
    """Host → gateway: vectors, or a score for each label."""

    values: NamedTensor
    labels: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=65_536)] = ()
    prompt_tokens: Count = 0
    simulated: bool = False
    queued_s: Seconds = 0.0
    first_s: Seconds = 0.0
    load: HostLoad = HostLoad()


class TextRefused(_Frame, frozen=True, kw_only=True, tag="refused"):
    """Host → gateway: no answer, or no more of it, and why; as `QueryRefused`."""

    reason: RefusalReason
    what: Annotated[str, msgspec.Meta(max_length=2000)]
    retry_after_s: Seconds = 0.0
    load: HostLoad = HostLoad()


ToHost = TextAsked | SecretTextAsked | QueryAsked | MoreWanted | NoMoreWanted
OfText = TextPiece | SealedPiece | TextEnded | BatchAnswered | TextRefused
"""What a host says to a query of a text."""

FromHost = OfText | QueryDone

_encoder: Final = msgspec.msgpack.Encoder()
_to_host: Final = msgspec.msgpack.Decoder(Annotated[list[ToHost], msgspec.Meta(max_length=FRAMES)])
_from_host: Final = msgspec.msgpack.Decoder(Annotated[list[FromHost], msgspec.Meta(max_length=FRAMES)])


def encode_frame(frame: ToHost | FromHost) -> bytes:
    """One frame."""
    return _encoder.encode(frame)


def join_frames(frames: Sequence[bytes]) -> bytes:
    """One message of the stream, of encoded frames."""
    return b"\xdd" + len(frames).to_bytes(4, "big") + b"".join(frames)


def decode_to_host(data: bytes) -> list[ToHost]:
    """A gateway's message; PeerError where it does not decode."""
    try:
        found: list[ToHost] = _to_host.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"the gateway's frames do not decode: {str(error)[:200]}") from None
    return found


def decode_from_host(data: bytes) -> list[FromHost]:
    """A host's message; PeerError where it does not decode."""
    try:
        found: list[FromHost] = _from_host.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"the host's frames do not decode: {str(error)[:200]}") from None
    return found
