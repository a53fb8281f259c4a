"""Which lines of the library's log say that a router refused a link, and why."""

from __future__ import annotations

import pytest

from daitn.node.fabric.refused_links import refusal_in
from daitn.node.fabric.router import telling_name

UNICAST = "2026-11-30T15:22:30Z  WARN acc-0 ThreadId(05) zenoh_link_tls::unicast: "


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (UNICAST + "invalid peer certificate: BadSignature. Hint: increase the system open file limit.", "wrong"),
        (UNICAST + "invalid peer certificate: UnknownIssuer.", "wrong"),
        (UNICAST + "invalid peer certificate: certificate expired: verification time 2 (UNIX)", "expired"),
        (
            "WARN zenoh_link_commons::tls::expiration: Closing TLS link a => b : remote certificate chain expired",
            "expired",
        ),
        (UNICAST + "peer sent no certificates. Hint: increase the system open file limit.", "none"),
        (UNICAST + "received corrupt message of type InvalidContentType.", "other"),
        (UNICAST + "tls handshake eof.", "other"),
        (UNICAST + "Too many open files (os error 24). Hint: increase the system open file limit.", None),
        ("ERROR zenoh::net::runtime: something else", None),
        ("", None),
    ],
)
def test_line_of_the_log_says_why_a_link_was_refused(line: str, why: str | None) -> None:
    assert refusal_in(line) == why


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "Router.example.org"])
def test_router_tells_under_a_name_that_no_slot_has(host: str) -> None:
    assert telling_name(host, 7447).startswith("router-")
    assert telling_name(host, 7447).endswith("-7447")
