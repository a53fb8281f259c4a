"""Link client–gateway–host, data plane: queries that only the chosen host can read (paper II-B: a query's privacy).

A client asks a gateway which hosts may answer, and gets of each a key that the host has signed; it encrypts its tensors
once, and the key to them for each of these hosts. Gateways see model, rows, sizes and goal, and no tensor; so do
routers. The host's answer is encrypted back. What stands in encrypted bytes is decoded under the same limits as what
does not (`serving.sealing` has the cryptography).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE, from_msgpack
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.descriptors.pipelines import STEPS, Step
from daitn.descriptors.serving import NamedTensor, TensorSpec
from daitn.descriptors.texts import TEXT_CHARS, TEXTS, TOKENS_MOST, Given, TextAsk, TextTask

SEALED_BYTES: Final = limits.QUERY_BYTES
"""Encrypted tensors with their names and shapes: what is carried of tensors that are not."""

RECIPIENTS: Final = 64
"""Hosts that one query is encrypted for."""

PART: Final = "x-daitn-part"
"""Header of a client that joins the answers of a combined model itself: which of its models is asked."""

Capsule = Annotated[bytes, msgspec.Meta(min_length=80, max_length=80)]
"""A content key of 32 bytes for one host, by HPKE: 32 bytes encapsulated, 32 encrypted, 16 of authentication."""

Sealed = Annotated[bytes, msgspec.Meta(max_length=SEALED_BYTES)]
Tensors = Annotated[tuple[NamedTensor, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)]


class KeyStatement(msgspec.Struct, frozen=True, kw_only=True):
    """Host → whoever asks: queries may be encrypted for me with this key. Signed with the key of its certificate, which
    the domain's authority issued for its slot; a receiver that cannot verify it does not use it."""

    host: NodeId
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """X25519, made when the host started, kept nowhere."""
    certificate: Annotated[str, msgspec.Meta(max_length=8192)]
    """PEM."""
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]
    """ECDSA over host and key."""


class PartTold(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway → client: what whoever joins answers must know of one model of a combined one."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """As a verification unit measured it, in the goal's field; None: nobody did."""
    temperature: Annotated[float, msgspec.Meta(gt=0, le=64)] = 1.0
    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """As `ServedModel` has them."""


class CombinedTold(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway → client: how a model is combined of others. Each is asked as a part (`PART`), with keys of its own."""

    step: Step
    parts: Annotated[tuple[PartTold, ...], msgspec.Meta(max_length=STEPS)]
    """Those that there are now, each once."""


class KeysTold(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway → client: hosts that a query of this model and goal may be encrypted for; or, of a combined model, what
    it is combined of."""

    artifact: ArtifactId
    """Empty for a combined model."""
    authority: Annotated[str, msgspec.Meta(max_length=8192)]
    """The domain's certificate (PEM), to be compared with the fingerprint that the client's key carries."""
    statements: Annotated[tuple[KeyStatement, ...], msgspec.Meta(max_length=RECIPIENTS)] = ()
    combined: CombinedTold | None = None


class SecretQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Client → gateway: a query of some rows that these hosts can read. Goal, session and key are headers."""

    artifact: ArtifactId
    rows: Annotated[int, msgspec.Meta(ge=1, le=limits.QUERY_ROWS)]
    """What the choice of a host counts with; the host counts for itself."""
    capsules: Annotated[dict[NodeId, Capsule], msgspec.Meta(min_length=1, max_length=RECIPIENTS)]
    data: Sealed
    """`SecretContent`, encrypted."""

    def part_for(self, host: NodeId) -> SealedPart:
        """What one of its hosts needs of it."""
        return SealedPart(capsule=self.capsules[host], data=self.data)


class SealedPart(msgspec.Struct, frozen=True, kw_only=True):
    """Of a query: what one host needs of `SecretQuery`."""

    capsule: Capsule
    data: Sealed


class SecretContent(msgspec.Struct, frozen=True, kw_only=True):
    """What a secret query asks."""

    inputs: Tensors


class SecretOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What its host answers: outputs, or what is wrong with the inputs, which is nobody else's to know either."""

    outputs: Tensors = ()
    fault: Annotated[str, msgspec.Meta(max_length=4000)] = ""


class SecretTextQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Client → gateway: a text to be continued, or some that vectors or labels are wanted of, which these hosts can
    read. Goal and key are headers."""

    artifact: ArtifactId
    task: TextTask = TextTask.GENERATE
    tokens_most: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MOST)] = 1
    """What the choice of a host and its price count with, for a continuation."""
    texts: Annotated[int, msgspec.Meta(ge=1, le=TEXTS)] = 1
    """The same for vectors and labels."""
    capsules: Annotated[dict[NodeId, Capsule], msgspec.Meta(min_length=1, max_length=RECIPIENTS)]
    data: Sealed
    """`SecretText`, encrypted."""

    def part_for(self, host: NodeId) -> SealedPart:
        """What one of its hosts needs of it."""
        return SealedPart(capsule=self.capsules[host], data=self.data)


class SecretText(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and what of a continuation the client has already."""

    asked: TextAsk
    given: Given = Given()


class SecretPiece(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of a text: what comes next of its continuation, or its end; all vectors or scores at once; or
    what is wrong with what was asked, which is nobody else's to know either."""

    at: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    """Characters of the continuation before it, `given` included."""
    tokens: Annotated[tuple[int, ...], msgspec.Meta(max_length=TOKENS_MOST)] = ()
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)] = ""
    end: Literal["", "stop", "length"] = ""
    values: NamedTensor | None = None
    """Vectors of all texts, or a score for each label; None: a continuation was asked for."""
    labels: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=65_536)] = ()
    fault: Annotated[str, msgspec.Meta(max_length=4000)] = ""


def decode_secret_text_query(data: bytes) -> SecretTextQuery:
    """A client's query of a text; InputError where it does not decode."""
    return from_msgpack(data, SecretTextQuery, "the secret query", InputError)


def decode_text(data: bytes) -> SecretText:
    """What was encrypted for a host; InputError where it does not decode. Its words tell nothing of what it holds."""
    try:
        return msgspec.msgpack.decode(data, type=SecretText)
    except UNDECODABLE:
        raise InputError("what was encrypted is no query of a text") from None


def decode_piece(data: bytes) -> SecretPiece:
    """What a host encrypted for a client; PeerError where it does not decode."""
    return from_msgpack(data, SecretPiece, "the host's piece")


def decode_secret_query(data: bytes) -> SecretQuery:
    """A client's query; InputError where it does not decode."""
    return from_msgpack(data, SecretQuery, "the secret query", InputError)


def decode_keys(data: bytes) -> KeysTold:
    """A gateway's answer; PeerError where it does not decode."""
    return from_msgpack(data, KeysTold, "the gateway's answer about keys")


def decode_content(data: bytes) -> SecretContent:
    """What was encrypted for a host; InputError where it does not decode. Its words tell nothing of what it holds."""
    try:
        return msgspec.msgpack.decode(data, type=SecretContent)
    except UNDECODABLE:
        raise InputError("what was encrypted is no query") from None


def decode_outcome(data: bytes) -> SecretOutcome:
    """What a host encrypted for a client; PeerError where it does not decode."""
    return from_msgpack(data, SecretOutcome, "the host's answer")
