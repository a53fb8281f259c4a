"""Tokens: `<body>.<signature>`, both in URL-safe base64, signed for one purpose by the control centre (Ed25519)."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daitn.artifacts.signatures import sign_in_domain, verify_in_domain
from daitn.base.errors import PeerError

TOKEN_CHARS: Final = 2048
"""Longest token read; ours have about 450 characters."""


def write_token(purpose: str, body: bytes, key: Ed25519PrivateKey) -> str:
    """The token of some bytes, signed for a purpose."""
    return f"{_to_text(body)}.{_to_text(sign_in_domain(purpose, body, key))}"


def read_token(purpose: str, token: str, key: Ed25519PublicKey) -> bytes | None:
    """The bytes of a token; None where `key` has not signed them for this purpose. PeerError where it is no token."""
    if len(token) > TOKEN_CHARS:
        raise PeerError(f"a token has {len(token)} characters, the limit is {TOKEN_CHARS}")
    body, dot, signature = token.partition(".")
    if not dot:
        raise PeerError("a token without signature")
    data = _to_bytes(body)
    return data if verify_in_domain(purpose, data, _to_bytes(signature), key) else None


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    """Strict: one text per byte string, so that a token cannot be altered and still pass."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise PeerError("a token that is not URL-safe base64") from None
    if _to_text(data) != text:
        raise PeerError("a token that is not in canonical base64")
    return data
