"""Statements of hosts' keys for secret queries: made at the host, verified by whoever encrypts for it.

A host signs its key with the private key of its node certificate. The certificate came from the domain's authority over
the enrolment's own TLS, not over the router, and the authority's fingerprint stands in every owner's token: so neither
gateway nor router can put another key in a host's place.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from daitn.base.errors import PeerError, PolicyError
from daitn.base.ids import NodeId
from daitn.node import pki
from daitn.node.enrolment import AUTHORITY_FILE, CERT_FILE, KEY_FILE
from daitn.serving.sealing import HostSecret
from daitn.wire.secret_queries import KeyStatement, KeysTold

_PURPOSE: Final = b"daitn 2026 key of a host for secret queries\x00"


class HostKeys:
    """A host's key and what it states of it. `folder`: where its certificate lies and is renewed."""

    def __init__(self, secret: HostSecret, host: NodeId, folder: Path) -> None:
        self.secret, self._host, self._folder = secret, host, folder
        self._stated: KeyStatement | None = None

    def statement(self) -> KeyStatement:
        """The statement under the certificate as it is now; signed anew when that was renewed."""
        certificate = (self._folder / CERT_FILE).read_text()
        if self._stated is None or self._stated.certificate != certificate:
            key = (self._folder / KEY_FILE).read_bytes()
            self._stated = KeyStatement(
                host=self._host,
                key=self.secret.public,
                certificate=certificate,
                signature=pki.sign_with(key, _said(self._host, self.secret.public)),
            )
        return self._stated


def authority_of(folder: Path) -> str:
    """The domain's certificate (PEM) as a member keeps it."""
    return (folder / AUTHORITY_FILE).read_text()


def verified_keys(told: KeysTold, fingerprint: str, now_unix_s: float | None = None) -> dict[NodeId, bytes]:
    """The keys of hosts, by slot, each proven by a certificate of the authority with this fingerprint (hex).
    PolicyError where the authority is another one; PeerError naming the host where a statement proves nothing."""
    authority = told.authority.encode()
    if pki.fingerprint_of(authority) != fingerprint:
        raise PolicyError("the gateway shows the certificate of another domain", todo="ask through another gateway")
    now_s = time.time() if now_unix_s is None else now_unix_s
    found: dict[NodeId, bytes] = {}
    for one in told.statements:
        certificate = one.certificate.encode()
        proven = pki.is_issued_by(certificate, authority, now_s) and pki.common_name_of(certificate) == one.host
        if not proven or not pki.is_signed_with(certificate, _said(one.host, one.key), one.signature):
            raise PeerError(f"the key of host {one.host[:64]} is not proven", todo="ask through another gateway")
        found[one.host] = one.key
    return found


def _said(host: str, key: bytes) -> bytes:
    return _PURPOSE + host.encode() + b"\x00" + key
