"""Enrolment: how a site joins a domain with one command and one token, and how its certificate is kept fresh.

An HTTPS endpoint of its own, apart from the router, because a joining node has no certificate yet. The token carries
where to go, the fingerprint of the domain's authority and a secret. The node fetches the authority's certificate
without trust, compares the fingerprint, and from there on trusts only that authority: nobody in between can take its
place. The private key is made at the node and never leaves it.

    GET  /authority  → the authority's certificate (PEM)
    POST /enrol      `EnrolRequest` → `EnrolAnswer`; a token works once (see `slot_book`)
    POST /renew      `RenewRequest` over mutual TLS → `RenewAnswer`; while the slot is neither left nor burned

A refusal is `RefusalAnswer` with a reason per cause, and a counter each; a fault of ours is a bare 500.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from daitn.artifacts.itineraries import route_check
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, DomainId, NodeId, OperatorId
from daitn.base.names import check_name
from daitn.node import pki
from daitn.node.fabric.contract import FabricConfig
from daitn.node.slot_book import EnrolmentRefusedError, RefusalReason
from daitn.wire.center_tools import VisitOrder

TOKEN_PREFIX: Final = "daitn1."
SECRET_BYTES: Final = 24
"""192 bits: guessing is hopeless, and the token stays short enough to paste."""

TOKEN_HOURS: Final = 24.0
"""Default life of an unused token."""

TOKEN_CHARS: Final = 2048
"""Longest token; one with three addresses has 180."""

BODY_BYTES: Final = 64 * 1024
"""Largest request; a signing request has 400 bytes."""

ROLES: Final = 32
"""Roles in one request; a node carries fewer than ten."""

ANSWER_S: Final = 20.0
"""Longest wait of a client for one answer."""

RETRY_S: Final = 30.0
"""Pause before a failed renewal is tried again; certificates live for hours and are renewed at half of that."""

KEY_FILE: Final = "node.key"
CERT_FILE: Final = "node.crt"
AUTHORITY_FILE: Final = "authority.crt"
MEMBERSHIP_FILE: Final = "membership.json"

T = TypeVar("T")


class JoinToken(msgspec.Struct, frozen=True, array_like=True):
    """What a join token says; compact, because people paste it."""

    addresses: tuple[str, ...]
    domain: DomainId
    fingerprint: bytes
    secret: bytes

    def encode(self) -> str:
        """`daitn1.` and base64url."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every node of the domain must know to join its fabric."""

    routers: tuple[str, ...]
    center_key: str = ""
    """Ed25519 public key (hex) of the control centre: what grants are checked with."""
    lease_s: float = 3.0
    overseers: tuple[NodeId, ...] = (CENTER,)
    direct_bulk: bool = True
    """Whether nodes that can be reached should offer direct streams; false sends all bulk through routers."""


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Joining node → enrolment: make me a member. Refused by `RefusalAnswer`."""

    token: str
    csr: str
    name: str
    roles: tuple[str, ...] = ()


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Enrolment → joining node: your slot, your certificate, and where the network is."""

    slot: NodeId
    domain: DomainId
    certificate: str
    authority: str
    roles: tuple[str, ...]
    operator: OperatorId
    network: NetworkSettings


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Member → enrolment: a fresh certificate for the slot this connection proves."""

    csr: str


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Enrolment → member: it, and the network as it is now."""

    certificate: str
    network: NetworkSettings


class RefusalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Enrolment → anyone: no, with the reason (`RefusalReason`, or `malformed`) and what to do."""

    reason: str
    what: str
    todo: str = ""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a member keeps beside its key: who it is and where the network is."""

    slot: NodeId
    name: str
    domain: DomainId
    operator: OperatorId
    roles: tuple[str, ...]
    enrolment: tuple[str, ...]
    network: NetworkSettings

    def route_check(self) -> Callable[[VisitOrder], int]:
        """What tells whether an order is a segment of a route that this domain's centre signed for this node."""
        return route_check(self.slot, self.domain, self.network.center_key)

    def fabric_config(self, directory: Path, *, bulk_host: str | None = None, bulk_port: int = 0) -> FabricConfig:
        """The configuration to open the fabric with, for a membership kept in `directory`."""
        return FabricConfig(
            domain=self.domain,
            node=self.slot,
            certificate=directory / CERT_FILE,
            key=directory / KEY_FILE,
            authority=directory / AUTHORITY_FILE,
            routers=self.network.routers,
            lease_s=self.network.lease_s,
            overseers=self.network.overseers,
            bulk_host=bulk_host if self.network.direct_bulk else None,
            bulk_port=bulk_port,
        )


def parse_token(text: str) -> JoinToken:
    """Read a join token; InputError if it is not one."""
    text = text.strip()
    todo = "paste the whole token, beginning with daitn1."
    if not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_CHARS:
        raise InputError(f"{text[:12]!r}… is not a join token", todo=todo)
    body = text.removeprefix(TOKEN_PREFIX)
    try:
        content = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(content, type=JoinToken)
    except (ValueError, *UNDECODABLE) as fault:
        raise InputError("the join token is damaged", todo=todo) from fault
    if len(token.fingerprint) != 32 or not token.addresses or len(token.secret) != SECRET_BYTES:
        raise InputError("the join token is damaged", todo=todo)
    return token


async def enrol(token: str, name: str, roles: tuple[str, ...], directory: Path) -> Membership:
    """Join a domain: make a key in `directory`, redeem the token, and keep certificate and membership there.

    Repeating it after a lost answer is safe. InputError for a bad token or name, EnrolmentRefusedError if refused,
    PolicyError if the endpoint is not the token's domain, UnavailableError if no address answers.
    """
    parsed = parse_token(token)
    check_name("node", name)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file = directory / KEY_FILE
    if (directory / MEMBERSHIP_FILE).exists():
        raise InputError(f"{directory} is a member already", todo="leave first, or choose another directory")
    csr, key = pki.make_request(name, key_file.read_bytes() if key_file.exists() else None)
    pki.write_private(key_file, key)
    asked = EnrolRequest(token=token.strip(), csr=csr.decode(), name=name, roles=roles)
    answer = await _first_that_answers(
        parsed.addresses, lambda address: _enrol_at(address, parsed, asked), "the join token's address"
    )
    if answer.domain != parsed.domain:
        raise PeerError(f"the token is for {parsed.domain}, but {answer.domain} answered")
    if pki.common_name_of(answer.certificate.encode()) != answer.slot:
        raise PeerError(f"the certificate handed out does not name {answer.slot}")
    authority = pki.only_certificate(answer.authority.encode())
    if pki.fingerprint_of(authority) != parsed.fingerprint.hex():
        raise PeerError(f"{answer.domain} handed out another authority than the join token names")
    membership = Membership(
        slot=answer.slot,
        name=name,
        domain=answer.domain,
        operator=answer.operator,
        roles=answer.roles,
        enrolment=parsed.addresses,
        network=answer.network,
    )
    pki.write_public(directory / AUTHORITY_FILE, authority)
    pki.write_public(directory / CERT_FILE, answer.certificate.encode())
    pki.write_public(directory / MEMBERSHIP_FILE, msgspec.json.format(msgspec.json.encode(membership)))
    return membership


def load_membership(directory: Path) -> Membership:
    """The membership kept in `directory`; InputError if there is none."""
    try:
        return msgspec.json.decode((directory / MEMBERSHIP_FILE).read_bytes(), type=Membership)
    except (OSError, *UNDECODABLE) as fault:
        raise InputError(f"no membership in {directory}: {fault}", todo="join with a token first") from fault


async def renew(directory: Path) -> Membership:
    """Replace the certificate in `directory` by a fresh one; open sessions take it when they next connect.

    PolicyError if the certificate has run out or the slot was left or burned, UnavailableError if no address answers.
    """
    membership = load_membership(directory)
    certificate, now_unix_s = (directory / CERT_FILE).read_bytes(), time.time()
    if pki.expiry_of(certificate) <= now_unix_s:
        raise PolicyError(
            f"the certificate of {membership.slot} has run out: {pki.clock_fault(certificate, now_unix_s)}",
            todo="enrol with a new join token; or set the clock, where that is what is wrong",
        )
    csr, _ = pki.make_request(membership.name, (directory / KEY_FILE).read_bytes())
    asked = RenewRequest(csr=csr.decode())
    context = ssl.create_default_context(cafile=str(directory / AUTHORITY_FILE))
    context.load_cert_chain(directory / CERT_FILE, directory / KEY_FILE)
    answer = await _first_that_answers(
        membership.enrolment,
        lambda address: _post(address, "/renew", asked, RenewAnswer, context),
        "the enrolment address",
    )
    pki.write_public(directory / CERT_FILE, answer.certificate.encode())
    membership = msgspec.structs.replace(membership, network=answer.network)
    pki.write_public(directory / MEMBERSHIP_FILE, msgspec.json.format(msgspec.json.encode(membership)))
    return membership


async def keep_renewed(directory: Path, on_fault: Callable[[DaitnError], None]) -> None:
    """Renew whenever half of the certificate's life is over, until cancelled or refused by policy.

    A fresh certificate tells how far this machine's clock is ahead of the authority's; without that one that is ahead
    by half a lifetime would have it renewed without end.
    """
    ahead_s = 0.0
    while True:
        due_s = pki.renewal_of((directory / CERT_FILE).read_bytes()) - (time.time() - ahead_s)
        await asyncio.sleep(max(due_s, 0.0))
        try:
            await renew(directory)
            ahead_s = max(0.0, time.time() - pki.issued_at((directory / CERT_FILE).read_bytes()))
        except PolicyError as fault:
            on_fault(fault)
            return
        except DaitnError as fault:
            on_fault(fault)
            await asyncio.sleep(RETRY_S)


def _enrol_at(address: str, token: JoinToken, asked: EnrolRequest) -> EnrolAnswer:
    authority = pki.only_certificate(_get_authority(address))
    if pki.fingerprint_of(authority) != token.fingerprint.hex():
        raise PolicyError(
            f"{address} shows another authority than the join token names",
            todo="somebody may be in between: check the address, and tell the operator who made the token",
        )
    return _post(address, "/enrol", asked, EnrolAnswer, ssl.create_default_context(cadata=authority.decode()))


def _get_authority(address: str) -> bytes:
    # Unverified on purpose: what comes back is trusted only if its fingerprint is the token's.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    status, body = _ask(address, "GET", "/authority", None, context)
    if status != 200:
        raise PeerError(f"{address} is no enrolment endpoint: it answered {status}")
    return body


def _post(address: str, path: str, asked: msgspec.Struct, kind: type[T], context: ssl.SSLContext) -> T:
    status, body = _ask(address, "POST", path, msgspec.json.encode(asked), context)
    try:
        if status == 200:
            return msgspec.json.decode(body, type=kind)
        refusal = msgspec.json.decode(body, type=RefusalAnswer)
    except UNDECODABLE as fault:
        raise PeerError(f"{address}{path} answered {status} with something that does not decode") from fault
    if refusal.reason in set(RefusalReason):
        raise EnrolmentRefusedError(RefusalReason(refusal.reason), refusal.what, todo=refusal.todo)
    if status == 503:
        raise UnavailableError(refusal.what, todo="try again later")
    raise InputError(refusal.what, todo=refusal.todo)


def _ask(address: str, method: str, path: str, body: bytes | None, context: ssl.SSLContext) -> tuple[int, bytes]:
    """One request on a connection of its own; blocking. Status and at most `BODY_BYTES` of the answer."""
    connection = http.client.HTTPSConnection(address, timeout=ANSWER_S, context=context)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_BYTES)
    finally:
        connection.close()


async def _first_that_answers(addresses: tuple[str, ...], ask: Callable[[str], T], what: str) -> T:
    """The answer of the first address that gives one.

    Each is asked on a thread of its own: a connection blocks, and must not take a thread of the loop's, which an
    endpoint in the same process may need to answer.
    """
    faults: list[str] = []
    for address in addresses:
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="enrolment") as own:
                return await asyncio.get_running_loop().run_in_executor(own, ask, address)
        except ssl.SSLCertVerificationError as fault:
            raise PolicyError(f"{address} does not prove to belong to the domain: {fault.verify_message}") from fault
        except (http.client.HTTPException, TimeoutError, OSError) as fault:
            faults.append(f"{address}: {fault or 'no answer'}")
    raise UnavailableError(f"{what} does not answer ({'; '.join(faults)})", todo="check the network, then try again")


def secret_hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
