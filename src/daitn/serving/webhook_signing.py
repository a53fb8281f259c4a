"""Signatures of posted answers, as the Standard Webhooks specification has them: gateways sign, receivers check.

Signed is `id.timestamp.body` by Ed25519; the header says `v1a,BASE64`, several with spaces between. Pure.
"""

from __future__ import annotations

import base64
import time
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daitn.base.errors import InputError

CLOCK_S: Final = 300.0
"""How far a post's moment may be from now: what is older may be a repetition by somebody else."""


def sign_webhook(query: str, timestamp: int, body: bytes, key: Ed25519PrivateKey) -> str:
    """The header `webhook-signature` of a post."""
    return "v1a," + base64.b64encode(key.sign(_signed(query, timestamp, body))).decode()


def verify_webhook(
    query: str, timestamp: str, signature: str, body: bytes, key: str, now_s: float | None = None
) -> bool:
    """Whether a gateway with this public key (64 hex digits, by `GET /v2/later/key`) posted this body within the last
    five minutes. The first three are the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, as they
    came. InputError where `key` is none. A receiver does well to remember ids: an answer may be posted twice."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError:
        raise InputError(f"{key[:80]!r} is no public key", todo="take it from GET /v2/later/key") from None
    now_s = time.time() if now_s is None else now_s
    if not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > 12:
        return False
    if abs(now_s - int(timestamp)) > CLOCK_S:
        return False
    for one in signature.split(" ")[:8]:
        kind, _, text = one.partition(",")
        if kind != "v1a":
            continue
        try:
            public.verify(base64.b64decode(text, validate=True), _signed(query, int(timestamp), body))
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


def _signed(query: str, timestamp: int, body: bytes) -> bytes:
    return b".".join((query.encode(), str(timestamp).encode(), body))
