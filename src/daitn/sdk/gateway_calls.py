"""Calls of a client's program to a gateway's door, where there is more to say than a query."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError

ANSWER_BYTES: Final = 64 << 20
CALL_S: Final = 30.0


def call_gateway(
    gateway: str, key: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None
) -> tuple[int, Any]:
    """Status and decoded JSON of what a gateway says. PolicyError for a key that opens nothing, UnavailableError where
    nobody answers or it says to come back, InputError for any other refusal, PeerError for what does not decode."""
    if urllib.parse.urlsplit(gateway).scheme not in ("http", "https"):
        raise InputError(f"{gateway[:80]!r} is no address of a gateway", todo="give http://HOST:PORT")
    named = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    try:
        request = urllib.request.Request(gateway.rstrip("/") + path, body, named, method=method)
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            status, said = answer.status, answer.read(ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        what = error.read(2000).decode("utf-8", "replace")
        if error.code == 401:
            raise PolicyError(f"the gateway refuses the key: {what}") from None
        if error.code in (429, 503):
            raise UnavailableError(f"the gateway says {error.code}: {what}") from None
        raise InputError(f"the gateway says {error.code}: {what}") from None
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no gateway answers at {gateway[:80]}: {error}", todo="look at its address") from None
    return status, decode_said(said)


def decode_said(data: bytes) -> Any:
    """JSON that a gateway said; PeerError where it does not decode."""
    try:
        return msgspec.json.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"the gateway's answer does not decode: {str(error)[:200]}") from None
