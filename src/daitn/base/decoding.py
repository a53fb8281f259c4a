"""Decoding: what may go wrong while bytes become values, in one place, because three of the ways are easily forgotten.

msgspec says most of it with errors of its own; text that is not UTF-8 and nesting without end (also inside fields that
are passed over) come as errors of Python. A decoder that catches the first kind only lets a peer end the thread that
reads.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from daitn.base.errors import DaitnError, PeerError

UNDECODABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec's decoders raise for bytes that are not what was expected."""

T = TypeVar("T")


def from_msgpack(data: bytes | bytearray, kind: type[T], what: str, fault: type[DaitnError] = PeerError) -> T:
    """The `kind` that a peer sent, or a user with InputError as `fault`; that fault names `what` it should have been.

    The caller has bounded the bytes."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except UNDECODABLE as error:
        raise fault(f"{what} does not decode: {str(error)[:200]}") from None
