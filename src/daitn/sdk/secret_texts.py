"""Secret texts: what nobody but the host that answers can read, for a client's program: conversations, vectors, labels.

As `secret_queries`, piece by piece. Where the host that answers is lost in the middle, the client asks again for what
is missing, with what it has, encrypted anew: neither the old host nor a gateway need to be trusted with that.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError, UnavailableError
from daitn.descriptors.texts import TEXTS, Generation, Given, TextBatch, check_text_ask
from daitn.sdk.secret_calls import asked as answered
from daitn.sdk.secret_calls import readers_of
from daitn.serving.sealing import Secret, seal_text
from daitn.serving.tensors import array_of
from daitn.wire.secret_queries import SEALED_BYTES, SecretPiece, SecretText

TRIES: Final = 4
"""Hosts that an answer may be lost at, one after the other, without a piece from any."""

_SIZE_BYTES: Final = 4


def tell_secretly(
    gateway: str,
    key: str,
    model: str,
    asked: Generation,
    *,
    hosts: Collection[str] = (),
    goal: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The pieces of a continuation, asked so that only its host can read what was asked and what it says.

    `asked`: a prompt or a conversation; the other arguments, and the errors, as `secret_queries.ask_secretly`. Not
    hidden: the model, sizes to a multiple of 128 bytes, moments, how many tokens there are, and which host answered.
    """
    if asked.temperature > 0 and not asked.seed:  # so that another host goes on as the first one would have
        asked = msgspec.structs.replace(asked, seed=secrets.randbelow(2**62) + 1)
    check_text_ask(asked)
    given, tries = Given(), 0
    while True:
        found = readers_of(gateway, key, model, hosts, goal)
        query, secret = seal_text(SecretText(asked=asked, given=given), found.hosts, model, found.artifact)
        try:
            for piece in _pieces(found.where + "/secret/text", found.headers, msgspec.msgpack.encode(query), secret):
                if piece.fault:
                    raise InputError(piece.fault)
                if piece.at != len(given.text):
                    raise PeerError(f"a piece begins at {piece.at}, the text so far ends at {len(given.text)}")
                if piece.end:
                    return
                given = Given(tokens=given.tokens + piece.tokens, text=given.text + piece.text)
                tries = 0
                if piece.text:
                    yield piece.text
        except UnavailableError:
            if tries + 1 >= TRIES:
                raise
        tries += 1
        if tries >= TRIES:
            raise UnavailableError(f"the answer broke off at {TRIES} hosts, one after the other")


def embed_secretly(
    gateway: str,
    key: str,
    model: str,
    texts: Collection[str],
    *,
    hosts: Collection[str] = (),
    goal: Mapping[str, str] | None = None,
) -> NDArray[Any]:
    """Vectors of T texts (T × dimensions), asked so that only the host can read texts and vectors. Arguments and errors
    as `secret_queries.ask_secretly`; not hidden besides: how many texts there are, and their tokens together."""
    return _judged(gateway, key, model, TextBatch(task="embed", texts=tuple(texts)), hosts, goal)[0]


def classify_secretly(
    gateway: str,
    key: str,
    model: str,
    texts: Collection[str],
    *,
    hosts: Collection[str] = (),
    goal: Mapping[str, str] | None = None,
) -> tuple[tuple[str, ...], NDArray[Any]]:
    """A model's L labels, and a score for each of T texts (T × L), as `embed_secretly`."""
    values, labels = _judged(gateway, key, model, TextBatch(task="classify", texts=tuple(texts)), hosts, goal)
    return labels, values


def _judged(
    gateway: str, key: str, model: str, asked: TextBatch, hosts: Collection[str], goal: Mapping[str, str] | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Values and labels; asked anew where a host was lost with all of it."""
    if not 1 <= len(asked.texts) <= TEXTS:
        raise InputError(f"{len(asked.texts)} texts, 1 to {TEXTS} are taken at a time")
    check_text_ask(asked)
    for number in range(1, TRIES + 1):
        found = readers_of(gateway, key, model, hosts, goal)
        query, secret = seal_text(SecretText(asked=asked), found.hosts, model, found.artifact)
        try:
            for piece in _pieces(found.where + "/secret/text", found.headers, msgspec.msgpack.encode(query), secret):
                if piece.fault:
                    raise InputError(piece.fault)
                if piece.values is None or piece.values.shape[:1] != (len(asked.texts),):
                    raise PeerError(f"the host's answer is not one of {len(asked.texts)} texts")
                return array_of(piece.values), piece.labels
        except UnavailableError:
            if number == TRIES:
                raise
    raise UnavailableError(f"the answer was lost at {TRIES} hosts, one after the other")


def _pieces(url: str, headers: Mapping[str, str], body: bytes, secret: Secret) -> Iterator[SecretPiece]:
    """Pieces until the stream ends, whole or not."""
    with answered(url, headers, body) as stream:
        number = 0
        while len(size := stream.read(_SIZE_BYTES)) == _SIZE_BYTES:
            nbytes = int.from_bytes(size, "big")
            if nbytes > SEALED_BYTES:
                raise PeerError(f"a piece has {nbytes} bytes, {SEALED_BYTES} are read")
            data = stream.read(nbytes)
            if len(data) < nbytes:
                return
            yield secret.open_piece(data, number)
            number += 1
