"""Grants as tokens: the control centre signs who may fetch what, and any holder checks it without asking back.

Every transfer on the data plane happens under a grant (design, section 4). A token (`artifacts.tokens`) is signed by
the domain's control centre; the grant in it is canonical msgpack. Revocation is a set of ids that the holder is told;
a grant lives for a day, so the set stays small.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daitn.artifacts.signatures import public_hex
from daitn.artifacts.tokens import TOKEN_CHARS, read_token, write_token
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError, PolicyError
from daitn.base.ids import ArtifactId, DomainId, GrantId, NodeId, VisitId
from daitn.descriptors.grant import Grant

__all__ = ["TOKEN_CHARS", "Grant", "check_exchange_grant", "check_grant", "issue_grant"]

_DOMAIN: Final = "daitn 1 grant"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Grant)


def issue_grant(key: Ed25519PrivateKey, grant: Grant) -> str:
    """The token for `grant`, signed by the control centre's `key`."""
    return write_token(_DOMAIN, _encoder.encode(grant), key)


def check_grant(
    token: str,
    public_key: Ed25519PublicKey,
    *,
    requester: NodeId,
    artifact: ArtifactId,
    now_unix_s: float,
    revoked: Container[GrantId],
    domain: DomainId | None = None,
) -> Grant:
    """The grant in `token`, if it lets `requester` (as proven by its certificate) fetch `artifact` now.

    PeerError if the token does not decode. PolicyError if it is not signed by `public_key`, or listing every condition
    that fails with the values compared. `domain` is compared if given. 60 µs.
    """
    grant = _read(token, public_key, requester)
    failed = _failed(grant, requester, now_unix_s, revoked, domain)
    if grant.visit:
        failed.append(f"it is for an exchange with visit {grant.visit}, not for an artifact")
    elif grant.artifact != artifact:
        failed.append(f"it is for artifact {grant.artifact}, {artifact} is asked for")
    _refuse(grant, requester, failed)
    return grant


def check_exchange_grant(
    token: str,
    public_key: Ed25519PublicKey,
    *,
    requester: NodeId,
    by: VisitId,
    visit: VisitId,
    now_unix_s: float,
    revoked: Container[GrantId] = (),
    domain: DomainId | None = None,
) -> Grant:
    """The grant in `token`, if it lets the child of visit `by` at `requester` exchange tensors with that of `visit`.

    Errors as those of `check_grant`.
    """
    grant = _read(token, public_key, requester)
    failed = _failed(grant, requester, now_unix_s, revoked, domain)
    if (grant.by, grant.visit) != (by, visit):
        what = f"it is for {grant.by} with {grant.visit}" if grant.visit else f"it is for artifact {grant.artifact}"
        failed.append(f"{what}; {by} with {visit} is asked for")
    _refuse(grant, requester, failed)
    return grant


def _read(token: str, public_key: Ed25519PublicKey, requester: NodeId) -> Grant:
    """A token's grant, once its signature holds."""
    body = read_token(_DOMAIN, token, public_key)
    if body is None:
        raise PolicyError(
            f"the grant shown by {requester} is not signed by the control centre's key {public_hex(public_key)[:16]}…",
            todo="ask the control centre of this domain for a grant",
            ids={"node": requester},
        )
    try:
        return _decoder.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"a signed grant does not decode: {str(error)[:200]}", todo="upgrade this node") from None


def _failed(
    grant: Grant, requester: NodeId, now_unix_s: float, revoked: Container[GrantId], domain: DomainId | None
) -> list[str]:
    """Conditions that fail whatever the grant is for."""
    failed: list[str] = []
    if grant.requester != requester:
        failed.append(f"it is for {grant.requester}, {requester} asks")
    if now_unix_s >= grant.expires_unix_s:
        failed.append(f"it ended at {grant.expires_unix_s} s, it is {now_unix_s:.0f} s")
    if domain is not None and grant.domain != domain:
        failed.append(f"it is for domain {grant.domain}, this is {domain}")
    if grant.id in revoked:
        failed.append("it was revoked")
    return failed


def _refuse(grant: Grant, requester: NodeId, failed: list[str]) -> None:
    if failed:
        raise PolicyError(
            f"grant {grant.id} does not permit this transfer: " + "; ".join(failed),
            todo="ask the control centre for a new one",
            ids={"job": grant.job, "node": requester},
        )
