"""Where an answer shall go (paper II-B: a response's destination is the query's choice): kept here, posted, or handed.

An answer that nobody waits for is kept at the gateway that was asked, and may be *posted* to an address outside as well
(a webhook), or *handed* to another terminal of the domain, a gateway, where its owner fetches it.

A gateway stands inside a site's network, so posting for others must not reach what only insiders may: addresses that
are not global are refused, whatever name they hide behind, unless the gateway's operator lists them. Names are judged
by every address they stand for, at the moment of connecting; only `https` leaves for the world.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from daitn.base.errors import InputError
from daitn.base.ids import NodeId

HANDED: Final = "gateway:"
"""Before the slot of a gateway."""

_SLOT: Final = re.compile(r"n[0-9]{1,9}")

URL_CHARS: Final = 2048
NETWORKS: Final = 64
"""Networks that one operator lists."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CARRIERS: Final = tuple(ipaddress.IPv6Network(one) for one in ("64:ff9b::/96", "2002::/16", "2001::/32", "::/96"))
"""IPv6 addresses that stand for IPv4 ones: what is behind them cannot be told."""


class Posted(NamedTuple):
    """Posted to an address."""

    url: str
    scheme: str
    host: str
    port: int


class Handed(NamedTuple):
    """Handed to another gateway of the domain."""

    node: NodeId


def parse_destination(to: str) -> Posted | Handed | None:
    """A destination by the header `x-daitn-answer-to`; None: the answer is fetched. InputError where it is none."""
    if not to:
        return None
    if to.startswith(HANDED):
        if _SLOT.fullmatch(slot := to.removeprefix(HANDED)) is None:
            raise InputError(f"x-daitn-answer-to {to[:80]!r} names no gateway", todo="give gateway:SLOT, as n0007")
        return Handed(NodeId(slot))
    if len(to) > URL_CHARS or not to.isascii() or any(one <= " " or one == "\x7f" for one in to):
        raise InputError(f"x-daitn-answer-to is not up to {URL_CHARS} printable ASCII characters without spaces")
    try:
        parts = urlsplit(to)
        port = parts.port
    except ValueError as error:
        raise InputError(f"x-daitn-answer-to {to[:80]!r} is no address: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise InputError(f"x-daitn-answer-to {to[:80]!r} is no address", todo="give https://HOST/PATH")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InputError("x-daitn-answer-to has a user, a password or a fragment", todo="leave them out")
    return Posted(to, parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks that an operator allows beside the world, such as `10.1.0.0/16` or `127.0.0.1`; InputError naming the
    first that is none."""
    if len(texts) > NETWORKS:
        raise InputError(f"{len(texts)} networks, the limit is {NETWORKS}", todo="list wider ones")
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise InputError(f"{text[:60]!r} is no network: {error}", todo="give 10.1.0.0/16 or one address") from None
    return tuple(found)


def address_fault(text: str, scheme: str, allowed: Sequence[Network]) -> str:
    """Why nothing may be posted to an address; empty where it may."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text[:60]!r} is no address"
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if any(address.version == one.version and address in one for one in allowed):
        return ""
    hidden = any(address.version == one.version and address in one for one in _CARRIERS)
    if not address.is_global or address.is_multicast or hidden:
        return f"{address} is no address of the world outside, and this gateway's operator does not list it"
    if scheme != "https":
        return f"what is posted to {address} would be in the clear; use https"
    return ""
