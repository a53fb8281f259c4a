"""Link OAM, telemetry: what a node counted since it began, for the overseer that collects it (paper, II-A, OAM).

Carried as the latest value of one topic, which may be dropped and is repeated; the counts only grow, so a lost one
costs nothing. Names that the reader does not know are a later version's and are passed over by `oam.collection`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError
from daitn.base.metrics import Count

TOPIC: Final = "counters"

SERIES_MOST: Final = 512
"""Series in one message: four times what this version declares, 25 kB, within one telemetry value."""

COUNTED_BYTES: Final = 64 * 1024
"""Largest message: what one telemetry value may have."""


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """Node or router → overseer: all counters that are not zero, of the process that began at `since_unix_s`.

    Nobody answers.
    """

    since_unix_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=SERIES_MOST)]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Counted)


def encode_counted(message: Counted) -> bytes:
    """Bytes of the message."""
    return _encoder.encode(message)


def decode_counted(data: bytes) -> Counted:
    """The message; PeerError where it does not decode. O(len(data)), which is bounded first."""
    if len(data) > COUNTED_BYTES:
        raise PeerError(f"counters of {len(data)} bytes, the limit is {COUNTED_BYTES}")
    try:
        return _decoder.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"counters do not decode: {error}") from None
