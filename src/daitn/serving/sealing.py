"""Sealing: a query encrypted by its client for the hosts that may answer it, and the answer encrypted back.

The tensors are encrypted once, under a fresh content key (ChaCha20-Poly1305, RFC 8439); that key is encrypted for each
host by HPKE (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305). So a query may be sent to any of these hosts, or to a
second one when the first is lost, without its client. Each capsule is bound to host, model, package and the encrypted
tensors: none can be joined to another query or sent to another model. Answers are encrypted under a second key of the
same secret, with a random nonce, since several hosts may answer; who knows neither key can neither read nor make one.
A text is sealed the same way, and its continuation piece by piece: each is bound to its number, so none can be left out
or moved, and filled up to a multiple of `FILL_BYTES`, so that its size tells little of its words. Vectors and labels of
texts come in one piece.

What is not hidden: model, rows, sizes, moments, and which host answered.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import ArtifactId, NodeId
from daitn.descriptors.texts import Generation, TextBatch, task_of
from daitn.wire.secret_queries import (
    SealedPart,
    SecretContent,
    SecretOutcome,
    SecretPiece,
    SecretQuery,
    SecretText,
    SecretTextQuery,
    Tensors,
    decode_content,
    decode_outcome,
    decode_piece,
    decode_text,
)

_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_CAPSULE: Final = "daitn 2026 secret query capsule"
_QUERY: Final = "daitn 2026 secret query tensors"
_ANSWER: Final = "daitn 2026 secret query answer"
_PIECE: Final = "daitn 2026 secret query piece"

FILL_BYTES: Final = 128
"""A piece is mostly one word: all of those are of one size."""

_SIZE_BYTES: Final = 4

NONCE_BYTES: Final = 12
_NO_NONCE: Final = bytes(NONCE_BYTES)
"""The key to a query's tensors is used once."""


class Secret:
    """What a client keeps of a query until it is answered."""

    def __init__(self, key: bytes, model: str, artifact: ArtifactId) -> None:
        self.key, self.model, self.artifact = key, model, artifact
        self._bound = _bound(model, artifact)

    def open(self, sealed: bytes) -> SecretOutcome:
        """The answer; PeerError where no host that the query was encrypted for has made it for this query."""
        try:
            data = _answer_cipher(self.key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound)
        except (InvalidTag, ValueError):
            raise PeerError("the answer was not made by a host that this query was encrypted for") from None
        return decode_outcome(data)

    def open_piece(self, sealed: bytes, number: int) -> SecretPiece:
        """A piece of a continuation, the `number`-th that its host made; PeerError as `open`."""
        cipher = ChaCha20Poly1305(_derived(_PIECE, self.key))
        try:
            data = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _numbered(self._bound, number))
        except (InvalidTag, ValueError):
            raise PeerError(
                "a piece was not made by a host that this query was encrypted for, or not in turn"
            ) from None
        size = int.from_bytes(data[:_SIZE_BYTES], "big")
        return decode_piece(data[_SIZE_BYTES : _SIZE_BYTES + size])


def seal_query(
    inputs: Tensors, rows: int, hosts: Mapping[NodeId, bytes], model: str, artifact: ArtifactId
) -> tuple[SecretQuery, Secret]:
    """A query that these hosts can read (by their keys of 32 bytes), and what its answer is opened with. Cost: one
    encryption of the tensors, and 0.1 ms for each host."""
    key, capsules, data = _seal(SecretContent(inputs=inputs), hosts, model, artifact)
    return SecretQuery(artifact=artifact, rows=rows, capsules=capsules, data=data), Secret(key, model, artifact)


def seal_text(
    text: SecretText, hosts: Mapping[NodeId, bytes], model: str, artifact: ArtifactId
) -> tuple[SecretTextQuery, Secret]:
    """A text to be continued, or some that vectors or labels are wanted of, which these hosts can read, and what the
    pieces of the answer are opened with. As `seal_query`."""
    key, capsules, data = _seal(text, hosts, model, artifact)
    query = SecretTextQuery(
        artifact=artifact,
        task=task_of(text.asked),
        tokens_most=text.asked.tokens_most if isinstance(text.asked, Generation) else 1,
        texts=len(text.asked.texts) if isinstance(text.asked, TextBatch) else 1,
        capsules=capsules,
        data=data,
    )
    return query, Secret(key, model, artifact)


def _seal(
    content: SecretContent | SecretText, hosts: Mapping[NodeId, bytes], model: str, artifact: ArtifactId
) -> tuple[bytes, dict[NodeId, bytes], bytes]:
    """A fresh content key, that key for each host, and the content under it."""
    key = secrets.token_bytes(32)
    data = ChaCha20Poly1305(_derived(_QUERY, key)).encrypt(
        _NO_NONCE, msgspec.msgpack.encode(content), _bound(model, artifact)
    )
    digest = blake3(data).digest()
    try:
        capsules = {
            host: _SUITE.encrypt(key, X25519PublicKey.from_public_bytes(public), _info(host, model, artifact, digest))
            for host, public in hosts.items()
        }
    except ValueError:
        raise PeerError("a host's key is none that anything can be encrypted with") from None
    return key, capsules, data


class Opened:
    """A query that was opened at its host."""

    def __init__(self, key: bytes, content: SecretContent, bound: bytes) -> None:
        self.inputs = content.inputs
        self._key, self._bound = key, bound

    def seal(self, outcome: SecretOutcome) -> bytes:
        """The answer, for whoever asked and nobody else."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + _answer_cipher(self._key).encrypt(nonce, msgspec.msgpack.encode(outcome), self._bound)


class OpenedText:
    """A text that was opened at its host, and the key to what is said of it."""

    def __init__(self, key: bytes, content: SecretText, bound: bytes) -> None:
        self.asked, self.given = content.asked, content.given
        self._cipher, self._bound = ChaCha20Poly1305(_derived(_PIECE, key)), bound
        self.pieces = 0
        """Sealed so far."""

    def seal(self, piece: SecretPiece) -> bytes:
        """The next piece, for whoever asked and nobody else."""
        data, nonce = msgspec.msgpack.encode(piece), secrets.token_bytes(NONCE_BYTES)
        whole = len(data).to_bytes(_SIZE_BYTES, "big") + data
        whole += bytes(-len(whole) % FILL_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, whole, _numbered(self._bound, self.pieces))
        self.pieces += 1
        return sealed


class HostSecret:
    """A host's private key: made here, kept in memory only, so that nothing recorded on the way can be read once the
    host has ended."""

    def __init__(self, host: NodeId) -> None:
        self._host, self._private = host, X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """What queries are encrypted with: 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def open(self, part: SealedPart, model: str, artifact: ArtifactId) -> Opened:
        """The query; InputError where it was not encrypted for this key, host, model and package, or was changed."""
        key, data = self._open(part, model, artifact)
        return Opened(key, decode_content(data), _bound(model, artifact))

    def open_text(self, part: SealedPart, model: str, artifact: ArtifactId) -> OpenedText:
        """A text to be continued; InputError as `open`."""
        key, data = self._open(part, model, artifact)
        return OpenedText(key, decode_text(data), _bound(model, artifact))

    def _open(self, part: SealedPart, model: str, artifact: ArtifactId) -> tuple[bytes, bytes]:
        try:
            key = _SUITE.decrypt(
                part.capsule, self._private, _info(self._host, model, artifact, blake3(part.data).digest())
            )
            cipher = ChaCha20Poly1305(_derived(_QUERY, key))
            return key, cipher.decrypt(_NO_NONCE, part.data, _bound(model, artifact))
        except (InvalidTag, ValueError):
            raise InputError("it was not encrypted for this host as it runs now", todo="fetch its key again") from None


def _answer_cipher(key: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derived(_ANSWER, key))


def _derived(purpose: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=purpose).digest()


def _bound(model: str, artifact: ArtifactId) -> bytes:
    return msgspec.msgpack.encode((model, artifact))


def _numbered(bound: bytes, number: int) -> bytes:
    return bound + number.to_bytes(8, "big")


def _info(host: NodeId, model: str, artifact: ArtifactId, digest: bytes) -> bytes:
    return msgspec.msgpack.encode((_CAPSULE, host, model, artifact, digest))
