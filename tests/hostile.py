"""Hostile bytes for decoders: noise, nearly right bytes, right forms with wrong values, and what is known to hurt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from hypothesis import strategies as st

from daitn.base.errors import BugError, DaitnError

Form = Literal["msgpack", "json", "text", "bytes"]


class Case(NamedTuple):
    """One decoder: its name, how it is called with bytes (and a folder to put files in), and bytes that are right."""

    name: str
    call: Callable[[bytes, Path], Any]
    seeds: Sequence[bytes]
    form: Form = "bytes"


EXTREMES = (
    b"",
    b"\x00",
    b"\xff\xfe\xff",
    b"null",
    b"0",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\x91" * 100_000,
    b"\x81\xa1a" * 50_000,
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xa2\xff\xfe",
    b'"\xff\xfe"',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b"9" * 5000,
    b"-1e999",
    b"a = " + b"[" * 10_000,
    b"a" * 70_000,
    b"PK\x03\x04" + bytes(60),
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    b"\x1f\x8b\x08" + bytes(30),
    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
)
"""Bytes that have ended decoders: empty, nested without end, huge counts, text that is none, archives, numbers."""

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def hostile_bytes(case: Case) -> st.SearchStrategy[bytes]:
    """Bytes for one decoder."""
    ways: list[st.SearchStrategy[bytes]] = [st.binary(max_size=200)]
    if case.seeds:
        ways.append(st.sampled_from(list(case.seeds)).flatmap(_damaged))
        if case.form in ("msgpack", "json"):
            ways += [st.sampled_from(list(case.seeds)).flatmap(lambda seed: _replaced(seed, case.form))] * 2
    return st.one_of(ways)


def survives(call: Callable[[], Any]) -> None:
    """The call returns, or says in an error who must act and what is wrong; it is never our bug."""
    with suppress(DaitnError):
        try:
            call()
        except BugError as bug:
            raise AssertionError(f"hostile bytes became our bug: {bug}") from bug


def _damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    flips = st.lists(st.tuples(st.integers(0, max(0, len(seed) - 1)), st.integers(0, 255)), min_size=1, max_size=4)
    cut = st.just(len(seed)) | st.integers(0, len(seed))
    more = st.just(b"") | st.binary(max_size=20)

    def make(parts: tuple[list[tuple[int, int]], int, bytes]) -> bytes:
        altered = bytearray(seed)
        for place, value in parts[0]:
            if altered:
                altered[place] = value
        return bytes(altered[: parts[1]]) + parts[2]

    return st.tuples(flips, cut, more).map(make)


def _replaced(seed: bytes, form: Form) -> st.SearchStrategy[bytes]:
    """One value somewhere inside replaced by another, the form kept."""
    value = msgspec.msgpack.decode(seed) if form == "msgpack" else json.loads(seed)
    places = list(_places(value))

    def make(parts: tuple[tuple[Any, ...], Any]) -> bytes:
        return _encoded(_with(value, parts[0], parts[1]), form)

    return st.tuples(st.sampled_from(places), ANYTHING).map(make)


def _encoded(value: Any, form: Form) -> bytes:
    if form == "msgpack":
        return msgspec.msgpack.encode(value)
    return json.dumps(value, default=lambda blob: bytes(blob).hex()).encode("utf-8", "surrogatepass")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a value, itself first."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += _places(one, (*path, key))
    return found


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = _with(value[path[0]], path[1:], new)
    return copied
