"""The owner's token as a string: where the domain is, how to know it, and the secret that opens it.

One string is all a client needs: `daitn-owner1.` and base64url of address, domain, the authority's fingerprint and 32
random bytes. A reader needs no database and no HTTP library, so clients use this module too.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import DomainId
from daitn.base.names import check_name

PREFIX: Final = "daitn-owner1."
SECRET_BYTES: Final = 32
TOKEN_CHARS: Final = 1024
"""Longest token read; one has about 170 characters."""

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class OwnerToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """See the module's docstring. `fingerprint`: SHA-256 of the authority's certificate."""

    address: Annotated[str, msgspec.Meta(max_length=262)]
    """`host:port` of the owner's door."""
    domain: DomainId
    fingerprint: Digest
    secret: Digest

    def __str__(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode("ascii").rstrip("=")

    def __repr__(self) -> str:
        return f"OwnerToken({self.address}, {self.domain}, secret not shown)"

    @property
    def host_port(self) -> tuple[str, int]:
        """Host and port to connect to."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def parse_owner_token(text: str) -> OwnerToken:
    """Read a token; InputError, without showing it, where it is not one."""
    wrong = InputError(
        f"this is not an owner's token: one starts with {PREFIX!r}", todo="ask an operator for `daitn token owner`"
    )
    text = text.strip()
    if not text.startswith(PREFIX) or len(text) > TOKEN_CHARS:
        raise wrong
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(data, type=OwnerToken)
        check_name("domain", token.domain)
    except (ValueError, *UNDECODABLE, InputError):
        raise InputError("this owner's token is damaged", todo="copy it again, whole") from None
    if _ADDRESS.fullmatch(token.address) is None or not 0 < token.host_port[1] < 65_536:
        raise InputError(f"this owner's token names the address {token.address[:80]!r}", todo="ask for a new one")
    return token
