"""Link terminal–tools, data plane: asking a holder for a manifest, and opening an exchange between two visits.

A manifest may be larger than one answer, so it comes in pages; its digest is the artifact's id, checked by who asks.
Chunks are the fabric's; this is what names them. An exchange is a stream of the fabric: its first message each way is
here, what follows are parts of tensors, opaque to both nodes (docs/decisions/0015).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError
from daitn.base.ids import ArtifactId, VisitId

PAGE_BYTES: Final = limits.CHUNK_BYTES // 2
"""Bytes of a manifest in one answer; half of what an answer may be, so that its frame fits."""


class ManifestWanted(msgspec.Struct, frozen=True, kw_only=True, tag="manifest_wanted"):
    """Receiver → holder: the manifest of `artifact` from byte `offset` on. A holder that must not or cannot gives the
    reason as the call's error."""

    artifact: ArtifactId
    grant: str
    offset: Annotated[int, msgspec.Meta(ge=0, le=limits.MANIFEST_BYTES)] = 0


class ManifestPage(msgspec.Struct, frozen=True, kw_only=True, tag="manifest_page"):
    """Holder → receiver: bytes from the offset asked for, and how many there are in all."""

    total_bytes: Annotated[int, msgspec.Meta(ge=1, le=limits.MANIFEST_BYTES)]
    data: bytes


class ExchangeHello(msgspec.Struct, frozen=True, kw_only=True, tag="exchange_hello"):
    """Opener → acceptor, and back: the child of `visit`, which is mine, is to exchange tensors with that of `partner`,
    which is yours. One that cannot comply answers `ExchangeRefused`."""

    visit: Annotated[VisitId, msgspec.Meta(max_length=limits.NAME_CHARS)]
    partner: Annotated[VisitId, msgspec.Meta(max_length=limits.NAME_CHARS)]
    grant: str


class ExchangeRefused(msgspec.Struct, frozen=True, kw_only=True, tag="exchange_refused"):
    """Acceptor → opener: no exchange, and why. `unavailable`: not yet; the opener tries again for a while."""

    blame: Annotated[str, msgspec.Meta(max_length=32)]
    what: Annotated[str, msgspec.Meta(max_length=1024)]


_encoder: Final = msgspec.msgpack.Encoder()
_wanted: Final = msgspec.msgpack.Decoder(ManifestWanted)
_page: Final = msgspec.msgpack.Decoder(ManifestPage)


_hello: Final = msgspec.msgpack.Decoder(ExchangeHello | ExchangeRefused)


def encode_data_plane(message: ManifestWanted | ManifestPage | ExchangeHello | ExchangeRefused) -> bytes:
    """Bytes of a message of this link."""
    return _encoder.encode(message)


def decode_wanted(data: bytes) -> ManifestWanted:
    """A request; PeerError where it does not decode."""
    try:
        return _wanted.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"manifest request does not decode: {error}") from None


def decode_page(data: bytes) -> ManifestPage:
    """An answer; PeerError where it does not decode."""
    try:
        return _page.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"manifest page does not decode: {error}") from None


def decode_hello(data: bytes | bytearray) -> ExchangeHello | ExchangeRefused:
    """The first message of an exchange; PeerError where it does not decode."""
    try:
        hello: ExchangeHello | ExchangeRefused = _hello.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"opening of an exchange does not decode: {error}") from None
    return hello
