"""What node and text child say to each other: frames as in `protocol`, many queries under way, each with its number.

The child is a process of the site's own over a folder of the site's own; it is decoded under limits all the same, since
what it computes on comes from outside.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError
from daitn.descriptors.serving import NamedTensor
from daitn.descriptors.texts import TEXT_CHARS, Generation, Given, TextBatch, TextTask
from daitn.node.sandbox.protocol import HEADER, Close, Failed, Ready

Number = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="frame"):
    pass


class LoadTexts(_Frame, frozen=True, kw_only=True, tag="load_texts"):
    """Node → child, first: the folder, as the child finds it, and what its model is to do."""

    folder: str
    task: TextTask
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1


class Speak(_Frame, frozen=True, kw_only=True, tag="speak"):
    """Node → child: continue this, behind what is there of it."""

    number: Number
    asked: Generation
    given: Given
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """So many may be said before anybody has taken one."""


class Onward(_Frame, frozen=True, kw_only=True, tag="onward"):
    """Node → child: so many tokens more may be said of it."""

    number: Number
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Judge(_Frame, frozen=True, kw_only=True, tag="judge"):
    """Node → child: vectors or labels for these."""

    number: Number
    asked: TextBatch


class Enough(_Frame, frozen=True, kw_only=True, tag="enough"):
    """Node → child: nobody wants the rest."""

    number: Number


class Spoken(_Frame, frozen=True, kw_only=True, tag="spoken"):
    """Child → node: a token more, and the text that is certain by it."""

    number: Number
    token: Count
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)]


class SpokenAll(_Frame, frozen=True, kw_only=True, tag="spoken_all"):
    """Child → node: the continuation is whole; `text`: what was held back."""

    number: Number
    reason: Literal["stop", "length"]
    prompt_tokens: Count
    tokens: Count
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)] = ""


class Judged(_Frame, frozen=True, kw_only=True, tag="judged"):
    """Child → node: a row for each text."""

    number: Number
    values: NamedTensor
    labels: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=65_536)] = ()
    prompt_tokens: Count = 0


ToTextChild = LoadTexts | Speak | Onward | Judge | Enough | Close
FromTextChild = Ready | Spoken | SpokenAll | Judged | Failed

_encoder: Final = msgspec.msgpack.Encoder()
_to_child: Final = msgspec.msgpack.Decoder(ToTextChild)
_from_child: Final = msgspec.msgpack.Decoder(FromTextChild)


def encode_text_frame(message: ToTextChild | FromTextChild) -> bytes:
    """Header and body."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body), 0) + body


def decode_text_order(body: bytes | bytearray) -> ToTextChild:
    """The node's frame; PeerError where it does not decode."""
    try:
        message: ToTextChild = _to_child.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"the node's frame does not decode: {error}") from None
    return message


def decode_text_answer(body: bytes | bytearray) -> FromTextChild:
    """The child's frame; PeerError where it does not decode."""
    try:
        message: FromTextChild = _from_child.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"the child's frame does not decode: {str(error)[:200]}") from None
    return message
