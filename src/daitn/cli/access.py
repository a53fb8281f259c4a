"""How a node reaches the network and what it charges, as people write it: kind, metered, limit, windows, tariff."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import parse_bytes
from daitn.descriptors.access import METERED, RATE_LEAST_BYTES_PER_S, Access, AccessKind, Window, check_access
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.serving import GRAPH_ENGINES, EngineKind
from daitn.descriptors.tariff import Tariff
from daitn.node.node_config import GatewayConfig
from daitn.sdk.requests import parse_duration

FIGURE_MOST: Final = 1e8
"""Largest price and power that a tariff may state."""

_WINDOW: Final = re.compile(r"\s*(\S+)\s+for\s+(.+?)(?:\s+every\s+(.+?))?\s*")


def parse_window(text: str) -> Window:
    """`2026-12-01T08:00Z for 10 min every 95 min`; InputError where it is not of that form."""
    found = _WINDOW.fullmatch(text)
    try:
        start = datetime.datetime.fromisoformat(found[1]) if found is not None else None
    except ValueError:
        start = None
    if found is None or start is None or start.tzinfo is None:
        raise InputError(
            f"{text[:80]!r} is not a window",
            todo="write a moment with its zone, a length, perhaps a period: 2026-12-01T08:00Z for 10 min every 95 min",
        )
    every_s = parse_duration(found[3]) if found[3] else None
    seconds = parse_duration(found[2])
    try:
        begin_s = start.timestamp()
        return msgspec.convert({"start_unix_s": begin_s, "seconds": seconds, "every_s": every_s}, type=Window)
    except (*UNDECODABLE, OverflowError) as error:
        raise InputError(f"the window {text[:80]!r} is out of range: {error}", todo="correct it") from None


def parse_access(kind: str, metered: bool | None, rate: str, windows: Sequence[str]) -> Access:
    """The access that options of `daitn join` describe; InputError with what is wrong."""
    known = [one.value for one in AccessKind]
    if kind not in known:
        raise InputError(f"there is no access {kind!r}", todo=f"kinds are {', '.join(known)}")
    which = AccessKind(kind)
    bytes_per_s = float(parse_bytes(rate)) if rate else 0.0
    if 0 < bytes_per_s < RATE_LEAST_BYTES_PER_S:
        raise InputError(
            f"{rate!r} a second is less than transfers need to go on",
            todo=f"give at least {RATE_LEAST_BYTES_PER_S / 1000:.0f}kB",
        )
    access = Access(
        kind=which,
        metered=which in METERED if metered is None else metered,
        bytes_per_s=bytes_per_s,
        windows=tuple(parse_window(one) for one in windows),
    )
    check_access(access)
    return access


def tariff_of(price_per_hour: float | None, price_per_gb: float | None, watts: float | None) -> Tariff:
    """The tariff that options of `daitn join` describe; InputError with what is wrong."""
    given = {"--price-per-hour": price_per_hour, "--price-per-gb": price_per_gb, "--watts": watts}
    faults = [
        f"{option} {value:g}" for option, value in given.items() if value is not None and not 0 <= value <= FIGURE_MOST
    ]
    if faults:
        raise InputError(f"no tariff: {', '.join(faults)}", todo=f"give figures from 0 to {FIGURE_MOST:g}")
    if price_per_gb is not None and price_per_hour is None:
        raise InputError("a price per GB without one per hour", todo="give --price-per-hour, 0 if hours are free")
    return Tariff(price_per_hour=price_per_hour, price_per_gigabyte=price_per_gb, watts=watts)


def parse_listen(text: str) -> GatewayConfig:
    """`HOST:PORT` where a gateway listens; InputError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InputError(f"--listen {text[:80]!r} is not HOST:PORT", todo="write for example 127.0.0.1:8600")
    return GatewayConfig(host=host.strip("[]"), port=int(port))


def parse_engine(text: str) -> EngineKind:
    """An engine by its name; InputError naming those there are."""
    if text not in GRAPH_ENGINES:
        raise InputError(f"--engine {text[:40]!r} is no engine", todo=f"write one of {', '.join(GRAPH_ENGINES)}")
    return EngineKind(text)


def host_policy(
    owners: Sequence[str] | None, signers: Sequence[str] | None, licences: Sequence[str] | None, largest: str
) -> HostPolicy:
    """Whose models a host serves, as options of `daitn join` say it; InputError with what is wrong."""
    said = {"owners": owners, "signers": [one.lower() for one in signers or ()], "licences": licences}
    given: dict[str, object] = {name: list(values) for name, values in said.items() if values}
    for key in given.get("signers", ()):  # type: ignore[attr-defined]  # a list of words
        if re.fullmatch(r"[0-9a-f]{64}", key) is None:
            raise InputError(f"{key[:80]!r} is no key", todo="give the 64 hexadecimal digits of a public key")
    if largest:
        given["model_bytes_most"] = parse_bytes(largest)
    try:
        return msgspec.convert(given, type=HostPolicy)
    except UNDECODABLE as error:
        raise InputError(f"this is no policy of a host: {error}", todo="correct it") from None
