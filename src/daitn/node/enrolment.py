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
import logging
import secrets
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, DomainId, NodeId, OperatorId, check_name
from daitn.node import pki
from daitn.node.fabric.contract import FabricConfig
from daitn.node.slot_book import EnrolmentRefusedError, RefusalReason, SlotBook

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
_log = logging.getLogger(__name__)


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


class EnrolmentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the endpoint listens and what it hands out."""

    network: NetworkSettings
    host: str = "127.0.0.1"
    port: int = 0
    advertised: tuple[str, ...] = ()
    """`host:port` put into tokens; empty for where it listens."""
    certificate_hours: float = pki.NODE_HOURS


class EnrolmentServer:
    """The endpoint; made by `serve_enrolment`."""

    def __init__(self, config: EnrolmentConfig, authority: pki.Authority, book: SlotBook) -> None:
        self.config = config
        self.authority = authority
        self.book = book
        self.port = config.port
        self.counters: Counter[str] = Counter()
        """Answers by what they were: `enrolled`, `renewed`, `malformed`, `failed`, or a `RefusalReason`."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where nodes reach it."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return self.config.advertised or (f"{host}:{self.port}",)

    def make_token(self, operator: OperatorId, roles: tuple[str, ...], *, hours: float = TOKEN_HOURS) -> str:
        """A one-time join token for a node of `operator` with any of `roles`; blocks for one disk write."""
        for role in roles:
            check_name("role", role)
        secret = secrets.token_bytes(SECRET_BYTES)
        self.book.add_token(_secret_hash(secret), operator, roles, time.time() + hours * 3600)
        fingerprint = bytes.fromhex(self.authority.fingerprint)
        return JoinToken(self.addresses, self.authority.domain, fingerprint, secret).encode()

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_get("/authority", self._authority)
        application.router.add_post("/enrol", self._enrol)
        application.router.add_post("/renew", self._renew)
        return application

    async def _authority(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.authority.certificate_pem, content_type="application/x-pem-file")

    async def _enrol(self, request: web.Request) -> web.Response:
        def enrol(asked: EnrolRequest) -> EnrolAnswer:
            token = parse_token(asked.token)
            check_name("node", asked.name)
            if len(asked.roles) > ROLES:
                raise InputError(f"{len(asked.roles)} roles are more than {ROLES}")
            csr = asked.csr.encode()
            slot = self.book.redeem(
                _secret_hash(token.secret), name=asked.name, roles=asked.roles, key_hash=pki.request_key_hash(csr)
            )
            return EnrolAnswer(
                slot=slot.node,
                domain=self.authority.domain,
                certificate=self._issue(csr, slot.node),
                authority=self.authority.certificate_pem.decode(),
                roles=slot.roles,
                operator=slot.operator,
                network=self.config.network,
            )

        return await self._answer(request, EnrolRequest, enrol, "enrolled")

    async def _renew(self, request: web.Request) -> web.Response:
        proven = _proven_slot(request)

        def renew(asked: RenewRequest) -> RenewAnswer:
            if proven is None:
                raise EnrolmentRefusedError(
                    RefusalReason.KEY, "a renewal needs the node's present certificate", todo="enrol with a join token"
                )
            csr = asked.csr.encode()
            slot = self.book.renewable(proven, pki.request_key_hash(csr))
            return RenewAnswer(certificate=self._issue(csr, slot.node), network=self.config.network)

        return await self._answer(request, RenewRequest, renew, "renewed")

    async def _answer(
        self, request: web.Request, kind: type[T], work: Callable[[T], msgspec.Struct], done: str
    ) -> web.Response:
        """Decode, work on a thread (the book waits for the disk), and turn what went wrong into words."""
        try:
            asked = msgspec.json.decode(await request.read(), type=kind)
            answer, outcome, status = await asyncio.to_thread(work, asked), done, 200
        except EnrolmentRefusedError as fault:
            answer, outcome, status = _refusal(fault.reason, fault), fault.reason.value, 403
        except (InputError, PeerError) as fault:
            answer, outcome, status = _refusal("malformed", fault), "malformed", 400
        except (msgspec.MsgspecError, UnicodeEncodeError) as fault:
            answer, outcome, status = RefusalAnswer(reason="malformed", what=str(fault)), "malformed", 400
        except DaitnError as fault:
            _log.error("enrolment failed: %s", fault)
            answer, outcome, status = RefusalAnswer(reason="failed", what="enrolment does not work now"), "failed", 503
        self.counters[outcome] += 1
        _log.info("%s from %s: %s", request.path, request.remote, outcome)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json", status=status)

    def _issue(self, csr: bytes, slot: NodeId) -> str:
        return self.authority.issue_node(csr, slot, lifetime_hours=self.config.certificate_hours).decode()


@asynccontextmanager
async def serve_enrolment(
    config: EnrolmentConfig, authority: pki.Authority, book: SlotBook, directory: Path
) -> AsyncIterator[EnrolmentServer]:
    """Serve for the time of the context; the endpoint's own certificate is kept in `directory`.

    UnavailableError if the port is taken.
    """
    server = EnrolmentServer(config, authority, book)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, ssl_context=_server_context(config, authority, directory))
        try:
            await site.start()
        except OSError as fault:
            raise UnavailableError(
                f"enrolment cannot listen on {config.host}:{config.port}: {fault.strerror}"
            ) from fault
        server.port = int(runner.addresses[0][1])
        yield server
    finally:
        await runner.cleanup()


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
    except (ValueError, msgspec.MsgspecError) as fault:
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
    except (OSError, msgspec.MsgspecError) as fault:
        raise InputError(f"no membership in {directory}: {fault}", todo="join with a token first") from fault


async def renew(directory: Path) -> Membership:
    """Replace the certificate in `directory` by a fresh one; open sessions take it when they next connect.

    PolicyError if the certificate has run out or the slot was left or burned, UnavailableError if no address answers.
    """
    membership = load_membership(directory)
    if pki.expiry_of((directory / CERT_FILE).read_bytes()) <= time.time():
        raise PolicyError(f"the certificate of {membership.slot} has run out", todo="enrol with a new join token")
    csr, _ = pki.make_request(membership.name, (directory / KEY_FILE).read_bytes())
    asked = RenewRequest(csr=csr.decode())
    context = ssl.create_default_context(cafile=str(directory / AUTHORITY_FILE))
    context.load_cert_chain(directory / CERT_FILE, directory / KEY_FILE)
    answer = await _first_that_answers(
        membership.enrolment,
        lambda address: _post(f"https://{address}/renew", asked, RenewAnswer, context),
        "the enrolment address",
    )
    pki.write_public(directory / CERT_FILE, answer.certificate.encode())
    membership = msgspec.structs.replace(membership, network=answer.network)
    pki.write_public(directory / MEMBERSHIP_FILE, msgspec.json.format(msgspec.json.encode(membership)))
    return membership


async def keep_renewed(directory: Path, on_fault: Callable[[DaitnError], None]) -> None:
    """Renew whenever half of the certificate's life is over, until cancelled or refused by policy."""
    while True:
        due_s = pki.renewal_of((directory / CERT_FILE).read_bytes()) - time.time()
        await asyncio.sleep(max(due_s, 0.0))
        try:
            await renew(directory)
        except PolicyError as fault:
            on_fault(fault)
            return
        except DaitnError as fault:
            on_fault(fault)
            await asyncio.sleep(RETRY_S)


async def _enrol_at(address: str, token: JoinToken, asked: EnrolRequest) -> EnrolAnswer:
    authority = pki.only_certificate(await _get_authority(address))
    if pki.fingerprint_of(authority) != token.fingerprint.hex():
        raise PolicyError(
            f"{address} shows another authority than the join token names",
            todo="somebody may be in between: check the address, and tell the operator who made the token",
        )
    context = ssl.create_default_context(cadata=authority.decode())
    return await _post(f"https://{address}/enrol", asked, EnrolAnswer, context)


async def _get_authority(address: str) -> bytes:
    # Unverified on purpose: what comes back is trusted only if its fingerprint is the token's.
    async with _client() as client, client.get(f"https://{address}/authority", ssl=False) as answer:
        if answer.status != 200:
            raise PeerError(f"{address} is no enrolment endpoint: it answered {answer.status}")
        return await answer.content.read(BODY_BYTES)


async def _post(url: str, asked: msgspec.Struct, kind: type[T], context: ssl.SSLContext) -> T:
    async with _client() as client, client.post(url, data=msgspec.json.encode(asked), ssl=context) as answer:
        body = await answer.content.read(BODY_BYTES)
        try:
            if answer.status == 200:
                return msgspec.json.decode(body, type=kind)
            refusal = msgspec.json.decode(body, type=RefusalAnswer)
        except msgspec.MsgspecError as fault:
            raise PeerError(f"{url} answered {answer.status} with something that does not decode") from fault
    if refusal.reason in set(RefusalReason):
        raise EnrolmentRefusedError(RefusalReason(refusal.reason), refusal.what, todo=refusal.todo)
    if answer.status == 503:
        raise UnavailableError(refusal.what, todo="try again later")
    raise InputError(refusal.what, todo=refusal.todo)


async def _first_that_answers(addresses: tuple[str, ...], ask: Callable[[str], Awaitable[T]], what: str) -> T:
    faults: list[str] = []
    for address in addresses:
        try:
            return await ask(address)
        except aiohttp.ClientConnectorCertificateError as fault:
            raise PolicyError(f"{address} does not prove to belong to the domain: {fault}") from fault
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            faults.append(f"{address}: {fault or 'no answer'}")
    raise UnavailableError(f"{what} does not answer ({'; '.join(faults)})", todo="check the network, then try again")


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))


def _server_context(config: EnrolmentConfig, authority: pki.Authority, directory: Path) -> ssl.SSLContext:
    hosts = [address.rpartition(":")[0].strip("[]") for address in config.advertised]
    if config.host not in ("0.0.0.0", "::"):
        hosts.append(config.host)
    certificate, key = authority.issue_server("enrolment", hosts)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    pki.write_private(directory / "enrolment.key", key)
    pki.write_public(directory / "enrolment.crt", certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(directory / "enrolment.crt", directory / "enrolment.key")
    context.load_verify_locations(cadata=authority.certificate_pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL  # a joining node has none; a renewing one must
    return context


def _proven_slot(request: web.Request) -> NodeId | None:
    connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    encoded = connection.getpeercert(binary_form=True) if connection is not None else None
    if not encoded:
        return None
    return NodeId(pki.common_name_of(ssl.DER_cert_to_PEM_cert(encoded).encode()))


def _refusal(reason: str, fault: DaitnError) -> RefusalAnswer:
    return RefusalAnswer(reason=reason, what=fault.what, todo=fault.todo)


def _secret_hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
