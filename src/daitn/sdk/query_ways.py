"""Ways of queries: a gateway tells whoever asked a query how its hosts were chosen."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.descriptors.query_way import Way

WAY_BYTES: Final = 1 << 20
"""Largest answer read: four steps with 64 hosts each are 60 kB."""

ANSWER_S: Final = 10.0

__all__ = ["Way", "fetch_way"]


def fetch_way(gateway: str, key: str, query: str) -> Way:
    """The way of one of the last queries of a gateway. `key`: the one that asked, or a file that holds it.

    InputError where the gateway remembers no such query of this key, PolicyError where the key opens nothing there,
    UnavailableError where nobody answers at `gateway` (`http://HOST:PORT`).
    """
    scheme = urllib.parse.urlsplit(gateway).scheme
    if scheme not in ("http", "https"):
        raise InputError(f"{gateway[:80]!r} is no address of a gateway", todo="give http://HOST:PORT")
    if os.path.exists(key):
        key = Path(key).read_text().strip()
    url = f"{gateway.rstrip('/')}/v2/queries/{urllib.parse.quote(query, safe='')}"
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            body = answer.read(WAY_BYTES)
    except urllib.error.HTTPError as error:
        what = error.read(400).decode("utf-8", "replace")
        if error.code == 401:
            raise PolicyError(f"the gateway refuses the key: {what}") from None
        raise InputError(f"the gateway says {error.code}: {what}") from None
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no gateway answers at {gateway[:80]}: {error}", todo="look at its address") from None
    return decode_way(body)


def decode_way(data: bytes) -> Way:
    """A way as a gateway tells it; PeerError where it does not decode."""
    try:
        return msgspec.json.decode(data, type=Way)
    except UNDECODABLE as error:
        raise PeerError(f"the gateway's answer does not decode: {str(error)[:200]}") from None
