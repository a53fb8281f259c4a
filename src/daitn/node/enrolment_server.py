"""The enrolment endpoint: HTTPS of its own beside the control centre, where tokens become slots and certificates.

See `enrolment` for the exchange. What it hands out is durable in the slot book before it is answered; the book's writes
wait for the disk and so run on threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import DaitnError, InputError, PeerError, UnavailableError
from daitn.base.ids import NodeId, OperatorId
from daitn.base.metrics import Counters
from daitn.base.names import check_name
from daitn.node import pki
from daitn.node.enrolment import (
    BODY_BYTES,
    ROLES,
    SECRET_BYTES,
    TOKEN_HOURS,
    EnrolAnswer,
    EnrolRequest,
    JoinToken,
    NetworkSettings,
    RefusalAnswer,
    RenewAnswer,
    RenewRequest,
    parse_token,
    secret_hash,
)
from daitn.node.slot_book import EnrolmentRefusedError, RefusalReason, SlotBook

T = TypeVar("T")
_log = logging.getLogger(__name__)


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
        self.counters = Counters()

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
        self.book.add_token(secret_hash(secret), operator, roles, time.time() + hours * 3600)
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
                secret_hash(token.secret), name=asked.name, roles=asked.roles, key_hash=pki.request_key_hash(csr)
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
        except (*UNDECODABLE, UnicodeEncodeError) as fault:
            answer, outcome, status = RefusalAnswer(reason="malformed", what=str(fault)), "malformed", 400
        except DaitnError as fault:
            _log.error("enrolment failed: %s", fault)
            answer, outcome, status = RefusalAnswer(reason="failed", what="enrolment does not work now"), "failed", 503
        self.counters.count("enrolments", outcome)
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
